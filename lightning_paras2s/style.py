"""How it was said: style recognisers, from the waveform alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_paras2s.types import Audio, Style


class StyleRecognizer(ABC):
    """Speech to style."""

    name: str  # with version, recorded in every evidence

    @abstractmethod
    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        """`role` is "query" (emotion, sarcasm, age, gender are filled in) or "response" (tone is filled in)."""
