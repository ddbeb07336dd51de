"""Listening with ears from outside: a recogniser of words, a rater of naturalness and a language model that nothing
here was trained on or against.

What they find is kept in `outside.jsonl`, one line an answer, as it comes. Each ear's part of a line holds good as long
as that ear and what it heard (the sound, the words) are the same; else that ear is asked anew, and no other. What is
the same sound, or the same words, is heard once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lightning_paras2s.hearing.dnsmos import DNSMOS, missing_dnsmos
from lightning_paras2s.hearing.dnsmos import INSTALL as INSTALL_EARS
from lightning_paras2s.hearing.faster_whisper import FasterWhisper, missing_ear
from lightning_paras2s.hearing.perplexity import INSTALL as INSTALL_MODEL
from lightning_paras2s.hearing.perplexity import Perplexity, missing_model
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import plain_text, word_error_rate
from lightning_paras2s.running.fields import SPARSE
from lightning_paras2s.running.logs import Log, say
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.precision import cpu_kind
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.types import Audio

NAME = "outside"
UNRECORDED = "a CPU that was not recorded"
BATCH = 32  # answers that a kill may cost; their texts are read together


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
        words: hash of the plain words that the perplexities are of.
        origin: what the sound was made from, where that is known without making it.
        cpu, compute_type: where and in which arithmetic the words were heard (`cpu_kind`); empty = not recorded.
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
    words: str = ""
    origin: str = ""
    cpu: str = field(default="", metadata=SPARSE)
    compute_type: str = field(default="", metadata=SPARSE)


class Clip(NamedTuple):
    """An answer to be heard: its id, its own text, how to get its audio, and what that is made from, if it must be made
    (two of one origin sound alike)."""

    response_id: str
    text: str
    audio: Callable[[], Audio]
    origin: str = ""


class Sound(NamedTuple):
    """A clip's hash, and how to get its audio."""

    sha256: str
    audio: Callable[[], Audio]


class OutsideEars(NamedTuple):
    """Who listens; None = not installed or not asked for, with the reason in `notes`."""

    transcriber: Transcriber | None = None
    naturalness: DNSMOS | None = None
    sense: Perplexity | None = None
    notes: tuple[str, ...] = ()

    @property
    def providers(self) -> dict[str, str]:
        ears = {name: ear.name for name, ear in self._asdict().items() if name != "notes" and ear is not None}
        return ears | ({} if self.transcriber is None else {"transcriber": known_as(self.transcriber)})

    @property
    def heard_on(self) -> tuple[str, str]:
        """The kind of processor that words are heard on here, and the arithmetic."""
        ear = self.transcriber
        return ("", "") if ear is None else (cpu_kind() if ear.device == "cpu" else ear.device, ear.compute_type)


@lru_cache(maxsize=8)
def known_as(ear: Transcriber) -> str:
    """A name that no other weights have."""
    return ear.name if ear.named_whole else f"{ear.name}/{part_sha(ear)[:8]}"


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


def listen(clips: Sequence[Clip], ears: OutsideEars, log: Log) -> list[Outside]:
    """The line of every clip, in order: the log's where it still holds good, else with what is heard now, and
    appended."""
    old = log.read(NAME, Outside)
    known, memory = {row.response_id: row for row in old}, Memory(old, ears)
    parts = batches(clips)
    unheard = [sum(clip.response_id not in known for clip in part) for part in parts]
    found, changed = [], 0
    for part in Stages().over(parts, unheard, "answers heard by ears from outside", "listen"):
        rows = memory.hear(part)
        new = [row for row in rows if known.get(row.response_id) != row]
        log.append(NAME, new)
        changed += sum(row.response_id in known and not same(known[row.response_id], row) for row in new)
        known |= {row.response_id: row for row in new}
        found += rows
    if changed:
        say(f"{log.path(NAME)}: {changed} answers heard anew, because their audio, text or the ears have changed")
    return found


def heard_before(clips: Sequence[Clip], ears: OutsideEars, log: Log) -> list[Outside] | None:
    """The line of every clip, if the log holds them all and all hold good; nothing is heard."""
    known = {row.response_id: row for row in log.read(NAME, Outside)}
    for clip in clips:
        now = Outside(clip.response_id, "", clip.text, providers=ears.providers)
        old = known.get(clip.response_id)
        if old is None or not same(old, replace(now, sha256=digest(clip.audio()))):
            return None
    return [known[clip.response_id] for clip in clips]


def kinds_of_cpu(rows: Iterable[Outside]) -> dict[str, int]:
    """On which kinds of processor words were heard, in which arithmetic -> how many answers; most first."""
    heard = [row for row in rows if row.heard is not None]
    found = Counter(f"{row.cpu}, {row.compute_type}" if row.cpu else UNRECORDED for row in heard)
    return dict(found.most_common())


