"""The table of a leaderboard: systems of one or more evaluations, best first, and how they are written down."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_paras2s.bench import outside_table
from lightning_paras2s.bench.alike import SAME, require_alike, require_folders, unrecorded
from lightning_paras2s.bench.statistics import MIN_CLUSTERS, MIN_EACH
from lightning_paras2s.bench.summary import OVERALL
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import json_text, read_summary
from lightning_paras2s.shown.screen import with_ends
from lightning_paras2s.types import FACTORS

FORMATS = ("rich", "markdown", "csv", "json")
AUDIT = "audit"  # overall once more, as heard by ears that nothing was trained on
LACKS = "An average that lacks a factor, for no answer has a score there, stands below the whole ones."


def read_summaries(runs: list[str]) -> dict[str, dict[str, Any]]:
    """Run name -> summary; all by one judge, guideline and label source, on the same queries, with the same ears, which
    are of the same weights and thresholds as far as that is recorded (`bench/alike.py`)."""
    found: dict[str, dict[str, Any]] = {}
    files = [Path(run) / "summary.json" if Path(run).is_dir() else Path(run) for run in runs]
    require_folders([str(path) for path in files])
    for run, path in zip(runs, files, strict=True):
        if not path.is_file():
            raise UserError(
                f"a run must be a folder with summary.json, or such a file; got {run}; write it with `evaluate`"
            )
        found[run] = read_summary(path, ("systems", *SAME))
    if not found:
        raise UserError("a leaderboard must have at least one run; got none; give --runs")
    first_run, first = next(iter(found.items()))
    for run, summary in found.items():
        differing = [key for key in SAME if summary[key] != first[key]]
        if differing:
            raise UserError(
                f"all runs must have one judge; {run} differs from {first_run} in {', '.join(differing)}; "
                "score them again"
            )
    require_alike(found)
    return found


def table(summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows of systems, best first; a system's name is followed by its run where two runs hold the same.

    An average that lacks a factor, because no answer has a score there, is of an easier or a harder benchmark: it is
    marked (`lacks`), and stands below all that are whole, however high it is.
    """
    rows, unscored = [], {}
    outside = {run: outside_table.read_outside(Path(run)) for run in summaries}
    for run, summary in summaries.items():
        for name, cells in summary["systems"].items():
            cells = outside_table.beside(cells, OVERALL, outside[run], name)
            shown = shown_name(summaries, run, name)
            audited = summary.get("audit", {}).get("systems", {}).get(name)
            rows.append({"system": shown, **cells})
            if audited:
                scored = [factor for factor in audited if factor != OVERALL]
                rows[-1][AUDIT] = {**audited[OVERALL], "lacks": lacking(audited, scored)}
            statuses = summary.get("verdict_statuses", {}).get(name, {})
            if why := {status: count for status, count in statuses.items() if status != "ok"}:
                unscored[shown] = why
    present = {factor for row in rows for factor in row}
    known = [factor for factor in FACTORS if factor in present]
    more = sorted(present - {"system", OVERALL, AUDIT} - set(known)) + [AUDIT] * (AUDIT in present)
    asked = [factor for factor in [*known, *more] if factor != AUDIT]
    for row in rows:
        row[OVERALL] = {**row[OVERALL], "lacks": lacking(row, asked)}
    rows.sort(key=lambda row: (bool(row[OVERALL]["lacks"]), -(row[OVERALL]["mean"] or 0)))
    first = next(iter(summaries.values()))
    filtered = {s["manifest"]: s["filtered"] for s in summaries.values() if "filtered" in s}
    found = {"columns": [OVERALL, *known, *more], "rows": rows, "unscored": unscored, "filtered": filtered}
    lacks = [LACKS] * any(row[OVERALL]["lacks"] and row[OVERALL]["mean"] is not None for row in rows)
    found |= {"outside": outside, "notes": [*lacks, *unrecorded(summaries)]}
    return {**found, **{k: first[k] for k in SAME}}


def lacking(row: dict[str, Any], asked: list[str]) -> list[str]:
    """The factors, of those that were asked about, in which a system has no score; its average is of the others."""
    return [factor for factor in asked if row.get(factor, {}).get("mean") is None]


def shown_name(summaries: dict[str, dict[str, Any]], run: str, system: str) -> str:
    """A system's name in the table, followed by its run where two runs hold the same."""
    held = sum(system in summary["systems"] for summary in summaries.values())
    return f"{system} ({run})" if held > 1 else system


def render(result: dict[str, Any], format: str) -> str:
    """The table as text in one of FORMATS."""
    if format == "json":
        return json_text(result)
    if format == "csv":
        return csv_table(result)
    if format == "markdown":
        return markdown_table(result)
    console = Console(file=io.StringIO(), width=160)
    console.print(rich_table(result))
    return console.file.getvalue()


