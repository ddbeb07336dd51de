"""What the rows of a sweep say of each point: seeds pooled, with intervals over contrast pairs and seeds.

Both were drawn (`bench/seeds.py`). Only runs of one recipe that answered the same queries are pooled, and only those
that one judge has heard are compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_paras2s.bench.alike import HASHES
from lightning_paras2s.bench.seeds import (
    MIN_OF_SEEDS,
    Design,
    Parts,
    error_of,
    estimate,
    known_pairs,
    macro_parts,
    rest_of,
    shared,
    shared_queries,
)
from lightning_paras2s.bench.statistics import MIN_CLUSTERS, MIN_EACH, Estimate, detectable_difference
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import rows_in

Row = dict[str, Any]
Part = tuple[float, float]  # a variance, and its degrees of freedom
Key = str | tuple[str, ...]  # of a point: what tells it from the others of its sweep
Metric = Literal["pairs", "audit_pairs"]  # scores by the judge's ears, and by the audit's
MIN_SEEDS = 3  # of a point, for a verdict: with two, intervals can be too narrow (results/coverage_points.jsonl)


class Difference(NamedTuple):
    """Score of one point minus that of another, on the same pairs; `detectable` is the smallest difference that this
    many seeds and pairs would show (80 % power); `seeds` are those of the point with fewer."""

    value: float
    low: float
    high: float
    detectable: float
    seeds: int
    pairs: int

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.low):
            return "no interval"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"

    def told(self, trained: bool = True) -> str:
        """The verdict; open with few seeds, which say little of others. Policies that are not trained have none."""
        few = few_seeds(self.seeds) if trained else ""
        return f"{few}, in which the first is {self.verdict}" if few else self.verdict


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


def noise_of(rows: Sequence[Row], system: str, metric: Metric = "pairs") -> float:
    """How much of the variance of a point's scores over its seeds is that of a test of so few queries, 0 to 1: more
    queries would take it away, and more steps hardly. NaN where seeds don't differ, or a factor has one pair."""
    values, design = pooled(rows, system, metric)
    of_seeds = seed_variance(values, design)[0]
    return float(np.minimum(1.0, rest_of(macro_parts(values, design), design) / of_seeds)) if of_seeds else np.nan


def score(rows: Sequence[Row], system: str, metric: Metric = "pairs") -> Estimate:
    """The macro average over factors, of the seeds of a point. With one seed it holds for that seed."""
    values, design = pooled(rows, system, metric)
    return estimate(macro_parts(values, design), design)


def difference(
    first: Sequence[Row], then: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs"
) -> Difference:
    """Score of `first` - score of `then`, each the mean of its seeds, paired by query: one that either point has in no
    seed counts for neither.

    Seeds are not paired, although those of the same number may share draws: what they add to the variance is added for
    each point, which makes the interval wider where they go together. With several seeds and fewer than `MIN_OF_SEEDS`
    pairs there is no interval, as of a mean (`bench/seeds.py`).

    Mean squares of pairs, seeds and rest are independent, and the variance is the first two less the third (Searle,
    Casella and McCulloch 1992, chapter 4): its degrees of freedom are Satterthwaite's (1946) of these three. Where
    pairs, or seeds, vary no more than the rest, they add nothing, and the other's mean square and degrees of freedom
    stand alone: else what is none would count as a component that two degrees of freedom know.
    """
    (a, design), (b, _) = (pooled(rows, name, metric) for rows, name in zip((first, then), systems, strict=True))
    if halves(first[0], systems[0], metric) != halves(then[0], systems[1], metric):
        raise UserError("two points must have answered the same pairs to be compared; got others; run them again")
    if told := judged_otherwise([first[0], then[0]]):
        raise UserError(f"two points must have one judge, ears and source of labels; got {told}; judge one again")
    a, b = shared_queries(a, b)
    means = [np.ma.masked_invalid(values).mean(0).filled(np.nan) for values in (a, b)]
    parts = macro_parts((means[0] - means[1])[None], design)
    spread = [pair_variance(parts, design), *(seed_variance(values, design) for values in (a, b))]
    rests = [(rest_of(own, design), rest_freedom(own, design)) for own in (macro_parts(v, design) for v in (a, b))]
    variance, freedom = combined(spread[:1], spread[1:], rests)
    pairs = int(parts.pairs.sum())
    enough = max(len(a), len(b)) == 1 or pairs >= MIN_OF_SEEDS
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variance) if variance > 0 and enough else np.nan
    known = np.isfinite(reach)  # where the error is not known, nor is what could be detected
    detectable = detectable_difference(float(np.sqrt(variance)), freedom=freedom) if known else np.nan
    return Difference(parts.value, parts.value - reach, parts.value + reach, detectable, min(len(a), len(b)), pairs)


