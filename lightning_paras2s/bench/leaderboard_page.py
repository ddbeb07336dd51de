"""The leaderboard as one HTML file that opens from disk: the table, what answers cost and how long they take, contrast
pairs to listen to, and how to add a row.

It holds no script and asks for nothing: players are the browser's own, their audio lies in the file, and all that comes
from records is escaped.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lightning_paras2s.bench import outside_table
from lightning_paras2s.bench.listening import Listening, turns_html
from lightning_paras2s.bench.plots import interval_plot
from lightning_paras2s.bench.report import figure, html_table
from lightning_paras2s.bench.standings import caption, shown_name
from lightning_paras2s.bench.template import filled, template
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.types import Query, Response

ENCODING = "mp3"  # every browser plays it
Runs = dict[str, Listening]  # run -> what can be heard of it


def write_page(
    output: Path, summaries: dict[str, dict[str, Any]], result: dict[str, Any], pairs: int, manifest: str | None
) -> dict[str, Any]:
    """Write the page of a table's runs; -> its place, size, contrast pairs and clips.

    Args:
        pairs: of each factor, with players.
        manifest: of the queries; None: where each run read it.
    """
    if pairs < 0:
        raise UserError(f"html_pairs must be at least 0; got {pairs}")
    runs = recorded(summaries, manifest)
    names = {(run, name): shown_name(summaries, run, name) for run, s in summaries.items() for name in s["systems"]}
    chosen = chosen_pairs(runs, pairs)
    systems = {row["system"]: row for row in result["rows"]}
    fill = {
        "__ABOUT__": escape(caption(result)),
        "__TABLE__": html_table(result, service(runs, names)),
        "__OUTSIDE__": "".join(outside_table.html_table(folder_of(run)) for run in summaries),
        "__PLOT__": figure("Mean score and 95 % interval", interval_plot(systems, result["columns"], 560)),
        "__PAIRS__": "".join(pair_html(runs, names, halves) for halves in chosen) or empty(runs, pairs),
        "__UNHEARD__": unheard(summaries, runs),
        "__ROW__": how_to_add(summaries, result),
    }
    page = filled(template("leaderboard.html", 1180), fill)
    replace_file(output, page)
    clips = sum(run.clips for run in runs.values())
    return {"path": str(output), "pairs": len(chosen), "clips": clips, "bytes": len(page.encode())}


def folder_of(run: str) -> Path:
    return Path(run) if Path(run).is_dir() else Path(run).parent


def recorded(summaries: dict[str, dict[str, Any]], manifest: str | None) -> Runs:
    """The runs whose answers are on this disk."""
    found = {}
    for run, summary in summaries.items():
        if any(folder_of(run).glob("responses*.jsonl")):
            place = Path(manifest or summary.get("manifest", ""))
            if not place.is_file():
                raise UserError(f"the page of {run} needs its queries; got none at {place}; name them by --manifest")
            found[run] = Listening(folder_of(run), summary, place, ENCODING)
    return found


def chosen_pairs(runs: Runs, count: int) -> list[list[Query]]:
    """Contrast pairs to listen to, by factor, evenly spread over those of the first run."""
    if not runs:
        return []
    pairs, heard = next(iter(runs.values())).pairs(count)
    return [halves for halves in pairs if halves[0].pair in heard]


def service(runs: Runs, names: dict[tuple[str, str], str]) -> dict[str, dict[str, str]]:
    """What an answer costs and how long it takes: heading -> system -> cell."""
    columns: dict[str, dict[str, str]] = {"first sound, s": {}, "answer, s": {}, "USD an answer": {}}
    for (run, system), name in names.items():
        rows = [r for r in runs[run].answers if r.system == system] if run in runs else []
        columns["first sound, s"][name] = seconds_cell(rows, "first_audio_seconds")
        columns["answer, s"][name] = seconds_cell(rows, "total_seconds")
        columns["USD an answer"][name] = cost_cell(rows)
    return columns


def seconds_cell(rows: Iterable[Response], kind: str) -> str:
    """ "1.20 (95 %: 3.50)", the median and what 95 of 100 stay below; "-" where nothing is known."""
    known = [r.latency[kind] for r in rows if r.status == "ok" and r.latency and r.latency.get(kind) is not None]
    if not known:
        return "-"
    middle, most = np.quantile(known, (0.5, 0.95))
    return f"{middle:.2f} (95 %: {most:.2f})"


def cost_cell(rows: Iterable[Response]) -> str:
    """ "0.0125 (1.25 in all)", failed answers included; "-" where nothing is known."""
    known = [r.cost_usd for r in rows if r.cost_usd is not None]
    return f"{np.mean(known):.4f} ({sum(known):.2f} in all)" if known else "-"


def pair_html(runs: Runs, names: dict[tuple[str, str], str], halves: list[Query]) -> str:
    first = halves[0]
    head = (
        f"<h3>{escape(first.text)}</h3><p class=soft>{escape(f'{first.factor} · {first.topic} · {first.pair_id}')}</p>"
    )
    columns = "".join(half_html(runs, names, query) for query in halves)
    return f'<article class=pair>{head}<div class=halves style="--rows: {1 + len(names)}">{columns}</div></article>'


def half_html(runs: Runs, names: dict[tuple[str, str], str], query: Query) -> str:
    asked = next(iter(runs.values()))
    style = query.label
    clip = asked.clip(asked.manifest.parent, query.audio, True)
    root = asked.manifest.parent
    before = turns_html(query.turns, lambda place: player(asked.clip(root, place, True), "earlier turn"))
    cards = [f"{before}<b>said {escape(style)}</b>{player(clip, f'query, {style}')}"]
    for (run, system), name in names.items():
        response = runs[run].responses.get((query.id, system)) if run in runs else None
        said = "<p class=soft>no answer on record</p>" if response is None else answer_html(runs[run], response, style)
        cards.append(f"<b>{escape(name)}</b> <span class=soft>to {escape(style)}</span>{said}")
    # On a phone both halves share one column, where `order` counts.
    column = "".join(f'<div class=card style="order: {place}">{card}</div>' for place, card in enumerate(cards))
    return f'<section class=half aria-label="{escape(style)}">{column}</section>'


def answer_html(run: Listening, response: Response, style: str) -> str:
    found = run.answer(response, True)
    score = "unscored" if found["score"] is None else f"score {found['score']:g}"
    score += f", mean of {found['verdicts']} verdicts" if found["verdicts"] > 1 else ""
    notes = [score, found["tone"], "" if found["status"] == "ok" else f"status: {found['status']}"]
    tags = "".join(f"<span class=tag>{escape(note)}</span>" for note in notes if note)
    words = f"“{found['transcript']}”" if found["transcript"] else "no words were heard"
    reason = f"<p class=soft>{escape(found['reason'])}</p>" if found["reason"] else ""
    sound = player(found, f"{response.system} answers {style}")
    return f"{sound}<p>{escape(words)}</p><div class=tags>{tags}</div>{reason}"


def player(clip: dict[str, Any], label: str) -> str:
    """A player, or where the recording would be."""
    if "audio" not in clip:
        where = f"not readable: {clip['file']}" if clip["file"] else "no audio"
        return f"<p class=soft>{escape(where)}</p>"
    about = escape(label)
    return f'<audio controls preload=metadata aria-label="{about}" src="{clip["audio"]}"></audio>'


def empty(runs: Runs, pairs: int) -> str:
    why = "None was asked for." if runs and not pairs else "The runs' recordings are not here."
    return f"<p class=soft>{why}</p>"


def unheard(summaries: dict[str, dict[str, Any]], runs: Runs) -> str:
    """Which systems have neither players nor latencies, and why."""
    lines = [
        f"{run} holds a summary alone, so {', '.join(summary['systems'])} can't be heard here."
        for run, summary in summaries.items()
        if run not in runs
    ]
    return "".join(f"<p class=soft>{escape(line)}</p>" for line in lines)


def how_to_add(summaries: dict[str, dict[str, Any]], result: dict[str, Any]) -> str:
    first = next(iter(summaries.values()))
    manifest = shlex.quote(str(first.get("manifest", "queries.jsonl")))
    mine = "'{mine: {class_path: CommandSystem, init_args: {command: \"python mine.py\"}}}'"
    runs = shlex.quote(f"[{', '.join([*summaries, 'runs/mine'])}]")
    labels = "" if result["label_source"] == "gold" else f"--label_source {result['label_source']} "
    steps = [
        (
            "What can be a system, and what it asks for:",
            "python -m lightning_paras2s evaluate --systems.help CommandSystem",
        ),
        (
            "Answer and judge the same queries:",
            "python -m lightning_paras2s evaluate --config evaluate.yaml "
            f"--manifest {manifest} {labels}--output runs/mine --systems {mine}",
        ),
        ("Write this page anew:", f"python -m lightning_paras2s leaderboard --runs {runs} --html leaderboard.html"),
    ]
    listed = "".join(f"<li>{escape(what)}<pre><code>{escape(line)}</code></pre></li>" for what, line in steps)
    held = [f"judge {result['judge']}", f"guideline {result['rubric_sha'][:8]}", f"{result['label_source']} labels"]
    held += [f"queries {str(first['queries_sha'])[:8]}"] if first.get("queries_sha") else []
    same = escape(", ".join(held))
    return (
        f"<ol>{listed}</ol><p>A row belongs here only with the same {same} and the same ears; others are refused.</p>"
    )
