"""Benchmark statistics: means with clustered confidence intervals, contrast-pair metrics, label-swap test, comparisons
of systems.

The two halves of a contrast pair share their text, so everything is clustered by pair: a tone-deaf system scores 5 and
1 on them, and an interval that takes the halves as independent is wrong in either direction. Functions are pure; NaN =
unscored, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_paras2s.errors import UserError

REPEATS = 2000
VOICEBENCH = {"alpacaeval": 20, "commoneval": 20, "wildvoice": 20}  # set -> factor to per cent
VOICEBENCH |= dict.fromkeys(("sd-qa", "mmsu", "openbookqa", "bbh", "ifeval", "advbench"), 1)
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


class Comparison(NamedTuple):
    """Mean paired difference a - b with its interval, permutation p, Holm-adjusted p, and the difference that the test
    could detect."""

    a: str
    b: str
    difference: Estimate
    p: float
    p_holm: float
    detectable: float


def clustered_mean(values: ArrayLike, clusters: Sequence[str]) -> Estimate:
    """Mean with a clustered standard error (Miller, arXiv 2411.00640, Eq. 4) and Student's t over the clusters."""
    sums, counts = cluster_sums(values, clusters)
    n, c = int(counts.sum()), len(counts)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    mean = sums.sum() / n
    half = stats.t.ppf(0.975, c - 1) * clustered_se(values, clusters) if c > 1 else np.nan
    return Estimate(float(mean), float(mean - half), float(mean + half), n, c)


def clustered_se(values: ArrayLike, clusters: Sequence[str]) -> float:
    """Standard error of the mean from the clusters' residual sums, with the correction C / (C - 1); NaN for one
    cluster."""
    sums, counts = cluster_sums(values, clusters)
    if len(counts) < 2:
        return float("nan")
    residuals = sums - counts * sums.sum() / counts.sum()
    return float(np.sqrt((residuals**2).sum() * len(counts) / (len(counts) - 1)) / counts.sum())


def cluster_sums(values: ArrayLike, clusters: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Sum and count of each cluster's scored values, [C] each; clusters without any are left out."""
    values = np.asarray(values, float)
    scored = np.isfinite(values)
    _, index = np.unique(np.asarray(clusters)[scored], return_inverse=True)
    return np.bincount(index, values[scored]), np.bincount(index).astype(float)


def bootstrap_mean(values: ArrayLike, clusters: Sequence[str], repeats: int = REPEATS, seed: int = 0) -> Estimate:
    """Mean with a percentile interval by resampling whole clusters."""
    sums, counts = cluster_sums(values, clusters)
    if not len(counts):
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    means = _resampled_means(sums, counts, repeats, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5]) if len(counts) > 1 else (np.nan, np.nan)
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()), len(counts))


