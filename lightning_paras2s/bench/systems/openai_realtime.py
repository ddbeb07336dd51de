"""GPT-4o's realtime voice, and servers with the same protocol (paper, Table 3: GPT-4o)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lightning_paras2s.bench.systems.base import digest
from lightning_paras2s.bench.systems.live import EventError, LiveSystem, pcm
from lightning_paras2s.bench.systems.remote_system import Prices
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.servers.spoken import Spoken, Usage, decoded, read_sound
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio

RATE = 24_000  # Hz of both directions
SPEECH = ("response.output_audio.delta", "response.audio.delta")  # since 2025-08, and before
WORDS = ("response.output_audio_transcript.delta", "response.audio_transcript.delta")
TEXT = ("response.output_text.delta", "response.text.delta")
PRICES = {  # platform.openai.com, 2025
    "gpt-realtime": Prices(4.0, 32.0, 16.0, 64.0),
    "gpt-realtime-mini": Prices(0.6, 10.0, 2.4, 20.0),
    "gpt-4o-realtime-preview": Prices(5.0, 40.0, 20.0, 80.0),
}


class OpenAIRealtimeSystem(LiveSystem):
    """A model behind OpenAI's realtime protocol: one connection a query, the whole recording at once.

    Statuses and costs are those of `OpenAIAudioSystem`; an answer that does not come to its end is "interrupted".
    `first_audio_seconds` counts from the opening of the connection. Earlier turns are items of the conversation: a
    user's recording where there is one, else the words; an assistant's words.

    Args:
        model: the server's name for it.
        base_url: up to and including the version; ws:// or wss://.
        voice: the server's name for it.
        instructions: the session's; "" leaves the server's own.
        max_tokens: of an answer.
        extra: further fields of the session, as the server wants them.
        concurrency: conversations at a time.
    """

    speech = re.compile(rb'"type":\s*"response\.(output_)?audio\.delta"')

    def __init__(
        self,
        model: str = "gpt-realtime",
        base_url: str = "wss://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        voice: str = "marin",
        instructions: str = "",
        max_tokens: int = 1024,
        extra: dict[str, Any] | None = None,
        concurrency: int = 4,
        patience: Patience = Patience(),
        max_usd: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        url, prices = f"{base_url.rstrip('/')}/realtime?model={model}", prices or PRICES.get(model)
        super().__init__(url, api_key_env, concurrency, patience, max_usd, prices, max_tokens, True)
        sound = {"type": "audio/pcm", "rate": RATE}
        heard = {"format": sound, "turn_detection": None}  # a turn ends where the recording does
        self.session = {
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {"input": heard, "output": {"format": sound, "voice": voice}},
            "max_output_tokens": max_tokens,
            **({"instructions": instructions} if instructions else {}),
            **(extra or {}),
        }
        self.config_sha = digest([type(self).__name__, model, sorted(self.session.items())], [])

    def connection(self) -> dict[str, Any]:
        return {"url": self.url, "headers": self.account.headers}

    def setup(self) -> dict[str, Any]:
        return {"type": "session.update", "session": self.session}

    def ready(self, event: dict[str, Any]) -> bool:
        return event.get("type") == "session.updated"

    def ask(self, turns: Sequence[Turn], audio: Audio) -> list[dict[str, Any]]:
        said = [*(content_of(turn) for turn in turns), ("user", {"type": "input_audio", "audio": pcm(audio, RATE)})]
        items = [{"type": "message", "role": role, "content": [content]} for role, content in said]
        return [*({"type": "conversation.item.create", "item": i} for i in items), {"type": "response.create"}]

    def done(self, event: dict[str, Any]) -> bool:
        response = event.get("response") or {}
        if event.get("type") == "error":
            raise failure(event.get("error") or {})
        if event.get("type") == "response.done" and response.get("status") == "failed":
            raise failure((response.get("status_details") or {}).get("error") or {})
        return event.get("type") == "response.done"

    def read(self, said: list[dict[str, Any]]) -> Spoken:
        pieces = [e["delta"] for e in said if e.get("type") in SPEECH]
        text = "".join(e["delta"] for e in said if e.get("type") in (*WORDS, *TEXT)) or None
        response = said[-1].get("response") or {}
        status, usage = status_of(response), usage_of(response.get("usage"))
        if status in ("ok", "truncated") and not pieces:
            status = "text_only" if text else "empty"
        if status not in ("ok", "truncated"):
            return Spoken(None, text, status, usage)
        return Spoken(read_sound(decoded(pieces), "pcm16", RATE), text, status, usage)


def content_of(turn: Turn) -> tuple[str, dict[str, Any]]:
    """An earlier turn's role and its content."""
    if turn.role == "user" and turn.sound is not None:
        return turn.role, {"type": "input_audio", "audio": pcm(turn.sound, RATE)}
    return turn.role, {"type": "input_text" if turn.role == "user" else "output_text", "text": turn.text}


def status_of(response: dict[str, Any]) -> str:
    """How an answer ended: whole only if the server says that it is completed (it may have been cancelled)."""
    match response:
        case {"status": "completed"}:
            return "ok"
        case {"status": "incomplete", "status_details": {"reason": "max_output_tokens"}}:
            return "truncated"
        case {"status": "incomplete", "status_details": {"reason": "content_filter"}}:
            return "refused"
    return "interrupted"


def failure(error: dict[str, Any]) -> EventError:
    """An error event as the HTTP status that means the same."""
    code, kind = str(error.get("code") or ""), str(error.get("type") or "")
    status = "http_400" if kind == "invalid_request_error" else "http_500"
    if "rate_limit" in code or "rate_limit" in kind:
        status = "http_429"
    if code == "insufficient_quota":
        status = "http_402"
    return EventError(status, str(error.get("message") or code or kind or "failed"))


def usage_of(stated: Any) -> Usage | None:
    """Tokens by kind; cached ones count as fresh."""
    match stated:
        case {"input_tokens": int(asked), "output_tokens": int(made)}:
            heard = (stated.get("input_token_details") or {}).get("audio_tokens") or 0
            said = (stated.get("output_token_details") or {}).get("audio_tokens") or 0
            return Usage(asked - heard, heard, made - said, said)
    return None
