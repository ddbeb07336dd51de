"""`synthesize`: deterministic, resumable at any kill, nothing half-written; casting."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.queries.scripts import load_scripts, pair_voices, plan
from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.data.embedded import TextQuery
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.speaking.altered import AlteredSynthesizer
from lightning_paras2s.speaking.remote import RemoteSynthesizer
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES, EspeakSynthesizer, Voice
from lightning_paras2s.types import FACTORS, Audio, Query, Style, append_jsonl, read_jsonl


def script(factor: str, styles: tuple[str, str], script_id: str = "s-1") -> TextQuery:
    return TextQuery(script_id, factor, "test", "Travel", "train", "The train home leaves in five minutes.", styles)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "test"
    return folder, synthesize(str(folder), limit=2)


def test_synthesize_writes_both_halves_of_every_pair_when_asked_for_two_scripts_a_factor(made):
    folder, table = made
    queries = read_jsonl(folder / "queries.jsonl", Query)
    assert len(queries) == 4 * 2 * 2
    for pair in {q.pair_id for q in queries}:
        first, second = [q for q in queries if q.pair_id == pair]
        assert first.text == second.text and first.styles[first.factor] != second.styles[second.factor]
        if first.factor in ("emotion", "sarcasm"):
            assert first.voice == second.voice
    seconds = [read_audio(folder / q.audio, 16_000).seconds for q in queries]
    assert table["total"]["utterances"] == 16 and table["total"]["prompts"] == 8
    assert table["total"]["mean_seconds"] == pytest.approx(sum(seconds) / 16, abs=0.006)
    assert not [p for p in folder.rglob("*") if p.name.endswith(".part")]


def test_synthesize_gives_the_same_bytes_when_other_scripts_are_made_too(made, tmp_path):
    folder, _ = made
    synthesize(str(tmp_path / "more"), limit=3, factors=["gender", "emotion"])
    few, more = files_of(folder), files_of(tmp_path / "more")
    common = {name for name in few if name.startswith("audio/")} & set(more)
    assert len(common) == 2 * 2 * 2
    assert all(few[name] == more[name] for name in common)


def test_synthesize_completes_to_the_same_bytes_when_killed(made, tmp_path):
    folder, _ = made
    resumed = tmp_path / "resumed"
    shutil.copytree(folder, resumed)
    (resumed / "queries.jsonl").unlink()
    attempts = (resumed / "attempts.jsonl").read_bytes()
    (resumed / "attempts.jsonl").write_bytes(attempts[: len(attempts) // 2 - 7])  # cut in the middle of a line
    broken = next((resumed / "audio").glob("*.flac"))
    broken.write_bytes(broken.read_bytes()[:100])
    table = synthesize(str(resumed), limit=2)
    assert 0 < table["resumed"] < 16
    same = {name: data for name, data in files_of(folder).items() if name != "attempts.jsonl"}
    assert {name: data for name, data in files_of(resumed).items() if name != "attempts.jsonl"} == same


def test_synthesize_refuses_a_folder_when_it_holds_another_synthesis(made, tmp_path):
    folder, _ = made
    with pytest.raises(UserError, match="one setting of seed"):
        synthesize(str(folder), seed=1)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="out must be new"):
        synthesize(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_synthesize_refuses_a_folder_when_an_inner_synthesizer_is_another(tmp_path):
    """The outer one's own settings are the same. A number is the same whole or not."""

    def speak(limit: int, **inner):
        altered = AlteredSynthesizer(EspeakSynthesizer(**inner), noise_db=-10)
        return synthesize(str(tmp_path), factors=["gender"], limit=limit, synthesizer=altered)

    speak(1, variation=0, noise=False)
    for other in ({"variation": 3.0, "noise": False}, {"variation": 0.0, "noise": True}):
        with pytest.raises(UserError, match="one setting of synthesizer.synthesizer."):
            speak(2, **other)
    assert speak(2, variation=0.0, noise=False)["resumed"] == 2


def test_synthesize_refuses_a_folder_when_its_transcriber_has_other_weights(tmp_path):
    """One name, another network: it would choose other candidates."""
    source = write_scripts(tmp_path / "scripts.jsonl", [script("emotion", ("happy", "sad"))])

    def speak(weight: float):
        transcriber = CountingTranscriber()
        transcriber.network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(transcriber.network.weight, weight)
        torch.nn.init.zeros_(transcriber.network.bias)
        options = {"factors": ["emotion"], "synthesizer": FlakySynthesizer(0), "candidates": 2}
        return synthesize(str(tmp_path / "out"), source, transcriber=transcriber, **options)

    speak(1.0)
    with pytest.raises(UserError, match="one setting of transcriber_sha;"):
        speak(2.0)
    assert speak(1.0)["resumed"] == 2


