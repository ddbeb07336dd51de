"""`audit`: ears from outside beside our own, on a part of an evaluation's answers, with two controls.

A judge, its ears and the policies were raised in one house: each was trained on speech of the same voices. What this
command adds to the tables comes from means that nothing here was trained on or against (`hearing/outside.py`): the word
error rate of another recogniser, DNSMOS, and the perplexity of what was heard. They are guards, never rewards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.evaluate import estimate
from lightning_paras2s.bench.outside_numbers import LOGS, differences, error_rate, measures, scores, write_rows
from lightning_paras2s.bench.outside_table import FILE
from lightning_paras2s.bench.outside_today import answers_sha
from lightning_paras2s.bench.queries.manifest import read_queries, shard_of
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing import outside
from lightning_paras2s.hearing.controls import Control, control_voices
from lightning_paras2s.hearing.outside import Clip, Outside, OutsideEars
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.running.logs import Log, read_summary, say, write_summary
from lightning_paras2s.running.origins import inputs_of
from lightning_paras2s.running.threads import asked
from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.servers.spending import cap
from lightning_paras2s.types import Evidence, Query, Response, Style, response_id

SECONDS = 0.75  # of one core to hear an answer (docs/results.md, "Running it")


def audit(
    run: InputPath,
    manifest: InputPath | None = None,
    pairs: int = 10,
    seed: int = 0,
    systems: list[str] | None = None,
    controls: str | None = None,
    transcriber: Transcriber | None = None,
    naturalness: bool = True,
    sense: bool = True,
    judge: Judge | None = None,
    rows: str | None = None,
    shard: str = "0/1",
    max_usd: float | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Hear a part of an evaluation's answers with ears from outside, beside our own; resumed if it was stopped; a sound
    on each core.

    Args:
        run: folder of `evaluate`; outside.jsonl (a line an answer) and outside.json are written there, and from then on
            `leaderboard` and `report` show them.
        manifest: of the queries, if it is no longer where the run read it.
        pairs: contrast pairs a factor, of those that all `systems` answered; about 1 s of one core an answer. What was
            heard with fewer pairs is not heard again.
        seed: of the choice; with more `pairs`, those chosen before stay chosen.
        systems: names of those to hear; all by default. Others stay in the tables if all their answers to these pairs
            were heard before by the same ears.
        controls: system whose own texts two control voices say: the agent before the codec, and a Piper voice; none
            by default.
        transcriber: the outside ear; by default Whisper tiny.en of the extra `ears`, if it is installed.
        naturalness: rate answers by DNSMOS.
        sense: measure the perplexity of what was heard and of what was written, by a language model.
        judge: scores the words of either ear, by the tone and the labels that the run's judge was told; without one,
            no scores.
        rows: write every answer's numbers to this file, too, one JSON line each (results/ears.jsonl).
        shard: "i/k": hear only every k-th batch of answers, from the i-th, and write no tables; then run 0/1, which
            merges the shards and hears what they lack.
        max_usd: ask the judge nothing that could take what this start costs above so many USD.
        dry_run: hear and ask nobody; tell how many answers would be heard, in how many hours of one core, and what the
            judge would cost.
    """
    if pairs < 1:
        raise UserError(f"pairs must be at least 1 contrast pair a factor; got {pairs}")
    if not (Path(run) / "summary.json").is_file():
        raise UserError(f"a run must be a folder of `evaluate` with summary.json; got {run}; finish it first")
    summary = read_summary(Path(run) / "summary.json", ("systems", *([] if manifest else ["manifest"])))
    there = list(summary["systems"])
    named = named_systems(there, systems)
    voices, notes = control_voices(controls, there)
    if not asked():
        torch.set_num_threads(1)  # of the language model; the ears hear on all cores, a sound on each
    texts = [controls] if controls else []
    place = manifest or summary["manifest"]
    part = _Part(Path(run), read_queries(place, None), [*named, *texts], pairs, seed)
    part.check_answered(place, there)
    if dry_run:
        return price(judge, part.queries, Path(place).parent, len(named), len(voices))
    ears = outside.outside_ears(transcriber, naturalness, sense)
    if isinstance(llm := getattr(judge, "llm", None), OpenAIChat):
        cap(llm, max_usd)
    heard = part.listen(part.clips(named, voices, controls), ears, shard)
    if shard.partition("/")[2] != "1":
        notes += outside.cpu_notes(outside.kinds_of_cpu(heard), ears)
        return {"answers": len(heard), "notes": said([*ears.notes, *notes])}
    items, left = part.speakers(heard, there, named, voices, ears)
    kinds = outside.kinds_of_cpu(row for found in items.values() for row in found)
    styles = styles_told(Path(run), summary, part.queries)
    numbers = {name: part.rows(name, found, styles, judge) for name, found in items.items()}
    result = {
        "systems": {name: measures(found) for name, found in numbers.items()},
        "differences": differences({name: found for name, found in numbers.items() if name in there}),
        "notes": said([*ears.notes, *notes, *left, *outside.cpu_notes(kinds, ears)]),
        "providers": ears.providers,
        "heard_on": kinds,
        "judge": judge.name if judge else None,
        "control_texts": controls,
        "pairs_a_factor": part.counts,
        "seed": seed,
        "queries": [query.id for query in part.queries],
        "answers_sha": {name: part.answers_sha(name if name in there else controls) for name in numbers},
    }
    write_summary(Path(run) / FILE, result)
    if rows is not None:
        write_rows(Path(rows), numbers)
    return result


