"""Writes the tables of docs/findings.md from results/sweep_*.jsonl: python docs/findings.py (--check: only compare)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_paras2s.data.domains import domain_of
from lightning_paras2s.data.embedded import text_queries
from lightning_paras2s.sweeping.points import (
    Difference,
    Metric,
    Row,
    column,
    difference,
    part_of,
    points_of,
    read_rows,
    score,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/findings.md"
START, END = "<!-- from the rows -->\n", "<!-- end -->\n"


class Claim(NamedTuple):
    """Attributes:
    text: what the paper says; "" = it says nothing.
    figure: where, and the digits that it prints.
    sweep: whose rows tell.
    first, then: the points whose difference tells, by the value of `key`.
    expected: what that difference is if the claim holds.
    systems: of the first and the other point.
    domain: only the pairs about these topics (`data/domains.py`); "" = all.
    """

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    then: Any
    expected: str
    systems: tuple[str, str] = ("grpo", "grpo")
    domain: str = ""


class ColumnClaim(NamedTuple):
    """That a column's mean over seeds is at least `least` at a point."""

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    column: str
    least: float


ABLATIONS = (
    Claim("The score without a KL against that of beta .2", "not told in words", "beta", "beta", 0.2, 0.0, "any"),
    Claim("With too large a beta the score falls", "Fig. 3c, no digits", "beta", "beta", 0.2, 0.8, "higher"),
    Claim("G = 2 is worse than 8 at equal steps", "Fig. 3b, no digits", "G_steps", "G", 8, 2, "higher"),
    Claim("G = 16 is no better than 8", "Fig. 3b, no digits", "G_steps", "G", 16, 8, "any"),
    Claim("G = 2 against 8 at equal rollouts", "not shown", "G_rollouts", "G", 8, 2, "any"),
    Claim("A larger batch is better at equal steps", "Fig. 3a, no digits", "B_steps", "B", 32, 4, "higher"),
    Claim("A larger batch at equal rollouts", "not shown", "B_rollouts", "B", 32, 4, "any"),
    Claim("The words' gradient against the voice's", "not ablated", "streams", "streams", "text", "audio", "any"),
    Claim("Advantages divided by their deviation, or not", "not ablated", "scale", "scale", "std", "none", "any"),
)
SHORT = tuple(claim._replace(sweep=f"{claim.sweep}_short") for claim in ABLATIONS[:3])
BUDGET = (
    Claim("More of the budget for demonstrations is better", "Fig. 2b, no digits", "budget", "share", 0.7, 0.1,
          "higher"),
    Claim("... until the reward model correlates poorly", "Fig. 2b, no digits", "budget", "share", 0.9, 0.7, "any"),
    ColumnClaim("A tenth of the budget makes a usable reward model", "section 5.4: correlation 0.7 with 10 of 100 h",
                "budget", "share", 0.9, "correlation", 0.7),
)  # fmt: skip
CONDITIONS = ("as in the test", "without noise", "noise at -15 dB", "noise at -5 dB", "larger speakers",
              "smaller speakers", "wider prosody", "Piper")  # fmt: skip
REAL = "section 5.5, real speech: + 0.137 (IEMOCAP), + 0.042 (MELD)"
TRAINED = ("grpo", "sft_fifth")
TABLE_8 = {
    ("first", "first"): "+ 0.098 (IEMOCAP)",
    ("second", "second"): "+ 0.593 (MELD)",
    ("first", "second"): "+ 0.523 (IEMOCAP to MELD)",
    ("second", "first"): "+ 0.128 (MELD to IEMOCAP)",
}
GENERALISATION = (
    *(Claim(f"GRPO is better than its start: {name}", REAL, "generalisation", "heard", name, name, "higher", TRAINED)
      for name in CONDITIONS[:-1]),
    Claim("... Piper, in which no style can be heard", "not shown", "generalisation", "heard", "Piper", "Piper", "any",
          TRAINED),
    *(Claim(f"GRPO's score, {name}", "not shown", "generalisation", "heard", name, CONDITIONS[0], "any")
      for name in CONDITIONS[1:]),
    *(Claim(f"RL on the {a} half of the topics gains on the {b}", f"Table 8: {told}", "domains", "domain", a, a,
            "higher", TRAINED, b) for (a, b), told in TABLE_8.items()),
)  # fmt: skip
HACKING = tuple(
    Claim(f"Whole judge in the loop against {name}", "not shown", "hacking", "judge", "whole", name, "any")
    for name in ("no gibberish rule", "no WER limit", "neither")
)
TOPICS = {query.id: (query.factor, query.topic) for query in text_queries("train")}


