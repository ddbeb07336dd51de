"""`filter`: drops what was misheard or shares something with training, counts why, and guesses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.filters import Hearing, filter, overlaps, read_counts, reject
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.emotion2vec import best_emotion
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.running.logs import replace_jsonl
from lightning_paras2s.shown.show import SHOWN
from lightning_paras2s.types import Audio, Query, Style, read_jsonl, to_json

TEXT = "The train home leaves in five minutes."
PITCH = {"happy": 800, "sad": 200}


def query(name: str, style: str, pair: str = "p", **changes) -> Query:
    made = Query(name, pair, "emotion", "test", TEXT, {"emotion": style}, "Travel", f"{name}.wav", voice="v-test")
    return replace(made, **changes)


class Listener(Transcriber, StyleRecognizer):
    """Hears a tone's pitch as a style, and its level as words: soft is garbled."""

    name = "listener"

    def __init__(self) -> None:
        self.heard = 0

    def write_down(self, audios):
        self.heard += len(audios)
        return [TEXT.lower().strip(".") if np.abs(a.samples).max() > 0.3 else "the rain" for a in audios]

    def recognize(self, audios, role):
        crossings = [np.mean(np.diff(np.sign(a.samples)) != 0) * a.sample_rate / 2 for a in audios]
        return [Style(emotion="happy" if c > 500 else "sad") for c in crossings]


def record(folder: Path, q: Query, pitch: float, level: float = 0.5) -> None:
    samples = level * np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
    write_audio(folder / q.audio, Audio(samples.astype(np.float32), 16_000))


@pytest.fixture
def manifest(tmp_path):
    """Pair a: good; b: one half garbled; c: one half in the wrong style; d: one half's audio is missing."""
    queries = []
    for pair in "abcd":
        for style in PITCH:
            q = query(f"{pair}-{style}", style, pair)
            queries.append(q)
            if q.id != "d-sad":
                pitch = PITCH["happy"] if q.id == "c-sad" else PITCH[style]
                record(tmp_path, q, pitch, 0.1 if q.id == "b-happy" else 0.5)
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(to_json(q) + "\n" for q in queries))
    return path


def test_queries_without_a_pair_are_refused(manifest):
    """They passed for one pair: one that was misheard took all others of its factor along."""
    queries = [replace(q, pair_id="") if q.pair_id in "ab" else q for q in read_jsonl(manifest, Query)]
    manifest.write_text("".join(to_json(q) + "\n" for q in queries))
    with pytest.raises(UserError, match="queries.jsonl:1: a query's pair_id must not be empty"):
        filter(str(manifest), str(manifest.with_name("kept.jsonl")), Listener())


def test_filter_keeps_whole_pairs_and_counts_each_reason_when_halves_fail(manifest):
    listener = Listener()
    table = filter(str(manifest), str(manifest.with_name("kept.jsonl")), listener, listener)
    assert [q.id for q in read_jsonl(manifest.with_name("kept.jsonl"), Query)] == ["a-happy", "a-sad"]
    assert table["rejected"] == {"other_half": 3, "wer": 1, "style": 1, "audio": 1}
    assert (table["kept_by_factor"], table["read_by_factor"]) == ({"emotion": 2}, {"emotion": 8})
    assert read_counts(manifest.with_name("kept.jsonl")) == {"filtered": table} and read_counts(manifest) == {}
    rows = [json.loads(line) for line in manifest.with_name("kept.rejected.jsonl").read_text().splitlines()]
    why = {row["id"]: row["why"] for row in rows}
    assert why["b-happy"].startswith("wer: 0.857, heard 'the rain'")  # one word changed, five lost: 6 of 7
    assert why["c-sad"] == "style: heard emotion happy, not sad" and "existing file" in why["d-sad"]


def test_filter_keeps_single_halves_when_told_to(manifest):
    listener = Listener()
    table = filter(str(manifest), str(manifest.with_name("kept.jsonl")), listener, listener, keep_halves=True)
    assert table["kept"] == 5 and "other_half" not in table["rejected"]


def test_filter_listens_once_when_run_again_or_cut(manifest):
    listener = Listener()
    first = filter(str(manifest), str(manifest.with_name("kept.jsonl")), listener, listener)
    assert listener.heard == 7
    log = next(manifest.parent.glob("*.heard.jsonl*"))
    log.write_bytes(log.read_bytes()[:-20])  # a kill in the middle of the last line
    again = filter(str(manifest), str(manifest.with_name("kept.jsonl")), listener, listener)
    assert again == first and listener.heard == 7  # the last line was the missing file


def test_filter_checks_nothing_when_nobody_listens(manifest):
    table = filter(str(manifest), str(manifest.with_name("kept.jsonl")))
    assert table["rejected"] == {"audio": 1, "other_half": 1}
    assert table["words_unchecked"] == table["kept"] == 6


