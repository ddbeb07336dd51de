"""Faults that users of other benchmarks, judges and ears reported in public, tried here (docs/reliability.md)."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback, Sent, completion
from test_filters import query
from test_identity import manifest, run
from test_llm import chat, said

from lightning_paras2s.audio import read_audio, seconds_of, write_audio
from lightning_paras2s.bench.measures.choices import choice_accuracy
from lightning_paras2s.bench.pairs.arena import rank
from lightning_paras2s.bench.people.reliability import cohen_kappa, correlation, krippendorff_alpha
from lightning_paras2s.bench.queries.filters import filter
from lightning_paras2s.bench.queries.manifest import batches_of, other_styles, read_queries
from lightning_paras2s.bench.statistics import clustered_mean
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.evidence import listen
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.types import Audio, Battle, Query, read_jsonl

NAN = float("nan")


# --- judges that answer nothing, or something else


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (Sent(200, completion(None)), "empty"),  # generative-computing/mellea#1060: content null passed for ""
        (Sent(200, completion(None, "length")), "truncated"),  # vllm-project/vllm#52640: reasoned to its last token
        (Sent(500, b""), "http_500"),  # THUDM/AlignBench#10: an answer that never came scored 1
        (Sent(200, completion("I can't rate this.")), "no_score"),  # NVIDIA-NeMo/Evaluator#1094: scored 0
        (Sent(200, completion("The score is [[50]]")), "score_out_of_range"),  # IBM/unitxt#1960: counted as 5.0
    ],
)
def test_what_a_judge_did_not_say_is_no_score(tmp_path, sent, status):
    with Loopback(lambda *_: sent) as server:
        judge = LLMJudge(chat(server.url, tmp_path / "cache", concurrency=1), max_wer=9)
        with pytest.raises(UserError, match="no answer has a score|an answer must have a score|score"):
            run(tmp_path, manifest(tmp_path), judge=judge)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    cell = summary["systems"]["parrot"]["overall"]
    assert (cell["mean"], cell["n"], cell["n_failed"]) == (None, 0, 4)
    assert summary["verdict_statuses"]["parrot"] == {status: 4}


def test_repeated_requests_and_other_models_have_replies_of_their_own(tmp_path):
    """EleutherAI/lm-evaluation-harness#4063 (another model was given the cached replies of the first), #3839 (all
    repeats of a request were one), #3881 (so was one at another temperature)."""
    with Loopback(lambda path, body, times: Sent(200, completion(f"reply {times}"))) as server:
        llm = chat(server.url, tmp_path, concurrency=1)
        three = [r.text for r in llm.complete([said("a")] * 3)]
        assert three == [r.text for r in chat(server.url, tmp_path).complete([said("a")] * 3)]  # kept, in their order
        assert sorted(three) == ["reply 1", "reply 2", "reply 3"]
        for other in ({"model": "n"}, {"temperature": 0.7}):
            before = len(server.requests)
            chat(server.url, tmp_path, **other).complete([said("a")])
            assert len(server.requests) == before + 1, other


# --- statistics


def test_alpha_and_kappa_of_ratings_that_trip_other_packages():
    """nltk/nltk#2865 (a missing rating was a category: .33), pln-fing-udelar/fast-krippendorff#11 (0 with one
    disagreement is right), grrrr/krippendorff-alpha#1 and scikit-learn/scikit-learn#9624 (all ratings equal say
    nothing: not 1, not 0)."""
    assert krippendorff_alpha([[1, 1, 2], [1, 1, NAN], [NAN, 1, 2]], "nominal") == 1
    assert krippendorff_alpha([[3, 3, 3, 3, 3], [3, 3, 3, 3, 3], [3, 3, 3, 3, 1]]) == pytest.approx(0, abs=1e-12)
    assert np.isnan(krippendorff_alpha([[1, 1, 1]] * 3)) and np.isnan(cohen_kappa([1, 1], [1, 1]))
    assert cohen_kappa([1] * 89, [1] * 60 + [2] * 29) == pytest.approx(0, abs=1e-12)  # statsmodels/statsmodels#5530


def test_nothing_and_one_value_have_a_mean_or_none_and_no_interval():
    """UKGovernmentBEIS/inspect_ai#4421 (0.0 of no scores), openai/evals#1834 (NaN beside an accuracy),
    uber/causalml#994 (p = 0 beside an interval of NaN)."""
    nothing, one = clustered_mean([], []), clustered_mean([3.0], ["a"])
    assert np.isnan(nothing.value) and nothing.n == 0 and one.value == 3 and np.isnan(one.low)
    few = correlation([1.0, 2, 3, 5], [1.0, 2, 3, 4], list("abcd"))
    assert np.isnan([few.low, few.high, few.p]).all() and few.value > 0.9


def test_two_systems_with_the_same_record_have_the_same_strength_and_interval():
    """lmarena/arena-hard-auto#8: a copy of a model's answers got another bootstrap interval than the model."""
    random, games = np.random.default_rng(0), []
    for i in range(40):
        verdict = str(random.choice(["a", "b", "both_good"]))
        games += [Battle(f"{i}", name, "base", "ab", verdict, "j") for name in ("gpt", "gpt-copy")]
    rows = {row["system"]: row for row in rank(games, 3)["systems"]}
    for key in ("strength", "ci95"):
        assert rows["gpt"][key] == pytest.approx(rows["gpt-copy"][key])


