"""Means over queries and seeds: worked by hand, and against what they should cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.seeds import (
    Design,
    design_of,
    error_of,
    estimate,
    macro_parts,
    rest_of,
    shared,
    shared_queries,
)
from lightning_paras2s.types import Query

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


def test_factors_whose_names_have_a_slash_are_factors_of_their_own():
    """real/emotion and real/age were one factor, "real"; the mean was that of their queries: 1.75."""
    factors = ["real/emotion"] * 3 + ["real/age"]
    queries = [Query(f"{i}", f"p{i}", factor, "test", "", {}, "", "") for i, factor in enumerate(factors)]
    design = design_of(queries)
    assert macro_parts(np.array([[1.0, 1.0, 1.0, 4.0]]), design).value == 2.5
    assert sorted(design.factor_of.tolist()) == ["real/age"] + ["real/emotion"] * 3


def test_pairs_without_a_score_give_no_degrees_of_freedom():
    """Of 100 pairs two were scored: the interval counted 100, had 99 degrees of freedom and covered .62."""
    design = Design(np.arange(100), np.repeat(["age", "gender"], 50))
    values, known = np.full((1, 100), np.nan), np.random.default_rng(0).normal(3, 1, 24)
    values[0, 10:34] = known
    found = estimate(macro_parts(values, design), design)
    # gender has no score; the interval is Student's of 24 pairs
    assert found.ci95 == pytest.approx(stats.t.interval(0.95, 23, known.mean(), stats.sem(known)))
    assert (found.n, found.clusters) == (24, 24) and error_of(macro_parts(values, design), design).freedom == 23
    values[0, 14:] = np.nan
    assert np.isnan(estimate(macro_parts(values, design), design).low)  # four pairs are too few
    values[0, 10:34], values[0, 60] = known, 3.0
    assert np.isnan(estimate(macro_parts(values, design), design).low)  # one pair of gender
    assert np.isnan(error_of(macro_parts(np.full((2, 100), np.nan), design), design).standard)


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_experiment_with_queries_and_a_seed_that_nobody_scored_is_the_one_without_them(seeds):
    """Rows, pairs and a factor of NaN add nothing, whatever there is of them."""
    scored = np.random.default_rng(1).normal(3, 1, (seeds, 96)) + np.arange(seeds)[:, None] / 2
    more = Design(np.concatenate([ONE.pair_of, np.repeat(np.arange(48, 60), 2)]),
                  np.array(["age"] * 54 + ["gender"] * 6))  # fmt: skip
    values = np.full((seeds + 1, 120), np.nan)
    values[:seeds, :96] = scored
    small, large = macro_parts(scored, ONE), macro_parts(values, more)
    assert estimate(large, more) == pytest.approx(estimate(small, ONE), rel=1e-9)
    assert error_of(large, more) == pytest.approx(error_of(small, ONE), rel=1e-9)
    assert rest_of(large, more) == pytest.approx(rest_of(small, ONE), rel=1e-9)


def test_what_is_compared_has_the_same_values():
    first, then = np.array([[1, np.nan, 3], [4, 5, np.nan]]), np.array([[1.0, 2, 3], [np.nan, 2, 3]])
    a, b = shared(first, then)
    assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [[True, False, True], [False, True, False]]
    design = Design(np.arange(3), np.array(["age"] * 3))
    assert (macro_parts(a, design) - macro_parts(b, design)).value == pytest.approx(1.0)  # 0, 0 and 3
    with pytest.raises(AssertionError, match="of the same values"):
        macro_parts(first, design) - macro_parts(then, design)
    # of seeds of their own, a query counts where both have it in some seed
    (a, b) = shared_queries(np.array([[1, np.nan, np.nan], [4, 5, np.nan], [np.nan] * 3]), then[:1])
    assert np.isfinite(a).tolist() == [[True, False, False], [True, True, False]]
    assert np.isfinite(b).tolist() == [[True, True, False]]
