"""What the networks hear, and the vocoder: levels, pitch, and the way there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_paras2s.models.tiny.features import (
    ACOUSTIC_SIZE,
    HOP,
    MELS,
    SAMPLE_RATE,
    acoustics,
    log_mel,
    pitch,
    vocode,
)
from lightning_paras2s.speaking.synthesizers import AGENT_PROSODY, EspeakSynthesizer


def buzz(hertz: float, seconds: float = 1.0, harmonics: int = 8) -> torch.Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return 0.1 * sum(torch.sin(2 * math.pi * k * hertz * time) / k for k in range(1, harmonics + 1))[None]


def hertz(features: torch.Tensor) -> float:
    voiced = features[..., MELS + 1] > 0.5
    return float(100 * 2 ** features[..., MELS][voiced].median())


def test_frames_are_one_a_hop():
    assert acoustics(torch.zeros(2, 10 * HOP)).shape == (2, 10, ACOUSTIC_SIZE)


def test_log_mel_of_silence_is_the_floor():
    """Energy 1e-8, halved logarithm, shifted by 4 and divided by 4."""
    floor = (math.log(1e-8) / 2 + 4) / 4
    assert torch.allclose(log_mel(torch.zeros(1, 1600)), torch.tensor(floor), atol=1e-4)


def test_log_mel_rises_by_a_quarter_of_log_2_when_the_amplitude_doubles():
    sound = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    gap = log_mel(2 * sound) - log_mel(sound)
    assert torch.allclose(gap[:, 2:-2], torch.tensor(math.log(2) / 4), atol=1e-4)


def test_log_mel_peaks_higher_when_the_tone_is_higher():
    time = torch.arange(8000) / SAMPLE_RATE
    peaks = [
        int(log_mel(torch.sin(2 * math.pi * f * time)[None])[0, 20].argmax()) for f in (200, 500, 1000, 3000, 6000)
    ]
    assert peaks == sorted(set(peaks))


@pytest.mark.parametrize("f0", [80.0, 100.0, 200.0, 400.0])
def test_pitch_is_log2_of_the_frequency_over_100_hz(f0):
    found, voiced = pitch(buzz(f0))
    inner = slice(5, -5)  # windows that hold nothing but the tone
    assert voiced[0, inner].all()
    # Lags are whole samples: at 400 Hz one sample is 2.5 %.
    assert torch.allclose(
        found[0, inner], torch.tensor(math.log2(f0 / 100)), atol=0.5 * math.log2(1 + f0 / SAMPLE_RATE) + 0.01
    )


def test_noise_and_silence_are_unvoiced():
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert pitch(noise)[1].mean() < 0.05 and not pitch(torch.zeros(1, 16_000))[1].any()


@pytest.mark.parametrize("tone", AGENT_PROSODY)
def test_vocoder_keeps_level_and_pitch_of_agent_speech(tone):
    """Within 3 dB and a semitone: the vocoder knows neither phases nor the ratio of noise and voice within a frame."""
    speech = EspeakSynthesizer().speak_as_agent("We sold the house I grew up in.", tone).audio
    heard = acoustics(torch.from_numpy(speech.samples)[None])
    again = vocode(heard)
    assert again.shape[-1] == heard.shape[1] * HOP
    level = 20 * math.log10(float(again.square().mean().sqrt()) / float(np.sqrt(np.mean(speech.samples**2))))
    assert abs(level) < 3
    assert abs(math.log2(hertz(acoustics(again)) / hertz(heard))) < 1 / 12


def test_vocoder_is_louder_when_the_envelope_is():
    heard = acoustics(buzz(150))
    louder = heard.clone()
    louder[..., :MELS] += math.log(2) / 4  # twice the amplitude
    ratio = vocode(louder)[0, 2000:-2000].square().mean().sqrt() / vocode(heard)[0, 2000:-2000].square().mean().sqrt()
    assert float(ratio) == pytest.approx(2.0, rel=0.03)  # the floor is subtracted from both


def test_vocoder_gives_the_same_wave_for_the_same_features():
    heard = acoustics(buzz(150))
    assert torch.equal(vocode(heard), vocode(heard))


def test_vocoder_is_silent_when_the_features_are():
    assert vocode(acoustics(torch.zeros(1, 16_000))).abs().max() < 1e-3
