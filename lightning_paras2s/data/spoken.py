"""Lines of the embedded text set, spoken by eSpeak NG, offline: acoustics, which are kept on disk, and waveforms."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from lightning_paras2s.audio import to_int16
from lightning_paras2s.data.dialogue import Utterance
from lightning_paras2s.data.embedded import Line
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.tiny.features import HOP, acoustics
from lightning_paras2s.running.files import write_arrays
from lightning_paras2s.speaking.synthesizers import (
    AGENT_PROSODY,
    AGENT_VOICE,
    QUERY_PROSODY,
    QUERY_VOICES,
    EspeakSynthesizer,
)
from lightning_paras2s.types import Audio, Style

FRAME = 640  # samples a code: 25 Hz
TRIES = 24  # more variations of a line that crashes: of one in a wide range of pitches, four in five do
CORPUS_VERSION = 3  # of the synthesis; raised whenever the same line would sound different
_SPAWN = multiprocessing.get_context("spawn")
_STDERR = Console(stderr=True)
assert FRAME % HOP == 0


def hear(audio: Audio) -> np.ndarray:
    """Audio at 16 kHz -> acoustics [T, 66] float16, padded to whole code frames."""
    samples = np.pad(audio.samples, (0, -len(audio.samples) % FRAME))
    return acoustics(torch.from_numpy(samples)[None])[0].numpy().astype(np.float16)


def speak(line: Line) -> Utterance:
    synthesizer = EspeakSynthesizer()
    onsets: tuple[int, ...] = ()
    if line.voice == AGENT_VOICE:
        speech = synthesizer.speak_as_agent(line.text, line.style.tone or "neutral")
        audio, onsets = speech.audio, tuple(onset // FRAME for onset in speech.onsets)
    else:
        audio = synthesizer.synthesize(line.text, line.style, line.voice, line.seed)
    kept = to_int16(audio.samples) if line.keep_samples else np.zeros(0, np.int16)
    return Utterance(hear(audio), line.text, line.style, onsets, kept)


def corpus_audio(lines: list[Line]) -> list[Audio]:
    """The waveforms alone, not cached."""
    synthesizer = EspeakSynthesizer()
    return [synthesizer.synthesize(line.text, line.style, line.voice, line.seed) for line in lines]


def _speak_all(lines: list[Line]) -> list[Utterance]:
    torch.set_num_threads(1)
    return [in_time(speak, line) for line in lines]


def in_time(speak: Callable[[Line], Utterance], line: Line, patience: float = 20.0) -> Utterance:
    """What a worker says of a line; one that takes longer than `patience` seconds ends the worker, as a crash does:
    eSpeak NG, which is loaded anew for each line, was once seen to wait for a lock of its own that no thread held."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(patience, exit=True, file=nowhere)
        try:
            return speak(line)
        finally:
            faulthandler.cancel_dump_traceback_later()


def corpus(lines: list[Line], cache_dir: str | Path = "cache") -> list[Utterance]:
    """Speak all lines, in two processes; cached on disk under a hash of the lines."""
    key = json.dumps([CORPUS_VERSION, [asdict(line) for line in lines], _prosody()])
    path = Path(cache_dir) / f"speech-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if path.is_file():
        return _load(path)
    chunks = [lines[i : i + 200] for i in range(0, len(lines), 200)]
    told = f"speaking, once: kept in {escape(str(path.parent))}"
    utterances = [u for part in spoken_chunks(chunks, told=told) for u in part]
    _save(path, utterances)
    return utterances


def spoken_chunks(
    chunks: list[list[Line]],
    speak_all: Callable[[list[Line]], list[Utterance]] = _speak_all,
    told: str = "speaking",
) -> list[list[Utterance]]:
    """Speak chunks in two processes. eSpeak NG crashes or hangs on a few lines (docs/embedded.md); `_rescued` finds
    them."""
    # An executor, because a Pool waits forever for a worker that was killed.
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=_SPAWN) as pool, Progress(console=_STDERR) as bar:
        waiting = [pool.submit(speak_all, chunk) for chunk in chunks]
        task = bar.add_task(told, total=sum(map(len, chunks)))
        for chunk, done in zip(chunks, waiting, strict=True):
            done.exception()  # waits
            bar.advance(task, len(chunk))
        found = [None if isinstance(done.exception(), BrokenProcessPool) else done.result() for done in waiting]
    lost = [i for i, part in enumerate(found) if part is None]
    if lost:  # the chunk that crashed, or one beside it, and all behind it
        found[lost[0]] = _rescued(chunks[lost[0]], speak_all, TRIES)
        for i, part in zip(lost[1:], spoken_chunks([chunks[i] for i in lost[1:]], speak_all, told), strict=True):
            found[i] = part
    return found


def _rescued(lines: list[Line], speak_all: Callable[[list[Line]], list[Utterance]], tries: int) -> list[Utterance]:
    """Speak lines of which one may crash its process: halves are tried until it is found, and it is spoken with the
    next variation seed that is alive."""
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        done = pool.submit(speak_all, lines)
        if not isinstance(done.exception(), BrokenProcessPool):
            return done.result()
    if len(lines) > 1:
        half = len(lines) // 2
        return _rescued(lines[:half], speak_all, tries) + _rescued(lines[half:], speak_all, tries)
    if not tries:
        raise UserError(
            f"every line must be spoken; got a process that died while speaking {lines[0].text!r} in {TRIES + 1} "
            "variations, out of memory or in eSpeak NG; give it more memory, or another data seed"
        )
    return _rescued([replace(lines[0], seed=lines[0].seed + 1)], speak_all, tries - 1)


def _prosody() -> list:
    """What else decides how a line sounds; a change of the synthesis itself needs a new CORPUS_VERSION."""
    maps = [{name: asdict(p) for name, p in table.items()} for table in (QUERY_PROSODY, AGENT_PROSODY)]
    return [*maps, QUERY_VOICES]


def _save(path: Path, utterances: list[Utterance]) -> None:
    meta = json.dumps([[len(u.acoustics), len(u.samples), u.text, asdict(u.style), u.onsets] for u in utterances])
    arrays = {
        "acoustics": np.concatenate([u.acoustics for u in utterances]),
        "samples": np.concatenate([u.samples for u in utterances]),
    }
    write_arrays(path, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)


def _load(path: Path) -> list[Utterance]:
    with np.load(path) as data:
        meta, frames, samples = json.loads(data["meta"].tobytes()), data["acoustics"], data["samples"]
    utterances, start, begin = [], 0, 0
    for length, size, text, style, onsets in meta:
        utterances.append(
            Utterance(
                frames[start : start + length], text, Style(**style), tuple(onsets), samples[begin : begin + size]
            )
        )
        start, begin = start + length, begin + size
    return utterances
