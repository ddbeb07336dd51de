"""Is a recording another one once more: copied, re-encoded, resampled, louder or softer?

A recording is known by the loudness of eight bands below 3.4 kHz, which a telephone keeps, each 50 ms of the twelve
seconds around its middle. Two are the same sound if they are equally long (to 0.3 s, which codecs add) and these
curves, each without its mean, correlate at 0.95 or more for some shift of up to 0.2 s. An excerpt is another recording.
"""

from __future__ import annotations

import base64

import numpy as np

from lightning_paras2s.types import Audio

FRAME_SECONDS, WINDOW_SECONDS = 0.05, 0.064
FRAMES = 240
EDGES = np.geomspace(150, 3400, 9)  # Hz, of the bands
FLOOR_DB = 40.0  # below the loudest frame: what is softer is a codec's to change
STEP_DB = 0.5  # of the curves as they are kept
SHIFTS = 4  # frames
LENGTHS_SECONDS = 0.3
SAME = 0.95


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
    return max(correlation(first, second, shift) for shift in range(-SHIFTS, SHIFTS + 1)) >= SAME


def correlation(first: np.ndarray, second: np.ndarray, shift: int) -> float:
    """Of the curves where both have frames, `second` being `shift` frames late; 0 where either is flat."""
    a, b = first[max(0, -shift) :].astype(np.float32), second[max(0, shift) :].astype(np.float32)
    count = min(len(a), len(b))
    if count < 1:
        return 0.0
    a, b = (one[:count] - one[:count].mean(0) for one in (a, b))
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale else 0.0


class Sounds:
    """The recordings so far, by their bytes and by their sound."""

    def __init__(self) -> None:
        self.by_bytes: dict[str, str] = {}
        self.by_length: dict[int, list[tuple[str, float, np.ndarray]]] = {}

    def add(self, name: str, sha256: str, seconds: float, sound: str) -> None:
        self.by_bytes.setdefault(sha256, name)
        place = self.by_length.setdefault(round(seconds / LENGTHS_SECONDS), [])
        place.append((name, seconds, unpacked(sound)))

    def find(self, sha256: str, seconds: float, sound: str) -> str | None:
        """The name of a recording that has the same bytes or the same sound."""
        if sha256 in self.by_bytes or not sound:
            return self.by_bytes.get(sha256)
        own, place = unpacked(sound), round(seconds / LENGTHS_SECONDS)
        near = [row for key in (place - 1, place, place + 1) for row in self.by_length.get(key, [])]
        alike = (n for n, length, other in near if abs(length - seconds) <= LENGTHS_SECONDS and same_sound(own, other))
        return next(alike, None)


def packed(sound: np.ndarray) -> str:
    return base64.b64encode(sound.tobytes()).decode()


def unpacked(sound: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(sound), np.uint8).reshape(-1, len(EDGES) - 1)
