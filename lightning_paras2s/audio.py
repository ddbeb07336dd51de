"""Waveforms: read, write, resample, range, silence. Everything inside the project is mono float32 in [-1, 1].

`in_range` is the only way into that range: what is beyond is scaled, so that nothing is cut off, wraps or turns its
sign.
"""

from __future__ import annotations

import functools
import io
import struct
import sys
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
from scipy.signal import firwin, resample_poly

from lightning_paras2s.errors import UserError
from lightning_paras2s.mp3 import whole
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.types import Audio

MAX_SECONDS = 60.0
SILENCE_RMS = 1e-3
# Full scales of integers, in which some programs write floating-point files; no float mix of speech is 24 dB too loud.
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)
LOUDEST_FLOAT = 16.0
UNSTATED = 0x7FFF0000  # a WAV's lengths from here on are those that programs write to a pipe, not knowing them
OGG_PAGE, OGG_END, OGG_LARGEST = b"OggS", 4, 27 + 255 + 255 * 255  # a page's first bytes, flag of the last, most bytes


def read_audio(path: str | Path, sample_rate: int, max_seconds: float = MAX_SECONDS) -> Audio:
    """Read a file as mono at `sample_rate`; channels are mixed (`mono`), other rates are resampled, clipped samples
    stay as they are, and what is beyond [-1, 1] (a floating-point file) is scaled into it, with one line of warning a
    folder. A file that holds less or more sound than its header states is read as far as both go, and one whose last
    Ogg page is missing as far as it goes, with one line.

    Raises:
        UserError: for a missing, empty, unreadable, non-finite or over-long file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"audio must be an existing file; got {path}; check the manifest's paths")
    try:
        with soundfile.SoundFile(readable(path)) as file:
            stated, rate, samples = file.frames, file.samplerate, file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"audio must be readable (WAV, FLAC, OGG); got {path} ({error}); convert or replace it"
        ) from None
    if not len(samples):
        raise UserError(f"audio must hold at least one sample; got none in {path}; replace it")
    if len(samples) / rate > max_seconds:
        raise UserError(f"audio must last at most {max_seconds:g} s; got {len(samples) / rate:.1f} s in {path}; cut it")
    if not np.isfinite(samples).all():
        raise UserError(f"audio must be finite; got NaN or infinity in {path}; replace it")
    _tell_length(path, (stated - len(samples)) / rate)
    samples, scale = in_range(samples)
    if scale != 1:
        _warn_scaled(path.parent, path.name, scale)
    return resample(Audio(mono(samples), rate), sample_rate)


def readable(path: Path) -> Path | BinaryIO:
    """What libsndfile is to open for a file: itself, or an MP3's bytes with a header that states all of its sound."""
    with path.open("rb") as file:
        found = whole(file)
        return path if found is file else found


