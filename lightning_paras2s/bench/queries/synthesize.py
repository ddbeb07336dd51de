"""Speech from scripts (paper, section 3.1, steps 3 and 4): a folder of FLAC files and `queries.jsonl`.

Every utterance depends on (seed, script, style) alone, never on what else is made or in which order: a larger limit
only adds files, and a run that was killed continues to the same bytes. Departures from the paper: eSpeak NG by default;
the two halves of a pair are spoken by one voice where the factor allows (age: one eSpeak voice with an adult's and a
child's vocal tract), so that they differ in the factor alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from lightning_paras2s.audio import is_silent, write_audio
from lightning_paras2s.bench.queries.manifest import write_manifest
from lightning_paras2s.bench.queries.scripts import Job, audio_of, load_scripts, plan
from lightning_paras2s.data.embedded import TextQuery
from lightning_paras2s.errors import InputPath, UserError, check_choice, check_some
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.running.logs import replace_file, say
from lightning_paras2s.running.origins import contradictions, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.speaking.remote import RemoteSynthesizer, user_voices
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer, Synthesizer, most_minutes
from lightning_paras2s.types import FACTORS, SPLITS, Audio, Query, append_jsonl, read_jsonl

MAX_SECONDS = 60.0
CHUNK = 32
ELSEWHERE = ("concurrency", "api_key_env", "url", "device")  # a voice sounds the same wherever it is computed


class Budget:
    """What speech costs in this run, and may cost; with what its synthesizer spends beside it.

    Args:
        synthesizer: speaks.
        usd_per_minute: of speech.
        max_usd: nothing is asked for that could take the spending above it.
    """

    def __init__(self, synthesizer: Synthesizer, usd_per_minute: float, max_usd: float | None) -> None:
        if max_usd is not None and usd_per_minute <= 0:
            raise UserError(f"max_usd needs the price of speech; got {usd_per_minute:g}; give usd_per_minute")
        self.synthesizer, self.usd_per_minute, self.max_usd = synthesizer, usd_per_minute, max_usd
        self.spent, self.reserved, self.lock = 0.0, 0.0, Lock()
        self.most = usd_per_minute * MAX_SECONDS / 60 + synthesizer.at_most_usd(0)  # of one utterance

    @property
    def total(self) -> float:
        """USD for speech, and beside it."""
        return self.spent + self.synthesizer.beside_usd

    def reserve(self) -> bool:
        """Is there money for one more utterance?"""
        with self.lock:
            if self.max_usd is not None and self.total + self.reserved + self.most > self.max_usd:
                return False
            self.reserved += self.most
            return True

    def book(self, seconds: float) -> None:
        """An utterance for which money was reserved has come."""
        with self.lock:
            self.reserved -= self.most
            self.spent += self.usd_per_minute * seconds / 60

    def estimate(self, jobs: list[Job], candidates: int) -> float:
        """USD for all renditions of some jobs."""
        return self.usd_per_minute * candidates * most_minutes(sum(len(job.query.text) for job in jobs))


@dataclass(frozen=True)
class Attempt:
    """What came of one utterance; `status` is ok, silent, too_long, or why the synthesizer gave nothing.

    A resume asks again for all that is not ok. `inputs` is the hash of what was to be spoken, by whom and how.
    """

    id: str
    status: str
    seconds: float = 0.0
    sha256: str = ""
    wer: float | None = None
    candidate: int = 0
    inputs: str = ""


def synthesize(
    out: str,
    source: Literal["embedded", "open", "spare"] | InputPath = "embedded",
    split: Literal["train", "val", "test"] = "test",
    factors: Sequence[str] = FACTORS,
    limit: int | None = None,
    seed: int = 0,
    synthesizer: Synthesizer | None = None,
    candidates: int = 1,
    transcriber: Transcriber | None = None,
    max_usd: float | None = None,
    usd_per_minute: float | None = None,
    dry_run: bool = False,
) -> dict:
    """Speak scripts in both of their styles: OUT/queries.jsonl and OUT/audio/*.flac; resumable.

    Args:
        out: folder to write.
        source: "embedded" or "open" (the text sets that ship with the package), "spare" (training texts that neither
            `sft_fifth` nor RL is shown, in the voices of the test), or a file of scripts that `mine` wrote.
        split: train, val or test; its voices are its own.
        factors: emotion, sarcasm, age, gender.
        limit: scripts a factor; all by default. A larger limit keeps what a smaller one made.
        seed: of voices, prosody and noise.
        synthesizer: eSpeak NG by default.
        candidates: renditions of each utterance; the one with the lowest word error rate is kept. The paper tells of
            one; its ten are of answers (section 4.1: `demonstrate`).
        transcriber: hears the candidates.
        max_usd: ask for no speech that could take what this start costs above so many USD.
        usd_per_minute: of speech; by default what the synthesizer's own server takes, 0 for eSpeak.
        dry_run: make nothing; tell how many utterances a run would make, and what they would cost.

    Returns:
        Table 5 of what was made (a factor and in total: prompts, utterances, mean seconds, hours), counts of statuses,
        the cost.
    """
    synthesizer = synthesizer or EspeakSynthesizer()
    check(split, factors, limit, candidates, transcriber)
    scripts = load_scripts(source, split, factors, limit, seed)
    check_speakable(scripts, synthesizer)
    jobs = [job for s in scripts for job in plan(s, user_voices(synthesizer, split), seed, source, synthesizer.name)]
    price = synthesizer.usd_per_minute if usd_per_minute is None else usd_per_minute
    budget = Budget(synthesizer, price, max_usd)
    if dry_run:
        return {"dry_run": True, "utterances": len(jobs), "usd": round(budget.estimate(jobs, candidates), 2)}
    folder = Path(out)
    claim(folder, describe(source, split, seed, synthesizer, candidates, transcriber))
    attempts = kept_attempts(folder, jobs)
    todo = [job for job in jobs if job.query.id not in attempts]
    workers = synthesizer.concurrency if isinstance(synthesizer, RemoteSynthesizer) else 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            for made in pool.map(lambda job: make(folder, job, synthesizer, candidates, transcriber, budget), chunk):
                append_jsonl(folder / "attempts.jsonl", [made])  # at once: a kill loses what is on its way
                attempts[made.id] = made
    done = [job.query for job in jobs if attempts[job.query.id].status == "ok"]
    write_manifest(folder / "queries.jsonl", done)
    wanted = {job.query.id: attempts[job.query.id] for job in jobs}
    made = {"manifest": str(folder / "queries.jsonl"), "resumed": len(jobs) - len(todo)}
    return made | statistics(done, wanted) | {"usd": round(budget.total, 4)}


def check(
    split: str, factors: Sequence[str], limit: int | None, candidates: int, transcriber: Transcriber | None
) -> None:
    check_choice("split", split, SPLITS)
    check_some("factors", factors, FACTORS)
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 script a factor; got {limit}; leave it out for all")
    if candidates < 1 or (candidates > 1 and transcriber is None):
        raise UserError(f"candidates must be 1, or more with a transcriber to choose by; got {candidates} and none")


def check_speakable(scripts: Sequence[TextQuery], synthesizer: Synthesizer) -> None:
    """Before anything is spoken: a voice that spells what it can't read gives sound, and no words."""
    found = [(s, word) for s in scripts if (word := synthesizer.unspeakable(s.text))]
    if found:
        raise UserError(
            f"the voices of {synthesizer.name} must be able to read all scripts; got {found[0][1]!r} in "
            f"{found[0][0].id} ({len(found)} such scripts of {len(scripts)}); leave these out, or give a synthesizer "
            "that speaks their language"
        )


def make(
    folder: Path, job: Job, synthesizer: Synthesizer, candidates: int, transcriber: Transcriber | None, budget: Budget
) -> Attempt:
    """Speak one utterance and write it, whole or not at all."""
    best: tuple[float, int, Audio] | None = None
    status = "ok"
    for candidate in range(candidates):
        audio, status = speak(job, synthesizer, job.seed + candidate, budget)
        if audio is None:
            continue
        error = 0.0 if transcriber is None else word_error_rate(job.query.text, transcriber.write_down([audio])[0])
        if best is None or error < best[0]:
            best = (error, candidate, audio)
        if best[0] == 0:
            break
    if best is None:
        return Attempt(job.query.id, status, inputs=inputs_of(job))
    error, candidate, audio = best
    path = folder / job.query.audio
    write_audio(path, audio)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    heard = None if transcriber is None else error
    return Attempt(job.query.id, "ok", round(audio.seconds, 4), digest, heard, candidate, inputs_of(job))


def speak(job: Job, synthesizer: Synthesizer, seed: int, budget: Budget) -> tuple[Audio | None, str]:
    """One rendition, or why there is none."""
    if isinstance(synthesizer, RemoteSynthesizer):
        if not budget.reserve():
            return None, "max_usd"
        audio, status = synthesizer.try_synthesize(job.query.text, job.style, job.query.voice, seed)
        budget.book(0.0 if audio is None else audio.seconds)
        if audio is None:
            return None, status
    else:
        audio = synthesizer.synthesize(job.query.text, job.style, job.query.voice, seed)
    if is_silent(audio):
        return None, "silent"
    return (None, "too_long") if audio.seconds > MAX_SECONDS else (audio, "ok")


def describe(
    source: str, split: str, seed: int, synthesizer: Synthesizer, candidates: int, transcriber: Transcriber | None
) -> dict:
    """What fixes the bytes of an utterance, apart from its script."""
    return {
        "source": source,
        "split": split,
        "seed": seed,
        "synthesizer": {"name": synthesizer.name, **settings_of(synthesizer)},
        "synthesizer_sha": synthesizer_sha(synthesizer),
        "candidates": candidates,
        "transcriber": transcriber.name if transcriber else None,
        "transcriber_sha": part_sha(transcriber) if transcriber else None,
    }


def synthesizer_sha(synthesizer: Synthesizer) -> str:
    """Short hash of all of a synthesizer that decides how it sounds: options, weights, recorded speakers, describer."""
    return sha(synthesizer.name, settings_of(synthesizer), part_sha(synthesizer))


def settings_of(synthesizer: Synthesizer) -> dict[str, Any]:
    """What of a synthesizer's options decides how it sounds, those of one inside of it too."""
    found: dict[str, Any] = {}
    for name, value in vars(synthesizer).items():
        if isinstance(value, Synthesizer):
            found[name] = settings_of(value)
        elif isinstance(value, str | int | float | bool) and name not in ELSEWHERE:
            found[name] = value
    return found


def claim(folder: Path, settings: dict) -> None:
    """Mark a folder with its settings, or check that it was made with the same."""
    path = folder / "synthesize.json"
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if path.is_file():
        if changed := contradictions(json.loads(path.read_text()), settings):
            raise UserError(
                f"{folder} must have one setting of {', '.join(changed)}; got another; choose another folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"out must be new or a folder that `synthesize` began; got {folder} with other files; choose another"
        )
    replace_file(path, text)


def read_attempts(folder: Path) -> list[Attempt]:
    """Attempts so far; a last line that was cut by a kill is dropped."""
    path = folder / "attempts.jsonl"
    append_jsonl(path, [])
    return read_jsonl(path, Attempt)


def kept_attempts(folder: Path, jobs: list[Job]) -> dict[str, Attempt]:
    """Attempts that need no repetition: their audio is there, unchanged, and says what is to be said today."""
    held = {a.id: a for a in read_attempts(folder) if is_kept(folder, a)}
    inputs = {job.query.id: inputs_of(job) for job in jobs}
    # Attempts from before inputs were kept are taken at their word.
    stale = [name for name, a in held.items() if name in inputs and a.inputs not in ("", inputs[name])]
    if stale:
        say(f"{folder}: {len(stale)} utterances are spoken anew, their text, style or voice changed: {stale[0]}, ...")
    return {name: a for name, a in held.items() if name not in stale}


def inputs_of(job: Job) -> str:
    """Hash of what is to be spoken, by whom and how."""
    return sha(job.query.text, asdict(job.style), job.query.voice, job.seed)


def is_kept(folder: Path, attempt: Attempt) -> bool:
    """Whether an attempt needs no repetition: its audio is there, unchanged."""
    query_audio = folder / audio_of(attempt.id)
    return query_audio.is_file() and hashlib.sha256(query_audio.read_bytes()).hexdigest() == attempt.sha256


def statistics(queries: list[Query], attempts: dict[str, Attempt]) -> dict:
    """The paper's Table 5 of the queries that were made, and what came of all."""

    def row(chosen: list[Query]) -> dict:
        seconds = [attempts[q.id].seconds for q in chosen]
        return {
            "prompts": len({q.pair for q in chosen}),
            "utterances": len(chosen),
            "mean_seconds": round(sum(seconds) / len(seconds), 2) if seconds else None,
            "hours": round(sum(seconds) / 3600, 3),
        }

    factors = {factor: row([q for q in queries if q.factor == factor]) for factor in FACTORS}
    return {
        "statuses": dict(Counter(a.status for a in attempts.values())),
        "factors": {factor: table for factor, table in factors.items() if table["prompts"]},
        "total": row(queries),
    }
