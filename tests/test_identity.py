"""An answer is known by what it was made from, never by its name alone: caches, resumes and merges compare content."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from beeps import RATE, BeepRecognizer, BeepSynthesizer, BeepTranscriber, beep_manifest
from test_filters import Listener, query, record
from test_synthesize import FlakySynthesizer

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.queries.filters import filter
from lightning_paras2s.bench.queries.mine import mine
from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.bench.systems.base import Answer, CascadeSystem, RecordedSystem, S2SSystem, ToplineSystem
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.data.embedded import TextQuery, authored, frames
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import EmbeddedJudge, LLMJudge
from lightning_paras2s.judging.pair_judges import Outcome, PairJudge
from lightning_paras2s.judging.rubric import plain_words
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat, Reply
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Audio, Battle, Response, Style, Verdict, append_jsonl, read_jsonl, to_json

ACTS = str(Path(__file__).parents[1] / "checkpoints/embedded/acts.safetensors")


class Parrot(S2SSystem):
    """Says back what it hears."""

    config_sha = "parrot"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def respond(self, queries, audios, sample):
        self.asked += [q.id for q in queries]
        return [Answer(audio, "said") for audio in audios]


class Reader(ChatLLM):
    """Scores what it reads: 5 for a transcript with "good", else 1; a cent a judgement."""

    name = "reader"

    def complete(self, conversations):
        good = ["good" in c[0]["content"].split("information of the agent")[1] for c in conversations]
        return [Reply(f"The score is {5 if g else 1}", cost_usd=0.01) for g in good]


class PitchEar(BeepTranscriber):
    """Hears "good" in a high tone, "bad" in a low one."""

    name = "pitch-ear"

    def write_down(self, audios):
        crossings = [np.mean(np.diff(np.sign(a.samples)) != 0) * RATE / 2 for a in audios]
        return ["said good" if c > 500 else "said bad" for c in crossings]


class StyleByPitch(BeepRecognizer):
    def recognize(self, audios, role):
        crossings = [np.mean(np.diff(np.sign(a.samples)) != 0) * RATE / 2 for a in audios]
        if role == "response":
            return [Style(tone="calm") for _ in crossings]
        return [Style(emotion="happy" if c > 500 else "sad") for c in crossings]


def sine(path: Path, pitch: float) -> None:
    samples = 0.5 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE)
    write_audio(path, Audio(samples.astype(np.float32), RATE))


def manifest(folder: Path, count: int = 4, pitch: float = 800) -> str:
    rows = [query(f"q{i}", ("happy", "sad")[i % 2], f"p{i // 2}") for i in range(count)]
    for row in rows:
        sine(folder / row.audio, pitch)
    (folder / "queries.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return str(folder / "queries.jsonl")


def run(folder: Path, path: str, system: S2SSystem | None = None, **options):
    parts = {"judge": LLMJudge(Reader(), max_wer=9.0), "transcriber": PitchEar([]), "recognizer": StyleByPitch()}
    system = system or Parrot()
    return evaluate(path, {"parrot": system}, **{**parts, **options}, output=str(folder / "run"))


def mean(result) -> float:
    return result["systems"]["parrot"]["overall"]["mean"]


def test_another_recording_under_an_old_id_is_answered_heard_and_judged_anew(tmp_path, capsys):
    path = manifest(tmp_path)
    assert mean(run(tmp_path, path)) == 5
    sine(tmp_path / "q1.wav", 200)
    system = Parrot()
    assert mean(run(tmp_path, path, system)) == 4  # (5 + 1 + 5 + 5) / 4
    assert system.asked == ["q1"]
    assert "1 of 4 responses are made anew, their inputs changed: audio 1" in capsys.readouterr().err
    system = Parrot()
    assert mean(run(tmp_path, path, system)) == 4 and system.asked == []


def test_another_manifest_in_the_same_folder_is_answered_anew(tmp_path, capsys):
    run(tmp_path, manifest(tmp_path))
    (tmp_path / "other").mkdir()
    assert mean(run(tmp_path, manifest(tmp_path / "other", pitch=200))) == 1
    assert "4 of 4 responses are made anew" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("text", "Another text."), ("styles", {"emotion": "angry"})])
def test_a_changed_text_or_label_is_answered_and_judged_anew(tmp_path, field, value):
    path = Path(manifest(tmp_path))
    run(tmp_path, str(path))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2][field] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    system, before = Parrot(), len((tmp_path / "run/inputs.jsonl").read_text().splitlines())
    run(tmp_path, str(path), system)
    assert system.asked == ["q2"]
    made = [json.loads(line)["of"] for line in (tmp_path / "run/inputs.jsonl").read_text().splitlines()[before:]]
    assert {"responses", "verdicts"} <= set(made)


def test_predicted_labels_are_heard_anew_when_the_recording_changed(tmp_path):
    path = manifest(tmp_path)
    run(tmp_path, path, label_source="predicted")
    sine(tmp_path / "q0.wav", 200)
    run(tmp_path, path, label_source="predicted")
    held = json.loads((tmp_path / "run/labels.json").read_text())
    assert [held[f"q{i}"]["styles"]["emotion"] for i in range(4)] == ["sad", "happy", "happy", "happy"]


def test_other_weights_under_the_same_name_hear_anew(tmp_path, capsys):
    path, ear = manifest(tmp_path), PitchEar([])
    ear.weights = np.zeros(3)
    run(tmp_path, path, transcriber=ear)
    ear.weights = np.ones(3)
    run(tmp_path, path, transcriber=ear)
    assert "4 of 4 evidence are made anew, their inputs changed: transcriber 4" in capsys.readouterr().err


def test_another_threshold_of_the_judge_judges_anew(tmp_path):
    path = manifest(tmp_path)
    assert mean(run(tmp_path, path)) == 5
    # "said good" for "said": one word too many of one, WER 1, a mismatch where 0.5 is allowed
    assert mean(run(tmp_path, path, judge=LLMJudge(Reader(), max_wer=0.5))) == 1


def test_answers_overwritten_in_the_folder_are_heard_anew(tmp_path):
    path = manifest(tmp_path)
    run(tmp_path, path)
    sine(tmp_path / "run/audio/parrot/q3-0.flac", 200)
    assert mean(run(tmp_path, path)) == 4


def test_verdicts_of_nobody_are_left_out_and_told_of(tmp_path, capsys):
    path = manifest(tmp_path)
    run(tmp_path, path)
    rows = read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)
    append_jsonl(tmp_path / "run/verdicts_backup.jsonl", [replace(v, score=1.0) for v in rows])
    assert mean(run(tmp_path, path)) == 5
    assert "verdicts_backup.jsonl is no file of this run and is left out" in capsys.readouterr().err
    (tmp_path / "run/verdicts.jsonl").unlink()
    append_jsonl(tmp_path / "run/verdicts.jsonl", [replace(v, score=1.0) for v in rows])  # under the very name
    assert mean(run(tmp_path, path)) == 5
    assert "made from what is not recorded" in capsys.readouterr().err


def test_a_folder_from_before_inputs_were_kept_is_taken_at_its_word_once(tmp_path, capsys):
    path = manifest(tmp_path)
    run(tmp_path, path)
    (tmp_path / "run/inputs.jsonl").unlink()
    system = Parrot()
    run(tmp_path, path, system)
    assert system.asked == [] and "what its 4 responses were made from is not recorded" in capsys.readouterr().err
    sine(tmp_path / "q1.wav", 200)
    assert mean(run(tmp_path, path, system)) == 4 and system.asked == ["q1"]


def test_a_rescoring_refuses_answers_to_other_recordings_but_takes_corrected_labels(tmp_path):
    path = Path(manifest(tmp_path))
    run(tmp_path, str(path))
    path.write_text(path.read_text().replace('"emotion": "sad"', '"emotion": "angry"'))
    assert mean(run(tmp_path, str(path), rescore=True)) == 5
    sine(tmp_path / "q1.wav", 200)
    with pytest.raises(UserError, match="must hold answers to the manifest's recordings .* got 1 to others"):
        run(tmp_path, str(path), rescore=True)


def test_what_label_swaps_cost_is_counted(tmp_path):
    result = run(tmp_path, manifest(tmp_path))
    assert result["judge_usd"] == pytest.approx(0.08)  # 4 verdicts and 4 swaps at a cent
    audited = run(tmp_path / "b", manifest(tmp_path), audit_recognizer=StyleByPitch())
    assert audited["judge_usd"] == pytest.approx(0.16)


def test_a_dry_run_tells_the_price_asks_nobody_and_writes_nothing(tmp_path):
    judge = LLMJudge(OpenAIChat("gpt-4.1", cache_dir=""), samples=3)
    told = run(tmp_path, manifest(tmp_path), judge=judge, dry_run=True)
    assert (told["answers"], told["verdicts"]) == (4, 4 * 3 * 2) and told["usd"] > 0
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="max_usd needs the model's price"):
        run(tmp_path, manifest(tmp_path), judge=LLMJudge(OpenAIChat("mystery", cache_dir="")), max_usd=1.0)


def test_a_dry_run_says_so_where_the_price_is_not_known(tmp_path, capsys):
    """It told 0.00 US dollars, and nothing else."""
    told = run(tmp_path, manifest(tmp_path), judge=LLMJudge(OpenAIChat("mystery", cache_dir="")), dry_run=True)
    assert told["usd"] == 0 and "the price of 'mystery-t0' is not known" in capsys.readouterr().err
    mine(str(tmp_path / "mined"), OpenAIChat("riddle", cache_dir=""), count=10, dry_run=True)
    assert "the price of 'riddle-t0' is not known" in capsys.readouterr().err
    run(tmp_path, manifest(tmp_path), judge=LLMJudge(OpenAIChat("gift", usd_per_million=(0, 0))), dry_run=True)
    assert not capsys.readouterr().err


def test_filter_listens_again_to_another_recording(tmp_path, capsys):
    queries = [query(f"a-{style}", style, "a") for style in ("happy", "sad")]
    for q, pitch in zip(queries, (800, 200), strict=True):
        record(tmp_path, q, pitch)
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps(asdict(q)) + "\n" for q in queries))
    listener = Listener()
    assert filter(str(path), str(tmp_path / "kept.jsonl"), listener, listener)["kept"] == 2
    record(tmp_path, queries[1], 200, 0.1)  # garbled
    assert filter(str(path), str(tmp_path / "kept.jsonl"), listener, listener)["rejected"]["wer"] == 1
    assert "1 of 2 queries are heard anew, their inputs changed: audio 1" in capsys.readouterr().err
    record(tmp_path, queries[1], 200)
    assert filter(str(path), str(tmp_path / "kept.jsonl"), listener, listener)["kept"] == 2
    assert listener.heard == 4  # two at first, then one, then one


def test_a_script_that_was_rewritten_under_its_id_is_spoken_anew(tmp_path, capsys):
    source, out = tmp_path / "scripts.jsonl", tmp_path / "out"
    rows = [TextQuery(f"s{i}", "emotion", "test", "T", "train", "The train leaves.", ("happy", "sad")) for i in (1, 2)]
    source.write_text("".join(to_json(row) + "\n" for row in rows))
    synthesize(str(out), str(source), factors=["emotion"])
    rows[0] = replace(rows[0], text="The train leaves in five minutes.")
    source.write_text("".join(to_json(row) + "\n" for row in rows))
    made = synthesize(str(out), str(source), factors=["emotion"])
    assert made["resumed"] == 2 and "2 utterances are spoken anew" in capsys.readouterr().err
    synthesize(str(tmp_path / "fresh"), str(source), factors=["emotion"])
    for path in (tmp_path / "fresh/audio").iterdir():
        assert path.read_bytes() == (out / "audio" / path.name).read_bytes()


def test_the_price_of_speech_is_known_before_and_capped(tmp_path):
    source = tmp_path / "scripts.jsonl"
    rows = [TextQuery(f"s{i}", "emotion", "test", "T", "train", "Go by train now.", ("happy", "sad")) for i in range(4)]
    source.write_text("".join(to_json(row) + "\n" for row in rows))
    options = {"source": str(source), "factors": ["emotion"], "synthesizer": FlakySynthesizer(0)}
    told = synthesize(str(tmp_path / "out"), **options, usd_per_minute=60.0, dry_run=True)
    # 8 utterances of 16 characters, a tenth of a second each, at 60 USD a minute
    assert told == {"dry_run": True, "utterances": 8, "usd": 12.8} and not (tmp_path / "out").exists()
    options["synthesizer"].concurrency = 1
    # 1 s costs 1 USD, an utterance may last 60 s: after three, no fourth may be asked for
    made = synthesize(str(tmp_path / "out"), **options, usd_per_minute=60.0, max_usd=62.5)
    assert made["statuses"] == {"ok": 3, "max_usd": 5} and made["usd"] == 3.0
    again = synthesize(str(tmp_path / "out"), **options, usd_per_minute=60.0)
    assert (again["resumed"], again["usd"]) == (3, 5.0)
    with pytest.raises(UserError, match="max_usd needs the price of speech"):
        synthesize(str(tmp_path / "out"), **options, max_usd=1.0)


class LouderWins(PairJudge):
    """Prefers the higher tone."""

    name = "higher"

    def compare(self, games):
        pitches = [[np.mean(np.diff(np.sign(a.samples)) != 0) for a in game[1:]] for game in games]
        return [Outcome("first" if a > b else "second") for a, b in pitches]


def test_games_are_heard_again_when_an_answer_was_recorded_anew(tmp_path, capsys):
    path = manifest(tmp_path)
    for name, pitch in (("a", 800), ("b", 300)):
        append_jsonl(tmp_path / name / "responses.jsonl", [Response("q0", name, audio="x.wav")])
        sine(tmp_path / name / "x.wav", pitch)
    runs, out = [str(tmp_path / name) for name in "ab"], str(tmp_path / "out")
    options = {"runs": runs, "judge": LouderWins(), "manifest": path, "orders": 5}
    assert arena(out, **options)["systems"][0]["system"] == "a"
    sine(tmp_path / "a/x.wav", 100)
    assert arena(out, **options)["systems"][0]["system"] == "b"
    assert "2 of 2 battles are made anew, their inputs changed: a 2" in capsys.readouterr().err
    assert len(read_jsonl(tmp_path / "out/battles.jsonl", Battle)) == 2


def test_recorded_answers_that_were_replaced_are_read_anew(tmp_path, capsys):
    path, folder = manifest(tmp_path), tmp_path / "answers"
    for i in range(4):
        sine(folder / f"q{i}.wav", 800)
    before = RecordedSystem(str(folder))
    assert mean(run(tmp_path, path, before)) == 5
    for i in range(4):
        sine(folder / f"q{i}.wav", 200)
    after = RecordedSystem(str(folder))
    assert after.config_sha != before.config_sha
    assert mean(run(tmp_path, path, after)) == 1
    assert "recorded answers were replaced; 4 are read anew" in capsys.readouterr().err


def test_recorded_answers_are_those_of_the_system_that_is_named(tmp_path):
    path = manifest(tmp_path)
    for name, pitch in (("good", 800), ("poor", 200)):
        rows = [Response(f"q{i}", name, audio=f"{name}/{i}.wav") for i in range(4)]
        append_jsonl(tmp_path / "responses.jsonl", rows)
        for i in range(4):
            sine(tmp_path / f"{name}/{i}.wav", pitch)
    file = str(tmp_path / "responses.jsonl")
    systems = {"good": RecordedSystem(file, "good"), "poor": RecordedSystem(file, system="poor")}
    parts = {"judge": LLMJudge(Reader()), "transcriber": PitchEar([]), "recognizer": StyleByPitch()}
    found = evaluate(path, systems, **parts, output=str(tmp_path / "run"))["systems"]
    assert (found["good"]["overall"]["mean"], found["poor"]["overall"]["mean"]) == (5, 1)
    with pytest.raises(UserError, match="must hold responses of one system; got those of good, poor; name one"):
        RecordedSystem(file)
    with pytest.raises(UserError, match="must hold responses of 'best'; got those of good, poor"):
        RecordedSystem(file, "best")


def test_a_command_is_known_by_the_files_that_it_names(tmp_path):
    (tmp_path / "answer.py").write_text("one")
    command = f"python {tmp_path}/answer.py {{requests}} {{responses}}"
    before = CommandSystem(command).config_sha
    (tmp_path / "answer.py").write_text("two")
    assert CommandSystem(command).config_sha != before


@pytest.mark.parametrize("named", ["{path}/model.pt", "--weights={path}/model.pt", "--weights {path}", "W={path}"])
def test_a_command_is_known_by_weights_however_they_are_named(named, tmp_path):
    def answers(weights: str) -> str:
        (tmp_path / "model.pt").write_text(weights)
        return CommandSystem(f"answer --out= {named.format(path=tmp_path)}").config_sha

    assert answers("old") == answers("old") != answers("new")


def test_a_command_stays_the_same_when_python_compiles_what_it_names(tmp_path):
    (tmp_path / "model.py").write_text("one")
    before = CommandSystem(f"answer --repository {tmp_path}").config_sha
    for name in ("lib/__pycache__/model.pyc", ".git/index"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("made by use")
    assert CommandSystem(f"answer --repository {tmp_path}").config_sha == before


def test_a_topline_is_known_by_its_voice(tmp_path):
    words = sorted({w for f in frames() for w in plain_words(f["frame"])})
    one, other = BeepSynthesizer(words), BeepSynthesizer(words)
    other.rate = 1.2
    assert ToplineSystem(one).config_sha != ToplineSystem(other).config_sha


def test_a_judge_is_known_by_its_weights_and_thresholds_not_by_its_counters():
    judge = EmbeddedJudge(ACTS)
    before = part_sha(judge)
    judge.calls = 7
    assert part_sha(judge) == before == part_sha(EmbeddedJudge(ACTS))
    assert part_sha(EmbeddedJudge(ACTS, max_wer=0.4)) != before
    judge.classifier.bias[0] += 1
    assert part_sha(judge) != before


def test_a_run_of_which_nothing_changed_is_left_as_it_is(tmp_path, capsys):
    queries = [q for q in authored("test") if q["factor"] == "gender"][:1]
    words = sorted({w for t in [*(f["frame"] for f in frames()), queries[0]["text"]] for w in plain_words(t)})
    options = {"judge": EmbeddedJudge(ACTS), "transcriber": BeepTranscriber(words), "recognizer": BeepRecognizer()}
    path, system = beep_manifest(tmp_path, queries, words), ToplineSystem(BeepSynthesizer(words))
    results = [evaluate(path, {"t": system}, **options, output=str(tmp_path / "run")) for _ in range(2)]
    assert results[0]["systems"] == results[1]["systems"] and "anew" not in capsys.readouterr().err


class Silent(Parrot):
    """Has no answer in time."""

    def respond(self, queries, audios, sample):
        return [Answer(None, status="timeout") for _ in super().respond(queries, audios, sample)]


@pytest.mark.parametrize("before", [Parrot, Silent])
def test_what_shards_made_anew_is_neither_asked_again_by_them_nor_where_they_are_merged(tmp_path, before):
    """The folder's first answers were to other recordings, or never came; they hide none of those that shards have."""
    path = manifest(tmp_path)
    options = {"batch_size": 2, "foreign_speech": "allow"}
    if before is Parrot:
        assert mean(run(tmp_path, path, **options)) == 5
        for i in range(4):
            sine(tmp_path / f"q{i}.wav", 200)
    else:
        with pytest.raises(UserError, match="timeout 4"):
            run(tmp_path, path, Silent(), **options)
    for asked in ([["q0", "q1"], ["q2", "q3"]], [[], []]):  # and once more, as after a kill
        for index in range(2):
            run(tmp_path, path, system := Parrot(), shard=f"{index}/2", **options)
            assert system.asked == asked[index]
    result = run(tmp_path, path, system := Parrot(), **options)
    assert system.asked == [] and mean(result) == (1 if before is Parrot else 5)
    assert result["systems"]["parrot"]["overall"]["n"] == 4


def test_a_line_that_two_shards_made_of_other_inputs_holds_for_both(tmp_path):
    """A deaf system's answers are the same line, whatever was heard: which file is read last decides nothing."""
    path = manifest(tmp_path)
    run(tmp_path, path, batch_size=2)
    queries = [json.loads(line) | {"styles": {"emotion": "angry"}} for line in Path(path).read_text().splitlines()]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in queries))
    for index in range(2):
        run(tmp_path, path, system := Parrot(), batch_size=2, shard=f"{index}/2", label_swap=False)
        assert len(system.asked) == 2
    run(tmp_path, path, system := Parrot(), batch_size=2, label_swap=False)
    assert system.asked == []


def test_a_cascade_is_known_by_how_its_voice_is_set():
    words = BeepTranscriber(["hello"])
    voices = [{}, {"frame_samples": 320}, {"variation": 0.5}, {"noise": False}]
    shas = [CascadeSystem(words, EspeakSynthesizer(**options)).config_sha for options in (*voices, {})]
    assert shas[0] == shas[-1] and len(set(shas)) == len(voices)