def signed(found: Difference) -> str:
    ends = "" if not np.isfinite(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{ends}"


def verdict(claim: Claim, found: Difference, trained: bool) -> str:
    """One seed says nothing of the others, so it settles nothing; policies that are not trained have no seeds."""
    if found.seeds < 2 and trained:
        return f"open: one seed, in which the first is {found.verdict}"
    of = f"{found.seeds} seeds" if trained else "these policies alone"
    if found.verdict in ("undecided", "no interval") or claim.expected == "any":
        return f"{found.verdict}, {of}"
    return f"{'agrees' if found.verdict == claim.expected else 'disagrees'}, {of}"


def rows_of(sweep: str) -> list[tuple[dict[str, Any], list[Row]]]:
    return points_of(read_rows(ROOT / f"results/sweep_{sweep}.jsonl"))


def lack_of(claim: Claim | ColumnClaim, values: Sequence[Any]) -> str:
    """Why there is no row of a point."""
    path = ROOT / f"results/sweep_{claim.sweep}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    failed = [row for row in map(json.loads, lines) if row["status"] != "ok" and row["point"].get(claim.key) in values]
    return f"open: failed ({failed[0]['reason'].replace('|', '/')})" if failed else "open: not run"


def claims(asked: Sequence[Claim | ColumnClaim]) -> str:
    lines = [
        "| claim | the paper | first - then | judge | audit | detectable | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [column_line(claim) if isinstance(claim, ColumnClaim) else line(claim) for claim in asked]
    return "\n".join(lines)


def line(claim: Claim) -> str:
    of = {point[claim.key]: rows for point, rows in rows_of(claim.sweep)}
    about = f"| {claim.text} | {claim.figure} | {claim.key} {shown(claim)} "
    if lacking := [value for value in (claim.first, claim.then) if value not in of]:
        return f"{about}| - | - | - | {lack_of(claim, lacking)} |"
    first, then = (within(of[value], claim.domain) for value in (claim.first, claim.then))
    judge, audit = (difference(first, then, claim.systems, m) for m in ("pairs", "audit_pairs"))
    told = verdict(claim, judge, first[0]["steps"] > 0)
    return f"{about}| {signed(judge)} | {signed(audit)} | {judge.detectable:.2f} | {told} |"


def shown(claim: Claim) -> str:
    if claim.systems == ("grpo", "grpo"):
        return f"{claim.first} - {claim.then}"
    return f"{claim.first}: {' - '.join(claim.systems)}"


def within(rows: Sequence[Row], domain: str) -> Sequence[Row]:
    """With the pairs of one domain of topics alone."""
    return part_of(rows, lambda pair: domain_of(*TOPICS[pair.split("/", 1)[1]]) == domain) if domain else rows


def column_line(claim: ColumnClaim) -> str:
    of = {point[claim.key]: rows for point, rows in rows_of(claim.sweep)}
    about = f"| {claim.text} | {claim.figure} | {claim.column} at {claim.key} {claim.first} "
    if claim.first not in of:
        return f"{about}| - | - | - | {lack_of(claim, [claim.first])} |"
    found = column(of[claim.first], claim.column)
    if not np.isfinite(found.low):
        return f"{about}| {found.value:.2f} | - | - | open: one seed |"
    told = "agrees" if found.low >= claim.least else "disagrees" if found.high < claim.least else "undecided"
    return f"{about}| {found.value:.2f} [{found.low:.2f}, {found.high:.2f}] | - | - | {told}, {found.n} seeds |"


def curve(sweep: str) -> str:
    """A line a point."""
    lines = [
        "| point | seeds | score | audit | against the start | KL | equal groups | more |",
        "|" + "---|" * 8,
    ]
    start = next(rows for point, rows in rows_of("start") if point["policy"] == "sft_fifth")
    for point, rows in rows_of(sweep):
        told = {key: value for key, value in point.items() if not isinstance(value, dict | list)}
        values: list[str] = [", ".join(f"{key} {value}" for key, value in told.items()), str(len(rows))]
        values += [interval(rows, metric) for metric in ("pairs", "audit_pairs")]
        alike = rows[0]["queries_sha"] == start[0]["queries_sha"]
        values.append(signed(difference(rows, start, TRAINED)) if alike else "-")
        values.append(mean(rows, lambda row: row.get("last_quarter", {}).get("kl")))
        values.append(mean(rows, lambda row: row.get("zero_variance_share")))
        values.append(more(rows))
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def more(rows: Sequence[Row]) -> str:
    """What a sweep's rows hold besides: changes of skills, columns of its own, Whisper's word error rate."""
    told = [
        f"{skill} {mean(rows, lambda row, skill=skill: row['skills'][skill]['grpo']['change'], '+.2f')}"
        for skill in rows[0].get("skills", {})
    ]
    told += [f"{name} {column(rows, name).value:.2f}" for name in rows[0].get("columns", {})]
    if any("outside" in row for row in rows):
        wer = mean(rows, lambda row: row.get("outside", {}).get("systems", {}).get("grpo", {}).get("wer_outside"))
        told.append(f"Whisper's WER {wer}")
    return ", ".join(told) or "-"


def interval(rows: Sequence[Row], metric: Metric) -> str:
    found = score(rows, "grpo", metric)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def mean(rows: Sequence[Row], value: Callable[[Row], float | None], form: str = ".3f") -> str:
    known = [found for row in rows if (found := value(row)) is not None]
    return format(float(np.mean(known)), form) if known else "-"


GROUPS = (
    (
        "Beta, G and B (Fig. 3), and what the paper leaves open",
        ABLATIONS,
        ("beta", "G_steps", "G_rollouts", "B_steps", "B_rollouts"),
    ),
    ("The short recipe: 40 steps of 4 queries", SHORT, ("beta_short", "G_steps_short")),
    ("A budget of labels, split (Fig. 2b)", BUDGET, ("budget",)),
    ("Other speech, other topics (section 5.5, Table 8)", GENERALISATION, ("generalisation", "domains")),
    ("A judge that lacks a rule", HACKING, ("hacking",)),
)


def tables() -> str:
    parts = []
    for title, asked, sweeps in GROUPS:
        parts += [f"### {title}", claims(asked)]
        parts += [
            f"The points of `results/sweep_{sweep}.jsonl`:\n\n{curve(sweep)}" for sweep in sweeps if rows_of(sweep)
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}\n{tables()}\n{END}{after}"
    if made == PAGE.read_text(encoding="utf-8"):
        print(f"{PAGE.relative_to(ROOT)} is current")
    elif "--check" in sys.argv:
        print(f"{PAGE.relative_to(ROOT)} is old: run python docs/findings.py")
        sys.exit(1)
    else:
        PAGE.write_text(made, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
