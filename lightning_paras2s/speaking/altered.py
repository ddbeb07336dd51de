"""Speech that another synthesizer made, altered: louder noise, other vocal tracts. For tests of what generalises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_paras2s.audio import at_rate
from lightning_paras2s.errors import UserError
from lightning_paras2s.speaking.synthesizers import Synthesizer, brownish
from lightning_paras2s.types import Audio, Style


class AlteredSynthesizer(Synthesizer):
    """Another synthesizer's speech, altered; silence stays silence.

    Args:
        synthesizer: speaks.
        noise_db: level of added background noise against the speech's, in dB (-10: the noise is 10 dB lower); null =
            none is added.
        tract: factor by which resonances, pitch and tempo rise, as if the vocal tract were so much shorter: other
            speakers (1 = as spoken; below 1 a longer tract, 0.5 to 2).
    """

    def __init__(self, synthesizer: Synthesizer, noise_db: float | None = None, tract: float = 1.0) -> None:
        if not 0.5 <= tract <= 2:
            raise UserError(f"tract must lie between 0.5 and 2; got {tract}; set it nearer to 1")
        self.synthesizer, self.tract = synthesizer, float(tract)
        self.noise_db = None if noise_db is None else float(noise_db)
        self.sample_rate = synthesizer.sample_rate
        self.name = f"{synthesizer.name}, tract {tract:g}, noise {'none' if noise_db is None else f'{noise_db:g} dB'}"

    def unspeakable(self, text: str) -> str:
        return self.synthesizer.unspeakable(text)

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        audio = self.synthesizer.synthesize(text, style, voice, seed)
        if self.tract != 1:
            source = int(round(audio.sample_rate * self.tract / 50) * 50)  # a ratio that resamples fast
            audio = replace(audio, samples=at_rate(audio.samples, source, audio.sample_rate))
        return audio if self.noise_db is None else with_noise(audio, self.noise_db, seed)


def with_noise(audio: Audio, level_db: float, seed: int) -> Audio:
    """Brownish noise (-6 dB an octave above 400 Hz at 16 kHz), `level_db` against the speech's root mean square."""
    white = np.random.default_rng([seed, 1]).standard_normal(len(audio.samples))
    noise = brownish(white, 0.86, audio.samples, level_db)
    return replace(audio, samples=np.clip(audio.samples + noise, -1, 1).astype(np.float32))
