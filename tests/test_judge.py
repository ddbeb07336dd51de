"""Judges: rules over what was heard; a chat model with a strict parser; statuses instead of guesses."""

from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.acts import ActClassifier, accuracy, add_noise, examples, fit, mask_topic, sounding_like
from lightning_paras2s.judging.judges import EmbeddedJudge, LLMJudge
from lightning_paras2s.servers.chat import ChatLLM, Reply
from lightning_paras2s.types import Evidence, Query, Style

ACTS = str(Path(__file__).parents[1] / "checkpoints/embedded/acts.safetensors")


def query(factor="emotion", style="sad", text="We sold the house last week."):
    return Query("q", "p", factor, "test", text, {factor: style}, "Home", "q.wav")


def heard(transcript="", tone="neutral", **fields):
    return Evidence("s/q/0", transcript, tone=tone, **fields)


@pytest.fixture(scope="module")
def judge():
    return EmbeddedJudge(ACTS)


@pytest.mark.parametrize(
    ("transcript", "tone", "score"),
    [
        ("i am so sorry about the house", "empathetic", 5),
        ("i am so sorry about the house", "neutral", 4),
        ("i am so sorry about the house", "excited", 2),
        ("hooray let us celebrate the house", "cheerful", 1),
        ("let me note the house for you", "neutral", 2),
        ("let me note the house for you", "calm", 3),
        ("i am so sorry about the boat", "empathetic", 4),
        ("blorf wix grump the", "empathetic", 1),
        ("sorry sorry sorry sorry sorry", "empathetic", 1),
    ],
)
def test_embedded_judge_scores_what_was_heard(judge, transcript, tone, score):
    q = query()
    verdict = judge.judge(q, q.style, heard(transcript, tone))
    assert (verdict.score, verdict.status) == (score, "ok") and verdict.reason
    written = f"{transcript.capitalize()}!".replace(" the ", ", the ")  # as an ear with capitals writes it
    assert judge.judge(q, q.style, heard(written, tone)).score == score


def test_embedded_judge_uses_the_labels_it_is_given(judge):
    q, evidence = query(), heard("hooray let us celebrate the house", "cheerful")
    assert judge.judge(q, Style(emotion="happy"), evidence).score == 5
    assert judge.judge(q, Style(emotion="sad"), evidence).score == 1


@pytest.mark.parametrize("status", ["silent", "truncated"])
def test_failures_that_a_listener_hears_score_1(judge, status):
    verdict = judge.judge(query(), query().style, heard(status=status))
    assert (verdict.score, verdict.status) == (1, "ok")


def test_voice_that_does_not_say_its_text_scores_1(judge):
    q = query()
    assert judge.judge(q, q.style, heard("i am so sorry about the house", "empathetic", wer=0.51)).score == 1
    assert judge.judge(q, q.style, heard("i am so sorry about the house", "empathetic", wer=0.5)).score == 5


@pytest.mark.parametrize(
    ("evidence", "status"),
    [
        (heard(status="transcriber_failed"), "transcriber_failed"),
        (heard(status="missing_audio"), "missing_audio"),
        (heard("i am so sorry", tone="purple"), "no_tone"),
    ],
)
def test_what_cannot_be_judged_has_a_status_and_no_score(judge, evidence, status):
    verdict = judge.judge(query(), query().style, evidence)
    assert (verdict.score, verdict.status) == (None, status)


def test_unknown_label_is_no_score(judge):
    verdict = judge.judge(query(), Style(), heard("i am so sorry about the house"))
    assert (verdict.score, verdict.status) == (None, "no_label")


def test_missing_or_foreign_act_classifier_is_one_line(tmp_path):
    with pytest.raises(UserError, match="must be an existing file"):
        ActClassifier(tmp_path / "none")
    (tmp_path / "cut").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="whole safetensors file"):
        ActClassifier(tmp_path / "cut")


