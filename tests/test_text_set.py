"""The embedded text set keeps its rules (docs/data_card.md): splits share nothing they should not, lines are plain."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest

from lightning_paras2s.bench.queries.duplicates import first_of_each, near_duplicates
from lightning_paras2s.data.embedded import lexicon, reply_frames, text_queries
from lightning_paras2s.hearing.words import plain_words as words
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES
from lightning_paras2s.types import FACTORS, SPLITS, STYLES

ROOT = Path(__file__).parents[1]
QUERIES = [q for split in SPLITS for q in text_queries(split)]
FRAMES = [json.loads(line) for line in (files("lightning_paras2s") / "data/text/frames.jsonl").read_text().splitlines()]
FRAME_COUNTS = {"train": 30, "val": 6, "test": 12}
# Found after the shipped weights had been trained on the frames: the rule's only exceptions.
SHARED_RUNS = {"Do not worry about your {subject}.", "How lovely that I did the {subject} well."}


def test_counts_are_the_benchmarks_when_the_splits_are_read():
    counts = Counter((q.split, q.factor) for q in QUERIES)
    assert {counts["test", factor] for factor in FACTORS} == {300}  # paper, Table 5
    assert min(counts["train", factor] for factor in FACTORS) >= 500
    assert {counts["val", factor] for factor in FACTORS} == {40}
    assert len({q.id for q in QUERIES}) == len(QUERIES)


@pytest.mark.parametrize("factor", FACTORS)
def test_styles_are_two_of_the_factors_when_a_query_is_read(factor):
    pairs = {q.styles for q in QUERIES if q.factor == factor}
    assert all(len(set(pair)) == 2 and set(pair) <= set(STYLES[factor]) for pair in pairs)
    for split in SPLITS:
        used = Counter(style for q in text_queries(split) if q.factor == factor for style in q.styles)
        assert set(used) == set(STYLES[factor])


def test_emotion_styles_are_balanced_within_a_tenth_when_pairs_repeat():
    pairs = Counter(q.styles for q in text_queries("test") if q.factor == "emotion")
    assert max(pairs.values()) - min(pairs.values()) <= 0.1 * max(pairs.values())


def test_topics_are_disjoint_when_splits_are_compared():
    topics = {split: {q.topic for q in text_queries(split)} for split in SPLITS}
    assert all(not topics[a] & topics[b] for a, b in combinations(SPLITS, 2))


def test_texts_are_disjoint_when_splits_are_compared():
    texts = Counter(" ".join(words(q.text)) for q in QUERIES)
    assert [text for text, count in texts.items() if count > 1] == []


def test_voices_are_disjoint_when_splits_are_compared():
    voices = {split: {v.espeak for v in QUERY_VOICES[split].values()} for split in SPLITS}
    assert all(not voices[a] & voices[b] for a, b in combinations(SPLITS, 2))


def test_texts_are_plain_speech_when_read():
    for q in QUERIES:
        assert re.fullmatch(r"[A-Za-z']+( [A-Za-z']+)*[.?]", q.text), q
        assert 5 <= len(words(q.text)) <= 10, q


def test_subjects_are_one_word_of_the_text_when_read():
    for q in QUERIES:
        assert re.fullmatch("[a-z]+", q.subject) and q.subject in re.sub("[.?]", "", q.text).split(), q
    for split in SPLITS:
        for factor in FACTORS:
            used = Counter(q.subject for q in text_queries(split) if q.factor == factor)
            assert max(used.values()) <= 3, (split, factor, used.most_common(1))


@pytest.mark.parametrize("factor", FACTORS)
def test_at_most_a_third_of_test_subjects_are_trained_on_when_a_factor_is_compared(factor):
    test, train = ({q.subject for q in text_queries(split) if q.factor == factor} for split in ("test", "train"))
    assert len(test & train) <= len(test) / 3


def test_no_two_texts_are_near_duplicates_when_all_pairs_are_compared():
    texts = [q.text for q in QUERIES]
    assert [(texts[i], texts[j]) for i, j in near_duplicates(texts)] == []


def test_near_duplicates_are_found_when_planted():
    planted = [
        "I am driving my sister to the airport.",
        "We saw the lake from every side.",
        "I am driving my sister to the station.",  # one word
        "My sister is driving to the airport I am.",  # 8 of 9; with the station 7 of 10
        "From every side we saw the red lake.",  # 7 of 8
        "The sister ship left the airport.",  # 3 of 10
    ]
    assert near_duplicates(planted) == [(0, 2), (0, 3), (1, 4), (2, 3)]
    assert first_of_each(planted) == [None, None, 0, 0, 1, None]


def test_nothing_of_abuse_or_bombs_is_asked_when_the_test_split_is_read():
    assert not [q.text for q in text_queries("test") if re.search(r"\b(old bomb|abuse|rape|suicide|belt by)", q.text)]


def test_frames_have_one_slot_and_few_words_when_read():
    for row in FRAMES:
        frame = row["frame"]
        assert frame.count("{subject}") == 1, row
        assert row["factor"] == "generic" or re.search(r"\b(the|your|that) \{subject\}", frame, re.I), row
        assert re.fullmatch(r"[A-Za-z']+( [A-Za-z']+)*[.?]", frame.format(subject="x")), row
        assert 4 <= len(frame.split()) <= 8, row


def test_frames_cover_every_style_when_counted():
    for split, count in FRAME_COUNTS.items():
        for factor in FACTORS:
            assert {len(reply_frames(split, factor, style)) for style in STYLES[factor]} == {count}
        assert reply_frames(split, "generic", "generic")


def test_held_out_frames_share_no_run_of_three_words_when_compared_with_train():
    def runs(frame: str) -> set[tuple[str, ...]]:
        tokens = frame.lower().rstrip(".?").split()
        return {tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)}

    for factor in FACTORS:
        seen = set().union(*(runs(r["frame"]) for r in FRAMES if (r["split"], r["factor"]) == ("train", factor)))
        shared = [r for r in FRAMES if r["factor"] == factor and r["split"] != "train" and runs(r["frame"]) & seen]
        assert {r["frame"] for r in shared} <= SHARED_RUNS


def test_every_query_passed_the_three_tests_when_the_answers_are_read():
    """One answer with its reason to each test of A.3, for the text as it is; rejected texts are kept with theirs."""
    rows = [json.loads(line) for line in (ROOT / "results/three_tests.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [(q.id, q.text) for q in QUERIES]
    rejected = [json.loads(line) for line in (ROOT / "results/rejected.jsonl").read_text().splitlines()]
    assert not {row["text"] for row in rejected} & {q.text for q in QUERIES}
    wanted = {"neutrality": "neutral", "reasonability": "reasonable", "relevance": "different"}
    for row in rows:
        assert all(row[test]["answer"] == answer and row[test]["reason"] for test, answer in wanted.items()), row
    for row in rejected:
        assert all(row[test]["reason"] for test in wanted)
        assert any(row[test]["answer"] != answer for test, answer in wanted.items()), row
    assert f"{len(rejected):,} texts" in (ROOT / "docs/data_card.md").read_text()


def test_every_word_is_in_the_lexicon_when_texts_are_read():
    """The shipped networks know no other words, and the reward model only those of the training split."""
    said = {split: {w for q in text_queries(split) for w in words(q.text)} for split in SPLITS}
    for row in FRAMES:
        said[row["split"]] |= set(words(row["frame"].replace("{subject}", "")))
    assert all(said[split] <= set(lexicon()) for split in SPLITS)
    assert said["train"] <= set(lexicon(("train",)))
    assert list(lexicon()) == sorted(lexicon())


def test_the_card_counts_the_voices_of_each_split():
    """It told 25 + 4 + 8, the train voices of an earlier set."""
    ages = {split: Counter(voice.age for voice in QUERY_VOICES[split].values()) for split in SPLITS}
    first, *rest = [(split, ages[split]["adult"], ages[split]["child"]) for split in SPLITS]
    told = f"{first[0]} has {first[1]} adults and {first[2]} children, " + ", ".join(
        f"{split} {adults} and {children}" for split, adults, children in rest
    )
    assert told in (ROOT / "docs/data_card.md").read_text()
