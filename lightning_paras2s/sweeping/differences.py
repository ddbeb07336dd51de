"""Scores of points and their differences: seeds pooled, with intervals over contrast pairs and seeds.

Both were drawn (`bench/seeds.py`). Only runs that answered the same queries are pooled, and only those that one judge
has heard are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_paras2s.bench.alike import HASHES
from lightning_paras2s.bench.seeds import (
    MIN_OF_SEEDS,
    Design,
    Parts,
    error_of,
    estimate,
    known_pairs,
    macro_parts,
    rest_of,
    shared,
    shared_queries,
)
from lightning_paras2s.bench.statistics import MIN_CLUSTERS, MIN_EACH, Estimate, detectable_difference
from lightning_paras2s.errors import UserError
from lightning_paras2s.sweeping.points import Row, few_seeds

Part = tuple[float, float]  # a variance, and its degrees of freedom
Metric = Literal["pairs", "audit_pairs"]  # scores by the judge's ears, and by the audit's


class Difference(NamedTuple):
    """Score of one point minus that of another, on the same pairs; `detectable` is the smallest difference that this
    many seeds and pairs would show (80 % power); `seeds` are those of the point with fewer."""

    value: float
    low: float
    high: float
    detectable: float
    seeds: int
    pairs: int

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.low):
            return "no interval"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"

    def told(self, trained: bool = True) -> str:
        """The verdict; open with few seeds, which say little of others. Policies that are not trained have none."""
        few = few_seeds(self.seeds) if trained else ""
        return f"{few}, in which the first is {self.verdict}" if few else self.verdict


def noise_of(rows: Sequence[Row], system: str, metric: Metric = "pairs") -> float:
    """How much of the variance of a point's scores over its seeds is that of a test of so few queries, 0 to 1: more
    queries would take it away, and more steps hardly. NaN where seeds don't differ, or a factor has one pair."""
    values, design = pooled(rows, system, metric)
    of_seeds = seed_variance(values, design)[0]
    return float(np.minimum(1.0, rest_of(macro_parts(values, design), design) / of_seeds)) if of_seeds else np.nan


def score(rows: Sequence[Row], system: str, metric: Metric = "pairs") -> Estimate:
    """The macro average over factors, of the seeds of a point. With one seed it holds for that seed."""
    values, design = pooled(rows, system, metric)
    return estimate(macro_parts(values, design), design)


def difference(
    first: Sequence[Row], then: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs"
) -> Difference:
    """Score of `first` - score of `then`, each the mean of its seeds, paired by query: one that either point has in no
    seed counts for neither.

    Seeds are not paired, although those of the same number may share draws: what they add to the variance is added for
    each point, which makes the interval wider where they go together. With several seeds and fewer than `MIN_OF_SEEDS`
    pairs there is no interval, as of a mean (`bench/seeds.py`).

    Mean squares of pairs, seeds and rest are independent, and the variance is the first two less the third (Searle,
    Casella and McCulloch 1992, chapter 4): its degrees of freedom are Satterthwaite's (1946) of these three. Where
    pairs, or seeds, vary no more than the rest, they add nothing, and the other's mean square and degrees of freedom
    stand alone: else what is none would count as a component that two degrees of freedom know.
    """
    (a, design), (b, _) = (pooled(rows, name, metric) for rows, name in zip((first, then), systems, strict=True))
    if halves(first[0], systems[0], metric) != halves(then[0], systems[1], metric):
        raise UserError("two points must have answered the same pairs to be compared; got others; run them again")
    if told := judged_otherwise([first[0], then[0]]):
        raise UserError(f"two points must have one judge, ears and source of labels; got {told}; judge one again")
    a, b = shared_queries(a, b)
    means = [np.ma.masked_invalid(values).mean(0).filled(np.nan) for values in (a, b)]
    parts = macro_parts((means[0] - means[1])[None], design)
    spread = [pair_variance(parts, design), *(seed_variance(values, design) for values in (a, b))]
    rests = [(rest_of(own, design), rest_freedom(own, design)) for own in (macro_parts(v, design) for v in (a, b))]
    variance, freedom = combined(spread[:1], spread[1:], rests)
    pairs = int(parts.pairs.sum())
    enough = max(len(a), len(b)) == 1 or pairs >= MIN_OF_SEEDS
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variance) if variance > 0 and enough else np.nan
    known = np.isfinite(reach)  # where the error is not known, nor is what could be detected
    detectable = detectable_difference(float(np.sqrt(variance)), freedom=freedom) if known else np.nan
    return Difference(parts.value, parts.value - reach, parts.value + reach, detectable, min(len(a), len(b)), pairs)


