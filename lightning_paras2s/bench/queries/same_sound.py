"""Is a recording another one once more: copied, re-encoded, resampled, louder or softer?

A recording is known by the loudness of eight bands below 3.4 kHz, which a telephone keeps, each 50 ms of the twelve
seconds around its middle. Two are the same sound if they are equally long (to 0.3 s, which codecs add) and these
curves, each without its mean, correlate at 0.975 or more for some shift of up to 0.2 s. An excerpt is another sound.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np

from lightning_paras2s.types import Audio

FRAME_SECONDS, WINDOW_SECONDS = 0.05, 0.064
FRAMES = 240
EDGES = np.geomspace(150, 3400, 9)  # Hz, of the bands
FLOOR_DB = 40.0  # below the loudest frame: what is softer is a codec's to change
STEP_DB = 0.5  # of the curves as they are kept
SHIFTS = 4  # frames
LENGTHS_SECONDS = 0.3
SAME, CLOSE = 0.975, 0.85  # correlations of all curves, and of their sum


def curves(audio: Audio) -> np.ndarray:
    """Loudness in steps of 0.5 dB below the loudest, uint8 [T, 8]."""
    hop, size = int(FRAME_SECONDS * audio.sample_rate), int(WINDOW_SECONDS * audio.sample_rate)
    wanted = hop * (FRAMES - 1) + size
    start = max(0, (len(audio.samples) - wanted) // 2)
    samples = audio.samples[start : start + wanted]
    samples = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)))
    bins = np.searchsorted(np.fft.rfftfreq(size, 1 / audio.sample_rate), EDGES)
    bands = np.stack([power[:, a:b].sum(1) for a, b in zip(bins, bins[1:], strict=False)], 1)
    decibels = 10 * np.log10(np.maximum(bands, 1e-12))
    return np.minimum((decibels.max() - decibels) / STEP_DB, FLOOR_DB / STEP_DB).astype(np.uint8)


def same_sound(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two recordings of one length have the same curves."""
    return max(likeness(first, second, shift) for shift in range(-SHIFTS, SHIFTS + 1)) >= SAME


def likeness(first: np.ndarray, second: np.ndarray, shift: int) -> float:
    """Of the curves where both have frames, `second` being `shift` frames late; 0 where either is flat."""
    a, b = first[max(0, -shift) :].astype(np.float32), second[max(0, shift) :].astype(np.float32)
    count = min(len(a), len(b))
    if count < 1:
        return 0.0
    a, b = (one[:count] - one[:count].mean(0) for one in (a, b))
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale else 0.0


def envelope(sound: np.ndarray) -> np.ndarray:
    """The sum of a recording's curves, without its mean, of length 1: float32 [FRAMES], 0 behind its end."""
    total = sound.astype(np.float32).sum(1)
    total -= total.mean()
    return np.pad(total / max(float(np.linalg.norm(total)), 1e-9), (0, FRAMES - len(total)))


class Sounds:
    """The recordings so far, by their bytes and by their sound.

    Most are told apart by their envelopes, all at once; only what is alike in that is compared by its curves.
    """

    def __init__(self) -> None:
        self.by_bytes: dict[str, str] = {}
        self.by_length: dict[int, SameLength] = {}

    def add(self, name: str, sha256: str, seconds: float, sound: str) -> None:
        self.by_bytes.setdefault(sha256, name)
        self.by_length.setdefault(round(seconds / LENGTHS_SECONDS), SameLength()).add(name, seconds, unpacked(sound))

    def find(self, sha256: str, seconds: float, sound: str) -> str | None:
        """The name of a recording that has the same bytes or the same sound."""
        if sha256 in self.by_bytes or not sound:
            return self.by_bytes.get(sha256)
        own, place = unpacked(sound), round(seconds / LENGTHS_SECONDS)
        near = [self.by_length[key] for key in (place - 1, place, place + 1) if key in self.by_length]
        return next((name for part in near for name in part.alike(seconds, own)), None)


class SameLength:
    """The recordings whose lengths are within 0.3 s."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, np.ndarray]] = []
        self.envelopes = np.zeros((16, FRAMES), np.float32)

    def add(self, name: str, seconds: float, sound: np.ndarray) -> None:
        if len(self.rows) == len(self.envelopes):
            self.envelopes = np.concatenate([self.envelopes, np.zeros_like(self.envelopes)])
        self.envelopes[len(self.rows)] = envelope(sound)
        self.rows.append((name, seconds, sound))

    def alike(self, seconds: float, sound: np.ndarray) -> Iterator[str]:
        """The names of those with the same sound, in the order in which they came."""
        padded = np.pad(envelope(sound), SHIFTS)
        shifted = np.stack([padded[shift : shift + FRAMES] for shift in range(2 * SHIFTS + 1)])
        close = (self.envelopes[: len(self.rows)] @ shifted.T).max(1) >= CLOSE
        for name, length, other in (self.rows[row] for row in np.flatnonzero(close)):
            if abs(length - seconds) <= LENGTHS_SECONDS and same_sound(sound, other):
                yield name


def packed(sound: np.ndarray) -> str:
    return base64.b64encode(sound.tobytes()).decode()


def unpacked(sound: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(sound), np.uint8).reshape(-1, len(EDGES) - 1)
