"""The paper's claims against the rows of sweeps: each a line of a table, with a difference, interval and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.sweeping.differences import Difference, Metric, difference, gain, ratio
from lightning_paras2s.sweeping.efficiency import times_fewer
from lightning_paras2s.sweeping.points import (
    MIN_SEEDS,
    Key,
    Results,
    Row,
    apart,
    column,
    few_seeds,
    part_of,
    trained,
    values_at,
)

HEADER = "| claim | the paper | first - then | judge | audit | detectable | verdict |\n|---|---|---|---|---|---|---|"
UNMEASURED = "open: not measured"
METRICS: tuple[Metric, Metric] = ("pairs", "audit_pairs")


class Claim(NamedTuple):
    """Attributes:
    text: what the paper says; "" = it says nothing.
    figure: where, and the digits that it prints.
    sweep: whose rows tell.
    first, then: the points whose difference tells, by the value of `key`, or by the values of its several keys.
    expected: what that difference is if the claim holds.
    systems: of the first and the other point.
    domain: only the pairs about these topics (`data/domains.py`); "" = all.
    other: the sweep of the other point; "" = the same.
    """

    text: str
    figure: str
    sweep: str
    key: Key
    first: Any
    then: Any
    expected: str
    systems: tuple[str, str] = ("grpo", "grpo")
    domain: str = ""
    other: str = ""

    def line(self, results: Results) -> str:
        about = f"| {self.text} | {self.figure} | {led(self.key)}{self.shown()} "
        places = ((self.sweep, self.first), (self.other or self.sweep, self.then))
        for sweep, value in places:
            if value not in results.by(sweep, self.key):
                return f"{about}| - | - | - | {results.lack(sweep, self.key, [value])} |"
        first, then = (within(results.by(sweep, self.key)[value], self.domain) for sweep, value in places)
        if not (heard(first, self.systems[:1]) and heard(then, self.systems[1:])):
            return f"{about}| - | - | - | {UNMEASURED} |"
        judge, audit = (self.difference(first, then, metric) for metric in METRICS)
        told = verdict(self.expected, judge, trained(first[0]))
        told += "".join(results.failures(sweep, self.key, [value]) for sweep, value in dict.fromkeys(places))
        return f"{about}| {signed(judge)} | {signed(audit)} | {number(judge.detectable)} | {told} |"

    def difference(self, first: Sequence[Row], then: Sequence[Row], metric: Metric) -> Difference:
        """Of two systems of the same runs, paired by seed, too."""
        if self.first == self.then and not self.other:
            return gain(first, self.systems, metric)
        return difference(first, then, self.systems, metric)

    def shown(self) -> str:
        first, then = spelt(self.first), spelt(self.then)
        if self.systems == ("grpo", "grpo") and not self.other:
            return f"{first} - {then}"
        return f"{first}{'' if first == then else f' - {then}'}: {' - '.join(self.systems)}"


class EveryClaim(NamedTuple):
    """That a system is better than another in the runs of every point; the point with the least difference is shown."""

    text: str
    figure: str
    sweep: str
    key: str
    points: tuple[Any, ...]
    systems: tuple[str, str]

    def line(self, results: Results) -> str:
        of, about = results.by(self.sweep, self.key), f"| {self.text} | {self.figure} | {' - '.join(self.systems)}"
        if not any(point in of for point in self.points):
            return f"{about} | - | - | - | {results.lack(self.sweep, self.key, self.points)} |"
        both = [point for point in self.points if point in of and heard(of[point], self.systems)]
        found = {point: gain(of[point], self.systems) for point in both}
        if not found:
            return f"{about} | - | - | - | {UNMEASURED} |"
        least = min(found, key=lambda point: found[point].value)
        values = [
            signed(found[least]),
            signed(gain(of[least], self.systems, "audit_pairs")),
            number(found[least].detectable),
        ]
        told = self.verdict(found) + results.failures(self.sweep, self.key, self.points)
        return f"{about}, least at {self.key} {least} | {' | '.join(values)} | {told} |"

    def verdict(self, found: dict[Any, Difference]) -> str:
        """Every point must agree; one that disagrees is enough against it."""
        told = {point: verdict("higher", one, True) for point, one in found.items()}
        agree = [point for point, text in told.items() if text.startswith("agrees")]
        if against := [str(point) for point, text in told.items() if text.startswith("disagrees")]:
            return f"disagrees at {', '.join(against)}"
        if len(agree) == len(self.points):
            return f"agrees, {min(one.seeds for one in found.values())} seeds or more"
        few = [point for point in self.points if point not in found or few_seeds(found[point].seeds)]
        state = f"open: {len(few)} points with fewer than {MIN_SEEDS} seeds" if few else "undecided"
        return f"{state}; agrees at {len(agree)} of {len(self.points)}"


class TimesClaim(NamedTuple):
    """That SFT needs so many times more demonstrations than the first system at a point, for its score."""

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    times: float
    systems: tuple[str, str]

    def line(self, results: Results) -> str:
        about = f"| {self.text} | {self.figure} | {self.systems[1]} / {self.systems[0]} at {self.key} {self.first} "
        of = results.by(self.sweep, self.key)
        if self.first not in of:
            return f"{about}| - | - | - | {results.lack(self.sweep, self.key, [self.first])} |"
        of = {point: rows for point, rows in of.items() if heard(rows, self.systems)}
        if self.first not in of:
            return f"{about}| - | - | - | {UNMEASURED} |"
        judge, audit = (times_fewer(of, self.first, self.systems, metric) for metric in METRICS)
        if judge is None or audit is None:
            return f"{about}| - | - | - | open: fewer than 2 seeds here or at another amount |"
        told = of_seeds(self.verdict(judge.low, judge.high), judge.seeds)
        told += results.failures(self.sweep, self.key, list(of))
        return f"{about}| x {judge.told()} | x {audit.told()} | - | {told} |"

    def verdict(self, low: float, high: float) -> str:
        if not np.isfinite(low):
            return "no interval"
        if low >= self.times:
            return "agrees"
        if high < self.times:
            return "disagrees"
        return f"fewer are enough, {self.times:g} times is possible" if low > 1 else "undecided"


class RatioClaim(NamedTuple):
    """That a system's score at a point is at least `least` times another's, in the same runs."""

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    least: float
    systems: tuple[str, str]

    def line(self, results: Results) -> str:
        about = f"| {self.text} | {self.figure} | {' / '.join(self.systems)} at {self.key} {self.first} "
        rows = results.by(self.sweep, self.key).get(self.first)
        if not rows:
            return f"{about}| - | - | - | {results.lack(self.sweep, self.key, [self.first])} |"
        if not heard(rows, self.systems):
            return f"{about}| - | - | - | {UNMEASURED} |"
        judge, audit = (ratio(rows, self.systems, metric) for metric in METRICS)
        told = of_seeds(at_least(judge, self.least), len(rows)) + results.failures(self.sweep, self.key, [self.first])
        return f"{about}| x {interval(judge)} | x {interval(audit)} | - | {told} |"


class ColumnClaim(NamedTuple):
    """That a column's mean over seeds is at least `least` at a point."""

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    column: str
    least: float

    def line(self, results: Results) -> str:
        of = results.by(self.sweep, self.key)
        about = f"| {self.text} | {self.figure} | {self.column} at {self.key} {self.first} "
        if self.first not in of:
            return f"{about}| - | - | - | {results.lack(self.sweep, self.key, [self.first])} |"
        rows = of[self.first]
        if not any(self.column in row.get("columns", {}) for row in rows):
            return f"{about}| - | - | - | {UNMEASURED} |"
        found = column(rows, self.column)
        told = of_seeds(at_least(found, self.least), found.n) + unmeasured(len(rows) - found.n)
        told += results.failures(self.sweep, self.key, [self.first])
        return f"{about}| {interval(found)} | - | - | {told} |"


