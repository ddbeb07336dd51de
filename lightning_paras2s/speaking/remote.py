"""Speech that may fail to come, from servers: gpt-4o-mini-tts and its like (paper, section 3.1, Table 1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from math import inf

from lightning_paras2s.errors import UserError
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.remote import Answer, Gate, Patience, ask, gather
from lightning_paras2s.servers.replies import Account
from lightning_paras2s.servers.spoken import read_sound
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES, Synthesizer, Voice, most_minutes
from lightning_paras2s.types import Audio, Style

# The paper has a chat model describe the style (section 3.1, step 3) and prints no prompt; this one is ours.
DESCRIPTION_PROMPT = """
Describe in one or two sentences how a voice actor should speak so that the listener clearly hears this speaker:
{style}.
Speak of tone, pace, pitch, volume and breath only, never of the words. Give the description and nothing else.
"""
OPENAI_VOICES = {  # the voices of gpt-4o-mini-tts, dealt out so that splits share none
    "train": {"alloy": "female", "coral": "female", "nova": "female", "ash": "male", "echo": "male", "verse": "male"},
    "val": {"shimmer": "female", "fable": "male"},
    "test": {"sage": "female", "ballad": "male", "onyx": "male"},
}


class RemoteSynthesizer(Synthesizer):
    """A synthesizer that can fail for reasons of its own: a server, a network, a model."""

    concurrency: int = 1
    most_characters: float = inf  # of a text that it takes

    def at_most_usd(self, characters: float) -> float:
        return most_minutes(min(characters, self.most_characters)) * self.usd_per_minute

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


class OpenAITTS(RemoteSynthesizer):
    """gpt-4o-mini-tts, or a server with the same /audio/speech; the style is an instruction, maybe by a chat model.

    Args:
        model: name on the server.
        base_url: of the server.
        api_key_env: environment variable that holds the key.
        describer: writes the instruction from the style's labels (paper); without one the labels are the instruction.
        concurrency: requests at a time.
        patience: how long to try a request, and how often.
    """

    sample_rate = 24_000
    usd_per_minute = 0.015  # platform.openai.com, 2025
    most_characters = 4096  # likewise

    def __init__(
        self,
        model: str = "gpt-4o-mini-tts",
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        describer: ChatLLM | None = None,
        concurrency: int = 8,
        patience: Patience = Patience(),
    ) -> None:
        self.name, self.model, self.url = model, model, base_url.rstrip("/") + "/audio/speech"
        self.api_key_env, self.describer = api_key_env, describer
        self.concurrency, self.patience = concurrency, patience

    @property
    def beside_usd(self) -> float:
        return getattr(self.describer, "spent_usd", 0.0)

    def at_most_usd(self, characters: float) -> float:
        asked = [{"role": "user", "content": DESCRIPTION_PROMPT}]
        return super().at_most_usd(characters) + (self.describer.at_most(asked) if self.describer else 0.0)

    def voices(self, split: str) -> dict[str, Voice]:
        return {name: Voice(name, gender) for name, gender in OPENAI_VOICES[split].items()}

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        instructions, status = self.describe(style)
        if instructions is None:
            return None, f"description_{status}"
        body = {
            "model": self.model,
            "voice": voice,
            "input": text,
            "instructions": instructions,
            "response_format": "wav",
        }
        headers = Account(self.url, self.api_key_env).headers
        answer = post(lambda: {"url": self.url, "json": body, "headers": headers}, read_wav, self.patience)
        if answer.status in ("http_401", "http_403", "http_404"):
            raise UserError(f"{self.url} must know the key in ${self.api_key_env} and the model; got {answer.status}")
        return answer.value, answer.status

    def describe(self, style: Style) -> tuple[str | None, str]:
        """How to speak, and "ok"; or None and the chat model's status."""
        labels = ", ".join(f"{name} {value}" for name, value in asdict(style).items() if value)
        if self.describer is None:
            return f"Speak like this person: {labels}.", "ok"
        reply = self.describer.complete([[{"role": "user", "content": DESCRIPTION_PROMPT.format(style=labels)}]])[0]
        return reply.text, reply.status


def user_voices(synthesizer: Synthesizer, split: str) -> dict[str, Voice]:
    """Voices that users of a split may have."""
    return synthesizer.voices(split) if isinstance(synthesizer, RemoteSynthesizer) else QUERY_VOICES[split]


def post(request: Callable[[], dict], read: Callable[[bytes], Audio], patience: Patience) -> Answer:
    """One patient request."""
    return gather([request], lambda session, item: ask(session, item, read, patience, Gate()), 1, patience)[0]


def read_wav(body: bytes) -> Audio:
    """A sound file's bytes.

    Raises:
        ValueError: if it is cut, empty or no sound file.
    """
    audio = read_sound(body, "wav", 0)
    if not len(audio.samples):
        raise ValueError("no samples")
    return audio
