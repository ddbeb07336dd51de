"""`audit`: ears from outside beside our own, on a part of an evaluation's answers, with two controls.

A judge, its ears and the policies were raised in one house: each was trained on speech of the same voices. What this
command adds to the tables comes from means that nothing here was trained on or against (`hearing/outside.py`): the word
error rate of another recogniser, DNSMOS, and the perplexity of what was heard. They are guards, never rewards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.outside_table import FILE
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.summary import rounded
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.controls import INSTALL as INSTALL_PIPER
from lightning_paras2s.hearing.controls import AgentBeforeCodec, Control, OtherSynthesizer, missing_piper
from lightning_paras2s.hearing.outside import Clip, Outside, listen, outside_ears
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.running.logs import Log, replace_file, say, write_summary
from lightning_paras2s.types import Evidence, Query, Response

LOGS = ("perplexity_heard", "perplexity_written")  # averaged as logarithms


def audit(
    run: InputPath,
    manifest: InputPath | None = None,
    pairs: int = 10,
    seed: int = 0,
    controls: str | None = None,
    transcriber: Transcriber | None = None,
    naturalness: bool = True,
    sense: bool = True,
    judge: Judge | None = None,
    rows: str | None = None,
) -> dict[str, Any]:
    """Hear a part of an evaluation's answers with ears from outside, beside our own; resumed if it was stopped.

    Args:
        run: folder of `evaluate`; outside.jsonl (a line an answer) and outside.json are written there, and from then on
            `leaderboard` and `report` show them.
        manifest: of the queries, if it is no longer where the run read it.
        pairs: contrast pairs a factor, of those that all systems answered; about 1 s of one core an answer.
        seed: of the choice; with more `pairs`, those chosen before stay chosen.
        controls: system whose own texts two control voices say: the agent before the codec, and a Piper voice; none
            by default.
        transcriber: the outside ear; by default Whisper tiny.en of the extra `ears`, if it is installed.
        naturalness: rate answers by DNSMOS.
        sense: measure the perplexity of what was heard and of what was written, by a language model.
        judge: scores the words of either ear with the tone of the run's own; without one, no scores.
        rows: write every answer's numbers to this file, too, one JSON line each (results/ears.jsonl).
    """
    if pairs < 1:
        raise UserError(f"pairs must be at least 1 contrast pair a factor; got {pairs}")
    if not (Path(run) / "summary.json").is_file():
        raise UserError(f"a run must be a folder of `evaluate` with summary.json; got {run}; finish it first")
    summary = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
    ears = outside_ears(transcriber, naturalness, sense)
    part = _Part(Path(run), read_queries(manifest or summary["manifest"], None), list(summary["systems"]), pairs, seed)
    items = {name: listen(part.clips(name), ears, Log(Path(run))) for name in part.systems}
    voices, notes = control_voices(controls, part.systems)
    for voice in voices:
        items[voice.name] = listen(part.control_clips(voice, controls), ears, Log(Path(run)))
    numbers = {name: part.rows(name, found, judge) for name, found in items.items()}
    result = {
        "systems": {name: measures(found) for name, found in numbers.items()},
        "differences": differences({name: numbers[name] for name in part.systems}),
        "notes": [*ears.notes, *notes],
        "providers": ears.providers,
        "judge": judge.name if judge else None,
        "control_texts": controls,
        "pairs_a_factor": part.counts,
        "seed": seed,
    }
    write_summary(Path(run) / FILE, result)
    if rows is not None:
        lines = [as_line(name, row) for name, found in numbers.items() for row in found]
        replace_file(Path(rows), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    for note in result["notes"]:
        say(note)
    return result


def control_voices(system: str | None, systems: list[str]) -> tuple[list[Control], list[str]]:
    """The control voices that are installed, and a line on each that is not."""
    if system is None:
        return [], []
    if system not in systems:
        raise UserError(f"controls must name one of the run's systems ({', '.join(systems)}); got {system!r}")
    if (lack := missing_piper()) is None:
        return [AgentBeforeCodec(), OtherSynthesizer()], []
    return [AgentBeforeCodec()], [f"{OtherSynthesizer.name}: not installed (no {lack}), {INSTALL_PIPER}"]


class _Part:
    """The chosen contrast pairs of a run, with what its own ears heard."""

    def __init__(self, run: Path, queries: list[Query], systems: list[str], pairs: int, seed: int) -> None:
        self.run, self.systems = run, systems
        rows = [r for r in Log(run).read("responses", Response) if r.sample == 0 and r.system in systems]
        self.responses = {r.id: r for r in rows}
        self.evidence = {e.response_id: e for e in Log(run).read("evidence", Evidence)}
        whole = [q for q in queries if all(f"{s}/{q.id}/0" in self.responses for s in systems)]
        if not whole:
            raise UserError(f"{run} must hold an answer of every system to some query; got none; finish `evaluate`")
        self.queries = chosen(whole, pairs, seed)
        factors = sorted({q.factor for q in self.queries})
        self.counts = {f: len({q.pair_id for q in self.queries if q.factor == f}) for f in factors}

    def clips(self, system: str) -> Iterator[Clip]:
        for query in self.queries:
            row = self.responses[f"{system}/{query.id}/0"]
            if row.audio:
                yield Clip(row.id, row.text or "", lambda row=row: read_audio(self.run / row.audio, SAMPLE_RATE))

    def control_clips(self, voice: Control, system: str) -> Iterator[Clip]:
        """The system's own texts, in the tone that our ears heard it say them in."""
        for query in self.queries:
            row = self.responses[f"{system}/{query.id}/0"]
            heard = self.evidence.get(row.id)
            if row.text:
                tone = heard.tone if heard else ""
                yield Clip(f"{voice.name}/{query.id}/0", row.text, lambda t=row.text, s=tone: voice.say(t, s))

    def rows(self, name: str, found: list[Outside], judge: Judge | None) -> list[dict[str, Any]]:
        """One dict of numbers an answer; a control has no answer that our ears heard."""
        by_query = {q.id: q for q in self.queries}
        rows = []
        for row in found:
            query = by_query[row.response_id.rsplit("/", 1)[0].removeprefix(f"{name}/")]
            ours = self.evidence.get(row.response_id)
            numbers = {"dnsmos": row.overall, "dnsmos_signal": row.signal, "dnsmos_background": row.background}
            numbers |= {name: getattr(row, name) for name in LOGS}
            numbers |= {"wer_outside": error_rate(row.text, row.heard)}
            numbers |= {"wer_ours": error_rate(row.text, ours.transcript) if ours else None}
            said = {"text": row.text, "heard_outside": row.heard}
            said |= {"heard_ours": ours.transcript, "tone": ours.tone} if ours else {}
            rows.append({"query": query, "said": said, **numbers, **scores(query, ours, row, judge)})
        return rows


