"""Cluster-bootstrap intervals of agreement, many draws at a time: ratings have few values, so a draw is a table of
counts, and correlations and alpha are arithmetic on tables.

The draws are those of `statistics.bootstrap`, and so are the intervals, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from lightning_paras2s.bench.statistics import bootstrap

DRAWS = 100  # at a time
MOST_CELLS = 4096  # of a table; scores with more values are resampled one draw at a time


def draws_of(clusters: Sequence[str], repeats: int, seed: int) -> tuple[Iterator[NDArray], NDArray]:
    """How often each cluster is drawn, [DRAWS, C] at a time, and each row's cluster [N]."""
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    random, size = np.random.default_rng(seed), len(names)

    def draws() -> Iterator[NDArray]:
        for start in range(0, repeats, DRAWS):
            chosen = [random.integers(size, size=size) for _ in range(min(DRAWS, repeats - start))]
            yield np.stack([np.bincount(found, minlength=size) for found in chosen]).astype(float)

    return draws(), index


def percentiles(values: Sequence[NDArray]) -> tuple[float, float]:
    """The 95 % percentile interval of what is defined."""
    flat = np.concatenate(values) if len(values) else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    return tuple(np.percentile(flat, [2.5, 97.5]).tolist()) if len(flat) else (float("nan"), float("nan"))


def correlation_interval(
    x: NDArray,
    y: NDArray,
    clusters: Sequence[str],
    kind: str,
    measure: Callable[[NDArray, NDArray], float],
    repeats: int,
    seed: int,
) -> tuple[float, float]:
    """Interval of a correlation: by tables, or with `measure` where there are too many values."""
    (xs, ix), (ys, iy) = (np.unique(values, return_inverse=True) for values in (x, y))
    if len(xs) * len(ys) > MOST_CELLS:
        return bootstrap(lambda rows: measure(x[rows], y[rows]), clusters, repeats, seed)
    draws, index = draws_of(clusters, repeats, seed)
    shape = (index.max() + 1, len(xs) * len(ys))
    cells = csr_array((np.ones(len(x)), (index, ix * len(ys) + iy)), shape=shape)
    tables = ((cells.T @ drawn.T).T.reshape(-1, len(xs), len(ys)) for drawn in draws)
    by_table = {"pearson": lambda t: pearson(t, xs[None], ys[None]), "spearman": spearman, "kendall": kendall}[kind]
    return percentiles([by_table(table) for table in tables])


def pearson(table: NDArray, xs: NDArray, ys: NDArray) -> NDArray:
    """Correlation of values xs [D, U] and ys [D, V] that stand `table` [D, U, V] times; NaN where one is constant."""
    n, rows, columns = table.sum((1, 2)), table.sum(2), table.sum(1)
    dx = xs - ((rows * xs).sum(1) / n)[:, None]
    dy = ys - ((columns * ys).sum(1) / n)[:, None]
    both = np.einsum("du,duv,dv->d", dx, table, dy)
    spread = np.sqrt((rows * dx**2).sum(1) * (columns * dy**2).sum(1))
    return np.where(spread > 1e-12 * n, both / np.maximum(spread, 1e-300), np.nan)


def spearman(table: NDArray) -> NDArray:
    """Pearson's correlation of mid-ranks."""
    rows, columns = table.sum(2), table.sum(1)
    return pearson(table, rows.cumsum(1) - rows / 2, columns.cumsum(1) - columns / 2)


def kendall(table: NDArray) -> NDArray:
    """tau-b: pairs in order minus pairs in disorder, over the pairs that neither side ties."""
    n, rows, columns = table.sum((1, 2)), table.sum(2), table.sum(1)
    below = table[:, ::-1].cumsum(1)[:, ::-1] - table  # sums over larger x
    right = below[:, :, ::-1].cumsum(2)[:, :, ::-1] - below  # and larger y
    left = below.cumsum(2) - below
    untied = [n * (n - 1) / 2 - (part * (part - 1) / 2).sum(1) for part in (rows, columns)]
    spread = np.sqrt(untied[0] * untied[1])
    return np.where(spread > 0, (table * (right - left)).sum((1, 2)) / np.maximum(spread, 1e-300), np.nan)


def alpha_interval(
    counts: NDArray,
    clusters: Sequence[str],
    distance: Callable[[NDArray], NDArray],
    repeats: int,
    seed: int,
) -> tuple[float, float]:
    """Interval of Krippendorff's alpha.

    Args:
        counts: [N, K], how many raters gave an item each value; items with fewer than two ratings say nothing.
        distance: of the values, from their totals: [K] -> [K, K].
    """
    size = counts.shape[1]
    rated = counts.sum(1) >= 2
    weights = np.where(rated[:, None], counts / np.maximum(counts.sum(1, keepdims=True) - 1, 1), 0)
    own = np.einsum("nk,nl->nkl", weights, counts) - np.einsum("nk,kl->nkl", weights, np.eye(size))
    draws, index = draws_of(clusters, repeats, seed)
    sums = np.zeros((index.max() + 1, size * size))
    np.add.at(sums, index, own.reshape(-1, size * size))
    tables = (table for drawn in draws for table in (drawn @ sums).reshape(-1, size, size))
    return percentiles([np.array([alpha_of(table, distance) for table in tables])])


def alpha_of(coincidences: NDArray, distance: Callable[[NDArray], NDArray]) -> float:
    """1 - observed / expected disagreement of a coincidence matrix; NaN for fewer than two values."""
    totals = coincidences.sum(1)
    if (totals > 0).sum() < 2:
        return float("nan")
    apart = distance(totals)
    expected = (np.outer(totals, totals) * apart).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * apart).sum() / expected)


def means_by_draw(values: NDArray, labels: ArrayLike, clusters: Sequence[str], repeats: int, seed: int) -> NDArray:
    """Mean of each label's values in each draw: [N, M] -> [R, L, M], labels sorted; NaN where none is drawn."""
    names, place = np.unique(np.asarray(labels), return_inverse=True)
    draws, index = draws_of(clusters, repeats, seed)
    width = values.shape[1]
    sums = np.zeros((index.max() + 1, len(names), width + 1))
    np.add.at(sums, (index, place), np.concatenate([values, np.ones((len(values), 1))], 1))
    drawn = np.concatenate([d @ sums.reshape(len(sums), -1) for d in draws]).reshape(-1, len(names), width + 1)
    return np.where(drawn[..., -1:] > 0, drawn[..., :-1] / np.maximum(drawn[..., -1:], 1), np.nan)
