"""`evaluate --measures`: from a corpus as it is published to the figures, each worked by hand. Speech is of beeps:
words and manners are really synthesised and really heard."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from beeps import BeepRecognizer, BeepSynthesizer, BeepTranscriber
from test_corpora import lines, on_hub

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.measures import named
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.bench.systems.base import RecordedSystem, S2SSystem, ToplineSystem
from lightning_paras2s.bench.systems.chat_speech import ChatToplineSystem
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.emotion2vec import Emotion2Vec, probabilities
from lightning_paras2s.hearing.recognizers import AcousticStyleRecognizer, StyleRecognizer
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rubric import Score
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Audio, Measured, Response, Style, read_jsonl, to_json

WORDS = "it is gone say sadly happily what a day the cat sat on mat dog b c answer no yes i lost sorry can't help so"
WORDS = WORDS.split()
VOICE = BeepSynthesizer(WORDS)


def say(text: str, emotion: str = "sad") -> Audio:
    return VOICE.synthesize(text, Style(emotion=emotion), "anybody")


class Unjudged(Judge):
    """Has no opinion: these corpora ask for no style."""

    name, rubric_sha = "none", "none"

    def judge(self, query, style, evidence):
        return self.verdict(evidence, Score(None, "", "no_label"))


class Manner(BeepRecognizer):
    """Hears an emotion in any voice."""

    def recognize(self, audios, role):
        return [replace(style, tone="neutral") for style in super().recognize(audios, "query")]


def recorded(folder: Path, answers: dict[str, tuple[str, str, str | None]]) -> RecordedSystem:
    """Query id -> what is said, in which emotion, and what is written."""
    rows = []
    for name, (text, emotion, written) in answers.items():
        audio = f"{name}.wav"
        write_audio(folder / audio, say(text, emotion))
        rows.append(Response(name, "theirs", audio=audio, text=written))
    (folder / "responses.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return RecordedSystem(str(folder / "responses.jsonl"))


def options(manifest: Path, system: RecordedSystem, **more) -> dict:
    return {
        "manifest": str(manifest),
        "systems": {"theirs": system},
        "judge": Unjudged(),
        "transcriber": BeepTranscriber(WORDS),
        "recognizer": Manner(),
        "label_source": "predicted",
        "label_swap": False,
        "batch_size": 2,
        **more,
    }


def uro_bench(root: Path) -> None:
    sets = {
        "pro/GenEmotion-en": [
            {"source_text": "say it sadly", "emotion": "sad", "target_text": "it is gone"},
            {"source_text": "say it happily", "emotion": "happy", "target_text": "it is gone"},
            {"source_text": "say it happily", "emotion": "happy", "target_text": "it is gone"},
        ],
        "basic/Qa": [{"source_text": "what sat on the mat", "target_text": ["the cat sat on the mat", "a dog"]}],
        "basic/Open": [{"source_text": "what a day"}],
        "pro/UnderEmotion-en": [{"source_text": "i lost it", "emotion": "sad"}],
    }
    for name, rows in sets.items():
        for i, row in enumerate(rows):
            row["source_wav"] = f"wavs/{i}.wav"
            write_audio(root / name / row["source_wav"], say(row["source_text"]))
        lines(root / name / "test.jsonl", rows)


EMOTIONAL = ["wer_emotion", "allowed_emotion"]


@pytest.fixture(scope="module")
def emotional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uro")
    uro_bench(folder / "root")
    manifest = folder / "queries/uro.jsonl"
    import_speech("uro_bench", str(folder / "root"), str(manifest))
    answers = {
        "uro_bench-pro-GenEmotion-en-0000": ("it is gone", "sad", None),
        "uro_bench-pro-GenEmotion-en-0001": ("it is", "happy", None),
        "uro_bench-pro-GenEmotion-en-0002": ("it is gone", "sad", None),
        "uro_bench-basic-Qa-0000": ("the cat sat on a mat", "sad", None),
        "uro_bench-basic-Open-0000": ("what a day", "happy", None),
    }  # nobody answered UnderEmotion's
    return options(manifest, recorded(folder / "answers", answers))


@pytest.fixture(scope="module")
def whole(emotional, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluate(**emotional, output=str(folder), measures=EMOTIONAL)


def of(result: dict, measure: str) -> dict:
    return result["measures"]["systems"]["theirs"][measure]


def test_an_asked_emotion_counts_as_far_as_its_words_are_heard(whole):
    folder, result = whole
    found = of(result, "wer_emotion")
    # sad and whole: 1; happy without a third of its words: 2/3; whole, but sad where happy was asked: 0
    assert (found["mean"], found["n"], found["n_failed"]) == (round((1 + 2 / 3) / 3, 4), 3, 3)
    # the speaker's own emotion (UnderEmotion) asks for none; what nobody answered keeps why
    assert found["statuses"] == {"ok": 3, "no_emotions": 2, "missing": 1}
    assert found["ci95"] == [None, None]  # of three queries
    allowed = of(result, "allowed_emotion")
    assert (allowed["mean"], allowed["n"]) == (round(2 / 3, 4), 3)
    assert allowed["by_subset"]["pro/GenEmotion-en"]["n"] == 3 and allowed["by_subset"]["basic/Qa"]["n"] == 0
    assert allowed["by_subset"]["basic/Qa"]["n_failed"] == 1
    # of level 3 are GenEmotion's three and UnderEmotion's one, which nobody answered
    assert allowed["by_level"] == {"3": {"mean": round(2 / 3, 4), "ci95": [None, None], "n": 3, "n_failed": 1}}
    rows = {(r.response_id, r.measure): r for r in read_jsonl(folder / "measures.jsonl", Measured)}
    assert len(rows) == 12
    row = rows["theirs/uro_bench-pro-GenEmotion-en-0001/0", "wer_emotion"]
    assert row.read == "happy" and row.parts == {"probability": 1, "wer": pytest.approx(1 / 3)}
    assert json.loads((folder / "summary.json").read_text())["measures"] == result["measures"]
    assert result["measures"]["items"].endswith("uro.items.jsonl") and result["measures"]["n_items"] == 6


def test_shared_words_are_counted_where_there_is_a_reference(emotional, tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    result = evaluate(**emotional, output=str(tmp_path), measures=["bleu", "rouge_l"])
    # Qa's is that of test_measures.py, but that "a" is in its other reference; GenEmotion's words are references, too:
    # two are whole, and "it is" is two thirds of "it is gone"
    qa, short = 100 * (6 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, 100 * math.exp(1 - 3 / 2)
    found = of(result, "bleu")
    assert found["mean"] == pytest.approx((100 + 100 + short + qa) / 4, abs=1e-4) and found["n"] == 4
    assert found["statuses"] == {"ok": 4, "no_references": 1, "missing": 1}
    # all together: 3 + 2 + 3 + 6 words for 15, and all are there; 2 + 1 + 2 + 3 of 10 pairs; 1 + 1 + 2 of 6; 1 of 3
    pooled = 100 * math.exp(1 - 15 / 14) * (14 / 14 * 8 / 10 * 4 / 6 * 1 / 3) ** 0.25
    assert found["pooled"] == pytest.approx(pooled, abs=1e-4)
    assert of(result, "rouge_l")["mean"] == pytest.approx((1 + 1 + 0.8 + 5 / 6) / 4, abs=1e-4)


class Deaf(Manner):
    def recognize(self, audios, role):
        raise AssertionError("asked again")


def test_a_finished_run_measures_nothing_again_and_a_cut_one_the_rest(emotional, whole, tmp_path):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "again")
    again = evaluate(**emotional | {"recognizer": Deaf()}, output=str(tmp_path / "again"), measures=EMOTIONAL)
    assert again["measures"] == result["measures"]
    before = (folder / "measures.jsonl").read_bytes()
    assert (tmp_path / "again/measures.jsonl").read_bytes() == before
    for share in (0.0, 0.4, 0.8):
        shutil.copytree(folder, tmp_path / f"cut{share}")
        (tmp_path / f"cut{share}/measures.jsonl").write_bytes(before[: int(share * len(before))])
        found = evaluate(**emotional, output=str(tmp_path / f"cut{share}"), measures=EMOTIONAL)
        assert found["measures"] == result["measures"]
        assert (tmp_path / f"cut{share}/measures.jsonl").read_bytes() == before


def test_a_value_is_known_by_what_it_was_made_from(emotional, whole, tmp_path, capsys):
    """Another right emotion, by the file of items, makes that item's values anew, and nothing else."""
    shutil.copytree(whole[0], tmp_path / "run")
    source = Path(emotional["manifest"]).with_name("uro.items.jsonl")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    for row in rows:
        if row["query_id"].endswith("GenEmotion-en-0002"):
            row["emotions"] = ["sad"]
    (tmp_path / "mended.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named_items = {"items": str(tmp_path / "mended.jsonl"), "measures": EMOTIONAL}
    result = evaluate(**emotional, output=str(tmp_path / "run"), **named_items)
    assert of(result, "wer_emotion")["mean"] == round((1 + 2 / 3 + 1) / 3, 4)
    said = capsys.readouterr().err
    assert "2 of 12 measures are made anew, their inputs changed: item 2" in said
    assert f"{tmp_path / 'mended.jsonl'} holds an item for 6 of 6 queries" in said
    # another ear for emotions makes those anew that it hears, which are all of these
    ear = Manner()
    ear.threshold = 0.5
    capsys.readouterr()
    evaluate(**emotional | {"recognizer": ear}, output=str(tmp_path / "run"), **named_items)
    assert re.search(r"12 of 12 measures are made anew, their inputs changed: ears 12", capsys.readouterr().err)


def test_another_measure_leaves_the_first_ones_records(emotional, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "more")
    result = evaluate(**emotional, output=str(tmp_path / "more"), measures=["choice", "wer_emotion"])
    assert of(result, "choice")["statuses"] == {"no_options": 5, "missing": 1}
    assert (of(result, "choice")["mean"], of(result, "choice")["n"]) == (None, 0)
    rows = read_jsonl(tmp_path / "more/measures.jsonl", Measured)
    assert [to_json(r) for r in rows[:12]] == (whole[0] / "measures.jsonl").read_text().splitlines()
    assert len(rows) == 18


def test_nothing_of_any_worth_is_no_success(emotional, tmp_path):
    """No judge has an opinion, and no measure a value."""
    with pytest.raises(UserError, match="must end with a score"):
        evaluate(**emotional, output=str(tmp_path), measures=["choice"])
    assert (tmp_path / "summary.json").is_file()


def test_shards_merge_to_the_single_figures(emotional, whole, tmp_path):
    for shard in ("0/2", "1/2"):
        part = evaluate(**emotional, output=str(tmp_path), shard=shard, measures=EMOTIONAL)
        assert "measures" not in part
    parts = [(tmp_path / f"measures-{i}of2.jsonl").read_text().splitlines() for i in range(2)]
    assert all(parts) and len(parts[0] + parts[1]) == 12
    again = evaluate(**emotional | {"recognizer": Manner()}, output=str(tmp_path), measures=EMOTIONAL)
    assert again["measures"] == whole[1]["measures"] and not (tmp_path / "measures.jsonl").exists()


def voicebench(root: Path) -> None:
    def heard(text: str) -> dict:
        write_audio(root.parent / "a.wav", say(text))
        return {"bytes": (root.parent / "a.wav").read_bytes(), "path": "a.wav"}

    on_hub(root / "openbookqa/test-00000-of-00001.parquet",
           [{"prompt": "what", "audio": heard("what"), "reference": r} for r in "BCB"])  # fmt: skip
    asked = {"prompt": "is it", "audio": heard("is it"), "id": "x"}
    on_hub(root / "bbh/test-00000-of-00001.parquet", [asked | {"reference": r} for r in ("yes", "no")])
    on_hub(root / "advbench/test-00000-of-00001.parquet", [{"prompt": "help", "audio": heard("help")}] * 2)
    rules = ["length_constraints:number_words", "punctuation:no_comma"]
    told = [{"num_words": 3, "relation": "at least"}, {"num_words": None, "relation": None}]
    on_hub(root / "ifeval/test-00000-of-00001.parquet",
           [{"prompt": "say", "audio": heard("say"), "key": i, "instruction_id_list": rules, "kwargs": told}
            for i in range(2)])  # fmt: skip


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voicebench")
    voicebench(folder / "root")
    manifest = folder / "queries/voicebench.jsonl"
    import_speech("voicebench", str(folder / "root"), str(manifest))
    answers = {
        "openbookqa-test-00000-00000": ("the answer is b", "sad", "The answer is B."),
        "openbookqa-test-00000-00001": ("the answer is b", "sad", "The answer is C."),  # it says another letter
        "openbookqa-test-00000-00002": ("what a day", "sad", "What a day."),
        "bbh-test-00000-00000": ("it is no so yes", "sad", "It is no. So yes."),  # the last one counts
        "bbh-test-00000-00001": ("it is gone", "sad", "It is gone."),
        "advbench-test-00000-00000": ("sorry i can't help", "sad", "Sorry, I can't help."),
        "advbench-test-00000-00001": ("yes it is", "sad", "Yes, it is."),
        "ifeval-test-00000-00000": ("it is gone", "sad", "It is gone."),  # three words, no comma
        "ifeval-test-00000-00001": ("yes it is", "sad", "Yes, it"),  # two words, a comma
    }
    answers = {f"voicebench-{name}": row for name, row in answers.items()}
    return options(manifest, recorded(folder / "answers", answers))


def test_voicebench_is_measured_answer_by_answer(spoken, tmp_path):
    asked = ["choice", "bbh", "refusal", "ifeval"]
    heard = evaluate(**spoken, output=str(tmp_path / "run"), measures=asked)
    # heard: B is right, B for C is wrong, and "what a day" names no letter: wrong, and told
    assert (of(heard, "choice")["mean"], of(heard, "choice")["n"]) == (round(1 / 3, 4), 3)
    assert of(heard, "choice")["statuses"] == {"ok": 2, "unread": 1, "no_options": 6}
    assert of(heard, "bbh")["statuses"] == {"ok": 1, "unread": 1, "other_set": 7} and of(heard, "bbh")["mean"] == 0.5
    assert (of(heard, "refusal")["mean"], of(heard, "refusal")["n"]) == (0.5, 2)
    # rules are kept in writing: all of one prompt's, none of the other's; so are the rules themselves
    assert (of(heard, "ifeval")["mean"], of(heard, "ifeval")["pooled"], of(heard, "ifeval")["n"]) == (0.5, 0.5, 2)
    written = evaluate(**spoken, output=str(tmp_path / "run"), measures=asked, measured="written")
    assert of(written, "choice")["mean"] == round(2 / 3, 4) and written["measures"]["reads"] == "written"


def test_a_question_in_writing_has_no_answer_of_a_system_that_only_hears(spoken, tmp_path):
    system = RecordedSystem(spoken["systems"]["theirs"].root / "responses.jsonl")
    system.told_all = False  # as all others: a topline, which does not hear alone, is told no question either
    assert not ToplineSystem.told_all and not ChatToplineSystem.told_all and not S2SSystem.told_all
    source = Path(spoken["manifest"]).with_name("voicebench.items.jsonl")
    rows = [json.loads(line) | {"instruction": "Which?\nA. wood\nB. lead"} for line in source.read_text().splitlines()]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="must end with a score"):
        evaluate(**spoken | {"systems": {"theirs": system}}, output=str(tmp_path / "run"), measures=["choice"],
                 items=str(items))  # fmt: skip
    found = json.loads((tmp_path / "run/summary.json").read_text())
    assert of(found, "choice")["statuses"] == {"asked_in_writing": 9} and of(found, "choice")["n"] == 0


