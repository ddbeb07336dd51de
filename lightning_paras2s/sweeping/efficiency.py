"""How many times fewer demonstrations RL needs (paper, section 5.3): the amount at which SFT alone reaches its score.

Between two amounts SFT's score is taken to be linear in the logarithm of the amount. The interval is Fieller's (1954)
way: all amounts at which RL's score and SFT's do not differ significantly, over contrast pairs and seeds. It takes SFT
to be no worse with more, so that a difference at the least or the largest amount leaves what lies beyond to one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.bench.seeds import Design, Parts, macro_parts, shared, shared_queries
from lightning_paras2s.sweeping.differences import Metric, pooled, told_by
from lightning_paras2s.sweeping.points import Row

TRIED = 100  # amounts between two of the curve, evenly spread in their logarithm


class Times(NamedTuple):
    """Attributes:
    value: SFT's amount over RL's; inf = SFT does not reach RL's score, 0 = it has more with the least amount.
    low, high: 95 %; 0 and inf where the interval is open at the least and the largest amount; NaN = none.
    least, most: what the grid could show.
    seeds, pairs: of the comparisons, the fewest.
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


class Bracket(NamedTuple):
    """The curve between two amounts, and the score to reach, in the seeds and of the answers that all three have."""

    low: float
    high: float
    at_low: Parts
    at_high: Parts
    reached: Parts

    def less(self, at: float) -> Parts:
        """The score to reach less the curve's at an amount."""
        share = float(np.log(at / self.low) / np.log(self.high / self.low))
        low, high = self.at_low, self.at_high
        value = (1 - share) * low.value + share * high.value
        curve = Parts(value, (1 - share) * low.errors + share * high.errors, low.counts)
        return self.reached - curve


def times_fewer(
    curve: Mapping[float, Sequence[Row]], amount: float, systems: tuple[str, str], metric: Metric = "pairs"
) -> Times | None:
    """How many times `amount` the second system needs for the first one's score there; None with fewer than two seeds.

    Runs are paired by seed and query: an answer counts only where all that it is compared with are scored. Amounts of
    fewer than two of the seeds are left out of the curve.

    Args:
        curve: amount -> rows, which hold both systems.
    """
    own = {row["seed"] for row in curve.get(amount, ())}
    seeds = {a: own & {row["seed"] for row in rows} for a, rows in curve.items()}
    amounts = sorted(a for a, of in seeds.items() if len(of) > 1)
    common = [seeds[low] & seeds[high] for low, high in pairwise(amounts)]
    if amount not in amounts or not common or min(map(len, common)) < 2:
        return None

    def values(at: float, system: str, of: set[int]) -> NDArray:
        rows = sorted((row for row in curve[at] if row["seed"] in of), key=lambda row: row["seed"])
        return pooled(rows, system, metric)[0]

    design = pooled(curve[amount], systems[0], metric)[1]
    brackets = []
    for (low, high), of in zip(pairwise(amounts), common, strict=True):
        three = values(low, systems[1], of), values(high, systems[1], of), values(amount, systems[0], of)
        brackets.append(Bracket(low, high, *(macro_parts(one, design) for one in shared(*three))))
    whole = shared_queries(*(values(a, systems[1], seeds[a]) for a in amounts), values(amount, systems[0], own))
    *scores, score = (macro_parts(one, design).value for one in whole)
    value = crossing(amounts, scores, score)
    low, high = accepted(brackets, design, value)
    ends = amounts[0] / amount, amounts[-1] / amount
    known = [(int(b.reached.seeds.sum()), int(b.reached.pairs.sum())) for b in brackets]
    return Times(value / amount, low / amount, high / amount, *ends, *map(min, zip(*known, strict=True)))


def crossing(amounts: Sequence[float], scores: Sequence[float], score: float) -> float:
    """The first amount at which the curve reaches a score; inf = none, 0 = it is above at the least amount."""
    if scores[0] > score:
        return 0.0
    for i, (low, high) in enumerate(pairwise(scores)):
        if low <= score <= high:
            step = (score - low) / (high - low) if high > low else 0.0
            return float(amounts[i] * (amounts[i + 1] / amounts[i]) ** step)
    return np.inf


def accepted(brackets: Sequence[Bracket], design: Design, value: float) -> tuple[float, float]:
    """The ends of all amounts that are not told apart.

    Args:
        value: the amount itself: where the amounts that are tried step over so short an interval, it stands for them.
    """
    tried = [(float(at), b) for b in brackets for at in np.geomspace(b.low, b.high, TRIED)]
    found = [told_by(bracket.less(at), design).verdict for at, bracket in tried]
    if "no interval" in found:
        return np.nan, np.nan
    alike = [at for (at, _), verdict in zip(tried, found, strict=True) if verdict == "undecided"]
    alike = alike or [float(np.clip(value, brackets[0].low, brackets[-1].high))]
    return min(alike) if found[0] == "higher" else 0.0, max(alike) if found[-1] == "lower" else np.inf
