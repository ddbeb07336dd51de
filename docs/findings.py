"""Writes the tables of docs/findings.md from results/sweep_*.jsonl: python docs/findings.py (--check: only compare)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_paras2s.sweeping.points import Difference, Metric, Row, difference, points_of, read_rows, score

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
    """

    text: str
    figure: str
    sweep: str
    key: str
    first: Any
    then: Any
    expected: str


CLAIMS = (
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


def signed(found: Difference) -> str:
    ends = "" if not np.isfinite(found.low) else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.value:+.2f}{ends}"


def verdict(claim: Claim, found: Difference) -> str:
    """One seed says nothing of the others, so it settles nothing."""
    if found.seeds < 2:
        return f"open: one seed, in which the first is {found.verdict}"
    if found.verdict == "undecided" or claim.expected == "any":
        return f"{found.verdict}, {found.seeds} seeds"
    return f"{'agrees' if found.verdict == claim.expected else 'disagrees'}, {found.seeds} seeds"


def rows_of(sweep: str) -> list[tuple[dict[str, Any], list[Row]]]:
    return points_of(read_rows(ROOT / f"results/sweep_{sweep}.jsonl"))


def claims() -> list[str]:
    lines = [
        "| claim | the paper | first - then | judge | audit | detectable | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        of = {point[claim.key]: rows for point, rows in rows_of(claim.sweep)}
        about = f"| {claim.text} | {claim.figure} | {claim.key} {claim.first} - {claim.then} "
        if claim.first not in of or claim.then not in of:
            lines.append(f"{about}| - | - | - | open: not run |")
            continue
        judge, audit = (
            difference(of[claim.first], of[claim.then], ("grpo", "grpo"), m) for m in ("pairs", "audit_pairs")
        )
        lines.append(f"{about}| {signed(judge)} | {signed(audit)} | {judge.detectable:.2f} | {verdict(claim, judge)} |")
    return lines


def curve(sweep: str) -> list[str]:
    """A line a point."""
    lines = [
        "| point | seeds | score | audit | against the start | KL | equal groups | skills: change |",
        "|" + "---|" * 8,
    ]
    start = next(rows for point, rows in rows_of("start") if point["policy"] == "sft_fifth")
    for point, rows in rows_of(sweep):
        values: list[str] = [", ".join(f"{key} {value}" for key, value in point.items()), str(len(rows))]
        values += [interval(rows, metric) for metric in ("pairs", "audit_pairs")]
        values.append(signed(difference(rows, start, ("grpo", "sft_fifth"))))
        values.append(mean(rows, lambda row: row["last_quarter"]["kl"]))
        values.append(mean(rows, lambda row: row["zero_variance_share"]))
        values.append(", ".join(
            f"{skill} {mean(rows, lambda row, skill=skill: row['skills'][skill]['grpo']['change'], '+.2f')}"
            for skill in rows[0].get("skills", {})) or "-")  # fmt: skip
        lines.append(f"| {' | '.join(values)} |")
    return lines


def interval(rows: Sequence[Row], metric: Metric) -> str:
    found = score(rows, "grpo", metric)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def mean(rows: Sequence[Row], value: Callable[[Row], float | None], form: str = ".3f") -> str:
    known = [found for row in rows if (found := value(row)) is not None]
    return format(float(np.mean(known)), form) if known else "-"


def tables() -> str:
    parts = ["\n".join(claims())]
    for sweep in ("beta", "G_steps"):
        if rows_of(sweep):
            parts.append(f"The points of `sweeps/{sweep}.yaml`:\n\n" + "\n".join(curve(sweep)))
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
