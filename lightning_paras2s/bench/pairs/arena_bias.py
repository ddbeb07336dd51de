"""Does it matter who is heard first? Told from the pairs that one judge heard in both orders.

A battle without an order that was heard (from scores, from a list of labels) tells nothing: there the first is only the
one that is named first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from scipy import stats

from lightning_paras2s.bench.pairs.meetings import place_of
from lightning_paras2s.bench.pairs.play import ORDERS
from lightning_paras2s.bench.pairs.runs import cluster_of
from lightning_paras2s.types import Battle


class Bias(NamedTuple):
    """Attributes:
    pairs: judged in both orders.
    first: of them, won both times by whoever was heard first.
    second: won both times by whoever was heard second.
    p: of so uneven a split by chance: a sign test over the contrast pairs, or queries (None if none leans).
    """

    pairs: int
    first: int
    second: int
    p: float | None


def in_both_orders(games: Sequence[Battle]) -> list[tuple[Battle, Battle]]:
    """The games of each pair that one judge heard in both orders: the system that comes first by name heard first, then
    second."""
    seen: dict[tuple, dict[str, Battle]] = defaultdict(dict)
    for g in games:
        order = ORDERS[1 - ORDERS.index(g.order)] if g.a > g.b else g.order
        seen[g.query_id, *sorted((g.a, g.b)), g.judge][order] = g
    return [(by["ab"], by["ba"]) for by in seen.values() if len(by) == 2]


def heard_first_won(game: Battle) -> bool | None:
    """None for a tie."""
    return (game.verdict == "a") == (game.order == "ab") if game.verdict in ("a", "b") else None


def position_bias(games: Sequence[Battle], halves: Mapping[str, str] = MappingProxyType({})) -> Bias | None:
    """None if no pair was judged in both orders.

    Args:
        halves: query id -> its contrast pair.
    """
    pairs = in_both_orders(games)
    lean: Counter[str] = Counter()
    counts = {True: 0, False: 0}
    for one, other in pairs:
        won = heard_first_won(one)
        if won is not None and won == heard_first_won(other):
            counts[won] += 1
            lean[cluster_of(one.query_id, halves)] += 1 if won else -1
    signs = [value > 0 for value in lean.values() if value]
    p = float(stats.binomtest(sum(signs), len(signs)).pvalue) if signs else None
    return Bias(len(pairs), counts[True], counts[False], p) if pairs else None


def first_heard_wins(games: Sequence[Battle]) -> float | None:
    """Share of decided games won by the response heard first, of the pairs judged in both orders: 0.5 without bias."""
    won = [heard_first_won(game) for pair in in_both_orders(games) for game in pair]
    decided = [one for one in won if one is not None]
    return sum(decided) / len(decided) if decided else None


def order_consistency(games: list[Battle]) -> float | None:
    """Share of pairs judged in both orders that got one verdict."""
    both = [place_of(one) == place_of(other) for one, other in in_both_orders(games)]
    return sum(both) / len(both) if both else None
