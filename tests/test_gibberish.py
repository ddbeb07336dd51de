"""What is no sentence scores 1, however well its words fit the style; sentences are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.data.embedded import authored, frames, text_queries
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.acts import SLOT
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.judging.rubric import STOPWORDS, is_broken
from lightning_paras2s.types import SPLITS, Evidence, Query, Style

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "line",
    [
        "wow the better twist twist stunned me to",  # a word twice in a row
        "i can tell you about the the report",
        "about that room take the room",  # the same thing again, at once
        "i am so sorry the birthday for the birthday",
        "i hear you're upset and i'm",  # an end where no sentence ends
        "your guardian can decide on the",
        "how foul and gross about the in the end",  # "the" before what can't follow it
        "i'm happy the is made you smile",
    ],
)
def test_what_is_no_sentence_is_broken(line):
    assert is_broken(plain_words(line))


@pytest.mark.parametrize(
    "line",
    [
        "that is very very good news about the garden",
        "let us go through it step by step",
        "you wrote it down word for word",
        "what is it for",
        "no no please keep the dog",
        "i would love to",
        "",
    ],
)
def test_sentences_are_not_broken(line):
    assert not is_broken(plain_words(line))


def sentences() -> list[list[str]]:
    """All that was authored here: users' sentences of every split, and replies about a subject of their split."""
    found = [plain_words(query.text) for split in SPLITS for query in text_queries(split)]
    random = np.random.default_rng(0)
    for frame in frames():
        subjects = [q["subject"] for q in authored(frame["split"])]
        about = subjects[random.integers(len(subjects))]
        found.append(plain_words(frame["frame"].replace(SLOT, about)))
    return found


def test_authored_sentences_are_hardly_ever_broken_and_stutters_nearly_always():
    """Authored sentences were written to be sentences, so each that is found broken is a false alarm."""
    random, good = np.random.default_rng(1), sentences()
    assert len(good) > 3_900
    assert np.mean([is_broken(words) for words in good]) < 0.001
    stutters = []
    for words in good:
        places = [i for i, word in enumerate(words) if word not in STOPWORDS]
        if places:
            place = places[random.integers(len(places))]
            stutters.append(words[: place + 1] + words[place:])
    assert np.mean([is_broken(words) for words in stutters]) > 0.98


def test_a_heap_of_fitting_words_scores_1_and_the_sentence_it_is_made_of_5():
    judge = EmbeddedJudge(str(ROOT / "checkpoints/embedded/acts.safetensors"))
    styles = {"emotion": "surprised", "age": "adult", "gender": "male"}
    query = Query("q", "p", "emotion", "test", "They gave me the better room.", styles, "room", "q.flac")
    scores = [
        judge.judge(query, Style(emotion="surprised"), Evidence("r", heard, 0.0, "excited")).score
        for heard in ("wow the better room twist stunned me too", "wow the better twist twist stunned me to")
    ]
    assert scores == [5.0, 1.0]
    assert judge.name == "embedded-rubric-2"  # verdicts by the older notion are not taken for this one's


def test_no_judge_or_reward_reads_the_language_model_of_the_audit():
    for source in [
        *(ROOT / "lightning_paras2s/judging").glob("*.py"),
        *(ROOT / "lightning_paras2s/modules").glob("*.py"),
    ]:
        assert "perplexity" not in source.read_text(encoding="utf-8"), source
