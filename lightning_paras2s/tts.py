"""Text and style to speech: synthesizers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_paras2s.types import Audio, Style


class Synthesizer(ABC):
    """Text to speech in a style and a voice."""

    name: str
    sample_rate: int

    @abstractmethod
    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        """Speak `text`. The same arguments give the same samples."""