def test_filter_keeps_a_recording_whose_words_nobody_knows_and_counts_it(manifest):
    """There is nothing to compare with what was heard: as imported speech without transcripts."""
    rows = [replace(q, text="") if q.pair_id in "ab" else q for q in read_jsonl(manifest, Query)]
    manifest.write_text("".join(to_json(q) + "\n" for q in rows))
    table = filter(str(manifest), str(manifest.with_name("kept.jsonl")), Listener(), None)
    assert (table["kept"], table["words_unchecked"]) == (6, 4)
    told = SHOWN["filter"](table, {}).parts[1]
    assert told.endswith("; 4 of those kept have no text, their words were not checked")


def test_filter_refuses_when_out_would_lose_the_audio(manifest, tmp_path):
    with pytest.raises(UserError, match="out must lie beside the manifest"):
        filter(str(manifest), str(tmp_path / "elsewhere" / "kept.jsonl"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"factors_heard": ["emotions"]}, "factors_heard must be some of emotion, .*; got emotions"),
        ({"factors_heard": ["emotion", "Age"]}, "factors_heard must be .*; got emotion, Age"),
        ({"max_wer": float("nan")}, "max_wer must be .*; got nan"),
        ({"max_wer": -0.1}, "max_wer must be .*; got -0.1"),
    ],
)
def test_filter_refuses_an_option_that_would_switch_a_check_off(options, told, manifest):
    before = sorted(manifest.parent.iterdir())
    with pytest.raises(UserError, match=told):
        filter(str(manifest), str(manifest.with_name("kept.jsonl")), Listener(), Listener(), **options)
    assert sorted(manifest.parent.iterdir()) == before


def test_reject_is_silent_when_another_factors_style_differs():
    q = query("q", "sad", styles={"emotion": "sad", "age": "adult"})
    assert reject(q, Hearing("q", None, {"age": "child", "emotion": "sad"}), 0.3, ("emotion", "age")) == ""
    assert reject(q, Hearing("q"), 0.3, ("emotion",)) == ""
    assert reject(q, Hearing("q", None, {}), 0.3, ("emotion",)) == "style: heard emotion none, not sad"


def test_overlaps_name_the_voice_topic_or_text_when_train_has_it():
    train = [query("t", "sad", split="train", voice="v-train", topic="Food", text="We ate the soup on the old ship.")]
    test = [
        query("a", "sad"),
        query("b", "sad", voice="v-train"),
        query("c", "sad", topic="Food"),
        query("d", "sad", text="We ate the soup on the old boat."),
    ]
    found = overlaps(test, train)
    assert {name: why.split(":")[0] for name, why in found.items()} == {"b": "voice", "c": "topic", "d": "text"}


def test_best_emotion_is_none_when_it_is_improbable_or_not_ours():
    labels = ["生气/angry", "开心/happy", "其他/other", "<unk>"]
    assert best_emotion(labels, [0.7, 0.2, 0.1, 0.0], 0.5) == "angry"
    assert best_emotion(labels, [0.4, 0.3, 0.2, 0.1], 0.5) is None
    assert best_emotion(labels, [0.1, 0.1, 0.8, 0.0], 0.5) is None


def test_overlaps_name_a_chinese_text_that_differs_in_one_character():
    """A clause was one word, so that no two texts without spaces were alike, and any two that share a clause were."""
    train = [query("t", "happy", text="我今天真的很高兴见到你，一起走吧", topic="A", voice="a")]
    near = query("n", "sad", text="我今天真的很高兴见到您，一起走吧", topic="B", voice="b")
    far = query("f", "sad", text="他明天可能不会再来上班了，一起走吧", topic="B", voice="b")
    assert overlaps([near, far], train) == {"n": "text: the training data has one like it"}


def test_dicts_are_lines_as_records_are_when_a_value_is_no_number(tmp_path):
    replace_jsonl(tmp_path / "rows.jsonl", [{"why": "zu laut: ü", "wer": float("nan"), "at": [1.5, float("inf")]}])
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == (
        '{"why": "zu laut: ü", "wer": null, "at": [1.5, null]}\n'
    )


def test_counts_of_another_list_are_left_out(manifest, capsys):
    """The counts lie beside a list, and are known by its content: one that was written since is another's."""
    kept = manifest.with_name("kept.jsonl")
    filter(str(manifest), str(kept))
    assert read_counts(kept)
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:2]))
    assert read_counts(kept) == {} and "kept.filter.json" in capsys.readouterr().err


@pytest.mark.parametrize("text", ['{"manifest": "a', "[]", "{}"])
def test_counts_that_cannot_be_read_are_one_line(text, manifest):
    manifest.with_suffix(".filter.json").write_text(text)
    with pytest.raises(UserError, match=r"filter.json must .*; run `filter` again"):
        read_counts(manifest)
