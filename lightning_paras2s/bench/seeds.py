"""Means over queries and seeds, both of which were drawn: contrast pairs within their factor, seeds among seeds.

Their variance has three parts (Owen 2007, "The pigeonhole bootstrap", section 2): of pairs, of seeds, and of what is in
neither. With few seeds the t of a seed's few degrees of freedom counts (Satterthwaite 1946): three seeds that differ
say little. Pairs and seeds without a score are none: they give an error no degrees of freedom.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_paras2s.bench.statistics import MIN_CLUSTERS, MIN_EACH, Estimate
from lightning_paras2s.types import Query

MIN_OF_SEEDS = 40  # pairs; with fewer, Satterthwaite's approximation is too wide (speed/intervals.py)


class Design(NamedTuple):
    """Which pair each query is of [Q], and which factor each pair [P]; a `pair_id` in two factors names two pairs."""

    pair_of: NDArray
    factor_of: NDArray


class Parts(NamedTuple):
    """A mean, what each seed and pair adds to its error [S, P] (sums to 0), and how many values they have [S, P].

    Those of two systems are compared only where both have the same values (`shared`, `shared_queries`): a system that
    fails on hard queries would else be compared by its easy ones.
    """

    value: float
    errors: NDArray
    counts: NDArray

    @property
    def pairs(self) -> NDArray:
        """Which pairs have a value, [P]."""
        return self.counts.any(0)

    @property
    def seeds(self) -> NDArray:
        """Which seeds have a value, [S]."""
        return self.counts.any(1)

    def __sub__(self, other: Parts) -> Parts:
        assert np.array_equal(self.counts, other.counts), "a difference must be of the same values"
        return Parts(self.value - other.value, self.errors - other.errors, self.counts)

    def __truediv__(self, other: Parts) -> Parts:
        """The ratio, linearised."""
        assert np.array_equal(self.counts, other.counts), "a ratio must be of the same values"
        ratio = self.value / other.value
        return Parts(ratio, (self.errors - ratio * other.errors) / other.value, self.counts)


def design_of(queries: list[Query]) -> Design:
    _, first, pair_of = np.unique([q.pair for q in queries], return_index=True, return_inverse=True)
    return Design(pair_of, np.array([queries[i].factor for i in first]))


def shared(*values: NDArray) -> list[NDArray]:
    """[S, Q] each, the seeds the same: NaN wherever one of them is, so that all have the same queries in every seed."""
    known = np.isfinite(values).all(0)
    return [np.where(known, of, np.nan) for of in values]


def shared_queries(*values: NDArray) -> list[NDArray]:
    """[S, Q] each, of seeds of their own: NaN at each query that one of them has in no seed; seeds without a value are
    left out."""
    known = np.all([np.isfinite(of).any(0) for of in values], 0)
    masked = [np.where(known, of, np.nan) for of in values]
    return [of[np.isfinite(of).any(1)] for of in masked]


def macro_parts(values: NDArray, design: Design) -> Parts:
    """[S, Q] -> the mean over factors of each factor's mean over seeds and queries; NaN values are left out."""
    known = np.isfinite(values)
    sums, counts = np.zeros((2, len(values), len(design.factor_of)))
    for seed in range(len(values)):
        of = design.pair_of[known[seed]]
        sums[seed] = np.bincount(of, values[seed][known[seed]], len(design.factor_of))
        counts[seed] = np.bincount(of, minlength=len(design.factor_of))
    factors = [f for f in np.unique(design.factor_of) if counts[:, design.factor_of == f].sum()]
    means, errors = [], np.zeros_like(sums)
    for factor in factors:
        of = design.factor_of == factor
        total = counts[:, of].sum()
        means.append(sums[:, of].sum() / total)
        errors[:, of] = (sums[:, of] - counts[:, of] * means[-1]) / (total * len(factors))
    return Parts(float(np.mean(means)) if means else float("nan"), errors, counts)


class Error(NamedTuple):
    """Standard error of a mean and its degrees of freedom; NaN where it means nothing."""

    standard: float
    freedom: float


def estimate(parts: Parts, design: Design) -> Estimate:
    """The value with its 95 % interval; none (NaN) where there is no error (`error_of`)."""
    error = error_of(parts, design)
    half = stats.t.ppf(0.975, error.freedom) * error.standard
    ends = float(parts.value - half), float(parts.value + half)
    return Estimate(parts.value, *ends, int((parts.counts > 0).sum()), int(parts.pairs.sum()))


def p_value(parts: Parts, design: Design, null: float = 0.0) -> float:
    """Two-sided p that the value is `null`, over pairs and seeds: below .05 where the interval of `estimate` leaves it
    out; NaN where there is none."""
    error = error_of(parts, design)
    return float(2 * stats.t.sf(abs(parts.value - null) / error.standard, error.freedom))


def error_of(parts: Parts, design: Design) -> Error:
    """None (NaN) with fewer than `MIN_CLUSTERS` pairs (`MIN_OF_SEEDS` with several seeds), or than `MIN_EACH` in a
    factor, or without variation. With one seed it holds for that seed. Pairs, seeds and factors without a value don't
    count."""
    seeds, pairs = int(parts.seeds.sum()), int(parts.pairs.sum())
    by_pair, by_seed = parts.errors.sum(0), parts.errors.sum(1)
    variances, freedoms = [], []
    for of in known_pairs(parts, design):
        count = int(of.sum())
        if count < MIN_EACH:
            return Error(np.nan, np.nan)
        variances.append((by_pair[of] ** 2).sum() * count / (count - 1))
        freedoms.append(count - 1)
    rest = rest_of(parts, design)
    of_pairs, of_seeds = sum(variances), 0.0
    if seeds > 1:
        of_seeds = (by_seed**2).sum() * seeds / (seeds - 1)
        variances.append(of_seeds)
        freedoms.append(seeds - 1)
    variance = max(of_pairs + of_seeds - rest, of_pairs, of_seeds)  # both hold the rest once
    if pairs < (MIN_CLUSTERS if seeds == 1 else MIN_OF_SEEDS) or not variance > 0:
        return Error(np.nan, np.nan)
    freedom = variance**2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    return Error(float(np.sqrt(variance)), float(freedom))


def rest_of(parts: Parts, design: Design) -> float:
    """The variance that is neither the pairs' nor the seeds', and that both of theirs hold; 0 with one seed, NaN with
    one pair in a factor."""
    errors, rest = parts.errors[parts.seeds], 0.0
    seeds = len(errors)
    for of in known_pairs(parts, design) if seeds > 1 else ():
        error = errors[:, of]
        count = error.shape[1]
        if count < 2:
            return np.nan
        error = error - error.mean(0) - error.mean(1, keepdims=True) + error.mean()
        rest += (error**2).sum() * count / (count - 1) * seeds / (seeds - 1)
    return float(rest)


def known_pairs(parts: Parts, design: Design) -> list[NDArray]:
    """Which pairs with a value each factor has, [P]; factors without any are left out."""
    found = [(design.factor_of == factor) & parts.pairs for factor in np.unique(design.factor_of)]
    return [of for of in found if of.any()]
