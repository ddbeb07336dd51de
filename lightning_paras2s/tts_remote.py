"""Speech from servers and heavy models: gpt-4o-mini-tts, CosyVoice; CSM, YourTTS (paper, section 3.1, Table 1)."""

from __future__ import annotations

from abc import abstractmethod

from lightning_paras2s.tts import QUERY_VOICES, Synthesizer, Voice
from lightning_paras2s.types import Audio, Style, UserError


class RemoteSynthesizer(Synthesizer):
    """A synthesizer that can fail for reasons of its own: a server, a network, a model."""

    concurrency: int = 1

    @abstractmethod
    def voices(self, split: str) -> dict[str, Voice]:
        """The voices of users of a split; splits share none."""

    @abstractmethod
    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        """Speech and "ok", or None and a status that says why not; never raises for one bad answer."""

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        audio, status = self.try_synthesize(text, style, voice, seed)
        if audio is None:
            raise UserError(f"{self.name} must answer with speech; got {status}; check the server and its log")
        return audio


def user_voices(synthesizer: Synthesizer, split: str) -> dict[str, Voice]:
    """Voices that users of a split may have."""
    return synthesizer.voices(split) if isinstance(synthesizer, RemoteSynthesizer) else QUERY_VOICES[split]
