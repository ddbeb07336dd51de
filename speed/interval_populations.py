"""Experiments for `intervals.py` on figures that are no macro averages of scores: agreement of listeners and judges,
shares of recordings, word error rates. Each draws n clusters, and gives an interval and the population's own value."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from lightning_paras2s.bench.diagnostics.judge_table import pearson_gain
from lightning_paras2s.bench.diagnostics.voice_or_words import AGREE, MISLEAD, NEUTRAL, Named, text_swap_probe
from lightning_paras2s.bench.diagnostics.voice_or_words import macro_mean as macro_accuracy
from lightning_paras2s.bench.pairs.meetings import agreement_of
from lightning_paras2s.bench.people.reliability import (
    CORRELATIONS,
    correlation,
    krippendorff_alpha,
    krippendorff_interval,
)
from lightning_paras2s.bench.statistics import MIN_SHARED, clustered_mean, macro_difference
from lightning_paras2s.sweeping.differences import difference
from lightning_paras2s.types import FACTORS, Battle

Met = tuple[tuple[float, float], float]  # an interval, and the truth
Experiment = Callable[[int, np.random.Generator], Met]
MANY = 50_000  # clusters that stand for the population
NOISE = {"close": 0.3, "fair": 1.0}  # of a rater, beside the items' own spread of 1


def ratings(pairs: int, noise: float, raters: int, random: np.random.Generator) -> np.ndarray:
    """1 to 5 of contrast pairs whose halves are alike to a third, [raters, 2 * pairs]; the last is half a point too
    kind."""
    quality = 0.6 * np.repeat(random.normal(size=pairs), 2) + 0.8 * random.normal(size=2 * pairs)
    kind = np.where(np.arange(raters) == raters - 1, 0.5, 0.0)[:, None]
    return np.clip(np.round(3 + kind + 1.2 * (quality + noise * random.normal(size=(raters, 2 * pairs)))), 1, 5)


def halves(pairs: int) -> list[str]:
    return [str(i) for i in range(pairs) for _ in range(2)]


@cache
def many(noise: float, raters: int) -> np.ndarray:
    return ratings(MANY, noise, raters, np.random.default_rng(9))


@cache
def true_correlation(kind: str, noise: float) -> float:
    drawn = many(noise, 4)
    return CORRELATIONS[kind](drawn[3], drawn[:3].mean(0))


def of_correlation(kind: str, noise: float) -> Experiment:
    """A judge against the mean of three listeners."""

    def experiment(n: int, random: np.random.Generator) -> Met:
        drawn = ratings(n, noise, 4, random)
        found = correlation(drawn[3], drawn[:3].mean(0), halves(n), kind)
        return (found.low, found.high), true_correlation(kind, noise)

    return experiment


@cache
def true_alpha(noise: float) -> float:
    return krippendorff_alpha(many(noise, 3))


def of_alpha(noise: float) -> Experiment:
    """Three listeners, a tenth of whose ratings is missing (at random, so alpha is that of all)."""

    def experiment(n: int, random: np.random.Generator) -> Met:
        drawn = ratings(n, noise, 3, random)
        drawn[random.random(drawn.shape) < 0.1] = np.nan
        return krippendorff_interval(drawn, halves(n))[:2], true_alpha(noise)

    return experiment


def verdicts(n: int, random: np.random.Generator) -> tuple[list[Battle], list[Battle]]:
    """Two judges of three games a query, who agree in six of ten, more on some queries, and else by chance."""
    names, share = ("a", "b", "both_good", "both_bad"), (0.4, 0.3, 0.2, 0.1)
    ours = random.choice(4, (n, 3), p=share)
    same = random.random((n, 3)) < random.choice([0.4, 0.8], (n, 1))
    theirs = np.where(same, ours, random.choice(4, (n, 3), p=share))
    pairs = (("x", "y"), ("x", "z"), ("y", "z"))
    first, second = (
        [Battle(f"{q}", *pairs[g], "ab", names[played[q, g]], "j") for q in range(n) for g in range(3)]
        for played in (ours, theirs)
    )
    return first, second


def of_kappa(n: int, random: np.random.Generator) -> Met:
    """Chance agrees as often as kappa takes off, so kappa is the share that is no chance: .6."""
    return agreement_of(*verdicts(n, random))["kappa_ci95"], 0.6


@cache
def true_gain() -> float:
    return true_of_two(many(1.0, 1)[0], MANY, np.random.default_rng(8))[0]


def true_of_two(reference: np.ndarray, pairs: int, random: np.random.Generator) -> tuple[float, tuple[float, float]]:
    """Two judges of the same replies, whose noise is alike by half: what one correlates more than the other."""
    shared, own = random.normal(size=2 * pairs), random.normal(size=(2, 2 * pairs))
    a, b = (np.clip(np.round(reference + s * (shared + o)), 1, 5) for s, o in zip((0.5, 1.0), own, strict=True))
    if pairs == MANY:
        pearson = CORRELATIONS["pearson"]
        return pearson(a, reference) - pearson(b, reference), (np.nan, np.nan)
    found = pearson_gain(a, b, reference, np.array(halves(pairs)))
    return found["value"], tuple(found["ci95"])


def of_gain(n: int, random: np.random.Generator) -> Met:
    return true_of_two(ratings(n, 1.0, 1, random)[0], n, random)[1], true_gain()


def recordings(n: int, random: np.random.Generator) -> list[Named]:
    """n texts that suggest a style, each in two styles by one voice: named rightly in about .9 where they agree and .6
    where they mislead, and better for some texts."""
    made = []
    for text, ease in enumerate(random.uniform(-0.1, 0.1, n)):
        for style, right in (("happy", 0.88), ("sad", 0.6)):
            named = style if random.random() < right + ease else {"happy": "sad", "sad": "happy"}[style]
            made.append(Named(f"{text}", "emotion", style, "happy", named))
    return made


def of_leakage(name: str, truth: float) -> Experiment:
    def experiment(n: int, random: np.random.Generator) -> Met:
        return tuple(text_swap_probe(recordings(n, random))[name]["ci95"]), truth

    return experiment


def error_rates(pairs: int, random: np.random.Generator) -> np.ndarray:
    """Word error rates of both halves, [2 * pairs]: most answers are heard well, one in eight hardly at all."""
    lost = np.repeat(random.random(pairs) < 0.06, 2) | (random.random(2 * pairs) < 0.07)
    return np.where(lost, random.uniform(0.5, 1.2, 2 * pairs), random.binomial(12, 0.06, 2 * pairs) / 12)


@cache
def true_error_rate() -> float:
    return float(error_rates(20 * MANY, np.random.default_rng(9)).mean())


def of_error_rates(n: int, random: np.random.Generator) -> Met:
    found = clustered_mean(error_rates(n, random), halves(n))
    return (found.low, found.high), true_error_rate()


def of_skill(n: int, random: np.random.Generator) -> Met:
    """An item is right or wrong; seven of ten are."""
    found = clustered_mean((random.random(n) < 0.7).astype(float), [str(i) for i in range(n)], MIN_SHARED)
    return (found.low, found.high), 0.7


def of_change(n: int, random: np.random.Generator) -> Met:
    """Two policies on the same items, alike on six of ten at least: seven of ten are right, and .74."""
    first = (random.random(n) < 0.7).astype(float)
    then = np.where(random.random(n) < 0.6, first, random.random(n) < 0.8)
    found = macro_difference({"": (then - first, [*map(str, range(n))])})
    return (found.low, found.high), 0.04


def of_rare(*rates: tuple[float, float]) -> Experiment:
    """Two policies that are mostly alike: of each factor's items, the shares that the first, or the second, alone does
    rightly."""

    def experiment(n: int, random: np.random.Generator) -> Met:
        drawn = [random.choice([1.0, -1.0, 0.0], n, p=[a, b, 1 - a - b]) for a, b in rates]
        found = macro_difference({f"{i}": (values, [*map(str, range(n))]) for i, values in enumerate(drawn)})
        return (found.low, found.high), float(np.mean([a - b for a, b in rates]))

    return experiment


def of_factors(n: int, random: np.random.Generator) -> Met:
    """The mean over four factors of shares of recordings, n texts a factor."""
    shares = (0.95, 0.88, 0.75, 0.6)
    rows = [
        Named(f"{factor}{i}", factor, "happy", "", "happy" if random.random() < share + ease else "sad")
        for factor, share in zip(FACTORS, shares, strict=True)
        for i, ease in enumerate(random.uniform(-0.05, 0.05, n))
        for _ in range(2)
    ]
    return tuple(macro_accuracy([rows], NEUTRAL)["ci95"]), float(np.mean(shares))


def of_points(
    n: int, random: np.random.Generator, seeds: tuple[int, int] = (3, 3), spread: tuple[float, float] = (0.1, 0.1)
) -> Met:
    """Two points of a sweep that answer the same n pairs a factor; their seeds differ.

    Args:
        seeds, spread: of the two points, how many, and the deviation of what a seed does.
    """
    names = [f"{factor}/{i}" for factor in FACTORS for i in range(n)]
    ease = random.normal(3, 1, len(names))
    points = []
    for gain, count, deviation in zip((0.3, 0.0), seeds, spread, strict=True):
        rows = []
        for _ in range(count):
            scores = ease + gain + deviation * random.normal() + np.round(random.normal(0, 1, (2, len(names))))
            pairs = dict(zip(names, scores.T.tolist(), strict=True))
            rows.append({"queries_sha": "q", "judge": "j", "label_source": "gold", "systems": {"s": {"pairs": pairs}}})
        points.append(rows)
    found = difference(*points, ("s", "s"))
    return (found.low, found.high), 0.3


EXPERIMENTS: dict[str, Experiment] = {
    **{f"{kind}, {name}": of_correlation(kind, s) for kind in CORRELATIONS for name, s in NOISE.items()},
    **{f"alpha, {name}": of_alpha(s) for name, s in NOISE.items()},
    "kappa of verdicts": of_kappa,
    "gain of a correlation": of_gain,
    "share of recordings, words agree": of_leakage(AGREE, 0.88),
    "share of recordings, words mislead": of_leakage(MISLEAD, 0.6),
    "difference of shares of recordings": of_leakage("swap_cost", 0.28),
    "mean word error rate": of_error_rates,
    "mean of a skill": of_skill,
    "change of a skill": of_change,
    "difference of two shares, one way in a tenth": of_rare((0.1, 0.0)),
    "difference of two shares, one way in a fifth": of_rare((0.2, 0.0)),
    "difference of two shares, both ways, rare": of_rare((0.1, 0.05)),
    "difference of two shares, four factors": of_rare((0.1, 0.0), (0.05, 0.0), (0.02, 0.02), (0.1, 0.05)),
    "mean over factors of shares of recordings": of_factors,
    "difference of two points of a sweep": of_points,
}