def gain(rows: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs") -> Difference:
    """Score of the first system - score of the other in the same runs, paired by query and by seed: what a run's stages
    share (a supervised policy) is in both, and an answer counts only where the other system's is scored, too."""
    first, then, design = parts_of_two(rows, systems, metric)
    return told_by(first - then, design)


def ratio(rows: Sequence[Row], systems: tuple[str, str], metric: Metric = "pairs") -> Estimate:
    """Score of the first system / score of the other in the same runs, likewise; linearised."""
    first, then, design = parts_of_two(rows, systems, metric)
    return estimate(first / then, design)


def parts_of_two(rows: Sequence[Row], systems: tuple[str, str], metric: Metric) -> tuple[Parts, Parts, Design]:
    """Of two systems in the same runs, where both have a score."""
    (first, design), (then, _) = (pooled(rows, name, metric) for name in systems)
    return *(macro_parts(values, design) for values in shared(first, then)), design


def told_by(parts: Parts, design: Design) -> Difference:
    """A difference whose seeds are paired, too."""
    found, error = estimate(parts, design), error_of(parts, design)
    detectable = detectable_difference(error.standard, freedom=error.freedom)
    return Difference(*found[:3], detectable, int(parts.seeds.sum()), int(parts.pairs.sum()))


def combined(pairs: list[Part], seeds: list[Part], rests: list[Part]) -> Part:
    """Variance and degrees of freedom of pairs and seeds, each of which holds the rest; NaN where pairs' is not known.

    Args:
        pairs, seeds, rests: independent (variance, degrees of freedom); 0 of what is not there.
    """
    of_pairs, of_seeds, rest = (sum(v for v, _ in parts) for parts in (pairs, seeds, rests))
    if of_seeds <= rest:
        return of_pairs, satterthwaite(of_pairs, pairs)
    if of_pairs <= rest:
        return of_seeds, satterthwaite(of_seeds, seeds)
    variance = of_pairs + of_seeds - rest
    return variance, satterthwaite(variance, [*pairs, *seeds, *rests])


def satterthwaite(variance: float, parts: list[Part]) -> float:
    """Degrees of freedom of a sum or difference of independent mean squares."""
    known = sum(v**2 / f for v, f in parts if f)
    return variance**2 / known if known else np.nan


def rest_freedom(parts: Parts, design: Design) -> int:
    """Of the seeds' rest: pairs within their factor times seeds, of those that have a score."""
    return (int(parts.seeds.sum()) - 1) * sum(int(of.sum()) - 1 for of in known_pairs(parts, design))


def pair_variance(parts: Parts, design: Design) -> tuple[float, float]:
    """Variance that the draw of pairs gives the mean of one row of scores [1, Q], and its degrees of freedom
    (Satterthwaite 1946); NaN with too few scored pairs to know it."""
    known = known_pairs(parts, design)
    counts = [int(of.sum()) for of in known]
    if sum(counts) < MIN_CLUSTERS or min(counts) < MIN_EACH:
        return np.nan, np.nan
    found = [float((parts.errors[0][of] ** 2).sum()) * n / (n - 1) for of, n in zip(known, counts, strict=True)]
    variance = sum(found)
    return variance, variance**2 / sum(v**2 / (n - 1) for v, n in zip(found, counts, strict=True)) if variance else 0.0


def seed_variance(values: NDArray, design: Design) -> tuple[float, float]:
    """Variance of the mean over seeds [S, Q], and its degrees of freedom; 0, 0 with one seed, of which it is not
    known. Seeds without a score are none."""
    means = [macro_parts(row[None], design).value for row in values if np.isfinite(row).any()]
    if len(means) < 2:
        return 0.0, 0
    return float(np.var(means, ddof=1) / len(means)), len(means) - 1


def halves(row: Row, system: str, metric: Metric) -> list[tuple[str, int]]:
    """Names of the pairs, in order, and how many halves of each were asked."""
    return [(name, len(scores)) for name, scores in row["systems"][system][metric].items()]


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
        if min(map(len, values)) < 2:
            continue
        side = "less" if worse == "lower" else "greater"
        if stats.ttest_ind(*values, equal_var=False, alternative=side).pvalue < 0.025:
            return step
    return None


def judged_otherwise(rows: Sequence[Row]) -> str:
    """In what rows' judges or ears differ, by name and, where rows hold it, by content; "" if they don't."""
    values = {key: [row[key] for row in rows if key in row] for key in ("judge", "label_source", *HASHES)}
    differ = {key: told for key, of in values.items() if len(told := list(dict.fromkeys(map(str, of)))) > 1}
    return "; ".join(f"{key} {' and '.join(told)}" for key, told in differ.items())


def pooled(rows: Sequence[Row], system: str, metric: Metric) -> tuple[NDArray, Design]:
    """Scores [S, Q] (Q: both halves of every pair), and which pair and factor each is of.

    Raises:
        UserError: the rows are about different queries, or another judge's.
    """
    if len(about := {row["queries_sha"] for row in rows}) != 1:
        raise UserError(f"rows must share their queries to be pooled; got {len(about)} sets; choose one")
    if told := judged_otherwise(rows):
        raise UserError(f"rows must share their judge and ears to be pooled; got {told}; choose one")
    names = list(rows[0]["systems"][system][metric])
    values = [[half for name in names for half in row["systems"][system][metric][name]] for row in rows]
    counts = [len(rows[0]["systems"][system][metric][name]) for name in names]
    factors = np.array([name.split("/", 1)[0] for name in names])
    return np.array(values, float), Design(np.repeat(np.arange(len(names)), counts), factors)
