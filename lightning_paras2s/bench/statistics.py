"""Benchmark statistics: means with clustered confidence intervals, contrast-pair metrics, label-swap test, comparisons
of systems.

The two halves of a contrast pair share their text, so everything is clustered by pair: a tone-deaf system scores 5 and
1 on them, and an interval that takes the halves as independent is wrong in either direction. Functions are pure; NaN =
unscored, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_paras2s.bench import shares
from lightning_paras2s.bench.shares import MIN_SHARED, MIN_SHARED_EACH
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_units

MIN_CLUSTERS = 20  # fewer contrast pairs say too little of their spread for an interval (speed/intervals.py)
# And in each column: two or three that happen to be alike give none of a column's error. Where three columns had 50
# pairs, and one 2 or 3, .84 and .78 of 300 intervals held the truth; .93 where it had 5.
MIN_EACH = 5
PASS = 4.0  # a pair is accurate if both halves score at least this


class Estimate(NamedTuple):
    """A value with its 95 % confidence interval, over `n` values in `clusters` clusters."""

    value: float
    low: float
    high: float
    n: int
    clusters: int

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]


NOTHING = Estimate(np.nan, np.nan, np.nan, 0, 0)
Columns = Mapping[str, tuple[ArrayLike, Sequence[str]]]  # name -> values (NaN = unscored) and their clusters


class Comparison(NamedTuple):
    """Mean paired difference a - b with its interval, permutation p, Holm-adjusted p, and the difference that the test
    could detect (NaN where there is no interval)."""

    a: str
    b: str
    difference: Estimate
    p: float
    p_holm: float
    detectable: float


def clustered_mean(values: ArrayLike, clusters: Sequence[str], fewest: int = MIN_CLUSTERS) -> Estimate:
    """Mean with a clustered standard error (Miller, arXiv 2411.00640, Eq. 4): `macro_mean` of one column."""
    return macro_mean({"": (values, clusters)}, fewest)


def macro_mean(columns: Columns, fewest: int = MIN_CLUSTERS) -> Estimate:
    """The unweighted mean of the columns' means, with its interval over clusters.

    Student's t with Welch and Satterthwaite's degrees of freedom, moved by Johnson's correction for skewness (JASA 73,
    1978, p. 536): a system that rarely fails has few low scores, and a symmetric interval would cover too seldom. There
    is none (NaN) with fewer than `fewest` clusters (`MIN_SHARED` where values are 0 and 1), or than `MIN_EACH` in a
    column, or without any variation: it would say too much (speed/intervals.py).
    """
    found, spread = _whole(columns, fewest)
    if spread is None:
        return found
    variance, third, df = spread
    t = stats.t.ppf(0.975, df)
    middle, half = found.value + third / (6 * variance) * (1 + 2 * t**2), t * np.sqrt(variance)
    return found._replace(low=float(middle - half), high=float(middle + half))


def macro_difference(columns: Columns, fewest: int = MIN_CLUSTERS) -> Estimate:
    """As `macro_mean`, of paired differences, by Student's t alone: where two systems do mostly alike, the skewness of
    the few differences is chance, and a correction for it leaves the truth out (of 20 items, .79 of intervals held it).

    Of two shares (values of -1, 0 and 1, one a cluster) by Tango's score, with at least `MIN_COMPARED` clusters in
    a column, and `MIN_DIFFERING` in all that differ: where few do, and all one way, Student's interval covers .88 to 1.
    """
    found, spread = _whole(columns, fewest)
    if spread is None:
        return found
    parts = _known(columns)
    if all((counts == 1).all() and np.isin(sums, (-1, 0, 1)).all() for sums, counts in parts.values()):
        ends = [shares.tango(int((sums > 0).sum()), int((sums < 0).sum()), len(sums)) for sums, _ in parts.values()]
        differing = sum(int((sums != 0).sum()) for sums, _ in parts.values())
        fewest = min(len(sums) for sums, _ in parts.values())
        few = fewest < shares.MIN_COMPARED or differing < shares.MIN_DIFFERING
        return _of_shares(parts, ends, few)
    half = stats.t.ppf(0.975, spread[2]) * np.sqrt(spread[0])
    return found._replace(low=float(found.value - half), high=float(found.value + half))


def _whole(columns: Columns, fewest: int) -> tuple[Estimate, tuple[float, float, float] | None]:
    """The columns' mean without an interval, and its variance, third cumulant and degrees of freedom; None where an
    interval would mean none."""
    parts = _known(columns)
    if not parts:
        return NOTHING, None
    value = macro_average({name: sums.sum() / counts.sum() for name, (sums, counts) in parts.items()})
    n, clusters = int(sum(counts.sum() for _, counts in parts.values())), sum(len(c) for _, c in parts.values())
    spread = _moments(list(parts.values()))
    known = clusters >= fewest and min(len(counts) for _, counts in parts.values()) >= MIN_EACH and spread[0] > 0
    return Estimate(value, np.nan, np.nan, n, clusters), spread if known else None


def _known(columns: Columns) -> dict[str, tuple[NDArray, NDArray]]:
    """Cluster sums and counts of the columns that have any."""
    parts = {name: cluster_sums(*column) for name, column in columns.items()}
    return {name: part for name, part in parts.items() if len(part[1])}


def _moments(parts: list[tuple[NDArray, NDArray]]) -> tuple[float, float, float]:
    """Variance, third cumulant and degrees of freedom of the columns' mean; NaN if a column has one cluster."""
    variances, third, spread = [], 0.0, 0.0
    for sums, counts in parts:
        c = len(counts)
        if c < 2:
            return np.nan, np.nan, np.nan
        residuals = (sums - counts * sums.sum() / counts.sum()) / (counts.sum() * len(parts))
        variances.append((residuals**2).sum() * c / (c - 1))
        third += (residuals**3).sum() * c**2 / ((c - 1) * (c - 2)) if c > 2 else 0.0
        spread += variances[-1] ** 2 / (c - 1)
    variance = float(sum(variances))
    return variance, float(third), variance**2 / spread if spread else np.nan


