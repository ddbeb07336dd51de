"""What can be heard of an evaluation: contrast pairs, their answers with transcript, tone and verdict, and the audio of
both as it lies in a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.asked import count_asked, counted_queries
from lightning_paras2s.bench.summary import UNLABELLED, mean_score
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.verdicts import counted_verdicts, own_verdicts
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import Log
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import FACTORS, Audio, Evidence, Query, Response, Verdict, read_jsonl, response_id

ENCODINGS = {
    "mp3": ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
    "flac": ("FLAC", "PCM_16", "audio/flac"),
}


class Listening:
    """What a page can show and play of a run, read from its folder; `clips` counts what was played into one.

    Of several samples the first is played, and its score is the mean of the verdicts on all, as in the summary.
    """

    def __init__(self, run: Path, summary: dict[str, Any], manifest: Path, encoding: str) -> None:
        log = Log(run)
        self.run, self.manifest, self.encoding, self.clips = run, manifest, encoding, 0
        self.queries = {q.id: q for q in counted_queries(read_jsonl(manifest, Query), summary)}
        self.samples = summary.get("samples", 1)
        known = [r for r in log.read("responses", Response) if r.system in summary["systems"]]
        self.answers = [r for r in known if r.query_id in self.queries and r.sample < self.samples]
        self.responses = {(r.query_id, r.system): r for r in self.answers if r.sample == 0}
        self.evidence = {e.response_id: e for e in log.read("evidence", Evidence)}
        if len(self.queries) == count_asked(summary):
            self.verdicts = by_answer(counted_verdicts(log, summary, self.queries.values()))
        else:
            self.verdicts = by_answer(own_verdicts(log, "verdicts", summary))
        self.swaps = by_answer(own_verdicts(log, "swaps", summary))

    def pairs(self, max_pairs: int) -> tuple[list[list[Query]], set[str]]:
        """Contrast pairs with answers, by factor; and the names of those with audio, at most so many a factor, evenly
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
            heard |= {rows[i * len(rows) // count][0].pair for i in range(count)}
            pairs += rows
        return pairs, heard

    def score_counts(self, systems: list[str]) -> dict[str, dict[str, int]]:
        """System -> score -> how often it was given, over all answers and their verdicts."""
        counts: dict[str, dict[str, int]] = {name: {} for name in systems}
        for response in self.answers:
            for given in [v.score for v in self.verdicts.get(response.id, ())] or [None]:
                score = "-" if given is None else str(round(given))
                counts[response.system][score] = counts[response.system].get(score, 0) + 1
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
            "halves": [self.half(query, systems, heard) for query in halves],
        }

    def half(self, query: Query, systems: list[str], heard: bool) -> dict[str, Any]:
        """A query and the systems' answers to it."""
        rows = [self.responses[query.id, s] for s in systems if (query.id, s) in self.responses]
        clip = self.clip(self.manifest.parent, query.audio, heard)
        answers = [self.answer(row, heard) for row in rows]
        turns = [self.turn(turn, heard) for turn in query.turns]
        return {"id": query.id, "style": query.label, **clip, "turns": turns, "answers": answers}

    def turn(self, turn: Turn, heard: bool) -> dict[str, Any]:
        """What was said before a query."""
        return {"role": turn.role, "text": turn.text, "told": turn.told} | self.clip(
            self.manifest.parent, turn.audio, heard
        )

    def answer(self, response: Response, heard: bool) -> dict[str, Any]:
        """What was heard of an answer; its score is the mean over the samples, of so many `verdicts`."""
        evidence, about = self.evidence.get(response.id), self.of(self.verdicts, response)
        scored = [v for v in about if v.score is not None]
        verdict = next(iter([*scored, *about]), None)
        return {
            "system": response.system,
            "text": response.text or "",
            "transcript": evidence.transcript if evidence else "",
            "tone": (evidence.tone_raw or evidence.tone) if evidence else "",
            "score": mean_of(about),
            "verdicts": len(scored),
            "reason": verdict.reason if verdict else "",
            "status": verdict.status if verdict else response.status,
            "swap": mean_of(self.of(self.swaps, response)),
            **self.clip(self.run, response.audio, heard),
        }

    def of(self, verdicts: dict[str, list[Verdict]], response: Response) -> list[Verdict]:
        """Those on all samples of a response's system and query."""
        ids = [response_id(response.system, response.query_id, sample) for sample in range(self.samples)]
        return [v for i in ids for v in verdicts.get(i, ())]

    def clip(self, folder: Path, name: str, heard: bool) -> dict[str, Any]:
        """`name` is the recording's place in its folder; "" where there is none."""
        if not heard or not name:
            return {"file": name}
        try:
            audio = read_audio(folder / name, SAMPLE_RATE)
        except UserError:  # a query that could not be heard, a file that is gone: its place is shown
            return {"file": name}
        self.clips += 1
        return {"file": name, "audio": encode(audio, self.encoding), "seconds": round(audio.seconds, 3)}


def by_answer(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.response_id, []).append(verdict)
    return found


def mean_of(verdicts: Iterable[Verdict]) -> float | None:
    """The mean score to show; None where none is scored."""
    mean = mean_score(v.score for v in verdicts)
    return round(mean, 2) if math.isfinite(mean) else None


def encode(audio: Audio, encoding: str) -> str:
    """Audio as a data URI."""
    container, subtype, mime = ENCODINGS[encoding]
    buffer = io.BytesIO()
    level = {} if encoding == "flac" else {"compression_level": {"mp3": 0.7, "opus": 0.95}[encoding]}
    soundfile.write(buffer, audio.samples, audio.sample_rate, format=container, subtype=subtype, **level)
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def turns_html(turns: Iterable[Turn], player: Callable[[str], str]) -> str:
    """What was said before a query, as a list; `player` makes one of a recording's place. "" where there is nothing."""
    rows = []
    for turn in turns:
        who = f"{turn.role} ({turn.told})" if turn.told else turn.role
        words = f"“{turn.text}”" if turn.text else "nobody wrote down what was said"
        sound = player(turn.audio) if turn.audio else ""
        rows.append(f"<li><b>{escape(who)}</b> {escape(words)}{sound}</li>")
    return f'<ol class=turns aria-label="Earlier turns">{"".join(rows)}</ol>' if rows else ""
