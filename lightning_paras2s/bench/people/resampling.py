"""Intervals of what is no mean (correlations, alpha, kappa, differences of them): a jackknife over clusters.

A figure is measured once more without each cluster, on a scale on which it is about normal; Student's t does the rest
(Efron and Stein 1981; Fisher's z for correlations, the logarithm of the disagreement for alpha and kappa). A percentile
bootstrap of few clusters is too narrow. With more than `GROUPS` clusters, groups of them are left out, drawn once (Kott
2001, "The delete-a-group jackknife").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_paras2s.bench.statistics import MIN_CLUSTERS

GROUPS = 200


class Transform(NamedTuple):
    """To the scale on which the error is measured, and back; `none` is the value that says nothing."""

    to: Callable[[ArrayLike], NDArray]
    back: Callable[[ArrayLike], NDArray]
    none: float = 0.0


class Interval(NamedTuple):
    """95 % interval, and the p of the scale's `none`: below .05 where the interval leaves it out. NaN = not known."""

    low: float
    high: float
    p: float


LINEAR = Transform(np.asarray, np.asarray)
FISHER = Transform(np.arctanh, np.tanh)  # of correlations
DISAGREEMENT = Transform(lambda k: np.log(1 - np.asarray(k)), lambda z: 1 - np.exp(z))  # of alpha and kappa
UNKNOWN = Interval(np.nan, np.nan, np.nan)


def jackknife(
    measure: Callable[[NDArray], float], clusters: Sequence[str], scale: Transform = LINEAR, fewest: int = MIN_CLUSTERS
) -> Interval:
    """Interval of any figure of row indices; none with fewer than `fewest` clusters, or where the figure is not finite
    on its scale without one of them (a correlation of 1), or does not vary.

    Args:
        measure: row indices [N] -> the figure.
        clusters: [rows], the contrast pair or query of each.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < fewest:
        return UNKNOWN
    index, groups = grouped(index, len(names))
    rows = np.arange(len(index))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = scale.to(measure(rows))
        without = scale.to(np.array([measure(rows[index != group]) for group in range(groups)]))
    if not np.isfinite(value) or not np.isfinite(without).all():
        return UNKNOWN
    error = np.sqrt(((without - without.mean()) ** 2).sum() * (groups - 1) / groups)
    if not error > 1e-12:
        return UNKNOWN
    half = stats.t.ppf(0.975, groups - 1) * error
    low, high = sorted(scale.back(np.array([value - half, value + half])).tolist())
    p = 2 * stats.t.sf(abs(value - scale.to(scale.none)) / error, groups - 1)
    return Interval(low, high, float(p))


def grouped(index: NDArray, clusters: int) -> tuple[NDArray, int]:
    """Each row's group, and how many there are: a cluster each, or `GROUPS` of equal size."""
    if clusters <= GROUPS:
        return index, clusters
    return (np.random.default_rng(0).permutation(clusters) % GROUPS)[index], GROUPS
