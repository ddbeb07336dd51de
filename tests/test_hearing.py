"""One hearing: the same answer is the same evidence in training, in the probe and in `evaluate`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.filters import filter
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.evidence import Ears, Said, hear, make_evidence
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import MAX_WER, EmbeddedJudge, Judge, heard_failure
from lightning_paras2s.judging.rewards import JudgeReward, TextJudgeReward, ToneReward, judge_scores
from lightning_paras2s.judging.rubric import Score
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Audio, Query, Response, Style, to_json

VOICE = Audio((0.3 * np.sin(np.arange(8_000) / 5)).astype(np.float32), 16_000)
SILENCE = Audio(np.zeros(8_000, np.float32), 16_000)


class Ear(Transcriber):
    name = "ear"

    def __init__(self, words: str) -> None:
        self.words = words

    def write_down(self, audios):
        return [self.words] * len(audios)


class Tone(StyleRecognizer):
    name = "tone"

    def __init__(self, tone: str | None) -> None:
        self.tone = tone

    def recognize(self, audios, role):
        return [Style(tone=self.tone, emotion="sad") for _ in audios]


class Kind(Judge):
    """Scores 4 whatever has evidence and says what it should."""

    name = "kind"
    rubric_sha = ""

    def judge(self, query, style, evidence):
        if evidence.status != "ok":
            return self.verdict(evidence, Score(None, "", evidence.status))
        return self.verdict(evidence, Score(1.0 if evidence.wer else 4.0, ""))


def both_ways(folder, ears: Ears, audio: Audio, text: str | None, finished: bool = True):
    """The evidence of one answer in training and in `evaluate`, without its id."""
    reward = JudgeReward(Kind(), ears.transcriber, ears.recognizer)
    (trained,) = reward.hear([SpokenResponse(audio, text or "", finished, ())])
    write_audio(folder / "a.wav", audio)
    response = Response("q", "s", audio="a.wav", text=text, status="ok" if finished else "truncated")
    (evaluated,) = hear([response], folder, ears)
    return replace(trained, response_id=""), replace(evaluated, response_id="")


@pytest.mark.parametrize("tone", ["calm", None])
@pytest.mark.parametrize(
    ("text", "words"), [("I\u2019m sorry.", "i'm sorry"), ("It's 42!", "it's forty two"), ("", "oh")]
)
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("audio", [VOICE, SILENCE])
def test_training_and_evaluation_hear_the_same(tmp_path, tone, text, words, finished, audio):
    trained, evaluated = both_ways(tmp_path, Ears(Ear(words), Tone(tone)), audio, text, finished)
    assert trained == evaluated


def test_a_tone_that_cannot_be_read_is_unscored_in_training_and_in_evaluation(tmp_path):
    """Training scored it 4 and evaluate did not score it."""
    ears = Ears(Ear("i am here"), Tone(None))
    for evidence in both_ways(tmp_path, ears, VOICE, "I am here."):
        assert (evidence.status, evidence.tone) == ("no_tone", "")
        assert judge_scores(Kind(), [None], [Style()], [evidence]).isnan().all()
    batch = [Query("q", "p", "emotion", "test", "", {"emotion": "sad"}, "", "")]
    batch = type("Batch", (), {"queries": batch, "__len__": lambda self: 1})()
    spoken = [SpokenResponse(audio, "", True, ()) for audio in (VOICE, SILENCE)]
    assert np.isnan(ToneReward(Tone(None)).score(batch, spoken[:1]).item())
    assert ToneReward(Tone("empathetic")).score(batch, spoken).tolist() == [1, 0]  # silence has no tone to be right


def test_a_style_that_nobody_heard_is_no_neutral_one_to_the_tone_reward():
    """Analysers of some factors name none of the others: a neutral tone was right for a query whose style nobody knew,
    and an emotional one wrong, where `JudgeReward` gives neither a score."""
    batch = [Query("q", "p", "sarcasm", "test", "", {}, "", "")]
    batch = type("Batch", (), {"queries": batch, "audios": [VOICE], "__len__": lambda self: 1})()
    spoken = [SpokenResponse(VOICE, "", True, ())]
    for tone in ("neutral", "apologetic"):
        assert np.isnan(ToneReward(Tone(tone), "predicted").score(batch, spoken).item())
    assert np.isnan(TextJudgeReward(EmbeddedJudge(), Tone("neutral"), "predicted").score(batch, spoken).item())


def test_training_checks_a_judge_as_evaluation_does():
    """A judge on another scale, or one that forgets a verdict, ended `evaluate`; RL and the probe took the mean."""

    class Off(Kind):
        def judge(self, query, style, evidence):
            return self.verdict(evidence, Score(10.0, ""))

    class Forgets(Kind):
        samples = 3

        def judge_all(self, queries, styles, evidence):
            return [[self.judge(*item)] for item in zip(queries, styles, evidence, strict=True)]

    heard = make_evidence([Said("0", VOICE, "oh")], Ears(Ear("oh"), Tone("calm")))
    with pytest.raises(UserError, match="from 1 to 5"):
        judge_scores(Off(), [None], [Style()], heard)
    with pytest.raises(UserError, match="3 verdicts"):
        judge_scores(Forgets(), [None], [Style()], heard)


def test_a_tone_that_is_described_is_rewarded_as_the_one_that_it_is():
    """A describer's "warm and cheerful" was none of our names, and 0."""
    batch = [Query("q", "p", "emotion", "test", "", {"emotion": "happy"}, "", "")]
    batch = type("Batch", (), {"queries": batch, "__len__": lambda self: 1})()
    spoken = [SpokenResponse(VOICE, "", True, ())]
    told = {"cheerful": 1, "excited": 1, "Warm and cheerful.": 1, "upbeat": 1, "happy": 1}
    told |= {"calm": 0, "not cheerful": 0, "empathetic": 0, "flat": 0, "neutral": 0}
    assert {tone: ToneReward(Tone(tone)).score(batch, spoken).item() for tone in told} == told


