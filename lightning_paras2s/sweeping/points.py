"""The rows of a sweep by point, and what a point's seeds say of a value that each run holds once (Student, Welch).

Only runs of one recipe are seeds of one thing. What scores of many queries say is in `differences.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import rows_in

Row = dict[str, Any]
Key = str | tuple[str, ...]  # of a point: what tells it from the others of its sweep
TRAINED = ("grpo", "sft_fifth")  # a policy, and what it started from where its run has no start of its own
MIN_SEEDS = 3  # of a point, for a verdict: with two, intervals can be too narrow (results/coverage_points.jsonl)


class Results(NamedTuple):
    """The rows of the sweeps in a folder."""

    folder: Path

    def points(self, sweep: str) -> list[tuple[dict[str, Any], list[Row]]]:
        return points_of(read_rows(self.folder / f"sweep_{sweep}.jsonl"))

    def by(self, sweep: str, key: Key) -> dict[Any, list[Row]]:
        """A point's value, or its values of several keys -> its rows.

        Raises:
            UserError: two points have the same value, so that something else tells them apart.
        """
        found: dict[Any, list[Row]] = {}
        for point, rows in self.points(sweep):
            if (value := value_at(point, key)) in found:
                raise UserError(f"points of sweep_{sweep} must differ in {key}; got {value!r} twice; name more keys")
            found[value] = rows
        return found

    def failed(self, sweep: str, key: Key, values: Sequence[Any]) -> list[Row]:
        """The rows of a point's runs that ended badly, but for those that ended well another time."""
        rows = rows_in(self.folder / f"sweep_{sweep}.jsonl")
        well = [(row["point"], row["seed"]) for row in rows if row["status"] == "ok"]
        ill = [row for row in rows if row["status"] != "ok" and (row["point"], row["seed"]) not in well]
        return [row for row in ill if value_at(row["point"], key) in values]

    def lack(self, sweep: str, key: Key, values: Sequence[Any]) -> str:
        """Why there is no row of a point."""
        failed = self.failed(sweep, key, values)
        return f"open: failed ({failed[0]['reason'].replace('|', '/')})" if failed else "open: not run"

    def failures(self, sweep: str, key: Key, values: Sequence[Any]) -> str:
        """What stands behind a verdict whose points have lost runs: those that are left may be the luckier ones."""
        failed = self.failed(sweep, key, values)
        return f"; without {len(failed)} failed" if failed else ""


def few_seeds(seeds: int) -> str:
    """Why a point with so few has no verdict; nothing where it has enough."""
    return "" if seeds >= MIN_SEEDS else f"open: {seeds if seeds > 1 else 'one'} seed{'s' * (seeds > 1)}"


def trained(row: Row) -> bool:
    """Whether a run trained anything, so that its seed says something; the oldest rows tell by their steps."""
    return row.get("trained", row["steps"] > 0)


def own_start(row: Row) -> bool:
    """Whether a run's policies began at one that it trained itself or names first, and not at the shipped `sft_fifth`:
    a difference to that file would tell of no training that took place."""
    return next(iter(row["systems"])) not in TRAINED


def value_at(point: dict[str, Any], key: Key) -> Any:
    return point[key] if isinstance(key, str) else tuple(point[one] for one in key)


def read_rows(path: Path) -> list[Row]:
    """The rows of the runs that ended well; none where there is no file."""
    return [row for row in rows_in(path) if row["status"] == "ok"]