class ValueClaim(NamedTuple):
    """That a value a run is higher at one point than at another; `path` leads to it in a row."""

    text: str
    figure: str
    sweep: str
    key: Key
    first: Any
    then: Any
    name: str
    path: tuple[str, ...]

    def line(self, results: Results) -> str:
        of = results.by(self.sweep, self.key)
        shown = f"{led(self.key)}{spelt(self.first)} - {spelt(self.then)}"
        about = f"| {self.text} | {self.figure} | {self.name}: {shown} "
        if lacking := [point for point in (self.first, self.then) if point not in of]:
            return f"{about}| - | - | - | {results.lack(self.sweep, self.key, lacking)} |"
        rows = [of[point] for point in (self.first, self.then)]
        first, then = (values_at(one, self.path) for one in rows)
        if not first or not then:
            return f"{about}| - | - | - | {UNMEASURED} |"
        found = apart(first, then)
        known = "agrees" if found.low > 0 else "disagrees" if found.high < 0 else "undecided"
        told = of_seeds(known if np.isfinite(found.low) else "no interval", found.n)
        told += unmeasured(sum(map(len, rows)) - len(first) - len(then))
        told += results.failures(self.sweep, self.key, [self.first, self.then])
        return f"{about}| {interval(found)} | - | - | {told} |"


def led(key: Key) -> str:
    """What stands before a point's value; several values speak for themselves."""
    return f"{key} " if isinstance(key, str) else ""


def spelt(value: Any) -> Any:
    """A point's value, or its several."""
    return ", ".join(value) if isinstance(value, tuple) else value


AnyClaim = Claim | EveryClaim | TimesClaim | RatioClaim | ColumnClaim | ValueClaim


def heard(rows: Sequence[Row], systems: Sequence[str]) -> bool:
    """Whether these systems answered in every run."""
    return all(system in row["systems"] for row in rows for system in systems)


def verdict(expected: str, found: Difference, trained: bool) -> str:
    """Few seeds say little of the others, so they settle nothing; policies that are not trained have no seeds."""
    if few_seeds(found.seeds) and trained:
        return found.told()
    of = f"{found.seeds} seeds" if trained else "these policies alone"
    if found.verdict in ("undecided", "no interval") or expected == "any":
        return f"{found.verdict}, {of}"
    return f"{'agrees' if found.verdict == expected else 'disagrees'}, {of}"


def unmeasured(runs: int) -> str:
    """Of runs that say nothing of a value: skills and columns are measured where that was asked."""
    return f"; without {runs} that did not measure it" if runs else ""


def of_seeds(told: str, seeds: int) -> str:
    """A verdict with the seeds that it is of; open with few."""
    return few_seeds(seeds) or f"{told}, {seeds} seeds"


def at_least(found: Estimate, least: float) -> str:
    if not np.isfinite(found.low):
        return "no interval"
    return "agrees" if found.low >= least else "disagrees" if found.high < least else "undecided"


def interval(found: Estimate) -> str:
    ends = "" if not np.isfinite(found.low) else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends}"


def within(rows: Sequence[Row], domain: str) -> Sequence[Row]:
    """With the pairs of one domain of topics alone."""
    if not domain:
        return rows
    from lightning_paras2s.data.domains import domain_of
    from lightning_paras2s.data.embedded import text_queries

    topics = {query.id: (query.factor, query.topic) for query in text_queries("train")}
    return part_of(rows, lambda pair: domain_of(*topics[pair.split("/", 1)[1]]) == domain)


def signed(found: Difference) -> str:
    ends = "" if not np.isfinite(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{ends}"


def number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "-"
