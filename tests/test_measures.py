"""Related benchmarks' measures on examples worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_paras2s.bench.measures.choices import Choices, choice_accuracy, chosen
from lightning_paras2s.bench.measures.concordance import concordance
from lightning_paras2s.bench.measures.emotion import allowed_hits, expected_rating, understood_emotion
from lightning_paras2s.bench.measures.events import Event, event_f1, event_hits
from lightning_paras2s.errors import UserError


def test_concordance_costs_a_shift_and_another_spread():
    # means 2 and 3, variances 2/3, covariance 2/3: (4/3) / (4/3 + 1)
    assert concordance([1, 2, 3], [2, 3, 4]) == pytest.approx(4 / 7)
    # variances 2/3 and 8/3, covariance 4/3, means 2 and 4: (8/3) / (10/3 + 4)
    assert concordance([1, 2, 3], [2, 4, 6]) == pytest.approx(8 / 22)
    assert concordance([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert concordance([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert concordance([2, 2, 2], [1, 2, 3]) == 0 and math.isnan(concordance([2, 2], [2, 2]))
    assert concordance([1, 2, 3, np.nan], [2, 3, 4, 9]) == pytest.approx(4 / 7)
    with pytest.raises(UserError, match="of one length"):
        concordance([1, 2], [1, 2, 3])


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=20))
def test_concordance_is_below_pearsons_r_and_the_same_both_ways(pairs):
    x, y = np.array(pairs, float).T
    if x.std() and y.std():
        found = concordance(x, y)
        assert abs(found) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-9 and found == pytest.approx(concordance(y, x))


def test_emotion_counts_as_far_as_it_is_understood():
    assert understood_emotion(0.8, 0.25) == pytest.approx(0.6)
    assert understood_emotion(0.8, 1.5) == 0 and understood_emotion(1.0, 0.0) == 1
    with pytest.raises(UserError):
        understood_emotion(1.2, 0.0)


def test_allowed_emotions_leave_out_what_was_not_heard():
    heard = ["sad", "happy", None, "neutral"]
    assert allowed_hits(heard, [{"sad", "neutral"}, {"sad"}, {"sad"}, {"neutral"}]) == (pytest.approx(2 / 3), 3)
    assert math.isnan(allowed_hits([None], [{"sad"}])[0])
    with pytest.raises(UserError):
        allowed_hits(["sad"], [set()])


def test_expected_rating_is_weighed_by_what_was_heard():
    # 0.6 and 0.2 of 0.8 are rated: (0.6 x 5 + 0.2 x 1) / 0.8
    assert expected_rating({"sad": 0.6, "happy": 0.2, "other": 0.2}, {"sad": 5, "happy": 1, "angry": 1}) == 4


OPTIONS = {"A": "a red car", "B": "a car", "C": "the blue boat", "D": "none of them"}


@pytest.mark.parametrize("answer, letter", [
    ("B", "B"), ("(c)", "C"), (" **D.** ", "D"), ("E", None), ("", None),
    ("The answer is B.", "B"), ("The correct answer is: (C) the blue boat", "C"), ("I think option d is right", "D"),
    ("The answer should be option A", "A"), ("the answer is a", "A"),
    ("The answer is a kind of vehicle", None),  # an article
    ("The answer is A or the answer is B", None),
    ("C. The blue boat, not a car", "C"), ("b) because it is small", "B"),
    ("It was the blue boat, of course.", "C"), ("It was a red car.", "A"),
    ("A red car or the blue boat", None), ("I don't know", None), ("A good question!", None),
])  # fmt: skip
def test_a_choice_is_read_or_it_is_none(answer, letter):
    assert chosen(answer, OPTIONS) == letter


def test_choices_that_cannot_be_read_are_wrong_and_counted():
    answers = ["B", "no idea", "the answer is C", "A"]
    found = choice_accuracy(answers, [OPTIONS] * 4, ["B", "A", "C", "D"])
    assert found == Choices(0.5, 4, 1)
    assert choice_accuracy(["no idea"] * 50, [OPTIONS] * 50, ["A"] * 50) == Choices(
        0.0, 50, 50
    )  # a guess has a quarter
    with pytest.raises(UserError, match="must be one of them; got 'E'"):
        choice_accuracy(["A"], [OPTIONS], ["E"])


def test_events_are_found_within_the_tolerance_once_each():
    there = [Event("laugh", 1.0), Event("laugh", 1.4), Event("sigh", 3.0)]
    found = [Event("laugh", 1.2), Event("laugh", 1.5), Event("laugh", 1.6), Event("sigh", 3.6), Event("cough", 1.0)]
    assert event_hits(found, there, 0.25) == 2  # the laughs at 1.2 and 1.5; the sigh is 0.6 s late
    result = event_f1(2, 5, 3)
    assert (result.precision, result.recall, result.f1) == (2 / 5, pytest.approx(2 / 3), 4 / 8)
    assert event_hits([Event("laugh", 1.25)], there, 0.25) == 1  # the bound counts
    assert math.isnan(event_f1(0, 0, 0).f1) and event_f1(0, 0, 2).f1 == 0


times = st.lists(st.integers(0, 12), max_size=5)


@given(times, times, st.integers(0, 3))
def test_event_hits_are_the_best_of_all_matchings(ours, theirs, tolerance):
    found, there = [Event("x", t / 4) for t in ours], [Event("x", t / 4) for t in theirs]
    few, many = sorted((ours, theirs), key=len)
    best = max(
        sum(abs(a - b) <= tolerance for a, b in zip(few, chosen_, strict=True))
        for chosen_ in itertools.permutations(many, len(few))
    )
    assert event_hits(found, there, tolerance / 4) == best