def detectable_of(columns: Columns, fewest: int = MIN_CLUSTERS) -> float:
    """The difference from the columns' mean that a t test could detect; NaN where the mean has no interval, since its
    error is not known either: two pairs that do alike would detect any difference."""
    spread = _whole(columns, fewest)[1]
    return float("nan") if spread is None else detectable_difference(float(np.sqrt(spread[0])), freedom=spread[2])


def macro_share(columns: Columns) -> Estimate:
    """As `macro_mean`, of columns of 0 and 1, one value a cluster: Wilson's interval (1927), and of several columns
    their intervals combined (Zou and Donner 2008), none with fewer than `MIN_SHARED` clusters, or
    `MIN_SHARED_EACH` in a column. It has a width where all are 0."""
    parts = _known(columns)
    if not parts:
        return NOTHING
    return _of_shares(parts, [shares.wilson(sums.sum(), len(sums)) for sums, _ in parts.values()])


def _of_shares(parts: Mapping[str, tuple[NDArray, NDArray]], found: list[shares.Share], few: bool = False) -> Estimate:
    """The mean of the columns' shares, with an interval if there are enough clusters."""
    value, low, high = shares.mean_of(found)
    clusters = sum(len(counts) for _, counts in parts.values())
    few |= clusters < MIN_SHARED or any(len(counts) < MIN_SHARED_EACH for _, counts in parts.values())
    return Estimate(value, *((np.nan, np.nan) if few else (low, high)), clusters, clusters)


def cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Sum and count of each cluster's scored values, [C] each; clusters without any are left out."""
    values = np.asarray(values, float)
    scored = np.isfinite(values)
    _, index = np.unique(np.asarray(clusters)[scored], return_inverse=True)
    return np.bincount(index, values[scored]), np.bincount(index).astype(float)


def macro_average(columns: Mapping[str, float]) -> float:
    """The paper's Avg: the unweighted mean of the columns (four synthetic factors, IEMOCAP, MELD), not of their
    sub-averages."""
    return float(np.mean(list(columns.values())))


def pair_accuracy(pairs: NDArray) -> NDArray:
    """[P, 2] -> [P], 1 where both halves score at least 4."""
    return (pairs >= PASS).all(1).astype(float)


def pair_min(pairs: NDArray) -> NDArray:
    """[P, 2] -> [P], the worse half's score."""
    return pairs.min(1)