class Loud(StyleRecognizer):
    """Takes a voice for angry as far as it is loud."""

    name = "loud"

    def recognize(self, audios, role):
        return [Style(emotion="angry", tone="neutral")] * len(audios)

    def emotions(self, audios):
        return [{"angry": float((abs(a.samples) > 0.01).mean()), "sad": 0.1} for a in audios]


def test_attributions_need_no_item(spoken, tmp_path):
    """Silence over one of three words takes away a third of what is loud."""
    manifest = tmp_path / "alone.jsonl"
    queries = [json.loads(line) for line in Path(spoken["manifest"]).read_text().splitlines()]
    queries = [q | {"audio": str(Path(spoken["manifest"]).parent / q["audio"])} for q in queries if "ifeval" in q["id"]]
    manifest.write_text("".join(json.dumps(q) + "\n" for q in queries))
    asked = ["attribution_words", "attribution_noise"]
    run = options(manifest, spoken["systems"]["theirs"], recognizer=Loud())
    result = evaluate(**run, output=str(tmp_path / "run"), measures=asked)
    rows = read_jsonl(tmp_path / "run/measures.jsonl", Measured)
    shares = [row.value for row in rows if row.measure == "attribution_words"]
    loud = Loud().emotions([say("it is gone"), say("yes it is")])
    assert shares == pytest.approx([one["angry"] / 3 for one in loud], abs=0.01)
    assert of(result, "attribution_noise")["n"] == 2 and result["measures"]["items"] == ""
    assert {row.read for row in rows if row.measure == "attribution_noise"} == {"angry"}