def points_of(rows: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """Each point and the rows of its seeds: points of numbers in their order, others as their first rows came.

    Raises:
        UserError: rows of a point are not of one recipe, so that they are no seeds of one thing.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(json.dumps(row["point"]), []).append(row)
    for point, of in found.items():
        seeds = [row["seed"] for row in of]
        recipes = recipes_of(of)
        if len(set(seeds)) < len(seeds) or len(recipes) > 1:
            got = "; ".join(recipes) if len(recipes) > 1 else f"seeds {', '.join(map(str, sorted(seeds)))}"
            raise UserError(f"a point's rows must have seeds of their own, and one recipe; {point} got {got}; "
                            "take the rows of the other recipe out of the file")  # fmt: skip
    points = [(json.loads(point), of) for point, of in found.items()]
    ordered = all(isinstance(value, int | float) for point, _ in points for value in point.values())
    return sorted(points, key=lambda one: list(one[0].values())) if ordered else points


def recipes_of(rows: Sequence[Row]) -> list[str]:
    """In what a point's rows were made otherwise, where they were, and by which seeds; rows from before recipes were
    kept are taken at their word, and what one row holds alone (skills) is no other recipe."""
    known = [set(row.get("recipe", {}).items()) for row in rows]
    hashes = Counter(name for name, _ in set().union(*known))
    differ = [name for name, count in hashes.items() if count > 1]
    found: dict[str, list[int]] = {}
    for row in rows:
        words = f"{row.get('steps')} steps, precision {row.get('precision')}"
        words += "".join(f", recipe of {n} {row['recipe'][n]}" for n in differ if n in row.get("recipe", {}))
        found.setdefault(words, []).append(row["seed"])
    return [f"{words} (seeds {', '.join(map(str, sorted(of)))})" for words, of in sorted(found.items())]


def part_of(rows: Sequence[Row], holds: Callable[[str], bool]) -> list[Row]:
    """The rows with the contrast pairs (factor/pair) alone for which that holds."""
    kept = []
    for row in rows:
        systems = {
            name: {**cells, **{m: {k: v for k, v in cells[m].items() if holds(k)} for m in ("pairs", "audit_pairs")}}
            for name, cells in row["systems"].items()
        }
        kept.append({**row, "systems": systems})
    return kept


def column(rows: Sequence[Row], name: str) -> Estimate:
    """A column's mean over a point's seeds that have it (Student's t); no interval with one seed."""
    return over_seeds([row["columns"][name] for row in rows if name in row.get("columns", {})])


def values_at(rows: Sequence[Row], path: Sequence[str]) -> list[float]:
    """What lies at a path in each row, of the rows that hold it."""
    found = [reduce(lambda inside, key: (inside or {}).get(key), path, row) for row in rows]
    return [value for value in found if value is not None]


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of a value a seed (Student's t); no interval with one."""
    found = np.array(values, float)
    n, mean = len(found), float(found.mean())
    if n < 2:
        return Estimate(mean, np.nan, np.nan, n, n)
    reach = float(stats.t.ppf(0.975, n - 1) * found.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - reach, mean + reach, n, n)


def apart(first: Sequence[float], then: Sequence[float]) -> Estimate:
    """The mean of one point's values a seed less that of another's, as if no draw were common to both (Welch's t); no
    interval with one seed of either, or where neither point's seeds differ."""
    n = min(len(first), len(then))
    value = float(np.mean(first) - np.mean(then))
    if n < 2 or max(np.ptp(first), np.ptp(then)) < 1e-9:
        return Estimate(value, np.nan, np.nan, n, n)
    low, high = stats.ttest_ind(first, then, equal_var=False).confidence_interval()
    return Estimate(value, float(low), float(high), n, n)


def first_worse(rows: Sequence[Row], whole: Sequence[Row], ear: str, worse: Literal["lower", "higher"]) -> int | None:
    """The first probed step at which an ear hears the runs to be worse than the whole judge's, by a 95 % interval over
    seeds (Welch's t); None = at no step, or fewer than two seeds. Steps are tested one by one: of 20 that differ by
    chance alone, one is expected to be told.

    Args:
        ear: of `probes`: judge, audit, wer, wer_outside.
        worse: the side of worse values: lower scores, higher word error rates.
    """
    for i, step in enumerate(rows[0]["probes"]["step"]):
        values = [[row["probes"][ear][i] for row in of if row["probes"][ear][i] is not None] for of in (rows, whole)]
        if min(map(len, values)) < 2 or max(map(np.ptp, values)) < 1e-9:  # the start is one policy, heard once
            continue
        side = "less" if worse == "lower" else "greater"
        if stats.ttest_ind(*values, equal_var=False, alternative=side).pvalue < 0.025:
            return step
    return None
