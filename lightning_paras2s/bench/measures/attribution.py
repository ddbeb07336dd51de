"""Which words, and what of the manner, a classifier of speech decides by: the answer's recording is changed, and heard
again (SpeechXAI: Pastor et al., EACL 2024, arXiv 2309.07733, sections 3.1 and 3.2).

An attribution is how much of the classifier's probability a change takes away; negative: the change makes the class
more probable. What changes a recording (`edits`) is pure and seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.types import Audio

Classifier = Callable[[list[Audio]], Sequence[float]]  # recordings -> the probability of one class in each
SEMITONES = (-4.0, -2.0, 2.0, 4.0)
RATES = (0.75, 0.85, 1.15, 1.25)  # above 1 is faster
SNR_DB = (20.0, 10.0, 5.0, 0.0)
RT60_SECONDS = (0.3, 0.6, 1.0)
WINDOW, HOP = 512, 128  # samples, of the phase vocoder


class Span(NamedTuple):
    """A word, and from when to when it is said."""

    word: str
    start_seconds: float
    end_seconds: float


def word_attributions(
    classify: Classifier, audio: Audio, words: Sequence[Span], removal: Literal["silence", "nothing"] = "silence"
) -> list[float]:
    """r(w) = p(class | x) - p(class | x without w), for each word.

    Args:
        classify: probabilities of the class that is explained.
        audio: x.
        words: where they are in it.
        removal: a word's samples become silence, or are cut out.

    Raises:
        UserError: a word that ends before it begins, or lies outside of the recording.
    """
    for span in words:
        if not 0 <= span.start_seconds < span.end_seconds <= audio.seconds + 1e-6:
            raise UserError(f"a word must lie within its recording of {audio.seconds:g} s; got {span}")
    first, *others = classify([audio, *(without(audio, span, removal) for span in words)])
    return [float(first - other) for other in others]


def without(audio: Audio, span: Span, removal: Literal["silence", "nothing"] = "silence") -> Audio:
    start, end = (round(s * audio.sample_rate) for s in (span.start_seconds, span.end_seconds))
    if removal == "nothing":
        return Audio(np.delete(audio.samples, slice(start, end)), audio.sample_rate)
    samples = audio.samples.copy()
    samples[start:end] = 0
    return Audio(samples, audio.sample_rate)


def equal_spans(words: Sequence[str], seconds: float) -> list[Span]:
    """Words without known times, as if each took equally long (SpeechXAI's equal-width baseline)."""
    ends = np.linspace(0, seconds, len(words) + 1).tolist()
    return [Span(word, ends[i], ends[i + 1]) for i, word in enumerate(words)]


def feature_attributions(classify: Classifier, audio: Audio, edits: Mapping[str, Sequence[Audio]]) -> dict[str, float]:
    """r(feature) = p(class | x) - mean over t of p(class | x edited by t), for each feature.

    Args:
        classify: probabilities of the class that is explained.
        audio: x.
        edits: feature -> the recording, changed in it to several degrees (`edited`).
    """
    first, *others = classify([audio, *(one for changed in edits.values() for one in changed)])
    found, rest = {}, iter(others)
    for name, changed in edits.items():
        found[name] = float(first - np.mean([next(rest) for _ in changed]))
    return found


def edited(audio: Audio, feature: str, seed: int = 0) -> list[Audio]:
    """The recording changed in one feature, to several degrees.

    Args:
        audio: any rate.
        feature: pitch (semitones), speed (rate), noise (white, by its signal-to-noise ratio), or reverberation (by the
            seconds after which it is 60 dB lower).
        seed: of noise and rooms.
    """
    check_choice("a feature", feature, EDITS)
    change, degrees = EDITS[feature]
    return [change(audio, degree, seed) for degree in degrees]


def with_noise(audio: Audio, snr_db: float, seed: int = 0) -> Audio:
    """White noise added: 10 log10 of the powers' ratio is `snr_db`."""
    noise = np.random.default_rng(seed).standard_normal(len(audio.samples))
    power, own = (np.mean(np.square(x, dtype=float)) if len(x) else 0.0 for x in (audio.samples, noise))
    scale = np.sqrt(power / (own * 10 ** (snr_db / 10))) if own else 0.0
    return _made(audio, audio.samples + scale * noise)


def with_echo(audio: Audio, rt60_seconds: float, seed: int = 0) -> Audio:
    """Convolved with a room: the direct sound, then noise that is 60 dB lower after `rt60_seconds`; as loud as before.
    (SpeechXAI simulates rooms of 3 to 7 m.)"""
    time = np.arange(round(rt60_seconds * audio.sample_rate)) / audio.sample_rate
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / rt60_seconds)
    room = np.concatenate([[1.0], 0.5 * tail / max(np.sqrt((tail**2).sum()), 1e-9)])
    size = len(audio.samples) + len(room) - 1
    heard = np.fft.irfft(np.fft.rfft(audio.samples, size) * np.fft.rfft(room, size), size)
    loud, louder = np.sqrt((audio.samples.astype(float) ** 2).sum()), np.sqrt((heard**2).sum())
    return _made(audio, heard * (loud / louder if louder else 1.0))