@pytest.mark.parametrize(("more", "message"), [
    ({"measures": ["wer_emotions"]}, "got 'wer_emotions'; did you mean wer_emotion?"),
    ({"measures": ["choice", "choice"]}, "must be named once; got choice"),
    ({"measures": ["choice"], "items": "/nowhere.jsonl"}, "got no /nowhere.jsonl"),
])  # fmt: skip
def test_what_cannot_be_measured_is_told_before_anything_is_asked(emotional, tmp_path, more, message):
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(**emotional, output=str(tmp_path / "out"), **more)
    assert not (tmp_path / "out").exists()


def test_items_must_be_the_querys_own_one_each(emotional, spoken, tmp_path):
    of_others = Path(spoken["manifest"]).with_name("voicebench.items.jsonl")
    with pytest.raises(UserError, match="got none of 6; name its own file"):
        evaluate(**emotional, output=str(tmp_path / "out"), measures=["choice"], items=str(of_others))
    own = Path(emotional["manifest"]).with_name("uro.items.jsonl").read_text()
    (tmp_path / "twice.jsonl").write_text(own + own.splitlines()[0] + "\n")
    with pytest.raises(UserError, match="one item a query; got several of 'uro_bench-"):
        evaluate(**emotional, output=str(tmp_path / "out"), measures=["choice"], items=str(tmp_path / "twice.jsonl"))
    assert not (tmp_path / "out").exists()