def said(notes: list[str]) -> list[str]:
    for note in notes:
        say(note)
    return notes


def named_systems(there: list[str], wanted: list[str] | None) -> list[str]:
    """Those of a run that are wanted, in the run's order."""
    if wanted is not None and (not wanted or set(wanted) - set(there)):
        wrong = ", ".join(sorted(set(wanted) - set(there))) or "none"
        raise UserError(f"systems must name some of the run's ({', '.join(there)}); got {wrong}")
    return [name for name in there if wanted is None or name in wanted]


class _Part:
    """The chosen contrast pairs of a run, which some systems answered, with what its own ears heard."""

    def __init__(self, run: Path, queries: list[Query], systems: list[str], pairs: int, seed: int) -> None:
        self.run = run
        rows = [r for r in Log(run).read("responses", Response) if r.sample == 0]
        self.responses = {r.id: r for r in rows}
        self.evidence = {e.response_id: e for e in Log(run).read("evidence", Evidence)}
        whole = [q for q in queries if all(response_id(s, q.id, 0) in self.responses for s in systems)]
        if not whole:
            raise UserError(f"{run} must hold an answer of every system to some query; got none; finish `evaluate`")
        self.queries = chosen(whole, pairs, seed)
        factors = sorted({q.factor for q in self.queries})
        self.counts = {f: len({q.pair_id for q in self.queries if q.factor == f}) for f in factors}

    def check_answered(self, manifest: str, systems: list[str]) -> None:
        """The answers must be to these recordings, words and earlier turns, as far as it is recorded to what they are;
        equal ids alone don't say so. (Labels may have been corrected.)"""
        log, root, heard, others = Log(self.run), Path(manifest).parent, ("audio", "text", "turns"), set()
        given = {q.id: {name: of for name, of in inputs_of(q, root).items() if name in heard} for q in self.queries}
        for row in self.responses.values():
            before = log.origins.of("responses", row, *heard)
            if before and row.system in systems and before != given.get(row.query_id, before):
                others.add(row.query_id)
        if others:
            raise UserError(
                f"{manifest} must hold the queries that {self.run} answered; got others of {len(others)} ids of "
                f"{len(given)}, such as {min(others)!r}; name the run's own (`manifest`), or run `evaluate` again"
            )

    def clips(self, systems: list[str], voices: Sequence[Control] = (), controls: str | None = None) -> list[Clip]:
        """Query by query, so that all speakers are heard of as many pairs when it is stopped."""
        found = []
        for query in self.queries:
            rows = [self.responses.get(response_id(system, query.id, 0)) for system in systems]
            found += [self._answer(row) for row in rows if row is not None and row.audio]
            found += self._said_again(query, voices, controls) if controls else []
        return found

    def _answer(self, row: Response) -> Clip:
        return Clip(row.id, row.text or "", lambda: read_audio(self.run / row.audio, SAMPLE_RATE))

    def _said_again(self, query: Query, voices: Sequence[Control], system: str) -> list[Clip]:
        """The system's own text, in the tone that our ears heard it say it in."""
        row = self.responses[response_id(system, query.id, 0)]
        heard = self.evidence.get(row.id)
        text, tone = row.text or "", heard.tone if heard else ""
        ids = [response_id(voice.name, query.id, 0) for voice in voices if text]
        return [Clip(i, text, partial(v.say, text, tone), v.origin(text)) for i, v in zip(ids, voices, strict=False)]

    def listen(self, clips: list[Clip], ears: OutsideEars, shard: str) -> list[Outside]:
        parts = shard_of(outside.batches(clips), shard)
        index, _, count = shard.partition("/")
        log = Log(self.run, "" if count == "1" else f"-{index}of{count}")
        return outside.listen([clip for part in parts for clip in part], ears, log)

    def speakers(
        self, heard: list[Outside], there: list[str], named: list[str], voices: list[Control], ears: OutsideEars
    ) -> tuple[dict[str, list[Outside]], list[str]]:
        """Each speaker's lines, the run's systems in its order, then the voices; and a note on who was not heard."""
        known = {row.response_id: row for row in heard}
        found: dict[str, list[Outside] | None] = {}
        for name in [*there, *(voice.name for voice in voices)]:
            ids = [response_id(name, query.id, 0) for query in self.queries]
            found[name] = [known[i] for i in ids if i in known]
            if name in there and name not in named:
                found[name] = outside.heard_before(self.clips([name]), ears, Log(self.run))
        left = [name for name, rows in found.items() if not rows and name not in named and name in there]
        notes = [f"not heard: {', '.join(left)}, which `systems` does not name"] if left else []
        return {name: rows for name, rows in found.items() if name not in left and rows is not None}, notes

    def answers_sha(self, system: str) -> str:
        """Which answers were heard: a table shows the figures as long as the folder holds the same."""
        return answers_sha(self.run, self.responses, system, [query.id for query in self.queries])

    def rows(
        self, name: str, found: list[Outside], styles: Mapping[str, Style], judge: Judge | None
    ) -> list[dict[str, Any]]:
        """One dict of numbers an answer; a control has no answer that our ears heard."""
        by_answer = {response_id(name, q.id, 0): q for q in self.queries}
        rows = []
        for row in found:
            query = by_answer[row.response_id]
            ours = self.evidence.get(row.response_id)
            numbers = {"dnsmos": row.overall, "dnsmos_signal": row.signal, "dnsmos_background": row.background}
            numbers |= {name: getattr(row, name) for name in LOGS}
            numbers |= {"wer_outside": error_rate(row.text, row.heard)}
            numbers |= {"wer_ours": error_rate(row.text, ours.transcript) if ours else None}
            words = {"text": row.text, "heard_outside": row.heard, "cpu": row.cpu, "compute_type": row.compute_type}
            words |= {"heard_ours": ours.transcript, "tone": ours.tone} if ours else {}
            rows.append({"query": query, "said": words, **numbers, **scores(query, styles[query.id], ours, row, judge)})
        return rows


