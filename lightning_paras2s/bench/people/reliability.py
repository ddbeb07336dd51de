"""Do judge and humans agree? Correlations with intervals, kappa, bias, the human ceiling, Krippendorff's alpha.

A correlation says nothing without n, the unit of analysis and an interval, and it is blind to bias: all of them are
given together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_paras2s.bench.people.resampling import DISAGREEMENT, FISHER, UNKNOWN, Interval, jackknife
from lightning_paras2s.errors import UserError

SCALE = (1, 2, 3, 4, 5)


class Correlation(NamedTuple):
    """A correlation, its 95 % interval, p of no correlation (below .05 where the interval leaves 0 out), and n."""

    value: float
    low: float
    high: float
    p: float
    n: int


def _pearson(x: NDArray, y: NDArray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")


def _spearman(x: NDArray, y: NDArray) -> float:
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def _kendall(x: NDArray, y: NDArray) -> float:
    return float(stats.kendalltau(x, y, variant="b").statistic)


CORRELATIONS: dict[str, Callable[[NDArray, NDArray], float]] = {
    "pearson": _pearson,
    "spearman": _spearman,
    "kendall": _kendall,
}


def correlation(x: ArrayLike, y: ArrayLike, clusters: Sequence[str], kind: str = "pearson") -> Correlation:
    """Correlation of two score lists (pairs with a NaN are left out), clustered by contrast pair or query.

    Args:
        kind: pearson, spearman or kendall (tau-b).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    both = np.isfinite(x) & np.isfinite(y)
    x, y, groups = x[both], y[both], np.asarray(clusters)[both]
    measure = CORRELATIONS[kind]
    value = measure(x, y) if len(x) > 2 else float("nan")
    known = np.isfinite(value)
    ends = jackknife(lambda rows: measure(x[rows], y[rows]), groups, FISHER) if known else UNKNOWN
    return Correlation(value, *ends, len(x))


def cohen_kappa(a: ArrayLike, b: ArrayLike, quadratic: bool = True, scale: Sequence[int] = SCALE) -> float:
    """Cohen's kappa of two raters: 1 - disagreement / disagreement of all pairs of their scores; NaN rows are left out.

    Disagreement is quadratic by default, so scores may lie between those of the scale, as means of listeners do:
    rounded, each half would go to one side, and the scale reversed give another kappa.

    Raises:
        UserError: for a score that lies outside the scale.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return float("nan")
    values = np.asarray(scale, float)
    for rater in (a[both], b[both]):
        if rater.min() < values.min() or rater.max() > values.max():
            wrong = rater[(rater < values.min()) | (rater > values.max())][0]
            raise UserError(f"a score must be from {values.min():g} to {values.max():g}; got {wrong:g}; mend it")
    a, b = a[both], b[both]
    if not np.ptp([a, b]):
        return float("nan")
    if quadratic:  # the mean of (a_i - b_k)^2, without n x n of them
        apart, chance = ((a - b) ** 2).mean(), a.var() + b.var() + (a.mean() - b.mean()) ** 2
    else:
        apart, chance = (a != b).mean(), 1 - sum((a == v).mean() * (b == v).mean() for v in np.union1d(a, b))
    return float(1 - apart / chance)


def bias(judge: ArrayLike, human: ArrayLike) -> float:
    """Mean of judge - human: > 0 where the judge is too kind."""
    return float(np.nanmean(np.asarray(judge, float) - np.asarray(human, float)))


def mean_absolute_error(judge: ArrayLike, human: ArrayLike) -> float:
    return float(np.nanmean(np.abs(np.asarray(judge, float) - np.asarray(human, float))))


def human_ceiling(ratings: ArrayLike, kind: str = "spearman") -> float:
    """Mean over annotators of the correlation between one and the mean of the others: what a person reaches.
    A judge may do better, since one person errs more than a mean does. Who gave one score to all has no correlation and
    is left out.

    Args:
        ratings: [annotators, items], NaN where missing.
    """
    ratings = np.asarray(ratings, float)
    counts, sums = np.isfinite(ratings).sum(0), np.nansum(ratings, 0)
    found = []
    for one in ratings:
        rated = np.isfinite(one) & (counts > 1)
        if rated.sum() > 2:
            found.append(CORRELATIONS[kind](one[rated], (sums[rated] - one[rated]) / (counts[rated] - 1)))
    found = [value for value in found if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def without_full_disagreement(ratings: ArrayLike) -> NDArray:
    """The items on which at least two annotators agree: the paper's selection, which inflates agreement; report both
    with and without."""
    ratings = np.asarray(ratings, float)
    rated = [column[np.isfinite(column)] for column in ratings.T]
    return ratings[:, [len(set(column)) < len(column) for column in rated]]


def krippendorff_alpha(ratings: ArrayLike, level: str = "ordinal") -> float:
    """Krippendorff's alpha (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"), with missing ratings.

    Args:
        ratings: [annotators, items], NaN where missing; items with fewer than two ratings say nothing and are left out.
        level: nominal, ordinal or interval.
    """
    return _alpha(*value_counts(ratings), level)


def krippendorff_interval(ratings: ArrayLike, clusters: Sequence[str], level: str = "ordinal") -> Interval:
    """Interval of `krippendorff_alpha`, clustered; items with fewer than two ratings say nothing and are left out."""
    values, counts = value_counts(ratings)
    rated = counts.sum(1) >= 2
    counts, clusters = counts[rated], np.asarray(clusters)[rated]
    return jackknife(lambda rows: _alpha(values, counts[rows], level), clusters, DISAGREEMENT)


def _alpha(values: NDArray, counts: NDArray, level: str) -> float:
    """1 - observed / expected disagreement, of how often each item was given each value [items, K]; NaN for fewer than
    two values."""
    counts = counts[counts.sum(1) >= 2]
    weights = counts / (counts.sum(1, keepdims=True) - 1)
    coincidences = weights.T @ counts - np.diag(weights.sum(0))
    totals = coincidences.sum(1)
    if (totals > 0).sum() < 2:
        return float("nan")
    apart = _distance(values, totals, level)
    expected = (np.outer(totals, totals) * apart).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * apart).sum() / expected)


def value_counts(ratings: ArrayLike) -> tuple[NDArray, NDArray]:
    """The values [K] that occur, and how often each item was given each of them [items, K]."""
    ratings = np.asarray(ratings, float)
    values = np.unique(ratings[np.isfinite(ratings)])
    return values, np.stack([(ratings == v).sum(0) for v in values], 1).astype(float) if len(values) else np.zeros(
        (ratings.shape[1], 0)
    )


def _distance(values: NDArray, totals: NDArray, level: str) -> NDArray:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return (values[:, None] - values) ** 2
    middle = np.cumsum(totals) - totals / 2  # ordinal: ranks between the categories' middles
    return (middle[:, None] - middle) ** 2
