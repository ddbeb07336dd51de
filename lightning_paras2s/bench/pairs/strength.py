"""Strengths of systems from their battles: Davidson (1970, Bradley-Terry with ties), and S2S-Arena's online Elo.

P(a beats b) = s_a / (s_a + s_b + v sqrt(s_a s_b)), P(tie) with the middle term. Systems that no chain of battles links
have no common scale: each linked group is estimated by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse.csgraph import NegativeCycleError, bellman_ford, connected_components

from lightning_paras2s.bench.pairs.runs import cluster_of
from lightning_paras2s.types import Battle

NEWTON_STEPS = 100
ELO_START, ELO_K, ELO_SCALE = 1000.0, 32.0, 400.0


def groups_of(games: Sequence[Battle]) -> list[list[str]]:
    """Systems that battles link, directly or through others; the largest group first, then by name."""
    systems = sorted({name for g in games for name in (g.a, g.b)})
    index = {name: i for i, name in enumerate(systems)}
    met = np.zeros((len(systems), len(systems)))
    for g in games:
        met[index[g.a], index[g.b]] = 1
    count, label = connected_components(met, directed=False)
    groups = [[name for name, found in zip(systems, label, strict=True) if found == i] for i in range(count)]
    return sorted(groups, key=lambda group: (-len(group), group))


def is_bounded(wins: NDArray, ties: NDArray) -> bool:
    """Is there a finite maximum likelihood?

    No set of systems may claim never to have lost a point to the others. And ties must not be all that holds strengths
    together: if these can be placed such that every winner is at least 1 above the loser, and none that tied are more
    than 1 apart, then strengths that grow apart while v grows with them are ever likelier. (Of 39 ties and one win, the
    winner was 1940 against 60, p 4e-13.) They can't if some ring of games has more wins, all one way, than ties.
    """
    count, _ = connected_components(wins + ties > 0, directed=True, connection="strong")
    return count == 1 and (not ties.any() or _is_a_ring_won(wins, ties))


def _is_a_ring_won(wins: NDArray, ties: NDArray) -> bool:
    """Is there a ring of games with more wins than ties: one of negative length, a win -1 long and a tie 1?"""
    try:
        bellman_ford(np.where(wins > 0, -1.0, np.where(ties > 0, 1.0, 0.0)))
    except NegativeCycleError:
        return True
    return False


def tables(
    games: Sequence[Battle], systems: Sequence[str], pairs: Mapping[str, str] = MappingProxyType({})
) -> tuple[NDArray, NDArray]:
    """Wins [C, S, S] (row beats column) and ties [C, S, S] (symmetric) of each cluster: a contrast pair, whose halves
    have one text, or a query of which nobody tells the pair.

    Args:
        pairs: query id -> its contrast pair.
    """
    clusters, index = [cluster_of(g.query_id, pairs) for g in games], {name: i for i, name in enumerate(systems)}
    place = {name: i for i, name in enumerate(sorted(set(clusters)))}
    wins = np.zeros((len(place), len(systems), len(systems)))
    ties = np.zeros_like(wins)
    for g, cluster in zip(games, clusters, strict=True):
        c, a, b = place[cluster], index[g.a], index[g.b]
        if g.verdict in ("a", "b"):
            wins[c][(a, b) if g.verdict == "a" else (b, a)] += 1
        else:
            ties[c, a, b] += 1
            ties[c, b, a] += 1
    return wins, ties


def davidson(wins: NDArray, ties: NDArray, ridge: float = 1e-6) -> tuple[NDArray, float]:
    """Maximum likelihood of Davidson's model by Newton's method -> log strengths [S] (mean 0), v (0 without ties).

    Args:
        wins: [S, S], row beats column. ties: [S, S], symmetric.
        ridge: keeps a system that only wins finite.
    """
    size, tied = len(wins), bool(ties.sum())
    x = np.zeros(size + tied)
    loss, slope, curve = _likelihood(x, wins, ties, ridge)
    for _ in range(NEWTON_STEPS):
        step = np.linalg.solve(curve, slope)
        scale = 1.0
        while (after := _likelihood(x - scale * step, wins, ties, ridge))[0] > loss and scale > 1e-6:
            scale /= 2
        x, (loss, slope, curve) = x - scale * step, after
        if np.abs(scale * step).max() < 1e-9:
            break
    return x[:size] - x[:size].mean(), float(np.exp(x[size])) if tied else 0.0


class Outcomes(NamedTuple):
    """Of a game between each two systems, [S, S] each: log of the total weight and of the tie's, the tie's probability,
    and the expected share of the first and of the second (a tie is half a win)."""

    total: NDArray
    middle: NDArray
    level: NDArray
    ahead: NDArray
    behind: NDArray


def _outcomes(x: NDArray, size: int) -> Outcomes:
    """x: log strengths, and log v if there are ties."""
    first, second = x[:size, None], x[None, :size]
    middle = (x[size] if len(x) > size else -np.inf) + (first + second) / 2
    total = np.logaddexp(np.logaddexp(first, second), middle)
    level = np.exp(middle - total)
    return Outcomes(total, middle, level, np.exp(first - total) + level / 2, np.exp(second - total) + level / 2)


def _slope(found: Outcomes, wins: NDArray, ties: NDArray, tied: bool) -> NDArray:
    """Slope of minus the log likelihood, [..., S (+ 1)], of wins and ties [..., S, S]."""
    games = wins + ties / 2  # ordered pairs: a tie stands in both places
    slope = (games * found.ahead - wins - ties / 4).sum(-1) + (games * found.behind - ties / 4).sum(-2)
    return np.concatenate([slope, (games * found.level - ties / 2).sum((-2, -1))[..., None]], -1) if tied else slope


def _likelihood(x: NDArray, wins: NDArray, ties: NDArray, ridge: float) -> tuple[float, NDArray, NDArray]:
    """Minus the log likelihood with its slope and curvature; each game is one draw among three outcomes, whose
    features are (1, 0, 0), (0, 1, 0) and (1/2, 1/2, 1) in the two strengths and log v."""
    size, tied = len(wins), len(x) > len(wins)
    found, games = _outcomes(x, size), wins + ties / 2
    total, middle, level, ahead, behind = found
    loss = (games * total - wins * x[:size, None]).sum() - (ties / 2 * np.where(ties > 0, middle, 0)).sum()
    across = games * (level / 4 - ahead * behind)
    own = (games * (ahead - level / 4 - ahead**2)).sum(1) + (games * (behind - level / 4 - behind**2)).sum(0)
    curve = np.diag(own) + across + across.T
    if tied:
        side = (games * level * (0.5 - ahead)).sum(1) + (games * level * (0.5 - behind)).sum(0)
        curve = np.block([[curve, side[:, None]], [side[None], (games * level * (1 - level)).sum()]])
    slope = _slope(found, wins, ties, tied) + 2 * ridge * x
    return float(loss + ridge * x @ x), slope, curve + 2 * ridge * np.eye(len(x))


def half_widths(wins: NDArray, ties: NDArray, estimate: tuple[NDArray, float]) -> NDArray:
    """Half of each log strength's 95 % interval [S], with Student's t over the clusters: a percentile bootstrap is too
    narrow (0.89 for 20).

    Args:
        wins, ties: of each cluster, [C, S, S].
    """
    spread = covariance(wins, ties, estimate)
    return stats.t.ppf(0.975, len(wins) - 1) * np.sqrt(np.diag(spread))


def equal_p(wins: NDArray, ties: NDArray, estimate: tuple[NDArray, float]) -> float | None:
    """How often strengths differ so much by chance if all systems are equal: Hotelling's test over the clusters.
    None with too few of them.

    Args:
        wins, ties: of each cluster, [C, S, S].
    """
    count, free = len(wins), len(estimate[0]) - 1
    if count <= free + 1:
        return None
    weight = np.linalg.pinv(covariance(wins, ties, estimate), rcond=1e-10, hermitian=True)
    apart = estimate[0] @ weight @ estimate[0]
    return float(stats.f.sf(apart * (count - free) / (free * (count - 1)), free, count - free))


def covariance(wins: NDArray, ties: NDArray, estimate: tuple[NDArray, float]) -> NDArray:
    """Of the log strengths, whose mean is 0, [S, S]: a sandwich from the clusters' scores, since the games of a
    contrast pair, or of a query, hang together.

    Args:
        wins, ties: of each cluster, [C, S, S].
    """
    strength, tie = estimate
    x = np.append(strength, np.log(tie)) if tie else strength
    size, count = len(strength), len(wins)
    scores = _slope(_outcomes(x, size), wins, ties, len(x) > size)  # [C, S (+ 1)]
    bread = np.linalg.pinv(_likelihood(x, wins.sum(0), ties.sum(0), 0.0)[2], rcond=1e-10, hermitian=True)
    spread = (bread @ (scores.T @ scores) @ bread)[:size, :size] * count / (count - 1)
    centre = np.eye(size) - 1 / size
    return centre @ spread @ centre


def elo(games: Sequence[Battle], systems: Sequence[str], orders: NDArray | None = None) -> NDArray:
    """Online Elo after all games, in the order given [S], or in each of `orders` [O, G] -> [O, S]; a tie is half a win.
    The sum of ratings stays."""
    index = {name: i for i, name in enumerate(systems)}
    a, b = (np.array([index[getattr(g, side)] for g in games]) for side in "ab")
    won = np.array([{"a": 1.0, "b": 0.0}.get(g.verdict, 0.5) for g in games])
    rows = np.arange(len(games))[None] if orders is None else orders
    ratings, each = np.full((len(rows), len(systems)), ELO_START), np.arange(len(rows))
    for played in rows.T:  # the same place in every order
        first, second = a[played], b[played]
        gap = ratings[each, second] - ratings[each, first]
        gain = ELO_K * (won[played] - 1 / (1 + 10 ** (gap / ELO_SCALE)))
        ratings[each, first] += gain
        ratings[each, second] -= gain
    return ratings[0] if orders is None else ratings


def on_elo_scale(log_strength: NDArray) -> NDArray:
    return ELO_START + ELO_SCALE * log_strength / np.log(10)
