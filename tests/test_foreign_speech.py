"""Ears that are given speech which is not theirs say so; nothing is scored 1 for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.systems.base import RecordedSystem
from lightning_paras2s.data.embedded import agent_lines, query_lines
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.controls import PiperSynthesizer, missing_piper
from lightning_paras2s.hearing.evidence import Ears, hear
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import TinyTranscriber, Transcriber, written_confidence
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.types import Audio, Query, Response, Style, Verdict, append_jsonl, read_jsonl

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded"


@pytest.fixture(scope="module")
def ear():
    return TinyTranscriber(str(SHIPPED / "transcriber.safetensors"), batch_size=1)


class Neutral(StyleRecognizer):
    name = "neutral"

    def recognize(self, audios, role):
        return [Style(tone="neutral") for _ in audios]


class Anything(Transcriber):
    name = "anything"

    def write_down(self, audios):
        return ["please ask your mom about the dog first" for _ in audios]


def other_voice(seed: int) -> Audio:
    """A voice that no eSpeak voice is: pulses at 120 Hz through three wandering resonances, four syllables a second."""
    random, rate = np.random.default_rng(seed), 16_000
    time = np.arange(3 * rate) / rate
    tone = np.zeros(len(time))
    for centre, depth in ((500, 200), (1500, 500), (2500, 300)):
        places = centre + depth * np.sin(2 * np.pi * (1 + random.random()) * time + 6 * random.random())
        for harmonic in range(1, 60):
            frequency = 120 * harmonic
            tone += np.exp(-(((frequency - places) / 120) ** 2)) * np.sin(2 * np.pi * frequency * time)
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time)
    samples = tone * envelope
    return Audio((0.3 * samples / np.abs(samples).max()).astype(np.float32), rate)


def test_confidence_is_that_of_written_symbols_alone():
    """Frames: blank at .98, a symbol at .7 and one at .5 -> (.7 + .5) / 2; nothing but blanks -> 0."""
    odds = torch.tensor([[0.98, 0.01, 0.01], [0.2, 0.7, 0.1], [0.1, 0.4, 0.5]])
    assert written_confidence(odds.log()) == pytest.approx(0.6, abs=1e-6)
    assert written_confidence(odds[:1].log()) == 0.0


def test_own_speech_is_not_strange_and_other_speech_is(ear):
    """The bound stands where 1 in 100 recordings of the training voices falls below it: of 30 unseen ones at most 3
    (exceeded once in 200,000 at 1 %); voices of the test split and noise are not part of that."""
    own = corpus_audio(agent_lines(15, 31, "val", 0.0)) + corpus_audio(query_lines(15, 32, "val", 0.0))
    assert sum(ear.strange(own)) <= 3
    assert all(ear.strange([other_voice(seed) for seed in range(4)]))
    assert ear.strange([Audio(np.zeros(16_000, np.float32), 16_000)]) == [False]


def test_an_ear_for_any_speech_finds_nothing_strange():
    assert Anything().strange([other_voice(0)]) == [False]


def test_another_synthesizer_is_strange(ear):
    """Measured: 1 miss in 40 (docs/results.md); of 6 at most 1 (two or more at that rate: once in 110)."""
    if missing_piper():
        pytest.skip("the control voice is not installed")
    piper = PiperSynthesizer()
    said = [piper.synthesize(line.text, Style(), "joe") for line in agent_lines(6, 33, "val", 0.0)]
    assert sum(ear.strange(said)) >= 5


@pytest.fixture
def recorded(tmp_path):
    """Two queries, and answers to them in another voice with the right text."""
    rows, answers = [], []
    for i, style in enumerate(("adult", "child")):
        write_audio(tmp_path / f"q{i}.flac", other_voice(i))
        write_audio(tmp_path / f"a{i}.flac", other_voice(i + 2))
        styles = {"emotion": "neutral", "age": style, "gender": "male"}
        rows.append(Query(f"q{i}", "p", "age", "test", "May I walk the dog?", styles, "dog", f"q{i}.flac"))
        answers.append(Response(f"q{i}", "real", audio=f"a{i}.flac", text="Please ask your mom about the dog first."))
    append_jsonl(tmp_path / "queries.jsonl", rows)
    append_jsonl(tmp_path / "responses.jsonl", answers)
    return tmp_path


def run(folder: Path, ear: Transcriber, **options):
    judge = EmbeddedJudge(str(SHIPPED / "acts.safetensors"))
    systems = {"real": RecordedSystem(str(folder / "responses.jsonl"))}
    return evaluate(str(folder / "queries.jsonl"), systems, judge, ear, Neutral(), str(folder / "run"), **options)


def test_foreign_speech_stops_the_evaluation_in_one_line_before_anything_is_judged(recorded, ear):
    with pytest.raises(UserError, match=r"knows eSpeak's voices alone; 2 of the first 2 answers of 'real'.*foreign_sp"):
        run(recorded, ear)
    assert not list((recorded / "run").glob("verdicts*")) and not (recorded / "run/summary.json").exists()


def test_foreign_speech_that_is_allowed_is_counted_and_not_scored(recorded, ear):
    with pytest.raises(UserError, match="got none: 2 of 2 answers failed: foreign_speech 2"):
        run(recorded, ear, foreign_speech="allow")
    verdicts = read_jsonl(recorded / "run/verdicts.jsonl", Verdict)
    assert [(v.score, v.status) for v in verdicts] == [(None, "foreign_speech")] * 2


def test_foreign_speech_is_judged_as_heard_when_asked_for(recorded, ear):
    found = run(recorded, ear, foreign_speech="judge")
    assert found["systems"]["real"]["age"]["mean"] == 1.0  # a mismatch
    evidence = [json.loads(line) for line in (recorded / "run/evidence.jsonl").read_text().splitlines()]
    assert {row["providers"]["transcriber"] for row in evidence} == {f"{ear.name}/any-speech"}


def test_an_ear_for_any_speech_judges_it(recorded):
    """Right words in a neutral tone: 4 to the child (its age is answered, the tone adds nothing)."""
    run(recorded, Anything())
    verdicts = {v.response_id: v.score for v in read_jsonl(recorded / "run/verdicts.jsonl", Verdict)}
    assert verdicts["real/q1/0"] == 4.0


def test_hearing_keeps_a_failure_that_is_none_of_the_voice(recorded, ear):
    row = Response("q0", "real", audio="a0.flac", text="hello", status="truncated")
    assert hear([row], recorded, Ears(ear, Neutral()))[0].status == "truncated"
