"""Unlabelled speech for RL (paper, section 4.3: "unlabeled speech"): recordings of any kind -> queries without styles.

A recording is read, known by its bytes and its sound (`same_sound`), listened to (`hearing/voice_activity.py`), cut at
its pauses, and its words are written down where nobody told them. What is kept lies as FLAC at 16 kHz beside the
manifest, in a folder named after it, so that both can be moved. One line a recording is appended to a log: a run that
was killed goes on, and a recording that changed is imported anew. A query's id never depends on what else is imported.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning_paras2s.audio import is_silent, write_audio
from lightning_paras2s.bench.queries.decode import Unheard, decode, has_ffmpeg
from lightning_paras2s.bench.queries.manifest import write_manifest
from lightning_paras2s.bench.queries.recordings import Recorded, recordings_in
from lightning_paras2s.bench.queries.same_sound import Sounds, curves, packed
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.faster_whisper import FasterWhisper, missing_ear
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.voice_activity import SileroVAD, Span, VoiceActivity, pieces_of, spoken_seconds
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.running.origins import file_sha, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.types import Audio, Query, append_jsonl, read_jsonl

KEPT, DUPLICATE = "kept", "duplicate"
MIN_SPOKEN_SECONDS = 0.3  # of a piece in which somebody is said to speak
MAX_WORDS_A_SECOND, MAX_COMPRESSION = 8.0, 2.4  # of what an ear writes down; people say 2 to 6 words a second


class Limits(NamedTuple):
    """What is cut and kept, see `import_speech`."""

    min_words: int
    min_seconds: float
    max_seconds: float
    pause_seconds: float


@dataclass(frozen=True)
class Imported:
    """What came of one recording.

    Attributes:
        name, sha256: which recording this is.
        inputs: hash of all else that decides what comes of it.
        status: kept, or why nothing of it was.
        seconds: of the whole.
        sound: its curves (`same_sound`).
        pieces: {id, audio, sha, start, end, text, status}, times in seconds; `status` as above.
    """

    name: str
    sha256: str
    inputs: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    sound: str = ""
    pieces: list[dict] = field(default_factory=list)


def import_recordings(
    root: Path, out: Path, split: str, limits: Limits, transcriber: Transcriber | None, voice: VoiceActivity | None
) -> dict[str, Any]:
    """Write the manifest `out`; -> counts.

    Raises:
        UserError: there is no recording, none is left, or the ears are missing.
    """
    check_limits(limits)
    folder, log = out.with_name(f"{out.stem}.audio"), out.with_name(f"{out.stem}.import.jsonl")
    recordings = recordings_in(root, folder)
    importer = Importer(folder, limits, ears(recordings, transcriber), voice or SileroVAD())
    rows = importer.all(recordings, log)
    queries = [q for one, row in zip(recordings, rows, strict=True) for q in queries_of(one, row, folder, split)]
    counts = Counter(piece["status"] for row in rows for piece in row.pieces)
    counts += Counter(row.status for row in rows if not row.pieces)
    if not queries:
        first = next((f"; the first: {row.name}: {row.reason}" for row in rows if row.reason), "")
        raise UserError(
            f"{root} must hold speech to import; got none in {len(rows)} recordings: {in_words(counts)}{first}; "
            f"see {log}"
        )
    write_manifest(out, queries)
    seconds = sum(piece["end"] - piece["start"] for row in rows for piece in row.pieces if piece["status"] == KEPT)
    return {
        "manifest": str(out),
        "recordings": len(rows),
        "counts": dict(counts.most_common()),
        "hours": round(seconds / 3600, 4),
        "by_style": {},
        "group_sizes": {1: len(queries)},
        "providers": importer.providers,
        "log": str(log),
    }


class Importer:
    """Imports recordings, each by itself, but for those that were heard before."""

    def __init__(self, folder: Path, limits: Limits, transcriber: Transcriber | None, voice: VoiceActivity) -> None:
        self.folder, self.limits, self.transcriber, self.voice = folder, limits, transcriber, voice
        self.stages, self.sounds = Stages(), Sounds()
        self.inputs = sha(list(limits), part_sha(voice), part_sha(transcriber), has_ffmpeg())
        self.providers = {"voice_activity": voice.name, "transcriber": transcriber.name if transcriber else ""}

    def all(self, recordings: Sequence[Recorded], log: Path) -> list[Imported]:
        """What came of each; what the log lacks is imported, in order."""
        append_jsonl(log, [])  # mends a half line
        held = {(row.name, row.sha256, row.inputs): row for row in read_jsonl(log, Imported)}
        keys = [(one.name, bytes_of(one), sha(self.inputs, one.text)) for one in self._over(recordings, "looking")]
        before = [held.get(key) for key in keys]
        found = [row if row is not None and self._stays(row) else None for row in before]
        for row in found:
            if row is not None and row.status == KEPT:
                self.sounds.add(row.name, row.sha256, row.seconds, row.sound)
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        for index, one in enumerate(self._over(recordings, "importing")):
            if keys[index][1] and first[keys[index]] != index:
                found[index] = Imported(*keys[index], DUPLICATE, "it is listed twice")
            elif found[index] is None:
                found[index] = self.one(one, keys[index])
                append_jsonl(log, [found[index]] if found[index] != before[index] else [])
        return found

    def one(self, recording: Recorded, about: tuple[str, str, str]) -> Imported:
        """Read, listen to, cut and write down one recording, which is known by its name, its bytes and its inputs."""
        digest = about[1]
        if digest and (first := self.sounds.find(digest, 0.0, "")):
            return Imported(*about, DUPLICATE, f"the same bytes as {first}")
        try:
            audio = decode(recording.open)
        except Unheard as error:
            return Imported(*about, error.status, str(error))
        seconds, sound = round(audio.seconds, 3), packed(curves(audio))
        if seconds < (least := self.limits.min_seconds):
            return Imported(*about, "short", f"{seconds:g} s; --min_seconds is {least:g}", seconds)
        if is_silent(audio):
            return Imported(*about, "silent", "", seconds)
        if first := self.sounds.find(digest, seconds, sound):
            return Imported(*about, DUPLICATE, f"the same sound as {first}", seconds, sound)
        pieces = self._pieces(audio, recording, digest)
        status = KEPT if any(piece["status"] == KEPT for piece in pieces) else next((p["status"] for p in pieces), "")
        if status == KEPT:
            self.sounds.add(recording.name, digest, seconds, sound)
        return Imported(*about, status or "no_speech", "", seconds, sound, pieces)

    def _pieces(self, audio: Audio, recording: Recorded, digest: str) -> list[dict]:
        """The pieces of a recording, written; the words that are told of a whole one that is cut are told of none. A
        piece's id is made of the recording's name and content and of where the piece is."""
        speech, text = self.voice.find(audio), recording.text
        whole = bool(text) and audio.seconds <= self.limits.max_seconds
        cuts = pieces_of(audio, speech, self.limits.max_seconds, self.limits.pause_seconds)
        cuts = [Span(0, len(audio.samples))] if whole and cuts else cuts
        parts = [Audio(audio.samples[start:end], audio.sample_rate) for start, end in cuts]
        states = [self._state(part, cut, speech) for part, cut in zip(parts, cuts, strict=True)]
        asked = [i for i, state in enumerate(states) if state == KEPT]
        texts = dict(zip(asked, [text] if whole else self._write_down([parts[i] for i in asked]), strict=False))
        made = []
        for i, (part, cut) in enumerate(zip(parts, cuts, strict=True)):
            start, end = (round(sample / audio.sample_rate, 3) for sample in cut)
            own = f"{safe(recording.name)}-{sha(digest, *cut)[:10]}"
            piece = {"id": own, "audio": "", "sha": "", "start": start, "end": end}
            piece |= {"text": texts.get(i) or "", "status": states[i]}
            if states[i] == KEPT and (why := self._flaw(piece["text"], part.seconds, whole)):
                piece["status"] = why
            if piece["status"] == KEPT:
                path = self.folder / f"{own}.flac"
                write_audio(path, part)
                piece |= {"audio": path.name, "sha": file_sha(path)}
            made.append(piece)
        return made

    def _state(self, part: Audio, cut: Span, speech: Sequence[Span]) -> str:
        if spoken_seconds(cut, speech, part.sample_rate) < MIN_SPOKEN_SECONDS or is_silent(part):
            return "no_speech"
        return KEPT if part.seconds >= self.limits.min_seconds else "short"

    def _flaw(self, text: str, seconds: float, told: bool) -> str:
        """Why a piece's words can't be used; "" if they can."""
        if self.transcriber is None and not told:
            return "no_text"
        if not told and raves(text, seconds):
            return "unlikely_words"
        return "few_words" if len(plain_words(text)) < self.limits.min_words else ""

    def _write_down(self, parts: list[Audio]) -> list[str]:
        if self.transcriber is None:
            return [""] * len(parts)
        return [" ".join(text.split()) for text in self.transcriber.write_down(parts)] if parts else []

    def _stays(self, row: Imported) -> bool:
        """Whether a recording that was imported before is so today: its pieces are there, unchanged. Of what it may be
        a duplicate is looked up anew, and so is a file that was missing."""
        if row.status == DUPLICATE or not row.sha256:
            return False
        return all(file_sha(self.folder / p["audio"]) == p["sha"] for p in row.pieces if p["status"] == KEPT)

    def _over(self, recordings: Sequence[Recorded], stage: str):  # noqa: ANN202  an iterator of them
        return self.stages.over(list(recordings), [1] * len(recordings), stage, stage)


def raves(text: str, seconds: float) -> bool:
    """Does an ear say more than it can have heard? Where Whisper can't tell, it may say the same again without end: a
    text that zlib makes more than 2.4 times shorter (Radford et al. 2022, section 4.5)."""
    data = text.encode()
    return len(text.split()) > MAX_WORDS_A_SECOND * seconds or len(data) > MAX_COMPRESSION * len(zlib.compress(data))


def ears(recordings: Sequence[Recorded], transcriber: Transcriber | None) -> Transcriber | None:
    """Who writes words down: the transcriber, else FasterWhisper; nobody where all words are told and it is missing."""
    if transcriber is not None or (missing_ear() and all(one.text for one in recordings)):
        return transcriber
    return FasterWhisper()


def queries_of(recording: Recorded, row: Imported, folder: Path, split: str) -> list[Query]:
    """The queries that a recording gave. What they are about is known as little as how they are said."""
    kept = [piece for piece in row.pieces if piece["status"] == KEPT]
    return [
        Query(
            id=piece["id"],
            pair_id=piece["id"],
            factor="",
            split=split,
            text=piece["text"],
            styles={},
            topic="",
            audio=f"{folder.name}/{piece['audio']}",
            voice=recording.speaker,
            source=recording.name,
        )
        for piece in kept
    ]


def bytes_of(recording: Recorded) -> str:
    """Hash of a recording's bytes; "" where it can't be opened."""
    try:
        with recording.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""


def safe(name: str) -> str:
    """A name of letters, digits, dots and dashes, without its suffix, at most 60 long."""
    stem = re.sub(r"\.\w{1,5}$", "", name.removeprefix("/").removeprefix("../"))
    return re.sub(r"[^A-Za-z0-9.]+", "-", stem).strip("-.")[-60:] or "recording"


def in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{status} {count}" for status, count in counts.most_common())


def check_limits(limits: Limits) -> None:
    if not 0 < limits.min_seconds < limits.max_seconds:
        got = f"{limits.min_seconds:g} and {limits.max_seconds:g}"
        raise UserError(f"min_seconds must be above 0 and below max_seconds; got {got}; change one")
    if limits.max_seconds > 60 or limits.max_seconds < 1:
        raise UserError(f"max_seconds must be from 1 to 60; got {limits.max_seconds:g}; change it")
    if limits.pause_seconds <= 0 or limits.min_words < 1:
        got = f"{limits.pause_seconds:g} and {limits.min_words}"
        raise UserError(f"pause_seconds must be above 0, min_words at least 1; got {got}; change one")
