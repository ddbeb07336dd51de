"""What a voice makes of the answers of `demonstrate`: candidates, heard one round after the other (paper, section 4.1:
"we synthesize 10 candidates, apply WER-based filtering").

A candidate is a response record, what is heard in it an evidence record; each is kept when it comes, under a name that
holds the hash of what it was made from. So a run that was killed asks no voice and no ear twice. A query asks for no
more candidates once one is right in every word and in the wanted tone, or where its voice repeats itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from lightning_paras2s.audio import read_audio, write_audio
from lightning_paras2s.bench.queries.demonstrate_words import Written
from lightning_paras2s.bench.queries.scripts import Job
from lightning_paras2s.bench.queries.synthesize import Budget, speak, synthesizer_sha
from lightning_paras2s.hearing.evidence import Ears, hear
from lightning_paras2s.hearing.tone_words import agrees
from lightning_paras2s.running.logs import Log, safe_name, unanswered
from lightning_paras2s.running.origins import Inputs, file_sha, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.speaking.remote import RemoteSynthesizer
from lightning_paras2s.speaking.synthesizers import Synthesizer
from lightning_paras2s.types import Evidence, Query, Response, Style, answered

SYSTEM = "demonstrate"
CHUNK = 32  # queries whose candidates are made and heard together
PASSED = "ok"
# How far a candidate came; a query that none passes counts as the one that came farthest.
FAR = ("wer", "no_tone", "tone")


@dataclass(frozen=True)
class Voice:
    """Who speaks the answers.

    Attributes:
        synthesizer: makes the candidates.
        names: tone -> the synthesizer's voice for it.
        seed: of the first candidate; each has another.
        candidates: of a query, at most.
        max_wer: word error rate of one that passes, at most.
    """

    synthesizer: Synthesizer
    names: Mapping[str, str]
    seed: int
    candidates: int
    max_wer: float


class Speaker:
    """A folder's candidates, and the voice and the ears that add to them."""

    def __init__(self, folder: Path, voice: Voice, ears: Ears, budget: Budget) -> None:
        self.log, self.voice, self.ears, self.budget = Log(folder), voice, ears, budget
        self.lock, self.written = Lock(), {}
        self.made: dict[str, dict[int, Response]] = {}  # query -> number of the candidate -> it
        self.heard: dict[str, Evidence] = {}
        self.who = synthesizer_sha(voice.synthesizer)
        self.listeners = {"transcriber": part_sha(ears.transcriber), "recognizer": part_sha(ears.recognizer)}

    def resume(self, written: Mapping[str, Written]) -> None:
        """Take what the folder holds of these answers' candidates: those of other words or another voice are made anew,
        those that never came are asked for again, those that were heard by other ears are heard again."""
        self.written = written
        for row in self.log.settled("responses", Response, self.lost, self.inputs_today):
            if self.inputs_today(row) is not None:
                self.made.setdefault(row.query_id, {})[row.sample] = row
        known = {row.id: self.heard_from(row) for rows in self.made.values() for row in rows.values()}
        held = self.log.settled("evidence", Evidence, lambda row: False, lambda row: known.get(row.response_id))
        self.heard = {row.response_id: row for row in held if row.response_id in known}

    def spent(self) -> float:
        """USD of the speech in the folder, whether it is of use today or not."""
        return sum(row.cost_usd or 0.0 for row in self.log.read("responses", Response))

    def lost(self, row: Response) -> bool:
        if self.inputs_today(row) is None:
            return False
        whole = not row.audio or row.sha256.startswith(file_sha(self.log.folder / row.audio) or "-")
        return unanswered(row.status.removeprefix("description_")) or not whole

    def inputs_today(self, row: Response) -> Inputs | None:
        wanted = row.query_id in self.written and row.sample < self.voice.candidates
        return self.inputs_of(row.query_id, row.sample) if wanted else None

    def inputs_of(self, query_id: str, number: int) -> Inputs:
        """What a candidate is made from."""
        row = self.written[query_id]
        voice = sha(self.who, self.voice.names[row.tone], number, self.voice.seed)
        return {"text": sha(row.text), "tone": row.tone, "voice": voice}

    def heard_from(self, row: Response) -> Inputs:
        return {"answer": sha(row.sha256, row.text, row.status), **self.listeners}

    def speak(self, queries: Sequence[Query]) -> None:
        """Make and hear candidates for all queries, until each has one that passes, or as many as it may have."""
        parts = [queries[start : start + CHUNK] for start in range(0, len(queries), CHUNK)]
        synthesizer = self.voice.synthesizer
        workers = synthesizer.concurrency if isinstance(synthesizer, RemoteSynthesizer) else 1
        with ThreadPoolExecutor(workers) as pool:
            told = f"speech by {synthesizer.name}"[:28]
            for part in Stages().over(parts, [len(part) for part in parts], told, "speak"):
                for number in range(self.voice.candidates):
                    asking = [q for q in part if self.goes_on(q.id, number)]
                    missing = [q for q in asking if number not in self.made.get(q.id, {})]
                    list(pool.map(lambda q, n=number: self.make(q, n), missing))
                    self.listen([self.made[q.id][number] for q in asking])

    def goes_on(self, query_id: str, number: int) -> bool:
        """Does a query need the candidate of this number?"""
        before = [row for n, row in self.made.get(query_id, {}).items() if n < number]
        if any(unanswered(row.status.removeprefix("description_")) for row in before):
            return False  # the server is ill, or the money is spent: the next run asks again
        sounds = [row.sha256 for row in before if row.sha256]
        perfect = any(self.verdict(row) == PASSED and not self.heard[row.id].wer for row in before)
        return not perfect and len(set(sounds)) == len(sounds)

    def make(self, query: Query, number: int) -> None:
        """One candidate, kept with what it was made from; its recording is written first, whole or not at all."""
        written, inputs = self.written[query.id], self.inputs_of(query.id, number)
        name = f"{safe_name(query.id)}-{number}-{sha(inputs)[:8]}.flac"
        path, status = self.log.folder / "audio" / name, "ok"
        found = path.is_file()  # a kill between the recording and its record leaves it for the next run
        if not found:
            said = replace(query, text=written.text, voice=self.voice.names[written.tone])
            job = Job(said, Style(tone=written.tone), self.voice.seed + number)
            audio, status = speak(job, self.voice.synthesizer, job.seed, self.budget)
            if audio is not None:
                write_audio(path, audio)
        row = Response(query.id, SYSTEM, number, text=written.text, status=status, config_sha=sha(inputs))
        if status == "ok":
            seconds = read_audio(path, 16_000).seconds
            cost = self.budget.usd_per_minute * seconds / 60
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.budget.spent += cost if found else 0.0  # paid by a run that could not write it down
            row = replace(row, audio=f"audio/{name}", sha256=digest, seconds=round(seconds, 4), cost_usd=cost)
        with self.lock:
            self.log.append("responses", [row], [inputs])
            self.made.setdefault(query.id, {})[number] = row

    def listen(self, rows: Sequence[Response]) -> None:
        """Hear the candidates that nobody has heard."""
        rows = [row for row in rows if row.audio and row.id not in self.heard]
        if rows:
            found = hear(rows, self.log.folder, self.ears)
            self.log.append("evidence", found, [self.heard_from(row) for row in rows])
            self.heard |= {row.response_id: row for row in found}

    def verdict(self, row: Response) -> str:
        """ "ok" for a candidate that passes, else what is wrong with it."""
        if row.status != "ok":
            return f"tts_{row.status}"
        found = self.heard[row.id]
        if found.status not in ("ok", "no_tone"):
            return found.status
        if found.wer is None or found.wer > self.voice.max_wer:
            return "wer"
        if found.status == "no_tone":
            return "no_tone"
        return PASSED if agrees(self.written[row.query_id].tone, found.tone) else "tone"

    def best(self, query_id: str) -> tuple[Response | None, str]:
        """The candidate that is kept, the one with the fewest wrong words, the earlier of two; or why there is none."""
        rows = [row for row in self.made.get(query_id, {}).values() if row.status != "ok" or row.id in self.heard]
        verdicts = {row.sample: self.verdict(row) for row in rows}
        passing = [row for row in rows if verdicts[row.sample] == PASSED]
        if passing:
            return min(passing, key=lambda row: (self.heard[row.id].wer, row.sample)), PASSED
        return None, max(verdicts.values(), key=lambda why: FAR.index(why) if why in FAR else -1)

    def share_in_tone(self, rows: Sequence[Evidence]) -> float | None:
        """Of some candidates, the share that was heard in the wanted tone."""
        if not rows:
            return None
        wanted = [self.written[answered(row.response_id).query_id].tone for row in rows]
        return sum(agrees(tone, row.tone) for tone, row in zip(wanted, rows, strict=True)) / len(rows)