def test_synthesize_goes_on_from_a_record_that_tells_less(made, tmp_path):
    """An earlier version named a synthesizer's own settings alone: those must be the same, others are taken at its
    word, and are held to from then on."""
    shutil.copytree(made[0], tmp_path / "out")
    path = tmp_path / "out/synthesize.json"
    full = json.loads(path.read_text())
    espeak = {"frame_samples": 640, "name": "espeak-ng", "noise": True, "variation": 1.0}
    was = {"candidates": 1, "seed": 0, "source": "embedded", "split": "test", "synthesizer": espeak}
    path.write_text(json.dumps(was | {"transcriber": None}))
    with pytest.raises(UserError, match="one setting of synthesizer.variation;"):
        synthesize(str(tmp_path / "out"), limit=2, synthesizer=EspeakSynthesizer(variation=0.0))
    assert synthesize(str(tmp_path / "out"), limit=2)["resumed"] == 16 and json.loads(path.read_text()) == full


@pytest.mark.parametrize("factors", [[], ["emotions"], ["age", "age"]])
def test_synthesize_refuses_factors_that_are_none_or_named_twice(factors, tmp_path):
    """Named twice, each of its queries would stand in the manifest twice."""
    with pytest.raises(UserError, match="factors must be some of emotion, sarcasm, age, gender, each once; got "):
        synthesize(str(tmp_path / "out"), factors=factors, limit=1)


def test_command_prints_one_line_when_an_option_is_wrong(tmp_path):
    call = [sys.executable, "-m", "lightning_paras2s", "synthesize", "--out", str(tmp_path / "x"), "--split", "exam"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "error: --split must be one of train, val, test; got 'exam'"
    ]
    assert not (tmp_path / "x").exists()


def test_load_scripts_keeps_the_smaller_choice_when_the_limit_grows():
    few = load_scripts("embedded", "test", FACTORS, 5, 0)
    more = load_scripts("embedded", "test", FACTORS, 9, 0)
    assert {s.id for s in few} < {s.id for s in more}
    assert {s.id for s in few} != {s.id for s in load_scripts("embedded", "test", FACTORS, 5, 1)}


def test_pair_voices_differ_in_the_factor_alone_when_cast_from_espeak():
    voices = QUERY_VOICES["test"]
    random = np.random.default_rng(0)
    for _ in range(20):
        child, adult = pair_voices(script("age", ("child", "adult")), voices, random)
        assert voices[child].age == "child" and voices[adult].age == "adult"
        assert voices[child].espeak == voices[adult].espeak
        male, female = pair_voices(script("gender", ("male", "female")), voices, random)
        assert (voices[male].gender, voices[female].gender) == ("male", "female")
        assert voices[male].age == voices[female].age == "adult"


def test_pair_voices_fail_with_one_line_when_there_are_no_children():
    voices = {"a": Voice("a", "female")}
    with pytest.raises(UserError, match="must have child voices"):
        pair_voices(script("age", ("adult", "child")), voices, np.random.default_rng(0))


def test_plan_labels_the_speaker_when_the_factor_is_sarcasm():
    jobs = plan(script("sarcasm", ("sincere", "sarcastic")), QUERY_VOICES["test"], 0, "embedded", "espeak-ng")
    assert [job.query.styles["sarcasm"] for job in jobs] == ["sincere", "sarcastic"]
    assert all("emotion" not in job.query.styles and job.query.styles["age"] == "adult" for job in jobs)
    assert [job.query.id for job in jobs] == ["s-1-sincere", "s-1-sarcastic"]


def test_wer_counts_word_errors_when_words_are_missing():
    heard = "the train home leaves in minutes"
    assert word_error_rate("The train home leaves in five minutes.", heard) == pytest.approx(1 / 7)
    assert word_error_rate("", "hello") == 1.0 and word_error_rate("", "") == 0.0


class FlakySynthesizer(RemoteSynthesizer):
    """Speaks a tone of `seed` periods; a server that is down for the first calls, then silent once."""

    name, sample_rate, concurrency = "flaky", 16_000, 4

    def __init__(self, down: int) -> None:
        self.calls, self.down = [], down

    def voices(self, split):
        return {
            f"{split}-{gender}-{age}": Voice("", gender, age)
            for gender in ("male", "female")
            for age in ("adult", "child")
        }

    def try_synthesize(self, text, style, voice, seed=0):
        self.calls.append(text)
        if len(self.calls) <= self.down:
            return None, "http_500"
        return Audio(0.1 * np.sin(np.arange(16_000) * (0.1 + seed % 7)).astype(np.float32), 16_000), "ok"


class CountingTranscriber(Transcriber):
    """Mishears the words of every rendition but the third."""

    name = "counting"

    def __init__(self) -> None:
        self.heard = 0

    def write_down(self, audios):
        self.heard += 1
        return ["the train home leaves in five minutes" if self.heard == 3 else "the train"]


class WritingTranscriber(Transcriber):
    """Hears every word, and writes it as people do."""

    name = "writing"

    def write_down(self, audios):
        return ["It costs $5.99."] * len(audios)