def headings(result: dict[str, Any]) -> list[str]:
    return ["system", *result["columns"], "n", "failed", "pairs >= 4", "label-swap gain"]


def row_cells(row: dict[str, Any], columns: list[str]) -> list[str]:
    whole = row[OVERALL]
    cells = [mean_cell(row[c]) if c in row else "-" for c in columns]
    pairs = (with_ends(whole.get(m), whole.get(f"{m}_ci95"), 2) for m in ("pair_accuracy", "label_swap_gain"))
    return [row["system"], *cells, str(whole["n"]), str(whole["n_failed"]), *pairs]


def mean_cell(cell: dict[str, Any]) -> str:
    """ "3.50 [3.21, 3.79]", and which factors a mean lacks, if it is one."""
    lacks = cell.get("lacks", []) if cell.get("mean") is not None else []
    return with_ends(cell.get("mean"), cell["ci95"], 2) + (f" (lacks {', '.join(lacks)})" if lacks else "")


def rich_table(result: dict[str, Any]) -> Table:
    made = Table(title="ParaS2SBench", caption=caption(result), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings(result)):
        made.add_column(
            heading.removeprefix("label-").replace(" ", "\n"), justify="right" if index else "left", overflow="fold"
        )
    for row in result["rows"]:
        name, *cells = row_cells(row, result["columns"])
        made.add_row(Text(name), *(Text(half_width(cell)) for cell in cells))
    return made


def half_width(cell: str) -> str:
    """ "3.21 [3.05, 3.37]" as "3.21 ±0.16", for a terminal; the other formats hold both ends. Where the value is not in
    the middle, by the longer side: 0 of 100 pairs, "0.00 [0.00, 0.04]", are no "0.00 ±0.02"."""
    value, _, ends = cell.partition(" [")
    between, _, mark = ends.partition("]")
    low, _, high = between.partition(", ")
    return f"{value} ±{max(float(high) - float(value), float(value) - float(low)):.2f}{mark}" if high else value


def markdown_table(result: dict[str, Any]) -> str:
    names = headings(result)
    lines = ["| " + " | ".join(names) + " |", "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|"]
    lines += [
        "| " + " | ".join(c.replace("|", "\\|") for c in row_cells(r, result["columns"])) + " |" for r in result["rows"]
    ]
    return "\n".join([*lines, "", caption(result)]) + "\n" + outside_table.markdown_tables(result["outside"])


def csv_table(result: dict[str, Any]) -> str:
    """One line a system and column, every number by itself."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    numbers = [
        "mean",
        "n",
        "n_failed",
        "mean_worst_case",
        "pair_accuracy",
        "pair_min",
        "pair_gap",
        "label_swap_gain",
        "wer",
    ]
    numbers += outside_table.BESIDE
    writer.writerow(["system", "column", *numbers, "ci95_low", "ci95_high"])
    for row in result["rows"]:
        for column in result["columns"]:
            if column in row:
                cell = row[column]
                writer.writerow([row["system"], column, *[cell.get(n) for n in numbers], *cell["ci95"]])
    return file.getvalue()


def caption(result: dict[str, Any]) -> str:
    whys = [
        f"{name} ({', '.join(f'{status} {count}' for status, count in why.items())})"
        for name, why in result["unscored"].items()
    ]
    return (
        f"Scores 1..5 with 95 % intervals over contrast pairs (none with fewer than {MIN_CLUSTERS}, or "
        f"{MIN_EACH} of a factor); "
        f"overall = mean of the factors. "
        f"{'Audit = overall, as heard by other ears. ' if AUDIT in result['columns'] else ''}"
        f"Judge {result['judge']}, guideline {result['rubric_sha'][:8]}, {result['label_source']} labels."
        f"{' Verdicts without a score: ' + ', '.join(whys) + '.' if whys else ''}"
        f"{''.join(' ' + filter_line(counts) for counts in result['filtered'].values())}"
        f"{''.join(' ' + note for note in result['notes'])}"
    )


def filter_line(counts: dict[str, Any]) -> str:
    """What the filter of a manifest let through, in words."""
    whys = ", ".join(f"{why.replace('_', ' ')} {count}" for why, count in counts["rejected"].items())
    factors = ", ".join(f"{f} {counts['kept_by_factor'].get(f, 0)} of {n}" for f, n in counts["read_by_factor"].items())
    return f"Queries kept by the filter: {counts['kept']} of {counts['read']} ({factors}); left out: {whys or 'none'}."
