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
from dataclasses import dataclass
from pathlib import Path

from lightning_paras2s.audio import is_silent, write_audio
from lightning_paras2s.bench.queries.scripts import Job, audio_of, load_scripts, plan
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.speaking.remote import RemoteSynthesizer, user_voices
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer, Synthesizer
from lightning_paras2s.types import FACTORS, SPLITS, Audio, Query, append_jsonl, read_jsonl, to_json

MAX_SECONDS = 60.0
CHUNK = 32


@dataclass(frozen=True)
class Attempt:
    """What came of one utterance; `status` is ok, silent, too_long, or why the synthesizer gave nothing.

    A resume asks again for all that is not ok.
    """

    id: str
    status: str
    seconds: float = 0.0
    sha256: str = ""
    wer: float | None = None
    candidate: int = 0


def synthesize(
    out: str,
    source: str = "embedded",
    split: str = "test",
    factors: Sequence[str] = FACTORS,
    limit: int | None = None,
    seed: int = 0,
    synthesizer: Synthesizer | None = None,
    candidates: int = 1,
    transcriber: Transcriber | None = None,
) -> dict:
    """Speak scripts in both of their styles: OUT/queries.jsonl and OUT/audio/*.flac; resumable.

    Args:
        out: folder to write.
        source: "embedded" (the text set that ships with the package), or a file of scripts that `mine` wrote.
        split: train, val or test; its voices are its own.
        factors: emotion, sarcasm, age, gender.
        limit: scripts a factor; all by default. A larger limit keeps what a smaller one made.
        seed: of voices, prosody and noise.
        synthesizer: eSpeak NG by default.
        candidates: renditions of each utterance; the one with the lowest word error rate is kept (10 in the paper's
            Table 1 for gpt-4o-mini-tts).
        transcriber: hears the candidates.

    Returns:
        Table 5 of what was made (a factor and in total: prompts, utterances, mean seconds, hours), counts of statuses.
    """
    synthesizer = synthesizer or EspeakSynthesizer()
    check(split, factors, limit, candidates, transcriber)
    scripts = load_scripts(source, split, factors, limit, seed)
    jobs = [job for s in scripts for job in plan(s, user_voices(synthesizer, split), seed, source, synthesizer.name)]
    folder = Path(out)
    claim(folder, describe(source, split, seed, synthesizer, candidates, transcriber))
    attempts = {a.id: a for a in read_attempts(folder) if is_kept(folder, a)}
    todo = [job for job in jobs if job.query.id not in attempts]
    workers = synthesizer.concurrency if isinstance(synthesizer, RemoteSynthesizer) else 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            made = list(pool.map(lambda job: make(folder, job, synthesizer, candidates, transcriber), chunk))
            append_jsonl(folder / "attempts.jsonl", made)
            attempts.update({a.id: a for a in made})
    done = [job.query for job in jobs if attempts[job.query.id].status == "ok"]
    replace_file(folder / "queries.jsonl", "".join(to_json(query) + "\n" for query in done))
    wanted = {job.query.id: attempts[job.query.id] for job in jobs}
    return {"manifest": str(folder / "queries.jsonl"), "resumed": len(jobs) - len(todo), **statistics(done, wanted)}


def check(
    split: str, factors: Sequence[str], limit: int | None, candidates: int, transcriber: Transcriber | None
) -> None:
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if not factors or set(factors) - set(FACTORS):
        raise UserError(f"factors must be some of {', '.join(FACTORS)}; got {', '.join(factors) or 'none'}")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 script a factor; got {limit}; leave it out for all")
    if candidates < 1 or (candidates > 1 and transcriber is None):
        raise UserError(f"candidates must be 1, or more with a transcriber to choose by; got {candidates} and none")


def make(folder: Path, job: Job, synthesizer: Synthesizer, candidates: int, transcriber: Transcriber | None) -> Attempt:
    """Speak one utterance and write it, whole or not at all."""
    best: tuple[float, int, Audio] | None = None
    status = "ok"
    for candidate in range(candidates):
        audio, status = speak(job, synthesizer, job.seed + candidate)
        if audio is None:
            continue
        error = 0.0 if transcriber is None else word_error_rate(job.query.text, transcriber.transcribe([audio])[0])
        if best is None or error < best[0]:
            best = (error, candidate, audio)
        if best[0] == 0:
            break
    if best is None:
        return Attempt(job.query.id, status)
    error, candidate, audio = best
    path = folder / job.query.audio
    write_audio(path, audio)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return Attempt(job.query.id, "ok", round(audio.seconds, 4), sha, None if transcriber is None else error, candidate)


def speak(job: Job, synthesizer: Synthesizer, seed: int) -> tuple[Audio | None, str]:
    """One rendition, or why there is none."""
    if isinstance(synthesizer, RemoteSynthesizer):
        audio, status = synthesizer.try_synthesize(job.query.text, job.style, job.query.voice, seed)
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
    settings = {k: v for k, v in vars(synthesizer).items() if isinstance(v, str | int | float | bool)}
    return {
        "source": source,
        "split": split,
        "seed": seed,
        "synthesizer": {"name": synthesizer.name, **settings},
        "candidates": candidates,
        "transcriber": transcriber.name if transcriber else None,
    }


def claim(folder: Path, settings: dict) -> None:
    """Mark a folder with its settings, or check that it was made with the same."""
    path = folder / "synthesize.json"
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [k for k in settings if before.get(k) != settings[k]]
        if changed:
            raise UserError(
                f"{folder} must have one setting of {', '.join(changed)}; got another; choose another folder"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"out must be new or a folder that `synthesize` began; got {folder} with other files; choose another"
        )
    replace_file(path, text)


def read_attempts(folder: Path) -> list[Attempt]:
    """Attempts so far; a last line that was cut by a kill is dropped."""
    path = folder / "attempts.jsonl"
    append_jsonl(path, [])
    return read_jsonl(path, Attempt)


def is_kept(folder: Path, attempt: Attempt) -> bool:
    """Whether an attempt needs no repetition: its audio is there, unchanged."""
    query_audio = folder / audio_of(attempt.id)
    return query_audio.is_file() and hashlib.sha256(query_audio.read_bytes()).hexdigest() == attempt.sha256


def statistics(queries: list[Query], attempts: dict[str, Attempt]) -> dict:
    """The paper's Table 5 of the queries that were made, and what came of all."""

    def row(chosen: list[Query]) -> dict:
        seconds = [attempts[q.id].seconds for q in chosen]
        return {
            "prompts": len({q.pair_id for q in chosen}),
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