def test_a_curly_apostrophe_is_no_mismatch_in_training_or_in_evaluation(tmp_path):
    """Training took "I\u2019m" for two words and gave the lowest score."""
    for evidence in both_ways(tmp_path, Ears(Ear("i'm sorry"), Tone("calm")), VOICE, "I\u2019m sorry"):
        assert evidence.wer == 0
        assert judge_scores(Kind(), [None], [Style()], [evidence]).tolist() == [4]


def test_an_unknown_text_has_no_word_error_rate_and_an_empty_one_is_contradicted_by_words():
    ears = Ears(Ear("oh"), Tone("calm"))
    said = [Said("known", VOICE, ""), Said("unknown", VOICE, None), Said("failed", None, "hello", "timeout")]
    assert [(e.wer, e.status) for e in make_evidence(said, ears)] == [(1, "ok"), (None, "ok"), (None, "timeout")]


def test_filter_hears_numbers_as_they_are_spoken(tmp_path):
    """A query "Call 911" that is said well was rejected: its digits were no words."""
    write_audio(tmp_path / "a.wav", VOICE)
    row = Query("q", "p", "emotion", "test", "Call 911, I\u2019m 42.", {"emotion": "sad"}, "t", "a.wav")
    (tmp_path / "queries.jsonl").write_text(to_json(row) + "\n")
    counts = filter(
        str(tmp_path / "queries.jsonl"),
        str(tmp_path / "kept.jsonl"),
        Ear("call nine one one i'm forty two"),
        Tone(None),
        keep_halves=True,
    )
    assert counts["kept"] == 1


CHINESE = "我今天真的很高兴见到你，我们一起走吧"


def test_a_right_answer_in_chinese_is_no_mismatch_and_a_wrong_one_is():
    """One character of seventeen, and a comma that the ear leaves out: the voice says what the text says."""
    heard = [make_evidence([Said("s/q/0", VOICE, CHINESE)], Ears(Ear(words), Tone("calm")))[0]
             for words in ("我今天真的很高兴见到您我们一起走吧", "天气不好")]  # fmt: skip
    assert heard[0].wer == round(1 / 17, 4) and heard_failure(heard[0], MAX_WER) is None
    assert heard_failure(heard[1], MAX_WER) is not None


def test_filter_keeps_a_chinese_query_whose_comma_is_not_heard(tmp_path):
    write_audio(tmp_path / "a.wav", VOICE)
    row = Query("q", "p", "emotion", "test", CHINESE, {"emotion": "sad"}, "t", "a.wav")
    (tmp_path / "queries.jsonl").write_text(to_json(row) + "\n")
    paths = str(tmp_path / "queries.jsonl"), str(tmp_path / "kept.jsonl")
    assert filter(*paths, Ear("我今天真的很高兴见到你我们一起走"), Tone(None), keep_halves=True)["kept"] == 1


AS_WRITTEN = (
    "It costs $5.99.",
    "It rose by 50%.",
    "Tip 20% of $45.50, that's $9.10.",
    "Okay (I'll call your sister right away).",
    "がっこうでごはんをたべます",
    "नमस्ते आप कैसे हैं",
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.sampled_from(AS_WRITTEN), st.text(max_size=40)))
def test_an_ear_that_writes_down_what_a_text_says_makes_no_word_error(text):
    """Its words were made plain before they were compared, and the text's were not."""
    (found,) = make_evidence([Said("s/q/0", VOICE, text)], Ears(Ear(text), Tone("calm")))
    assert (found.transcript, found.wer) == (text, 0)


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_a_query_that_is_heard_as_it_is_written_is_kept(tmp_path, text):
    write_audio(tmp_path / "a.wav", VOICE)
    row = Query("q", "p", "emotion", "test", text, {"emotion": "sad"}, "t", "a.wav")
    (tmp_path / "queries.jsonl").write_text(to_json(row) + "\n")
    paths = str(tmp_path / "queries.jsonl"), str(tmp_path / "kept.jsonl")
    assert filter(*paths, Ear(text), None, max_wer=0.0, keep_halves=True)["kept"] == 1
