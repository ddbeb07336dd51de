"""`report`: an evaluation as one HTML file that one can listen to: table, plots, and every answer with players,
transcript, tone and verdict.

The file makes no request: audio lies in it, compressed, as base64; it opens from disk, works by keyboard, and fits a
phone. All items are listed; a part of them, evenly spread, has players (12,000 clips would be 180 MB). Players are made
when their page is shown.
"""

from __future__ import annotations

import base64
import io
import json
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import soundfile
from rich.console import Console
from rich.progress import track

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench import outside_table
from lightning_paras2s.bench.leaderboard import caption, headings, read_summaries, row_cells, table
from lightning_paras2s.bench.plots import interval_plot, score_bars
from lightning_paras2s.bench.summary import UNLABELLED
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.fields import finite
from lightning_paras2s.running.logs import Log
from lightning_paras2s.types import FACTORS, Audio, Evidence, Query, Response, Verdict, read_jsonl

ENCODINGS = {
    "mp3": ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
    "flac": ("FLAC", "PCM_16", "audio/flac"),
}
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
    if encoding not in ENCODINGS:
        raise UserError(f"an encoding must be one of {', '.join(ENCODINGS)}; got {encoding!r}")
    if not Path(run).is_dir():
        raise UserError(f"a run must be a folder of `evaluate`; got {run}; check the path")
    summaries = read_summaries([run])
    summary = summaries[run]
    page = _Page(Path(run), summary, Path(manifest or summary["manifest"]), encoding)
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
    start, end = template(fill).split(DATA)
    written = _write(Path(output), start, end, page, list(systems), pairs, heard)
    return {"path": output, "pairs": len(pairs), "pairs_with_audio": len(heard), "clips": page.clips, "bytes": written}


class _Page:
    """What the page shows, read from a run's folder."""

    def __init__(self, run: Path, summary: dict[str, Any], manifest: Path, encoding: str) -> None:
        log = Log(run)
        self.run, self.manifest, self.encoding, self.clips = run, manifest, encoding, 0
        self.queries = {q.id: q for q in read_jsonl(manifest, Query)}
        responses = [r for r in log.read("responses", Response) if r.system in summary["systems"] and r.sample == 0]
        self.responses = {(r.query_id, r.system): r for r in responses if r.query_id in self.queries}
        self.evidence = {e.response_id: e for e in log.read("evidence", Evidence)}
        mine = (summary["judge"], summary["rubric_sha"], summary["label_source"])
        pick = lambda name: {  # noqa: E731
            v.response_id: v for v in log.read(name, Verdict) if (v.judge, v.rubric_sha, v.label_source) == mine
        }
        self.verdicts, self.swaps = pick("verdicts"), pick("swaps")

    def pairs(self, max_pairs: int) -> tuple[list[list[Query]], set[str]]:
        """Contrast pairs with answers, by factor; and the ids of those with audio, at most so many a factor, evenly
        spread."""
        answered = {query_id for query_id, _ in self.responses}
        found: dict[str, dict[str, list[Query]]] = {}
        for query in self.queries.values():
            if query.id in answered:
                found.setdefault(query.factor, {}).setdefault(query.pair_id, []).append(query)
        pairs, heard = [], set()
        for factor in sorted(found, key=lambda f: (FACTORS.index(f) if f in FACTORS else 99, f)):
            rows = list(found[factor].values())
            count = min(max_pairs, len(rows))
            heard |= {rows[i * len(rows) // count][0].pair_id for i in range(count)}
            pairs += rows
        return pairs, heard

    def score_counts(self, systems: list[str]) -> dict[str, dict[str, int]]:
        """System -> score -> how often, over all responses."""
        counts: dict[str, dict[str, int]] = {name: {} for name in systems}
        for (_, system), response in self.responses.items():
            verdict = self.verdicts.get(response.id)
            score = "-" if verdict is None or verdict.score is None else str(round(verdict.score))
            counts[system][score] = counts[system].get(score, 0) + 1
        return counts

    def pair(self, halves: list[Query], systems: list[str], heard: bool) -> dict[str, Any]:
        """One contrast pair for the page's script; its audio if it is to be `heard`, else where the files are."""
        first = halves[0]
        return {
            "id": first.pair_id,
            "factor": first.factor or UNLABELLED,
            "topic": first.topic,
            "text": first.text,
            "heard": heard,
            "halves": [self._half(query, systems, heard) for query in halves],
        }

    def _half(self, query: Query, systems: list[str], heard: bool) -> dict[str, Any]:
        rows = [self.responses[query.id, s] for s in systems if (query.id, s) in self.responses]
        clip = self._clip(self.manifest.parent, query.audio, heard)
        answers = [self._answer(row, heard) for row in rows]
        return {"id": query.id, "style": query.label, **clip, "answers": answers}

    def _answer(self, response: Response, heard: bool) -> dict[str, Any]:
        evidence, verdict = self.evidence.get(response.id), self.verdicts.get(response.id)
        swap = self.swaps.get(response.id)
        return {
            "system": response.system,
            "text": response.text or "",
            "transcript": evidence.transcript if evidence else "",
            "tone": (evidence.tone_raw or evidence.tone) if evidence else "",
            "score": verdict.score if verdict else None,
            "reason": verdict.reason if verdict else "",
            "status": verdict.status if verdict else response.status,
            "swap": swap.score if swap else None,
            **self._clip(self.run, response.audio, heard),
        }

    def _clip(self, folder: Path, name: str, heard: bool) -> dict[str, Any]:
        """`name` is the recording's place in its folder; "" where there is none."""
        if not heard or not name:
            return {"file": name}
        try:
            audio = read_audio(folder / name, SAMPLE_RATE)
        except UserError:  # a query that could not be heard, a file that is gone: its place is shown
            return {"file": name}
        self.clips += 1
        return {"file": name, "audio": encode(audio, self.encoding), "seconds": round(audio.seconds, 3)}


def encode(audio: Audio, encoding: str) -> str:
    """Audio as a data URI."""
    container, subtype, mime = ENCODINGS[encoding]
    buffer = io.BytesIO()
    level = {} if encoding == "flac" else {"compression_level": {"mp3": 0.7, "opus": 0.95}[encoding]}
    soundfile.write(buffer, audio.samples, audio.sample_rate, format=container, subtype=subtype, **level)
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def html_table(result: dict[str, Any]) -> str:
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in headings(result))
    rows = []
    for row in result["rows"]:
        name, *cells = row_cells(row, result["columns"])
        columns = "".join(f"<td>{_interval(cell)}</td>" for cell in cells)
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{columns}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _interval(cell: str) -> str:
    value, _, rest = cell.partition(" ")
    return escape(value) + (f" <small>{escape(rest)}</small>" if rest else "")


def template(fill: dict[str, str]) -> str:
    """The page with every mark but DATA filled in."""
    page = (files("lightning_paras2s") / "bench/report.html").read_text(encoding="utf-8")
    for mark, text in fill.items():
        page = page.replace(mark, text)
    return page


def _write(
    output: Path,
    start: str,
    end: str,
    page: _Page,
    systems: list[str],
    pairs: list[list[Query]],
    heard: set[str],
) -> int:
    """Pair by pair, so that the audio of one pair at a time is in memory; the file appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(start + '{"systems": ' + in_script(systems) + ', "pairs": [')
        for index, halves in enumerate(track(pairs, "report", console=Console(stderr=True), transient=True)):
            row = page.pair(halves, systems, halves[0].pair_id in heard)
            file.write((",\n" if index else "\n") + in_script(row))
        file.write("]}" + end)
    part.replace(output)
    return output.stat().st_size


def in_script(value: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
