"""GPT-4o's voice, and any other server with OpenAI's chat completions that hears and speaks (paper, Table 3)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

from lightning_paras2s.bench.systems.base import digest
from lightning_paras2s.bench.systems.remote_system import Prices, RemoteSystem
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.servers.spoken import Format, Spoken, read_spoken, read_streamed, wav_bytes
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio

PRICES = {  # platform.openai.com, 2025
    "gpt-audio": Prices(2.5, 32.0, 10.0, 64.0),
    "gpt-audio-mini": Prices(0.6, 10.0, 2.4, 20.0),
    "gpt-4o-audio-preview": Prices(2.5, 40.0, 10.0, 80.0),
    "gpt-4o-mini-audio-preview": Prices(0.15, 10.0, 0.6, 20.0),
}


class OpenAIAudioSystem(RemoteSystem):
    """A model behind /chat/completions with audio in and out: OpenAI's, Qwen-Omni's, vLLM-Omni's, SGLang-Omni's, or
    `serve` of this package.

    Time-outs, 429, 5xx and cut answers are asked again, with the server's Retry-After. An answer without usable speech
    has a status: text_only, empty, refused, bad_audio, truncated; what never came: timeout, connection, malformed,
    http_N, max_usd, not_asked. Each answer has its cost: all attempts, those that came back cut at the most they can
    have cost. A time-out without any answer can't be priced and is not counted.

    Earlier turns are messages: a user's recording where there is one, else the words; an assistant's words, since the
    protocol takes no recording of the assistant.

    Args:
        model: the server's name for it.
        base_url: up to and including the version.
        voice: the server's name for it; null sends no options of audio (servers with one voice).
        instructions: the system's message; "" sends none.
        modalities: of the answer.
        audio_format: of the answer; streams of OpenAI need pcm16.
        pcm_rate: Hz of pcm16.
        stream: take the answer as it is made, which tells when its first sound came.
        temperature: null leaves it to the server.
        top_p: likewise.
        seed: is sent, raised by the number of the sample; null sends none.
        max_tokens: of an answer, text and speech together.
        tokens_field: the name under which the server takes `max_tokens`.
        extra: further fields of each request, as the server wants them.
        concurrency: requests at a time.
    """

    def __init__(
        self,
        model: str = "gpt-audio",
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        voice: str | None = "alloy",
        instructions: str = "",
        modalities: tuple[str, ...] = ("text", "audio"),
        audio_format: Format = "wav",
        pcm_rate: int = 24_000,
        stream: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int = 1024,
        tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens",
        extra: dict[str, Any] | None = None,
        concurrency: int = 8,
        patience: Patience = Patience(),
        max_usd: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        url, prices = base_url.rstrip("/") + "/chat/completions", prices or PRICES.get(model)
        super().__init__(url, api_key_env, concurrency, patience, max_usd, prices, max_tokens, stream)
        self.instructions, self.audio_format, self.pcm_rate, self.seed = instructions, audio_format, pcm_rate, seed
        sound = {} if voice is None else {"audio": {"voice": voice, "format": audio_format}}
        sampling = {"temperature": temperature, "top_p": top_p, tokens_field: max_tokens}
        sent = {name: value for name, value in sampling.items() if value is not None}
        self.body = {"model": model, "modalities": list(modalities), **sound, **sent, **(extra or {})}
        # A model is the same at another address, and whether its answer is taken in pieces or whole.
        self.config_sha = digest([type(self).__name__, sorted(self.body.items()), instructions, seed, pcm_rate], [])

    @property
    def sent(self) -> dict[str, Any]:
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return {**self.body, "messages": messages}

    def request(self, turns: Sequence[Turn], audio: Audio, sample: int) -> dict[str, Any]:
        said = [*(message_of(turn) for turn in turns), {"role": "user", "content": spoken_parts(audio)}]
        body = {**self.sent, "messages": [*self.sent["messages"], *said]}
        if self.seed is not None:
            body["seed"] = self.seed + sample
        if self.streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return {"url": self.url, "json": body, "headers": self.account.headers}

    def read(self, said: bytes) -> Spoken:
        return (read_streamed if self.streams else read_spoken)(said, self.audio_format, self.pcm_rate)


def message_of(turn: Turn) -> dict[str, Any]:
    """An earlier turn as a message."""
    heard = turn.role == "user" and turn.sound is not None
    return {"role": turn.role, "content": spoken_parts(turn.sound) if heard else turn.text}


def spoken_parts(audio: Audio) -> list[dict[str, Any]]:
    """A message's content that is a recording."""
    data = base64.b64encode(wav_bytes(audio)).decode()
    return [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