def cpu_notes(kinds: Mapping[str, int], ears: OutsideEars) -> list[str]:
    """A line, if not all words were heard on this kind of processor: they are kept, but in 8-bit integers it is part of
    the ear."""
    here = ", ".join(ears.heard_on)
    if set(kinds) <= {here} or set(kinds) == {UNRECORDED}:
        return []
    counts = "; ".join(f"{count} on {kind}" for kind, count in kinds.items())
    return [f"answers heard on another kind of CPU than here ({here}), which an 8-bit ear's words depend on: {counts}"]


class Memory:
    """What ears have found, by who heard and what was heard: a sound by its hash, words by themselves."""

    def __init__(self, rows: Sequence[Outside], ears: OutsideEars) -> None:
        self.ears = ears
        self.heard: dict[str, tuple[str, str, str]] = {}  # words, cpu, compute_type
        self.rated: dict[str, tuple[float | None, ...]] = {}
        self.origins = {row.origin: row.sha256 for row in rows if row.origin}
        now = ears.providers
        for row in rows:
            by = {name for name, ear in row.providers.items() if now.get(name) == ear}
            if "transcriber" in by and row.heard is not None:
                self.heard[row.sha256] = (row.heard, row.cpu, row.compute_type)
            if "naturalness" in by:
                self.rated[row.sha256] = (row.signal, row.background, row.overall)
            if "sense" in by and row.words == words_hash(row):
                read = {plain_text(row.heard or ""): row.perplexity_heard, plain_text(row.text): row.perplexity_written}
                ears.sense.known |= {words: value for words, value in read.items() if value is not None}

    def hear(self, clips: list[Clip]) -> list[Outside]:
        """The clips' lines; each ear is asked only for what nobody has asked it."""
        ears, sounds = self.ears, [self._sound(clip) for clip in clips]
        if ears.transcriber is not None:
            new = unknown(sounds, self.heard)
            words = ears.transcriber.write_down([audio() for audio in new.values()])
            here = ears.heard_on
            self.heard |= {sha: (said, *here) for sha, said in zip(new, words, strict=True)}
        if ears.naturalness is not None:
            new = unknown(sounds, self.rated)
            rated = ears.naturalness.rate([audio() for audio in new.values()])
            self.rated |= {sha: tuple(rounded(r._asdict()).values()) for sha, r in zip(new, rated, strict=True)}
        rows = [self._line(clip, sound) for clip, sound in zip(clips, sounds, strict=True)]
        return rows if ears.sense is None else with_sense(rows, ears.sense)

    def _sound(self, clip: Clip) -> Sound:
        """A clip's hash; its audio is made for it only if nothing of its origin was heard before."""
        if clip.origin in self.origins:
            return Sound(self.origins[clip.origin], clip.audio)
        audio = clip.audio()
        sha = digest(audio)
        self.origins |= {clip.origin: sha} if clip.origin else {}
        return Sound(sha, lambda: audio)

    def _line(self, clip: Clip, sound: Sound) -> Outside:
        heard, cpu, compute_type = self.heard.get(sound.sha256, (None, "", ""))
        return Outside(
            clip.response_id,
            sound.sha256,
            clip.text,
            heard,
            None if heard is None else word_error_rate(clip.text, heard),
            *self.rated.get(sound.sha256, (None,) * 3),
            providers=self.ears.providers,
            origin=clip.origin,
            cpu=cpu,
            compute_type=compute_type,
        )


def unknown(sounds: list[Sound], known: Mapping[str, object]) -> dict[str, Callable[[], Audio]]:
    """The sounds that are not known, each once: the first, whose audio is there already."""
    found: dict[str, Callable[[], Audio]] = {}
    for sound in sounds:
        if sound.sha256 not in known:
            found.setdefault(sound.sha256, sound.audio)
    return found


def with_sense(rows: list[Outside], sense: Perplexity) -> list[Outside]:
    """The rows with the perplexities of their words, all read together."""
    texts = [plain_text(text) for row in rows for text in (row.heard or "", row.text)]
    found = dict(zip(texts, sense.of(texts), strict=True))
    made = []
    for row, heard, written in zip(rows, texts[::2], texts[1::2], strict=True):
        values = rounded({"perplexity_heard": found[heard], "perplexity_written": found[written]})
        made.append(replace(row, words=words_hash(row), **values))
    return made


def words_hash(row: Outside) -> str:
    """Of the plain words that were heard and written: they depend on how words are made plain, too."""
    return hashlib.sha256(f"{plain_text(row.heard or '')}|{plain_text(row.text)}".encode()).hexdigest()[:16]


def rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: round(v, 4) if np.isfinite(v) else None for name, v in values.items()}


def same(old: Outside | None, new: Outside) -> bool:
    """Does a line hold what it would hold if it were made now?"""
    return old is not None and all(getattr(old, n) == getattr(new, n) for n in ("sha256", "text", "providers"))


def digest(audio: Audio) -> str:
    whole = hashlib.sha256(str(audio.sample_rate).encode())
    whole.update(np.ascontiguousarray(audio.samples, np.float32).tobytes())
    return whole.hexdigest()


def batches(clips: Sequence[Clip]) -> list[list[Clip]]:
    return [list(clips[start : start + BATCH]) for start in range(0, len(clips), BATCH)]
