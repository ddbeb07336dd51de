"""Means over queries and seeds: worked by hand, and against what they should cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.seeds import Design, estimate, macro_parts

PAIRS = 48
ONE = Design(np.repeat(np.arange(PAIRS), 2), np.array(["age"] * PAIRS))


def test_one_seed_has_the_t_interval_over_pairs():
    values = np.random.default_rng(0).normal(3, 1, PAIRS)
    found = estimate(macro_parts(np.repeat(values, 2)[None], ONE), ONE)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, PAIRS - 1, values.mean(), stats.sem(values)))


def test_two_seeds_that_differ_say_little():
    """Every query alike, seeds at 2 and 3: standard error .5, one degree of freedom."""
    values = np.stack([np.full(2 * PAIRS, 2.0), np.full(2 * PAIRS, 3.0)])
    found = estimate(macro_parts(values, ONE), ONE)
    assert found.ci95 == pytest.approx([2.5 - stats.t.ppf(0.975, 1) / 2, 2.5 + stats.t.ppf(0.975, 1) / 2])


def test_no_interval_where_it_would_mean_none():
    few = Design(np.arange(39), np.array(["age"] * 39))
    assert np.isnan(estimate(macro_parts(np.random.default_rng(0).normal(size=(3, 39)), few), few).low)
    assert np.isnan(estimate(macro_parts(np.full((3, 2 * PAIRS), 3.0), ONE), ONE).low)
    alone = Design(np.arange(PAIRS), np.array(["age"] * (PAIRS - 1) + ["gender"]))  # one pair a factor
    assert np.isnan(estimate(macro_parts(np.random.default_rng(0).normal(size=(1, PAIRS)), alone), alone).low)


def test_ratio_of_equal_systems_is_1_without_an_error():
    parts = macro_parts(np.random.default_rng(0).normal(3, 1, (2, 2 * PAIRS)), ONE)
    ratio = parts / parts
    assert ratio.value == 1 and np.abs(ratio.errors).max() < 1e-15


@pytest.mark.parametrize(("seeds", "of_seeds"), [(3, 0.2), (3, 0.0), (5, 0.2)])
def test_intervals_cover_the_truth_over_seeds_and_pairs(seeds, of_seeds):
    """1,000 experiments, 40 pairs: seeds, pairs and what is in neither vary. 950 +- 3 sd (6.9), and Satterthwaite's
    approximation, which is wide where seeds don't differ."""
    random, covered = np.random.default_rng(0), 0
    design = Design(np.arange(40), np.array(["age"] * 20 + ["gender"] * 20))
    for _ in range(1000):
        of_both = of_seeds * random.normal(size=(seeds, 1)) + random.normal(size=(seeds, 40))
        values = 3 + random.normal(0, 1, 40) + of_both
        found = estimate(macro_parts(values, design), design)
        covered += found.low <= 3 <= found.high
    assert 929 <= covered <= 980


def test_a_pair_id_of_two_factors_names_two_pairs():
    """Overall had no pairs: the id's four halves were taken for one pair of four styles."""
    from lightning_paras2s.bench.summary import Judged, summarise_system

    styles = {"age": ("adult", "child"), "gender": ("male", "female")}
    scores = {"adult": 5.0, "child": 4.0, "male": 5.0, "female": 1.0}
    items = [
        Judged(f"{pair}-{style}", pair, factor, style, scores[style], 1.0, "oh", "calm", 0.0, True)
        for factor, halves in styles.items()
        for pair in ("p1", "p2")
        for style in halves
    ]
    found = summarise_system(items)
    assert [found[f]["n_whole_pairs"] for f in ("age", "gender", "overall")] == [2, 2, 4]
    assert [found[f]["pair_accuracy"] for f in ("age", "gender", "overall")] == [1, 0, 0.5]
    assert (found["overall"]["mean"], found["overall"]["label_swap_gain"]) == (3.75, 2.75)
    assert found["overall"]["n_pairs"] == 4 and found["overall"]["ci95"] == [None, None]


def test_every_number_of_overall_is_the_mean_of_the_factors():
    """Only the mean was; the others were averaged over items, and so disagreed with `headline`."""
    from lightning_paras2s.bench.summary import Judged, summarise_system

    random = np.random.default_rng(0)
    sizes = {"age": 6, "emotion": 2, "gender": 9, "sarcasm": 4}
    items = [
        Judged(f"{f}{i}{s}", f"{i}", f, s, float(random.integers(1, 6)), float(random.integers(1, 6)), f"{s} {i % 3}",
               "calm", float(random.random()), bool(random.integers(2)), float(random.integers(2)))
        for f, n in sizes.items() for i in range(n) for s in "ab"
    ]  # fmt: skip
    found = summarise_system(items)
    skipped = {"n", "n_failed", "n_pairs", "n_whole_pairs", "tones", "factors", "detectable_difference"}
    names = [n for n in found["overall"] if n not in skipped and not n.endswith("ci95")]
    assert {"label_swap_gain", "pair_accuracy", "wer", "names_topic", "pair_min", "response_contrast"} <= set(names)
    for name in names:
        assert found["overall"][name] == pytest.approx(np.mean([found[f][name] for f in sizes]), abs=1e-4), name


def test_a_share_has_an_interval_where_all_or_none_succeed():
    none = statistics.macro_share({"": ([0.0] * 40, [str(i) for i in range(40)])})
    z = stats.norm.ppf(0.975) ** 2
    assert none.ci95 == pytest.approx([0, z / (40 + z)])  # Wilson's at 0 of n
