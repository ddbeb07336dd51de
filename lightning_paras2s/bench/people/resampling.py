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
    found = left_out(measure, clusters, scale, fewest)
    if found is None:
        return UNKNOWN
    value, without = found
    error, reach = np.sqrt(covariance(without, without)), stats.t.ppf(0.975, len(without) - 1)
    low, high = sorted(scale.back(np.array([value - reach * error, value + reach * error])).tolist())
    p = 2 * stats.t.sf(abs(value - scale.to(scale.none)) / error, len(without) - 1)
    return Interval(low, high, float(p))


def correlation_gain(
    first: Callable[[NDArray], float], second: Callable[[NDArray], float], clusters: Sequence[str]
) -> tuple[float, float]:
    """Interval of first - second, two correlations of the same rows: their own intervals combined, with how far they
    err together (Zou 2007, "Toward using confidence intervals to compare correlations", Eq. 15). A jackknife of the
    difference itself is too narrow."""
    found = [left_out(measure, clusters, FISHER, MIN_CLUSTERS) for measure in (first, second)]
    if None in found:
        return np.nan, np.nan
    (z1, w1), (z2, w2) = found
    v1, v2 = covariance(w1, w1), covariance(w2, w2)
    alike, reach = covariance(w1, w2) / np.sqrt(v1 * v2), stats.t.ppf(0.975, len(w1) - 1)
    r1, r2 = np.tanh(z1), np.tanh(z2)
    below1, above1 = r1 - np.tanh(z1 - reach * np.sqrt(v1)), np.tanh(z1 + reach * np.sqrt(v1)) - r1
    below2, above2 = r2 - np.tanh(z2 - reach * np.sqrt(v2)), np.tanh(z2 + reach * np.sqrt(v2)) - r2
    below = np.sqrt(below1**2 + above2**2 - 2 * alike * below1 * above2)
    above = np.sqrt(above1**2 + below2**2 - 2 * alike * above1 * below2)
    return float(r1 - r2 - below), float(r1 - r2 + above)


def left_out(
    measure: Callable[[NDArray], float], clusters: Sequence[str], scale: Transform, fewest: int
) -> tuple[float, NDArray] | None:
    """The figure on its scale, and the same without each cluster (or group) [G]; None where they mean nothing."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < fewest:
        return None
    index, groups = grouped(index, len(names))
    rows = np.arange(len(index))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(scale.to(measure(rows)))
        without = scale.to(np.array([measure(rows[index != group]) for group in range(groups)]))
    known = np.isfinite(value) and np.isfinite(without).all() and covariance(without, without) > 1e-24
    return (value, without) if known else None


def covariance(a: NDArray, b: NDArray) -> float:
    """Jackknife covariance of two figures, from their values without each of G groups."""
    return float(((a - a.mean()) * (b - b.mean())).sum() * (len(a) - 1) / len(a))


def grouped(index: NDArray, clusters: int) -> tuple[NDArray, int]:
    """Each row's group, and how many there are: a cluster each, or `GROUPS` of equal size."""
    if clusters <= GROUPS:
        return index, clusters
    return (np.random.default_rng(0).permutation(clusters) % GROUPS)[index], GROUPS