def at_rate(audio: Audio, rate: float, seed: int = 0) -> Audio:
    """Faster (above 1) or slower, at the same pitch: a phase vocoder (Flanagan and Golden 1966). `seed` is not used."""
    if len(audio.samples) < WINDOW:
        return audio
    window = np.hanning(WINDOW + 1)[:-1]
    padded = np.pad(audio.samples.astype(float), WINDOW)
    starts = np.arange(0, len(padded) - WINDOW + 1, HOP)
    spectra = np.fft.rfft(np.stack([padded[s : s + WINDOW] for s in starts]) * window)  # [F, W / 2 + 1]
    steps = np.arange(0, len(spectra) - 1, rate)
    left, part = steps.astype(int), (steps % 1)[:, None]
    size = (1 - part) * np.abs(spectra[left]) + part * np.abs(spectra[left + 1])
    advance = np.angle(spectra[left + 1]) - np.angle(spectra[left])
    phase = np.angle(spectra[0]) + np.concatenate([np.zeros((1, advance.shape[1])), np.cumsum(advance, 0)[:-1]])
    frames = np.fft.irfft(size * np.exp(1j * phase)) * window
    out, weight = (np.zeros(WINDOW + HOP * (len(frames) - 1)) for _ in range(2))
    for i, frame in enumerate(frames):
        out[i * HOP : i * HOP + WINDOW] += frame
        weight[i * HOP : i * HOP + WINDOW] += window**2
    lead, length = round(WINDOW / 2 / rate + WINDOW / 2), round(len(audio.samples) / rate)
    return _made(audio, (out / np.maximum(weight, 1e-3))[lead : lead + length])


def at_pitch(audio: Audio, semitones: float, seed: int = 0) -> Audio:
    """Higher or lower, as long as before: at another rate, then read as fast again. `seed` is not used."""
    ratio = 2 ** (semitones / 12)
    slow = at_rate(audio, 1 / ratio).samples
    places = np.arange(len(audio.samples)) * ratio
    return _made(audio, np.interp(places, np.arange(len(slow)), slow) if len(slow) else slow)


def _made(audio: Audio, samples: NDArray) -> Audio:
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    return Audio((samples / max(peak, 1.0)).astype(np.float32), audio.sample_rate)


EDITS: dict[str, tuple[Callable[[Audio, float, int], Audio], tuple[float, ...]]] = {
    "pitch": (at_pitch, SEMITONES),
    "speed": (at_rate, RATES),
    "noise": (with_noise, SNR_DB),
    "reverberation": (with_echo, RT60_SECONDS),
}
