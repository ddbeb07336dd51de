"""Listening with ears from outside: a recogniser of words, a rater of naturalness and a language model that nothing
here was trained on or against.

What they find is kept in `outside.jsonl`, one line an answer, as it comes. A line holds good as long as the audio, the
text and the ears are the same; else it is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from lightning_paras2s.hearing.dnsmos import DNSMOS, missing_dnsmos
from lightning_paras2s.hearing.dnsmos import INSTALL as INSTALL_EARS
from lightning_paras2s.hearing.faster_whisper import FasterWhisper, missing_ear
from lightning_paras2s.hearing.perplexity import INSTALL as INSTALL_MODEL
from lightning_paras2s.hearing.perplexity import Perplexity, missing_model
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import plain_text, word_error_rate
from lightning_paras2s.running.logs import Log, say
from lightning_paras2s.types import Audio

NAME = "outside"
BATCH = 16


@dataclass(frozen=True)
class Outside:
    """What ears from outside found in one answer; None = not asked, or nothing to hear.

    Attributes:
        sha256: of the samples that were heard.
        text: what the answer's own text says.
        heard: the words as the ear wrote them; empty for silence.
        signal, background, overall: opinion scores, 1 to 5.
        perplexity_heard, perplexity_written: of `heard` and of `text`, both in plain words.
        providers: ear -> name and version.
    """

    response_id: str
    sha256: str
    text: str = ""
    heard: str | None = None
    wer: float | None = None
    signal: float | None = None
    background: float | None = None
    overall: float | None = None
    perplexity_heard: float | None = None
    perplexity_written: float | None = None
    providers: dict[str, str] = field(default_factory=dict)
    status: str = "ok"


class Clip(NamedTuple):
    """An answer to be heard: its id, its own text, and how to get its audio."""

    response_id: str
    text: str
    audio: Callable[[], Audio]


class OutsideEars(NamedTuple):
    """Who listens; None = not installed or not asked for, with the reason in `notes`."""

    transcriber: Transcriber | None = None
    naturalness: DNSMOS | None = None
    sense: Perplexity | None = None
    notes: tuple[str, ...] = ()

    @property
    def providers(self) -> dict[str, str]:
        return {name: ear.name for name, ear in self._asdict().items() if name != "notes" and ear is not None}


def outside_ears(transcriber: Transcriber | None = None, naturalness: bool = True, sense: bool = True) -> OutsideEars:
    """The ears that are installed; those that are not are told in `notes`, never left out in silence."""
    notes = []
    if transcriber is None and (lack := missing_ear()) is None:
        transcriber = FasterWhisper()
    elif transcriber is None:
        notes.append(f"outside ear: not installed (no {lack}), {INSTALL_EARS}")
    lacks = (missing_dnsmos() if naturalness else None, missing_model() if sense else None)
    if lacks[0] is not None:
        notes.append(f"DNSMOS: not installed (no {lacks[0]}), {INSTALL_EARS}")
    if lacks[1] is not None:
        notes.append(f"perplexity: not installed (no {lacks[1]}), {INSTALL_MODEL}")
    rater = DNSMOS("first") if naturalness and lacks[0] is None else None
    reader = Perplexity() if sense and lacks[1] is None else None
    return OutsideEars(transcriber, rater, reader, tuple(notes))


def listen(clips: Iterable[Clip], ears: OutsideEars, log: Log) -> list[Outside]:
    """The line of every clip, in order: the log's where it still holds good, else heard now and appended."""
    known = {row.response_id: row for row in log.read(NAME, Outside)}
    found, changed = [], 0
    for part in batches(clips):
        audios = [clip.audio() for clip in part]
        blank = [Outside(c.response_id, digest(a), c.text, providers=ears.providers) for c, a in zip(part, audios)]
        todo = [i for i, row in enumerate(blank) if not same(known.get(row.response_id), row)]
        changed += sum(blank[i].response_id in known for i in todo)
        new = hear_outside([blank[i] for i in todo], [audios[i] for i in todo], ears)
        log.append(NAME, new)
        known |= {row.response_id: row for row in new}
        found += [known[clip.response_id] for clip in part]
    if changed:
        say(f"{log.path(NAME)}: {changed} answers heard anew, because their audio, text or the ears have changed")
    return found


def hear_outside(rows: list[Outside], audios: list[Audio], ears: OutsideEars) -> list[Outside]:
    """The rows with what each ear finds."""
    if not rows:
        return []
    if ears.transcriber is not None:
        heard = ears.transcriber.write_down(audios)
        rows = [replace(r, heard=h, wer=word_error_rate(r.text, h)) for r, h in zip(rows, heard, strict=True)]
    if ears.naturalness is not None:
        rated = ears.naturalness.rate(audios)
        rows = [replace(r, **rounded(m._asdict())) for r, m in zip(rows, rated, strict=True)]
    if ears.sense is not None:
        for name, texts in (("written", [r.text for r in rows]), ("heard", [r.heard or "" for r in rows])):
            found = ears.sense.of([plain_text(text) for text in texts])
            rows = [replace(r, **rounded({f"perplexity_{name}": p})) for r, p in zip(rows, found, strict=True)]
    return rows


def rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: round(v, 4) if np.isfinite(v) else None for name, v in values.items()}


def same(old: Outside | None, new: Outside) -> bool:
    """Does a line hold what it would hold if it were made now?"""
    return old is not None and all(getattr(old, n) == getattr(new, n) for n in ("sha256", "text", "providers"))


def digest(audio: Audio) -> str:
    whole = hashlib.sha256(str(audio.sample_rate).encode())
    whole.update(np.ascontiguousarray(audio.samples, np.float32).tobytes())
    return whole.hexdigest()


def batches(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    part: list[Clip] = []
    for clip in clips:
        part.append(clip)
        if len(part) == BATCH:
            yield part
            part = []
    if part:
        yield part