def pair_gap(pairs: NDArray) -> NDArray:
    """[P, 2] -> [P], |s1 - s2|: about 4 for a tone-deaf system, near 0 for an aware one."""
    return np.abs(pairs[:, 0] - pairs[:, 1])


def awareness_gain(matched: NDArray, swapped: NDArray) -> NDArray:
    """How much the worse half gains over a system that gives either of its two replies to both halves.

    Args:
        matched: [P, 2], each reply against its own half.
        swapped: [P, 2], each reply against the other half's style.

    Returns:
        [P], min(matched) minus the mean over the replies of min(own half, other half).
    """
    return matched.min(1) - np.minimum(matched, swapped).mean(1)


def response_contrast(a: str, b: str) -> float:
    """How differently the halves are answered: 1 - similarity of the word sequences (0 for equal replies)."""
    return 1 - SequenceMatcher(None, plain_units(a), plain_units(b), autojunk=False).ratio()


def sign_flip_test(differences: ArrayLike, clusters: Sequence[str], repeats: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that the mean paired difference is 0: whole clusters change sign; all 2^C sign patterns if C <=
    13."""
    sums, counts = cluster_sums(differences, clusters)
    if not len(counts):
        return float("nan")
    observed = abs(sums.sum())
    if len(sums) <= 13:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= observed * (1 - 1e-9)).mean())
    random = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, repeats, 500):  # in parts, to keep the signs of large sets out of memory
        signs = 1.0 - 2.0 * random.integers(0, 2, size=(min(500, repeats - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= observed * (1 - 1e-9)).sum())
    return (1 + extreme) / (1 + repeats)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p sorted upwards, times the hypotheses left, made monotone, at most 1.

    Raises:
        UserError: for a p that is none: it would count as a hypothesis, and pass for the worst.
    """
    from statsmodels.stats.multitest import multipletests

    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise UserError(f"p values must be from 0 to 1; got {wrong[0]:g}; leave out what could not be tested")
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def detectable_difference(
    standard_error: float, alpha: float = 0.05, power: float = 0.8, freedom: float = np.inf
) -> float:
    """Minimal detectable difference of a two-sided test: (t_{1-alpha/2} + t_power) * SE, Student's quantiles of an
    error that so many degrees of freedom know."""
    return float((stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(power, freedom)) * standard_error)


def compare_systems(
    scores: Mapping[str, Mapping[str, float]], clusters: Mapping[str, str], factors: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Every pair of systems, paired by item, Holm over the pairs tested.

    Args:
        scores: system -> item id -> score.
        clusters: item id -> contrast pair.
        factors: item id -> factor; the difference is the mean of the factors' differences, as the systems' scores are.
    """
    names, found = list(scores), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            items = [item for item in scores[a] if item in scores[b]]
            columns = by_factor(
                [scores[a][item] - scores[b][item] for item in items],
                [clusters[item] for item in items],
                [(factors or {}).get(item, "") for item in items],
            )
            difference = macro_difference(columns)
            detectable = detectable_of(columns) if np.isfinite(difference.low) else float("nan")
            found.append((a, b, difference, macro_sign_flip_test(columns), detectable))
    tested = [i for i, row in enumerate(found) if np.isfinite(row[3])]  # two systems without a common item are not
    adjusted = dict(zip(tested, holm([found[i][3] for i in tested]), strict=True))
    return [Comparison(*row[:4], adjusted.get(i, float("nan")), row[4]) for i, row in enumerate(found)]


def by_factor(values: Sequence[float], clusters: Sequence[str], factors: Sequence[str]) -> Columns:
    """A column a factor: a cluster belongs to one factor, though its name may occur in several."""
    values, clusters, factors = np.asarray(values, float), np.asarray(clusters), np.asarray(factors)
    return {str(f): (values[factors == f], clusters[factors == f]) for f in np.unique(factors)}


def macro_sign_flip_test(columns: Columns) -> float:
    """`sign_flip_test` of the mean of the columns' means."""
    weighted, names = [], []
    for column, (values, clusters) in columns.items():
        values = np.asarray(values, float)
        weighted += [values / max(np.isfinite(values).sum(), 1)]
        names += [f"{column}/{cluster}" for cluster in clusters]
    return sign_flip_test(np.concatenate(weighted), names) if weighted else float("nan")