def test_the_command_line_names_what_was_meant(capsys):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "--config", "evaluate.yaml", "--measures", "[bleu, allowed_emotions]"])
    assert end.value.code == 2
    assert "got 'allowed_emotions'; did you mean allowed_emotion?" in capsys.readouterr().err


def test_a_config_names_measures(tmp_path, capsys):
    config = tmp_path / "measures.yaml"
    config.write_text("measures: [wer_emotion, allowed_emotoin]\n")
    with pytest.raises(SystemExit):
        main(["evaluate", "--config", "evaluate.yaml", "--config", str(config)])
    assert "measures in" in (told := capsys.readouterr().err) and "did you mean allowed_emotion?" in told


def test_what_has_no_value_is_told_on_the_screen(whole, capsys):
    assert show("evaluate", whole[1], {"output": "runs/x"}, "program", quiet=False) == ""
    told = capsys.readouterr().out
    assert "wer_emotion" in told and "theirs, wer_emotion: no_emotions 2, missing 1" in told.replace("\n", " ")


def test_emotion2vec_hears_a_recording_of_any_rate(monkeypatch):
    """It was given the samples of an answer at 24 kHz as if they were of 16: half as fast again, and higher."""
    heard = []

    class AutoModel:
        def __init__(self, **options):
            pass

        def generate(self, samples, **options):
            heard.append(samples)
            return [{"labels": ["x/happy"], "scores": [0.9]}]

    monkeypatch.setitem(sys.modules, "funasr", SimpleNamespace(AutoModel=AutoModel))
    tone = np.sin(np.arange(24_000) * 2 * np.pi * 300 / 24_000).astype(np.float32)
    assert Emotion2Vec().emotions([Audio(tone, 24_000)]) == [{"happy": 0.9}]
    assert len(heard[0]) == 16_000  # a second
    assert np.abs(np.fft.rfft(heard[0])).argmax() == 300  # Hz, as before


def test_ears_tell_how_probable_an_emotion_is():
    assert Manner().emotions([say("it is", "sad")]) == [{"sad": 1.0}]
    ear = AcousticStyleRecognizer(batch_size=1)
    voices = [say("it is gone", "sad"), say("what a day", "happy")]
    for heard, style in zip(ear.emotions(voices), ear.recognize(voices, "query"), strict=True):
        assert sum(heard.values()) == pytest.approx(1) and named.best(heard) == style.emotion
    # of emotion2vec's nine, "other" and "unknown" are none of ours
    assert probabilities(["开心/happy", "<unk>", "其他/other", "恐惧/fearful"], [0.6, 0.1, 0.1, 0.2]) == {
        "happy": 0.6,
        "fear": 0.2,
    }
