"""How many times fewer demonstrations RL needs (paper, section 5.3): the amount at which SFT alone reaches its score.

Between two amounts SFT's score is taken to be linear in the logarithm of the amount. The interval is Fieller's (1954)
way: all amounts at which RL's score and SFT's do not differ significantly, over contrast pairs and seeds. It takes SFT
to be no worse with more, so that a difference at the least or the largest amount leaves what lies beyond to one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_paras2s.bench.seeds import Design, Parts
from lightning_paras2s.sweeping.points import Metric, Row, parts_of, told_by

TRIED = 400  # amounts, evenly spread in their logarithm


class Times(NamedTuple):
    """Attributes:
    value: SFT's amount over RL's; inf = SFT does not reach RL's score, 0 = it has more with the least amount.
    low, high: 95 %; 0 and inf where the interval is open at the least and the largest amount; NaN = none.
    least, most: what the grid could show.
    seeds, pairs: of the comparisons.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    seeds: int
    pairs: int

    def told(self) -> str:
        """5.0 [2.1, 10 or more]."""
        if not np.isfinite(self.low):
            return self.end(self.value)
        return f"{self.end(self.value)} [{self.end(self.low)}, {self.end(self.high)}]"

    def end(self, times: float) -> str:
        if times == np.inf or times >= self.most:
            return f"{self.most:.3g} or more"
        return f"{self.least:.2g} or less" if times <= self.least else f"{times:.1f}"


def times_fewer(
    curve: Mapping[float, Sequence[Row]], amount: float, systems: tuple[str, str], metric: Metric = "pairs"
) -> Times | None:
    """How many times `amount` the second system needs for the first one's score there; None with fewer than two seeds.

    Runs are paired by seed and query. Amounts of fewer than two of the seeds are left out of the curve.

    Args:
        curve: amount -> rows, which hold both systems; at least of `amount`.
    """
    own = {row["seed"] for row in curve.get(amount, ())}
    of = {a: {row["seed"] for row in rows} & own for a, rows in curve.items()}
    amounts = sorted(a for a, seeds in of.items() if len(seeds) > 1)
    seeds = set.intersection(*(of[a] for a in amounts)) if amounts else set()
    if amount not in amounts or len(amounts) < 2 or len(seeds) < 2:
        return None
    chosen = {a: sorted((r for r in curve[a] if r["seed"] in seeds), key=lambda row: row["seed"]) for a in amounts}
    reached, design = parts_of(chosen[amount], systems[0], metric)
    known = [parts_of(chosen[a], systems[1], metric)[0] for a in amounts]
    ends = amounts[0] / amount, amounts[-1] / amount
    value = crossing(amounts, [parts.value for parts in known], reached.value)
    low, high = accepted(amounts, known, reached, design, value)
    return Times(value / amount, low / amount, high / amount, *ends, len(seeds), len(design.factor_of))


def crossing(amounts: Sequence[float], scores: Sequence[float], score: float) -> float:
    """The first amount at which the curve reaches a score; inf = none, 0 = it is above at the least amount."""
    if scores[0] > score:
        return 0.0
    for i, (low, high) in enumerate(zip(scores, scores[1:], strict=False)):
        if low <= score <= high:
            step = (score - low) / (high - low) if high > low else 0.0
            return float(amounts[i] * (amounts[i + 1] / amounts[i]) ** step)
    return np.inf


def accepted(
    amounts: Sequence[float], known: Sequence[Parts], reached: Parts, design: Design, value: float
) -> tuple[float, float]:
    """The ends of all amounts that are not told apart.

    Args:
        value: the amount itself: where the amounts that are tried step over so short an interval, it stands for them.
    """
    tried = np.geomspace(amounts[0], amounts[-1], TRIED)
    found = [told_by(reached - between(amounts, known, at), design).verdict for at in tried]
    if "no interval" in found:
        return np.nan, np.nan
    alike = [float(at) for at, verdict in zip(tried, found, strict=True) if verdict == "undecided"]
    alike = alike or [float(np.clip(value, amounts[0], amounts[-1]))]
    return min(alike) if found[0] == "higher" else 0.0, max(alike) if found[-1] == "lower" else np.inf


def between(amounts: Sequence[float], known: Sequence[Parts], at: float) -> Parts:
    """The curve's mean at an amount, and its errors."""
    i = int(np.clip(np.searchsorted(amounts, at, "right") - 1, 0, len(amounts) - 2))
    share = float(np.log(at / amounts[i]) / np.log(amounts[i + 1] / amounts[i]))
    low, high = known[i], known[i + 1]
    return Parts((1 - share) * low.value + share * high.value, (1 - share) * low.errors + share * high.errors)