def test_act_classifier_holds_on_unseen_frames_and_subjects():
    # Chance is 1 of 3 (two styles of most factors, and generic); frames share no three-word run with those it was
    # fitted on.
    measured = accuracy(ACTS, "test", noise=0.0, repeats=3)
    assert measured["all"] > 0.85
    assert accuracy(ACTS, "test", noise=1.0, repeats=3)["all"] > 0.75


def test_words_in_random_order_are_mostly_gibberish_and_unseen_replies_are_not():
    classifier, random = ActClassifier(ACTS), np.random.default_rng(0)
    names = {True: [], False: []}
    for heard_words, asked, _ in examples("val", 5, 0.0, 1):
        for shuffled in names:
            spoken = " ".join(random.permutation(heard_words) if shuffled else heard_words)
            names[shuffled].append(classifier.classify(spoken, asked["factor"], asked["text"]).name == "gibberish")
    assert np.mean(names[True]) > 0.5 and np.mean(names[False]) < 0.06


def test_act_classifier_is_fitted_again_bit_for_bit(tmp_path):
    fit(tmp_path / "a", repeats=2)
    fit(tmp_path / "b", repeats=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_topic_is_masked_before_the_act_is_told():
    assert mask_topic("i am sad about the house".split(), "We sold the house.") == "i am sad about the _".split()


def test_noise_confuses_words_that_sound_alike():
    clean = ["wonderful"] * 400
    noisy = add_noise(clean, np.random.default_rng(0))
    assert 0.81 < sum(w == "wonderful" for w in noisy) / 400 < 0.9  # .97 (not lost) * .88 (not confused) = .854
    assert set(noisy) - {"wonderful"} <= set(sounding_like("wonderful")) and "wonder" in sounding_like("wonderful")


class Canned(ChatLLM):
    """Answers from a list, and remembers what it was asked."""

    name = "canned"

    def __init__(self, replies):
        self.replies, self.asked = list(replies), []

    def complete(self, conversations):
        self.asked += conversations
        return [self.replies.pop(0) for _ in conversations]


def test_llm_judge_draws_k_samples_and_keeps_failures_apart():
    llm = Canned(
        [
            Reply("The reason is apt; The score is 5", usage={"tokens": 9}, cost_usd=0.01),
            Reply(None, status="timeout"),
            Reply("The score is 10"),
        ]
    )
    (verdicts,) = LLMJudge(llm, samples=3).judge_all([query()], [query().style], [heard("i am so sorry")])
    assert [(v.sample, v.score, v.status) for v in verdicts] == [
        (0, 5, "ok"),
        (1, None, "timeout"),
        (2, None, "score_out_of_range"),
    ]
    assert verdicts[0].usage == {"tokens": 9, "cost_usd": 0.01} and verdicts[2].raw == "The score is 10"


def test_llm_judge_gives_each_response_its_own_samples():
    llm = Canned([Reply(f"The score is {score}") for score in (1, 2, 3, 4)])
    verdicts = LLMJudge(llm, samples=2).judge_all([query()] * 2, [query().style] * 2, [heard("one"), heard("two")])
    assert [[v.score for v in row] for row in verdicts] == [[1, 2], [3, 4]]
    assert ["transcription: one" in c[0]["content"] for c in llm.asked] == [True, True, False, False]


def test_llm_judge_asks_nothing_about_what_cannot_be_heard():
    llm = Canned([Reply("The score is 4")])
    items = [heard(status="silent"), heard("hello"), heard(status="missing_audio")]
    verdicts = LLMJudge(llm).judge_all([query()] * 3, [query().style] * 3, items)
    assert len(llm.asked) == 1
    assert [(v[0].score, v[0].status) for v in verdicts] == [(1, "ok"), (4, "ok"), (None, "missing_audio")]


def test_llm_judge_without_samples_is_one_line():
    with pytest.raises(UserError, match="got samples=0"):
        LLMJudge(Canned([]), samples=0)
