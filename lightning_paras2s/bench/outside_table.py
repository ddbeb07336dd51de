"""The table of ears from outside: beside the leaderboard, in the report, on the terminal, with what was not heard."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from lightning_paras2s.bench.outside_today import today
from lightning_paras2s.running.logs import read_summary
from lightning_paras2s.shown.screen import with_ends

FILE = "outside.json"
NOT_ASKED = "Ears from outside have not heard these answers: `python -m lightning_paras2s audit --run {run}`."
COLUMNS = {
    "wer_ours": ("WER ours", 3),
    "wer_outside": ("WER outside", 3),
    "dnsmos": ("DNSMOS", 2),
    "perplexity_written": ("perplexity written", 0),
    "perplexity_heard": ("perplexity heard", 0),
    "score_ours": ("score ours", 2),
    "score_outside": ("score outside", 2),
}

BESIDE = ["wer_outside", "dnsmos", "perplexity_heard"]  # what the leaderboard's csv and json hold of it, too


def read_outside(run: Path) -> dict[str, Any] | None:
    """What `audit` left in a run's folder, as far as the answers are still those that were heard (`outside_today`)."""
    path = (run if run.is_dir() else run.parent) / FILE
    return today(path.parent, read_summary(path, ("systems",), "run `audit` again")) if path.is_file() else None


def beside(cells: dict[str, Any], column: str, result: dict[str, Any] | None, system: str) -> dict[str, Any]:
    """A system's cells with `BESIDE` in one column of theirs; None where nobody listened."""
    heard = (result or {}).get("systems", {}).get(system, {})
    return {**cells, column: {**cells[column], **{name: heard.get(name) for name in BESIDE}}}


def mixed_cpus(outside: dict[str, dict[str, Any] | None]) -> str:
    """A line about runs whose words were heard on several kinds of CPU, "" if they were not."""
    kinds = {run: list(result.get("heard_on", ())) for run, result in outside.items() if result}
    if len({kind for found in kinds.values() for kind in found}) < 2:
        return ""
    listed = "; ".join(f"{run} {' and '.join(found)}" for run, found in kinds.items())
    return f"note: ears from outside heard on several kinds of CPU, which an 8-bit ear's words depend on: {listed}"


def headings() -> list[str]:
    return ["system", *(title for title, _ in COLUMNS.values()), "n"]


def cells(name: str, row: dict[str, Any]) -> list[str]:
    found = (with_ends(row.get(column), row.get(f"{column}_ci95"), digits) for column, (_, digits) in COLUMNS.items())
    return [name, *found, str(row["n"])]


def about(result: dict[str, Any]) -> str:
    """What the table holds, and what it lacks, in words."""
    pairs = ", ".join(f"{f} {n}" for f, n in result["pairs_a_factor"].items())
    control = (
        f" Controls say the texts of {result['control_texts']}: the agent's voice before the codec, and a Piper voice."
        if result["control_texts"]
        else ""
    )
    ears = ", ".join(result["providers"].values()) or "none"
    kinds = list(result.get("heard_on", ()))  # several are in the notes
    heard = f" Words were heard on {kinds[0]}." if len(kinds) == 1 else ""
    notes = "".join(f" {note}." for note in result["notes"])
    return (
        f"Ears from outside ({ears}), which nothing here was trained on or against; contrast pairs: {pairs} "
        f"(seed {result['seed']}); 95 % intervals clustered by pair; perplexities are geometric means."
        f"{heard}{control}{notes}"
    )


def terminal_table(result: dict[str, Any]) -> Table:
    made = Table(title="Ears from outside", caption=about(result), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings()):
        made.add_column(heading.replace(" ", "\n"), justify="right" if index else "left", overflow="fold")
    for name, row in result["systems"].items():
        made.add_row(*(Text(c.partition(" [")[0] if i else c) for i, c in enumerate(cells(name, row))))
    return made


def markdown_table(result: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(headings()) + " |", "|" + "|".join(["---", *["---:"] * (len(headings()) - 1)]) + "|"]
    lines += ["| " + " | ".join(cells(name, row)) + " |" for name, row in result["systems"].items()]
    return "\n".join([*lines, "", about(result)]) + "\n"


def markdown_tables(outside: dict[str, dict[str, Any] | None]) -> str:
    """Below the leaderboard: a table, or a line, for each run."""
    return "".join(
        "\n" + (NOT_ASKED.format(run=run) + "\n" if result is None else markdown_table(result))
        for run, result in outside.items()
    )


def html_table(run: Path) -> str:
    """For the report; a line where `audit` has not been asked."""
    result = read_outside(run)
    if result is None:
        return f"<p>{escape(NOT_ASKED.format(run=run))}</p>"
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in headings())
    rows = []
    for name, row in result["systems"].items():
        first, *rest = cells(name, row)
        columns = "".join(f"<td>{escape(value)}</td>" for value in rest)
        rows.append(f"<tr><th scope=row>{escape(first)}</th>{columns}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"{table}<p>{escape(about(result))}</p>"
