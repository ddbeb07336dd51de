"""What was said: transcribers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_paras2s.types import Audio


class Transcriber(ABC):
    """Speech to text."""

    name: str  # with version, recorded in every evidence

    @abstractmethod
    def transcribe(self, audios: list[Audio]) -> list[str]:
        """Lower-case words without punctuation, one string an audio; "" for silence."""