def price(judge: Judge | None, queries: Sequence[Query], root: Path, systems: int, voices: int) -> dict[str, Any]:
    """How much a whole audit would hear, and what its judge would cost, which scores what both ears heard."""
    answers = len(queries) * systems
    free = {"dry_run": True, "answers": answers, "verdicts": 0, "judge": None, "usd": 0.0}
    found = estimate(judge, queries, root, answers, 2) if judge else free
    return found | {"hours": (answers + len(queries) * voices) * SECONDS / 3600}


def styles_told(run: Path, summary: Mapping[str, Any], queries: Sequence[Query]) -> dict[str, Style]:
    """Query id -> the labels that the run's judge was told: the manifest's, or what the run's recogniser heard."""
    if summary.get("label_source") != "predicted":
        return {query.id: query.style for query in queries}
    held = read_summary(place, ()) if (place := run / "labels.json").is_file() else {}
    return {query.id: Style(**held.get(query.id, {}).get("styles", {})) for query in queries}


def chosen(queries: list[Query], pairs: int, seed: int) -> list[Query]:
    """Whole contrast pairs, as many of each factor: those whose ids hash lowest with the seed; factors take turns, so
    that a part of the part is balanced, too."""
    found: dict[str, dict[str, list[Query]]] = {}
    for query in queries:
        found.setdefault(query.factor, {}).setdefault(query.pair_id, []).append(query)
    order = {f: sorted(p, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest()) for f, p in found.items()}
    turns = [(f, order[f][turn]) for turn in range(pairs) for f in sorted(order) if turn < len(order[f])]
    return [query for factor, pair in turns for query in found[factor][pair]]
