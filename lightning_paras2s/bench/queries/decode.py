"""Any file of sound as mono at 16 kHz: what libsndfile reads (WAV, FLAC, OGG, MP3, ...), and, where the extra `ears` is
installed, what FFmpeg reads (M4A, WMA, the sound of videos, ...), whatever the file's name says.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import BinaryIO

import numpy as np
import soundfile

from lightning_paras2s.audio import in_range, mono, resample
from lightning_paras2s.hearing.voice_activity import SPEECH_RATE
from lightning_paras2s.mp3 import whole
from lightning_paras2s.types import Audio

RATES = (4_000, 768_000)  # Hz; beyond, a header lies
BLOCK_SECONDS = 600  # whose channels are mixed at a time: hours of many channels need not fit in memory


class Unheard(Exception):
    """A file gives no sound; `status` says why: missing, empty, unreadable, not_finite."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:300])
        self.status = status


def decode(open_file: Callable[[], BinaryIO]) -> Audio:
    """A whole file; its channels are mixed, its rate becomes 16 kHz, and what is beyond [-1, 1] is scaled.

    Raises:
        Unheard: it gives no sound.
    """
    try:
        with open_file() as file:
            if not file.read(1):
                raise Unheard("empty", "the file has no bytes")
            file.seek(0)
            samples, rate = _read(file)  # [N], Hz
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Unheard("missing", str(error)) from None
    except (OSError, ValueError, MemoryError) as error:
        raise Unheard("unreadable", str(error) or "it does not fit in memory") from None
    if not RATES[0] <= rate <= RATES[1]:
        raise Unheard("unreadable", f"its rate is {rate} Hz")
    if not len(samples):
        raise Unheard("empty", "the file has no samples")
    if not np.isfinite(samples).all():
        raise Unheard("not_finite", "a sample is NaN or infinite")
    return resample(Audio(in_range(samples)[0], rate), SPEECH_RATE)


def has_ffmpeg() -> bool:
    """Whether the extra `ears` is there, which brings FFmpeg's decoders (PyAV)."""
    return find_spec("faster_whisper") is not None


def _read(file: BinaryIO) -> tuple[np.ndarray, int]:
    """Samples [N] and their rate (Hz)."""
    try:
        with soundfile.SoundFile(whole(file)) as sound:
            size, parts = BLOCK_SECONDS * sound.samplerate, [np.zeros(0, np.float32)]
            while len(block := sound.read(size, dtype="float32", always_2d=True)):
                parts.append(mono(block))
            return np.concatenate(parts), sound.samplerate
    except (soundfile.SoundFileError, MemoryError) as error:  # MemoryError: a header that promises too much
        if not has_ffmpeg():
            raise Unheard("unreadable", f"{error}; more formats: pip install 'lightning_paras2s[ears]'") from None
        file.seek(0)
        return _read_by_ffmpeg(file), SPEECH_RATE


def _read_by_ffmpeg(file: BinaryIO) -> np.ndarray:
    from av.error import FFmpegError
    from faster_whisper import decode_audio

    try:
        return decode_audio(file, SPEECH_RATE)
    except (FFmpegError, IndexError, ValueError, TypeError) as error:  # IndexError: it has no stream of sound
        raise Unheard("unreadable", str(error) or "there is no sound in it") from None
