"""`report`: an evaluation as one HTML file that one can listen to: table, plots, and every answer with players,
transcript, tone and verdict.

The file makes no request: audio lies in it, compressed, as base64; it opens from disk, works by keyboard, and fits a
phone. All items are listed; a part of them, evenly spread, has players (12,000 clips would be 180 MB). Players are made
when their page is shown.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from lightning_paras2s.bench import outside_table
from lightning_paras2s.bench.listening import ENCODINGS, Listening
from lightning_paras2s.bench.plots import interval_plot, score_bars
from lightning_paras2s.bench.standings import caption, headings, read_summaries, row_cells, table
from lightning_paras2s.bench.template import filled, template
from lightning_paras2s.errors import InputPath, UserError, check_choice, check_least
from lightning_paras2s.running.fields import finite
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.types import Query

DATA, TABLE, PLOTS, TITLE, ABOUT = ("__DATA__", "__TABLE__", "__PLOTS__", "__TITLE__", "__ABOUT__")


def report(
    run: InputPath,
    output: str = "report.html",
    max_pairs: int = 20,
    encoding: Literal["mp3", "opus", "flac"] = "mp3",
    title: str = "ParaS2SBench",
    manifest: InputPath | None = None,
) -> dict[str, Any]:
    """Write one self-contained HTML file of an evaluation.

    Args:
        run: folder of `evaluate`.
        output: the file to write.
        max_pairs: contrast pairs of each factor with audio, evenly spread; the others are listed without. A clip of 2.3
            s takes 15 kB as mp3, 7 kB as opus (five times slower to write), 53 kB as flac.
        encoding: mp3, opus or flac.
        title: of the page.
        manifest: of the queries, if it is no longer where the run read it.
    """
    check_choice("an encoding", encoding, ENCODINGS)
    check_least("max_pairs", max_pairs, 0, "0 makes a page without players")
    if not Path(run).is_dir():
        raise UserError(f"a run must be a folder of `evaluate`; got {run}; check the path")
    summaries = read_summaries([run])
    summary = summaries[run]
    page = Listening(Path(run), summary, Path(manifest or summary["manifest"]), encoding)
    pairs, heard = page.pairs(max_pairs)
    result = table(summaries)
    systems = {row["system"]: row for row in result["rows"]}
    counts = page.score_counts(list(systems))
    fill = {
        TITLE: escape(title),
        ABOUT: escape(caption(result)),
        TABLE: html_table(result) + outside_table.html_table(Path(run)),
        PLOTS: figure("Mean score and 95 % interval", interval_plot(systems, result["columns"]))
        + figure("How often each score was given (-: unscored)", score_bars(counts)),
    }
    start, end = (filled(part, fill) for part in template("report.html", 1180).split(DATA))
    written = _write(Path(output), start, end, page, list(systems), pairs, heard)
    return {"path": output, "pairs": len(pairs), "pairs_with_audio": len(heard), "clips": page.clips, "bytes": written}


def html_table(result: dict[str, Any], beside: dict[str, dict[str, str]] | None = None) -> str:
    """The systems' table; `beside`: further columns, heading -> system -> what its cell says."""
    more = beside or {}
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in [*headings(result), *more])
    rows = []
    for row in result["rows"]:
        name, *cells = row_cells(row, result["columns"])
        cells += [column.get(name, "-") for column in more.values()]
        columns = "".join(f"<td>{_interval(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{columns}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _interval(cell: str) -> str:
    value, _, rest = cell.partition(" ")
    return escape(value) + (f" <small>{escape(rest)}</small>" if rest else "")


def _write(
    output: Path, start: str, end: str, page: Listening, systems: list[str], pairs: list[list[Query]], heard: set[str]
) -> int:
    """Pair by pair, so that the audio of one pair at a time is in memory; the file appears whole or not at all."""
    with written_whole(output) as part, part.open("w", encoding="utf-8") as file:
        file.write(start + '{"systems": ' + in_script(systems) + ', "pairs": [')
        for index, halves in enumerate(track(pairs, "report", console=Console(stderr=True), transient=True)):
            row = page.pair(halves, systems, halves[0].pair in heard)
            file.write((",\n" if index else "\n") + in_script(row))
        file.write("]}" + end)
    return output.stat().st_size


def in_script(value: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
