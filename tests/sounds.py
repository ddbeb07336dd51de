"""Sounds of known pitch and loudness, and what is loudest in one."""

from __future__ import annotations

import numpy as np

from lightning_paras2s.types import Audio

RATE = 16_000


def tone(hertz: float, seconds: float = 0.5, level: float = 0.3) -> Audio:
    time = np.arange(round(seconds * RATE)) / RATE
    return Audio((level * np.sin(2 * np.pi * hertz * time)).astype(np.float32), RATE)


def hum(level: float, seconds: float = 0.2) -> Audio:
    """509 Hz, told apart by how loud it is."""
    return Audio((level * np.sin(np.arange(round(seconds * RATE)) / 5)).astype(np.float32), RATE)


def hiss(seed: int) -> Audio:
    """0.4 s of noise."""
    return Audio((0.3 * np.random.default_rng(seed).standard_normal(6400)).astype(np.float32), RATE)


def loudest_hertz(audio: Audio) -> float:
    spectrum = np.abs(np.fft.rfft(audio.samples * np.hanning(len(audio.samples))))
    return float(spectrum.argmax() * audio.sample_rate / len(audio.samples))
