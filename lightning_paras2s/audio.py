"""Waveforms: read, write, resample, level, silence. Everything inside the project is mono float32 in [-1, 1]."""

from __future__ import annotations

from functools import cached_property
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Audio

MAX_SECONDS = 60.0
SILENCE_RMS = 1e-3


def read_audio(path: str | Path, sample_rate: int, max_seconds: float = MAX_SECONDS) -> Audio:
    """Read a file as mono at `sample_rate`; stereo is averaged, other rates are resampled, clipped samples stay as
    they are.

    Raises:
        UserError: for a missing, empty, unreadable, non-finite or over-long file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"audio must be an existing file; got {path}; check the manifest's paths")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"audio must be readable (WAV, FLAC, OGG); got {path} ({error}); convert or replace it"
        ) from None
    if not len(samples):
        raise UserError(f"audio must hold at least one sample; got none in {path}; replace it")
    if len(samples) / rate > max_seconds:
        raise UserError(f"audio must last at most {max_seconds:g} s; got {len(samples) / rate:.1f} s in {path}; cut it")
    if not np.isfinite(samples).all():
        raise UserError(f"audio must be finite; got NaN or infinity in {path}; replace it")
    return resample(Audio(samples.mean(1), rate), sample_rate)


class Recording(Audio):
    """A file's audio, read (`read_audio`) when its samples are first asked for: who has heard it before need not."""

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "sample_rate", sample_rate)

    @cached_property
    def samples(self) -> np.ndarray:
        return read_audio(self.path, self.sample_rate).samples


def seconds_of(path: str | Path) -> float:
    """Length of a file by its header alone.

    Raises:
        UserError: for a missing or unreadable file.
    """
    if not Path(path).is_file():
        raise UserError(f"audio must be an existing file; got {path}; check the manifest's paths")
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"audio must be readable (WAV, FLAC, OGG); got {path} ({error}); convert or replace it"
        ) from None


def write_audio(path: str | Path, audio: Audio) -> None:
    """Write 16-bit PCM in the format of the suffix (.wav, .flac), whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    soundfile.write(
        part, np.clip(audio.samples, -1, 1), audio.sample_rate, format=path.suffix[1:].upper(), subtype="PCM_16"
    )
    part.replace(path)


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Polyphase resampling."""
    if audio.sample_rate == sample_rate:
        return audio
    common = gcd(audio.sample_rate, sample_rate)
    samples = resample_poly(audio.samples, sample_rate // common, audio.sample_rate // common).astype(np.float32)
    return Audio(samples, sample_rate)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def is_silent(audio: Audio) -> bool:
    """Nothing to hear: shorter than 0.1 s, or an RMS below -60 dBFS."""
    return audio.seconds < 0.1 or rms(audio.samples) < SILENCE_RMS


def silence_fraction(audio: Audio, window_seconds: float = 0.02, threshold_db: float = -40.0) -> float:
    """Share of windows that are more than `threshold_db` below the loudest window."""
    size = int(window_seconds * audio.sample_rate)
    count = len(audio.samples) // size
    if not count:
        return 1.0
    energy = np.square(audio.samples[: count * size].reshape(count, size)).mean(1)
    return float((energy <= max(energy.max() * 10 ** (threshold_db / 10), 1e-10)).mean())