def in_range(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Samples within [-1, 1], and what they were divided by: 1 where they were so, an integer's full scale where they
    are on it, else their peak. What is not finite has no peak, and stays as it is."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak <= 1 or not np.isfinite(peak):
        return samples, 1.0
    scale = next((s for s in INTEGER_SCALES if peak <= s), peak) if peak > LOUDEST_FLOAT else peak
    # Divided in double precision: the peak itself must not land beyond 1, nor what is tiny beside it vanish.
    return np.clip(samples.astype(np.float64) / scale, -1, 1).astype(np.float32), scale


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples of any range as 16-bit integers (`in_range`, then cut towards 0): none wraps around.

    Raises:
        UserError: they are not finite.
    """
    check_finite(samples)
    return (in_range(samples)[0] * 32767).astype(np.int16)


def check_finite(samples: np.ndarray, where: str = "what was made") -> None:
    """Refuse NaN and infinity, which as 16-bit integers are a click, or sound that nobody made."""
    if not np.isfinite(samples).all():
        raise UserError(f"audio must be finite to be written; got NaN or infinity in {where}; look at who made it")


def mono(samples: np.ndarray) -> np.ndarray:
    """[N, channels] -> [N]: the mean of the channels, or, where that is less than half as loud as the loudest of them,
    that channel alone: the centre of a 5.1 file, or what two channels of opposite sign would cancel."""
    mean = samples.mean(1)
    if samples.shape[1] == 1:
        return mean
    levels = [rms(channel) for channel in samples.T]
    loudest = int(np.argmax(levels))
    return mean if rms(mean) >= 0.499 * levels[loudest] else np.ascontiguousarray(samples[:, loudest])


@functools.lru_cache(maxsize=1000)
def _warned(folder: Path) -> list[str]:
    return []


def _warn_scaled(folder: Path, name: str, scale: float) -> None:
    """One line for each folder, with its first file."""
    if not _warned(folder):
        _warned(folder).append(name)
        print(
            f"{folder / name} is beyond [-1, 1]: divided by {scale:g}; so is each file of {folder} that is too loud",
            file=sys.stderr,
        )


@functools.lru_cache(maxsize=10_000)
def _tell_length(path: Path, missing_seconds: float) -> None:
    """One line for a file whose header and sound disagree, or whose end is missing."""
    with path.open("rb") as file:
        whole = ogg_ends(file)
    if not whole:
        print(
            f"{path}: its last Ogg page is not marked as the end, for it was cut or never ended; what is there is read",
            file=sys.stderr,
        )
    cut = f"states {missing_seconds:.2f} s more than the file holds" if missing_seconds > 0 else misstated(path)
    if cut:
        print(f"{path}: its header {cut}; only what both agree on is read", file=sys.stderr)


def misstated(path: Path) -> str:
    """How the length of sound that a WAV's header states differs from what the file holds; "" if it does not, if no
    length is stated (that of a pipe: then all is read), or if it is no WAV."""
    with path.open("rb") as file:
        sound = wav_sound(file)
    if sound is None or sound.stated >= UNSTATED or sound.stated == sound.held:
        return ""
    seconds, than = (sound.stated - sound.held) / sound.a_second, "more" if sound.stated > sound.held else "less"
    return f"states {abs(seconds):.2f} s {than} than the file holds"


def ogg_ends(file: BinaryIO) -> bool:
    """Is a file's last Ogg page (Vorbis, Opus) whole, and marked as the last of its stream (RFC 3533, section 6)? What
    is cut at a page, as a copy that was stopped, is a shorter recording to libsndfile. True for what is no Ogg."""
    if file.read(4) != OGG_PAGE:
        return True
    file.seek(max(0, file.seek(0, 2) - OGG_LARGEST))
    body = file.read()
    place = body.rfind(OGG_PAGE)
    head = body[place : place + 27]
    if place < 0 or len(head) < 27:
        return False
    lengths = body[place + 27 : place + 27 + head[26]]  # of the segments that follow
    whole_page = len(lengths) == head[26] and place + 27 + head[26] + sum(lengths) <= len(body)
    return whole_page and bool(head[5] & OGG_END)


class WavSound(NamedTuple):
    """The sound of a WAV, in bytes: its place, how much the header states and how much is there, what a second takes.

    What follows as much as is stated, and is neither a chunk nor padding, is sound, too.
    """

    place: int
    stated: int
    held: int
    a_second: int


def wav_sound(file: BinaryIO) -> WavSound | None:
    """Where a WAV's sound is; None if it is no WAV, or has none."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    place, end, rate, sound, chunks = 12, file.seek(0, 2), 1, None, 0
    while place + 8 <= end:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        left = end - place - 8
        if name == b"fmt ":
            rate = max(struct.unpack("<8xI", file.read(12))[0], 1)
        elif name == b"data":
            sound = WavSound(place + 8, size, min(size, left), rate)
        elif sound and name == b"RIFF":  # another file
            return sound
        elif sound and (size > left or not all(32 <= c < 127 for c in name)):
            more = sound.held + left + 8 if chunks else end - sound.place
            file.seek(place)
            return sound._replace(held=more) if any(file.read()) else sound
        chunks += sound is not None and name != b"data"
        place += 8 + size + size % 2
    return sound


class Recording(Audio):
    """A file's audio, read (`read_audio`) when its samples are first asked for: who has heard it before need not."""

    def __init__(self, path: str | Path, sample_rate: int) -> None:
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "sample_rate", sample_rate)

    @cached_property
    def samples(self) -> np.ndarray:
        return read_audio(self.path, self.sample_rate).samples


def seconds_of(path: str | Path) -> float:
    """Length of a file by its header alone, or, of an MP3 that has none, by its frames.

    Raises:
        UserError: for a missing or unreadable file.
    """
    if not Path(path).is_file():
        raise UserError(f"audio must be an existing file; got {path}; check the manifest's paths")
    try:
        return soundfile.info(readable(Path(path))).duration
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"audio must be readable (WAV, FLAC, OGG); got {path} ({error}); convert or replace it"
        ) from None


def write_audio(path: str | Path, audio: Audio) -> None:
    """Write 16-bit PCM in the format of the suffix (.wav, .flac), whole or not at all; too loud samples are scaled.

    Raises:
        UserError: the samples are not finite.
    """
    path = Path(path)
    check_finite(audio.samples, f"the samples for {path}")
    samples, scale = in_range(audio.samples)
    if scale != 1:
        _warn_scaled(path.parent, path.name, scale)
    body = io.BytesIO()  # libsndfile closes a FLAC file whose end a full disk did not take without a word
    soundfile.write(body, samples, audio.sample_rate, format=path.suffix[1:].upper(), subtype="PCM_16")
    with written_whole(path) as part:
        part.write_bytes(body.getbuffer())


def resample(audio: Audio, sample_rate: int) -> Audio:
    """Polyphase resampling; where its filter overshoots full scale, the whole is scaled back."""
    if audio.sample_rate == sample_rate:
        return audio
    return Audio(in_range(at_rate(audio.samples, audio.sample_rate, sample_rate))[0], sample_rate)


def at_rate(samples: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Samples at another rate (Hz), of any level."""
    common = gcd(old_rate, new_rate)
    up, down = new_rate // common, old_rate // common
    low_pass = _low_pass(max(up, down)).astype(np.result_type(samples, np.float32))
    return resample_poly(samples, up, down, window=low_pass).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _low_pass(factor: int) -> np.ndarray:
    """The filter that `resample_poly` would design anew for every recording, in as long as it takes to apply it."""
    return firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0)) if factor > 1 else np.ones(1)


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