def test_an_answer_that_chooses_nothing_is_wrong_and_counted():
    """MatthewCYM/VoiceBench#15: it was given a letter at random, so a system that answers nothing scored 24 %."""
    options = [dict(zip("ABCD", ("red", "green", "blue", "grey"), strict=True))] * 8
    found = choice_accuracy(["I would rather not say."] * 8, options, list("ABCD") * 2)
    assert (found.accuracy, found.n, found.n_unread) == (0, 8, 8)


# --- which recordings are a pair


def rows(folder: Path, *about: tuple[str, str, str, str]) -> str:
    """(id, pair_id, factor, style) as a manifest."""
    made = [replace(query(name, "sad", pair), factor=f, styles={f: style}) for name, pair, f, style in about]
    for row in made:
        (folder / row.audio).write_bytes(b"x")
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in made))
    return str(path)


TWO = [("a1", "1", "age", "adult"), ("a2", "1", "age", "child"), ("g1", "1", "gender", "male"),
       ("g2", "1", "gender", "female"), ("g3", "2", "gender", "male"), ("g4", "2", "gender", "female")]  # fmt: skip


def test_a_pair_id_of_two_factors_is_two_pairs_from_the_manifest_on(tmp_path):
    """UKGovernmentBEIS/inspect_ai#4714 (clusters that share a name). The label swap left these pairs out, a limit of
    one pair a factor took two, and `filter` dropped a pair for the other factor's half."""
    path = rows(tmp_path, *TWO, ("s1", "3", "age", "adult"), ("s2", "3", "gender", "male"))
    queries = read_queries(path, None)
    others = {"a1": "child", "a2": "adult", "g1": "female", "g2": "male", "g3": "female", "g4": "male"}
    assert other_styles(queries) == others  # s1 and s2 have no other half
    assert [q.id for q in read_queries(path, 1)] == ["a1", "a2", "g1", "g2"]
    assert [len(batch) for batch in batches_of(queries, 1)] == [2, 2, 2, 1, 1]


def test_filter_drops_no_half_for_another_factors(tmp_path):
    path = Path(rows(tmp_path, *TWO[:4]))
    (tmp_path / query("a1", "sad").audio).unlink()  # cannot be heard
    for name in ("a2", "g1", "g2"):
        write_audio(tmp_path / query(name, "sad").audio, Audio(np.full(16_000, 0.1, np.float32), 16_000))
    filter(str(path), str(tmp_path / "kept.jsonl"), None, None)
    assert [q.id for q in read_jsonl(tmp_path / "kept.jsonl", Query)] == ["g1", "g2"]


def test_queries_without_a_pair_are_refused(tmp_path):
    """They would pass for one pair of all of them."""
    with pytest.raises(UserError, match="pairs.jsonl:2: a query's pair_id must not be empty"):
        read_queries(rows(tmp_path, TWO[0], ("x", "", "age", "child")), None)


# --- ears and files


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("36 members", "thirty six members"),  # coval-ai/benchmarks#218: 3006
        ("the 21st", "the twenty first"),  # ServiceNow/eva#81: 21 saint
        ("At 10:00 AM.", "at ten a m"),  # the same: 100 am
        ("At 10:30 a.m., please", "at ten thirty am please"),
        ("Call 919-696-3901", "call nine one nine six nine six three nine zero one"),
        ("type 1", "type one"),  # BytedanceSpeech/seed-tts-eval#12
        ("It's 5°.", "it is five degrees"),
        ("OK", "okay"),
    ],
)
def test_what_is_read_aloud_is_no_error(written, spoken):
    assert word_error_rate(written, spoken) == 0 == word_error_rate(spoken, written)


@pytest.mark.parametrize("text", ["I am here", "am I", "spam or ham", "an a minor", "a man", "plan a more or less"])
def test_no_word_passes_for_a_time_of_day(text):
    assert word_error_rate(text, text.replace("am", "is")) > 0 or "am" not in text
    assert word_error_rate(text, text) == 0 and word_error_rate(text, f"{text} pm") > 0


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_streamed_is_read_to_its_end(tmp_path, size):
    """kkroening/ffmpeg-python#118: written to a pipe, its header states no length."""
    samples = (0.3 * np.sin(np.arange(16_000) / 5) * 32767).astype("<i2").tobytes()
    head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    (tmp_path / "a.wav").write_bytes(head + b"data" + struct.pack("<I", size) + samples)
    assert read_audio(tmp_path / "a.wav", 16_000).seconds == seconds_of(tmp_path / "a.wav") == 1


class Chatty(Transcriber):
    """Hears its training data in everything."""

    name = "chatty"

    def write_down(self, audios: list[Audio]) -> list[str]:
        return ["thanks for watching"] * len(audios)


def test_silence_is_told_before_any_ear_listens():
    """SYSTRAN/faster-whisper#826: silence was heard as "Thanks for watching!"."""
    silence = Audio(np.full(16_000, 1e-5, np.float32), 16_000)
    speech = Audio((0.3 * np.sin(np.arange(16_000) / 5)).astype(np.float32), 16_000)
    assert list(listen({"silence": silence, "speech": speech}, Chatty(), None, "response")) == ["speech"]