def chosen(queries: list[Query], pairs: int, seed: int) -> list[Query]:
    """Whole contrast pairs, as many of each factor: those whose ids hash lowest with the seed; factors take turns, so
    that a part of the part is balanced, too."""
    found: dict[str, dict[str, list[Query]]] = {}
    for query in queries:
        found.setdefault(query.factor, {}).setdefault(query.pair_id, []).append(query)
    order = {f: sorted(p, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest()) for f, p in found.items()}
    turns = [(f, order[f][turn]) for turn in range(pairs) for f in sorted(order) if turn < len(order[f])]
    return [query for factor, pair in turns for query in found[factor][pair]]


def as_line(system: str, row: dict[str, Any]) -> dict[str, Any]:
    """What `results/` keeps of an answer: every number here can be computed from it again."""
    query = row["query"]
    about = {"system": system, "query_id": query.id, "pair_id": query.pair_id, "factor": query.factor}
    about |= {"style": query.label, "query": query.text}
    return about | row["said"] | {name: value for name, value in row.items() if name not in ("query", "said")}


def error_rate(text: str, heard: str | None) -> float | None:
    """From the words, not from the log's number: a better normaliser then needs no new hearing."""
    return word_error_rate(text, heard) if text and heard is not None else None


def scores(query: Query, ours: Evidence | None, outside: Outside, judge: Judge | None) -> dict[str, float | None]:
    """The judge's score of the words that either ear heard; the tone is that which our own ears heard."""
    if judge is None or ours is None:
        return {}
    found = {"score_ours": judge.judge(query, query.style, ours).score}
    if outside.heard is not None:
        heard = replace(ours, transcript=outside.heard, wer=error_rate(outside.text, outside.heard))
        found["score_outside"] = judge.judge(query, query.style, heard).score
    return found


def measures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's mean with its 95 % interval, clustered by contrast pair (Student's t); perplexities as geometric
    means."""
    pairs = [row["query"].pair for row in rows]
    found: dict[str, Any] = {"n": len(rows), "n_pairs": len(set(pairs))}
    for name in sorted({n for row in rows for n in row} - {"query", "said"}):
        values = column(rows, name)
        estimate = statistics.clustered_mean(values, pairs)
        if not estimate.n:
            continue
        back = np.exp if name in LOGS else float
        found[name] = rounded(back(estimate.value))
        found[f"{name}_ci95"] = [rounded(back(x)) for x in estimate.ci95]
        found[f"{name}_n"] = estimate.n
    return found


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
    return np.log(values) if name in LOGS else values


def differences(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every two systems, b - a, paired by query; of perplexities the ratio."""
    found = []
    for a, b in combinations(rows, 2):
        left, right = ({row["query"].id: row for row in rows[name]} for name in (a, b))
        both = [query for query in left if query in right]
        pairs = [left[query]["query"].pair for query in both]
        for name in ("wer_ours", "wer_outside", "score_ours", "score_outside", "dnsmos", *LOGS):
            values = column([right[q] for q in both], name) - column([left[q] for q in both], name)
            estimate = statistics.macro_difference({"": (values, pairs)})
            if estimate.n:
                back = np.exp if name in LOGS else float
                cell = {"value": rounded(back(estimate.value)), "ci95": [rounded(back(x)) for x in estimate.ci95]}
                found.append({"a": a, "b": b, "measure": name, **cell, "n": estimate.n})
    return found