def gain(rows: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs") -> Difference:
    """Score of the first system - score of the other in the same runs, paired by query and by seed: what a run's stages
    share (a supervised policy) is in both, and an answer counts only where the other system's is scored, too."""
    first, then, design = parts_of_two(rows, systems, metric)
    return told_by(first - then, design)


def ratio(rows: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs") -> Estimate:
    """Score of the first system / score of the other in the same runs, likewise; linearised."""
    first, then, design = parts_of_two(rows, systems, metric)
    return estimate(first / then, design)


def parts_of_two(rows: Sequence[Row], systems: tuple[str, str], metric: Metric) -> tuple[Parts, Parts, Design]:
    """Of two systems in the same runs, where both have a score."""
    (first, design), (then, _) = (pooled(rows, name, metric) for name in systems)
    return *(macro_parts(values, design) for values in shared(first, then)), design


def told_by(parts: Parts, design: Design) -> Difference:
    """A difference whose seeds are paired, too."""
    found, error = estimate(parts, design), error_of(parts, design)
    detectable = detectable_difference(error.standard, freedom=error.freedom)
    return Difference(*found[:3], detectable, int(parts.seeds.sum()), int(parts.pairs.sum()))


def combined(pairs: list[Part], seeds: list[Part], rests: list[Part]) -> Part:
    """Variance and degrees of freedom of pairs and seeds, each of which holds the rest; NaN where pairs' is not known.

    Args:
        pairs, seeds, rests: independent (variance, degrees of freedom); 0 of what is not there.
    """
    of_pairs, of_seeds, rest = (sum(v for v, _ in parts) for parts in (pairs, seeds, rests))
    if of_seeds <= rest:
        return of_pairs, satterthwaite(of_pairs, pairs)
    if of_pairs <= rest:
        return of_seeds, satterthwaite(of_seeds, seeds)
    variance = of_pairs + of_seeds - rest
    return variance, satterthwaite(variance, [*pairs, *seeds, *rests])


def satterthwaite(variance: float, parts: list[Part]) -> float:
    """Degrees of freedom of a sum or difference of independent mean squares."""
    known = sum(v**2 / f for v, f in parts if f)
    return variance**2 / known if known else np.nan


def rest_freedom(parts: Parts, design: Design) -> int:
    """Of the seeds' rest: pairs within their factor times seeds, of those that have a score."""
    return (int(parts.seeds.sum()) - 1) * sum(int(of.sum()) - 1 for of in known_pairs(parts, design))


def pair_variance(parts: Parts, design: Design) -> tuple[float, float]:
    """Variance that the draw of pairs gives the mean of one row of scores [1, Q], and its degrees of freedom
    (Satterthwaite 1946); NaN with too few scored pairs to know it."""
    known = known_pairs(parts, design)
    counts = [int(of.sum()) for of in known]
    if sum(counts) < MIN_CLUSTERS or min(counts) < MIN_EACH:
        return np.nan, np.nan
    found = [float((parts.errors[0][of] ** 2).sum()) * n / (n - 1) for of, n in zip(known, counts, strict=True)]
    variance = sum(found)
    return variance, variance**2 / sum(v**2 / (n - 1) for v, n in zip(found, counts, strict=True)) if variance else 0.0


def seed_variance(values: NDArray, design: Design) -> tuple[float, float]:
    """Variance of the mean over seeds [S, Q], and its degrees of freedom; 0, 0 with one seed, of which it is not
    known. Seeds without a score are none."""
    means = [macro_parts(row[None], design).value for row in values if np.isfinite(row).any()]
    if len(means) < 2:
        return 0.0, 0
    return float(np.var(means, ddof=1) / len(means)), len(means) - 1


def halves(row: Row, system: str, metric: Metric) -> list[tuple[str, int]]:
    """Names of the pairs, in order, and how many halves of each were asked."""
    return [(name, len(scores)) for name, scores in row["systems"][system][metric].items()]


def judged_otherwise(rows: Sequence[Row]) -> str:
    """In what rows' judges or ears differ, by name and, where rows hold it, by content; "" if they don't."""
    values = {key: [row[key] for row in rows if key in row] for key in ("judge", "label_source", *HASHES)}
    differ = {key: told for key, of in values.items() if len(told := list(dict.fromkeys(map(str, of)))) > 1}
    return "; ".join(f"{key} {' and '.join(told)}" for key, told in differ.items())


def pooled(rows: Sequence[Row], system: str, metric: Metric) -> tuple[NDArray, Design]:
    """Scores [S, Q] (Q: both halves of every pair), and which pair and factor each is of.

    Raises:
        UserError: the rows are about different queries, or another judge's.
    """
    if len(about := {row["queries_sha"] for row in rows}) != 1:
        raise UserError(f"rows must share their queries to be pooled; got {len(about)} sets; choose one")
    if told := judged_otherwise(rows):
        raise UserError(f"rows must share their judge and ears to be pooled; got {told}; choose one")
    names = list(rows[0]["systems"][system][metric])
    values = [[half for name in names for half in row["systems"][system][metric][name]] for row in rows]
    counts = [len(rows[0]["systems"][system][metric][name]) for name in names]
    factors = np.array([name.split("/", 1)[0] for name in names])
    return np.array(values, float), Design(np.repeat(np.arange(len(names)), counts), factors)