def write_scripts(path: Path, scripts: list[TextQuery]) -> str:
    rows = [{**s.__dict__, "styles": list(s.styles)} for s in scripts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_synthesize_asks_again_for_what_failed_when_resumed(tmp_path):
    source = write_scripts(
        tmp_path / "scripts.jsonl", [script("emotion", ("happy", "sad"), f"s-{i}") for i in range(4)]
    )
    down = FlakySynthesizer(3)
    table = synthesize(str(tmp_path / "out"), source, factors=["emotion"], synthesizer=down)
    assert Counter(table["statuses"]) == {"http_500": 3, "ok": 5}
    assert len(read_jsonl(tmp_path / "out/queries.jsonl", Query)) == 5
    up = FlakySynthesizer(0)
    up.down = down.down  # the same settings, but the server has had its bad calls
    up.calls = ["warm"] * 3
    table = synthesize(str(tmp_path / "out"), source, factors=["emotion"], synthesizer=up)
    assert table["statuses"] == {"ok": 8} and table["resumed"] == 5 and len(up.calls) - 3 == 3


def test_synthesize_keeps_the_best_heard_candidate_when_there_are_several(tmp_path):
    source = write_scripts(tmp_path / "scripts.jsonl", [script("emotion", ("happy", "sad"))])
    synthesizer, transcriber = FlakySynthesizer(0), CountingTranscriber()
    synthesizer.concurrency = 1
    synthesize(
        str(tmp_path / "out"),
        source,
        factors=["emotion"],
        synthesizer=synthesizer,
        candidates=5,
        transcriber=transcriber,
    )
    rows = [json.loads(line) for line in (tmp_path / "out/attempts.jsonl").read_text().splitlines()]
    best = {row["candidate"]: row["wer"] for row in rows}
    assert best == {2: 0.0, 0: pytest.approx(5 / 7)} and len(synthesizer.calls) == 3 + 5


def test_synthesize_takes_the_first_candidate_when_it_is_heard_as_it_is_written(tmp_path):
    """An ear's "$5.99" lost its signs before it was compared with the text's."""
    costs = replace(script("emotion", ("happy", "sad")), text="It costs $5.99.")
    options = {"synthesizer": FlakySynthesizer(0), "candidates": 5, "transcriber": WritingTranscriber()}
    synthesize(str(tmp_path / "out"), write_scripts(tmp_path / "s.jsonl", [costs]), factors=["emotion"], **options)
    rows = [json.loads(line) for line in (tmp_path / "out/attempts.jsonl").read_text().splitlines()]
    assert [(row["candidate"], row["wer"]) for row in rows] == [(0, 0.0)] * 2


def test_synthesize_refuses_candidates_when_nobody_listens(tmp_path):
    with pytest.raises(UserError, match="candidates must be 1"):
        synthesize(str(tmp_path / "out"), candidates=10)


def test_synthesize_refuses_scripts_when_an_id_repeats_or_a_style_is_unknown(tmp_path):
    twice = write_scripts(tmp_path / "twice.jsonl", [script("emotion", ("happy", "sad"))] * 2)
    with pytest.raises(UserError, match="ids must be unique"):
        synthesize(str(tmp_path / "a"), twice, factors=["emotion"])
    wrong = write_scripts(tmp_path / "wrong.jsonl", [script("emotion", ("happy", "bored"))])
    with pytest.raises(UserError, match="two of its styles"):
        synthesize(str(tmp_path / "b"), wrong, factors=["emotion"])


def test_style_reaches_the_synthesizer_when_a_remote_one_speaks(tmp_path):
    seen = []

    class Listening(FlakySynthesizer):
        def try_synthesize(self, text, style: Style, voice, seed=0):
            seen.append((style.emotion, style.age))
            return super().try_synthesize(text, style, voice, seed)

    source = write_scripts(tmp_path / "scripts.jsonl", [script("emotion", ("happy", "sad"))])
    synthesize(str(tmp_path / "out"), source, factors=["emotion"], synthesizer=Listening(0))
    assert sorted(seen) == [("happy", "adult"), ("sad", "adult")]


@pytest.mark.parametrize("text", ["Поезд уходит через пять минут.", "The 火车 leaves.", "ＴＲＡＩＮ home"])
def test_synthesize_refuses_words_that_its_voices_would_spell(text, tmp_path):
    """eSpeak's English voices name letters of other scripts one by one, which is sound, and no words."""
    scripts = [script("emotion", ("sad", "happy")), replace(script("emotion", ("sad", "happy"), "s-2"), text=text)]
    append_jsonl(tmp_path / "scripts.jsonl", scripts)
    options = {"source": str(tmp_path / "scripts.jsonl"), "factors": ["emotion"]}
    for voice in (EspeakSynthesizer(), AlteredSynthesizer(EspeakSynthesizer(), noise_db=-10)):
        with pytest.raises(UserError, match=r"must be able to read all scripts; got .* in s-2 \(1 such scripts of 2\)"):
            synthesize(str(tmp_path / "made"), synthesizer=voice, **options)
    assert not (tmp_path / "made").exists()


def test_a_word_that_english_borrows_is_spoken_and_so_is_a_lone_letter_of_another_script():
    assert EspeakSynthesizer().unspeakable("Is π in the naïve café's Straße, or 3.14?") == ""
