"""`leaderboard`: summaries of evaluations as one table, every number with its 95 % interval, n and failures; or as a
page with players."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_paras2s.bench import outside_table
from lightning_paras2s.bench.leaderboard_page import write_page
from lightning_paras2s.bench.standings import FORMATS, read_summaries, render, rich_table, table
from lightning_paras2s.errors import InputPath, check_choice
from lightning_paras2s.running.logs import replace_file, say
from lightning_paras2s.running.precision import mixed


def leaderboard(
    runs: list[InputPath],
    format: Literal["rich", "markdown", "csv", "json"] = "rich",
    output: str | None = None,
    html: str | None = None,
    html_pairs: int = 2,
    manifest: InputPath | None = None,
) -> dict[str, Any]:
    """Print the systems of one or more evaluations, best first; with `html`, write them as a page, too.

    Args:
        runs: folders of `evaluate`, or their summary.json files.
        format: rich, markdown, csv or json.
        output: a file to write the table to, instead of printing it.
        html: a file to write as one page that opens from disk: the table with its intervals, what an answer costs and
            how long it takes, contrast pairs to listen to, and how to add a row.
        html_pairs: contrast pairs of each factor on that page, evenly spread; a pair takes some 30 kB a system.
        manifest: of the queries, for that page, if it is no longer where the runs read it.
    """
    check_choice("a format", format, FORMATS)
    summaries = read_summaries(runs)
    if note := mixed(summaries):
        say(note)
    result = table(summaries)
    if note := outside_table.mixed_cpus(result["outside"]):
        say(note)
    if html is not None:
        result["html"] = write_page(Path(html), summaries, result, html_pairs, manifest)
    if output is not None:
        replace_file(Path(output), render(result, format))
    elif format == "rich":
        Console().print(rich_table(result))
        for run, heard in result["outside"].items():
            Console().print(
                outside_table.NOT_ASKED.format(run=run) if heard is None else outside_table.terminal_table(heard)
            )
    else:
        print(render(result, format), end="")
    return result