def _resampled_means(sums: NDArray, counts: NDArray, repeats: int, random: np.random.Generator) -> NDArray:
    means = np.empty(repeats)
    for start in range(0, repeats, 250):  # in parts, to keep the draws of large sets out of memory
        drawn = random.integers(len(counts), size=(min(250, repeats - start), len(counts)))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def bootstrap(
    statistic: Callable[[NDArray], float], clusters: Sequence[str], repeats: int = REPEATS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of any statistic of row indices, by resampling whole clusters; draws where it is undefined
    are left out."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    random = np.random.default_rng(seed)
    draws = [random.integers(len(names), size=len(names)) for _ in range(repeats)]
    values = np.array([statistic(np.concatenate([members[i] for i in drawn])) for drawn in draws])
    values = values[np.isfinite(values)]
    return tuple(np.percentile(values, [2.5, 97.5]).tolist()) if len(values) else (float("nan"), float("nan"))


def macro_average(columns: Mapping[str, float]) -> float:
    """The paper's Avg: the unweighted mean of the columns (four synthetic factors, IEMOCAP, MELD), not of their
    sub-averages."""
    return float(np.mean(list(columns.values())))


def check_average(columns: Mapping[str, float], printed: float, decimals: int = 3) -> bool:
    """Does a printed average agree with its columns, up to the rounding of both?"""
    return bool(abs(macro_average(columns) - printed) <= 10**-decimals + 1e-9)


def voicebench_overall(scores: Mapping[str, float]) -> float:
    """VoiceBench's Overall: the mean of nine sets in per cent, those rated 1..5 times 20 (does speech training cost
    intelligence? paper, appendix A.6)."""
    if set(scores) != set(VOICEBENCH):
        raise UserError(f"VoiceBench's overall needs {', '.join(VOICEBENCH)}; got {', '.join(scores) or 'none'}")
    return macro_average({name: scores[name] * scale for name, scale in VOICEBENCH.items()})


def macro_bootstrap(
    columns: Mapping[str, tuple[ArrayLike, Sequence[str]]], repeats: int = REPEATS, seed: int = 0
) -> Estimate:
    """Macro average over columns of (values, clusters), with a stratified cluster bootstrap: each column is resampled
    by itself."""
    parts = {name: cluster_sums(*column) for name, column in columns.items()}
    parts = {name: part for name, part in parts.items() if len(part[1])}
    if not parts:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    random = np.random.default_rng(seed)
    draws = np.mean([_resampled_means(*part, repeats, random) for part in parts.values()], axis=0)
    value = macro_average({name: sums.sum() / counts.sum() for name, (sums, counts) in parts.items()})
    low, high = np.percentile(draws, [2.5, 97.5])
    n, clusters = sum(int(counts.sum()) for _, counts in parts.values()), sum(len(c) for _, c in parts.values())
    return Estimate(value, float(low), float(high), n, clusters)


def pair_scores(scores: ArrayLike, pair_ids: Sequence[str], halves: Sequence[str]) -> tuple[NDArray, list[str]]:
    """Scores -> [P, 2] of the pairs with both halves scored, and their ids. A half is a style; its samples are averaged
    first."""
    found: dict[str, dict[str, list[float]]] = {}
    for score, pair, half in zip(np.asarray(scores, float), pair_ids, halves, strict=True):
        if np.isfinite(score):
            found.setdefault(pair, {}).setdefault(half, []).append(float(score))
    whole = {pair: styles for pair, styles in found.items() if len(styles) == 2}
    rows = [[float(np.mean(styles[half])) for half in sorted(styles)] for styles in whole.values()]
    return np.array(rows, float).reshape(-1, 2), list(whole)


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
    return 1 - SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()


def label_swap_gain(matched: ArrayLike, swapped: ArrayLike, clusters: Sequence[str]) -> Estimate:
    """Mean of (score - score against the other style of the pair): about 0 for a tone-deaf system, or for a judge that
    ignores labels."""
    return bootstrap_mean(np.asarray(matched, float) - np.asarray(swapped, float), clusters)


def sign_flip_test(differences: ArrayLike, clusters: Sequence[str], repeats: int = 10_000, seed: int = 0) -> float:
    """Two-sided p that the mean paired difference is 0: whole clusters change sign; all 2^C sign patterns if C <=
    13."""
    sums, counts = cluster_sums(differences, clusters)
    if not len(counts):
        return float("nan")
    observed = abs(sums.sum())
    if len(sums) <= 13:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs(signs @ sums) >= observed - 1e-9).mean())
    random = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, repeats, 500):  # in parts, to keep the signs of large sets out of memory
        signs = 1.0 - 2.0 * random.integers(0, 2, size=(min(500, repeats - start), len(sums)))
        extreme += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    return (1 + extreme) / (1 + repeats)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: p sorted upwards, times the hypotheses left, made monotone, at most 1."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    worst = 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted.tolist()


def detectable_difference(standard_error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Minimal detectable difference of a two-sided test: (z_{1-alpha/2} + z_power) * SE."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * standard_error)


def compare_systems(scores: Mapping[str, Mapping[str, float]], clusters: Mapping[str, str]) -> list[Comparison]:
    """Every pair of systems, paired by item, Holm over the pairs tested.

    Args:
        scores: system -> item id -> score.
        clusters: item id -> contrast pair.
    """
    names, found = list(scores), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            items = [item for item in scores[a] if item in scores[b]]
            differences = np.array([scores[a][item] - scores[b][item] for item in items])
            groups = [clusters[item] for item in items]
            detectable = detectable_difference(clustered_se(differences, groups)) if items else float("nan")
            found.append((a, b, bootstrap_mean(differences, groups), sign_flip_test(differences, groups), detectable))
    adjusted = holm([row[3] for row in found])
    return [Comparison(a, b, d, p, q, m) for (a, b, d, p, m), q in zip(found, adjusted, strict=True)]
