"""Gemini with native audio, over the Live protocol: its models that hear and speak have no other (S2S-Arena; paper,
Table 3's peers)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lightning_paras2s.bench.systems.base import digest
from lightning_paras2s.bench.systems.live import LiveSystem, pcm
from lightning_paras2s.bench.systems.remote_system import Prices
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.servers.spoken import Spoken, Usage, decoded, read_sound
from lightning_paras2s.turns import Turn, all_written
from lightning_paras2s.types import Audio

SERVICE = "google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
HEARD_RATE = 16_000  # Hz of what is sent
SPOKEN_RATE = 24_000  # Hz of what comes back, where it does not say
PRICES = {"gemini-2.5-flash-native-audio-preview-09-2025": Prices(0.5, 3.0, 2.0, 12.0)}  # ai.google.dev, 2025


class GeminiSystem(LiveSystem):
    """A Gemini model that hears and speaks: one connection a query, the whole recording at once.

    Statuses and costs are those of `OpenAIAudioSystem`; an answer that the server breaks off is "interrupted". Earlier
    turns are the words of the session's history, which the Live protocol takes as text: how they were said is lost, and
    a dialogue with a turn that nobody wrote down can't be carried.

    Args:
        model: Google's name for it, without "models/".
        base_url: of the websocket.
        api_key_env: the environment variable that holds the key.
        voice: Google's name for it; null leaves it to the server.
        instructions: the system's; "" sends none.
        temperature: null leaves it to the server.
        top_p: likewise.
        seed: null sends none.
        max_tokens: of an answer.
        extra: further fields of the setup, as the server wants them.
        concurrency: conversations at a time; accounts have a limit of their own.
    """

    def __init__(
        self,
        model: str = "gemini-2.5-flash-native-audio-preview-09-2025",
        base_url: str = "wss://generativelanguage.googleapis.com",
        api_key_env: str = "GEMINI_API_KEY",
        voice: str | None = "Kore",
        instructions: str = "",
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        max_tokens: int = 2048,
        extra: dict[str, Any] | None = None,
        concurrency: int = 3,
        patience: Patience = Patience(),
        max_usd: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        url, prices = f"{base_url.rstrip('/')}/ws/{SERVICE}", prices or PRICES.get(model)
        super().__init__(url, api_key_env, concurrency, patience, max_usd, prices, max_tokens, True)
        voices = {} if voice is None else {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}
        sampling = {"temperature": temperature, "topP": top_p, "seed": seed, "maxOutputTokens": max_tokens}
        config = {"responseModalities": ["AUDIO"], **({"speechConfig": voices} if voices else {})}
        self.session = {
            "model": f"models/{model}",
            "generationConfig": config | {name: value for name, value in sampling.items() if value is not None},
            "outputAudioTranscription": {},
            # A turn ends where the recording does, not where the server hears a pause.
            "realtimeInputConfig": {"automaticActivityDetection": {"disabled": True}},
            **({"systemInstruction": {"parts": [{"text": instructions}]}} if instructions else {}),
            **(extra or {}),
        }
        self.config_sha = digest([type(self).__name__, sorted(self.session.items())], [])

    def connection(self) -> dict[str, Any]:
        return {"url": self.url, "headers": {"x-goog-api-key": self.account.key} if self.account.key else {}}

    def setup(self) -> dict[str, Any]:
        return {"setup": self.session}

    def ready(self, event: dict[str, Any]) -> bool:
        return "setupComplete" in event

    def carries(self, turns: Sequence[Turn]) -> bool:
        return all_written(turns)

    def ask(self, turns: Sequence[Turn], audio: Audio) -> list[dict[str, Any]]:
        roles = {"user": "user", "assistant": "model"}
        said = [{"role": roles[turn.role], "parts": [{"text": turn.text}]} for turn in turns]
        before = [{"clientContent": {"turns": said, "turnComplete": False}}] if said else []  # more is to come
        sound = {"data": pcm(audio, HEARD_RATE), "mimeType": f"audio/pcm;rate={HEARD_RATE}"}
        spoken = ({"activityStart": {}}, {"audio": sound}, {"activityEnd": {}})
        return [*before, *({"realtimeInput": part} for part in spoken)]

    def done(self, event: dict[str, Any]) -> bool:
        content = event.get("serverContent") or {}
        return bool(content.get("turnComplete") or content.get("interrupted"))

    def read(self, said: list[dict[str, Any]]) -> Spoken:
        contents = [event.get("serverContent") or {} for event in said]
        parts = [part for c in contents for part in (c.get("modelTurn") or {}).get("parts") or []]
        sounds = [part["inlineData"] for part in parts if "inlineData" in part]
        heard = "".join((c.get("outputTranscription") or {}).get("text") or "" for c in contents)
        text = heard or "".join(part.get("text") or "" for part in parts if not part.get("thought")) or None
        usage = usage_of(next((e["usageMetadata"] for e in reversed(said) if "usageMetadata" in e), None))
        if any(c.get("interrupted") for c in contents):
            return Spoken(None, text, "interrupted", usage)
        if not sounds:
            return Spoken(None, text, "text_only" if text else "empty", usage)
        stated = re.search(r"rate=(\d+)", sounds[0].get("mimeType", ""))
        rate = int(stated[1]) if stated else SPOKEN_RATE
        return Spoken(read_sound(decoded([s["data"] for s in sounds]), "pcm16", rate), text, "ok", usage)


def usage_of(stated: Any) -> Usage | None:
    """Tokens by modality; what has none is text."""
    match stated:
        case {"promptTokenCount": int(asked), "responseTokenCount": int(made)}:
            heard, said = (audio_of(stated.get(f"{name}TokensDetails")) for name in ("prompt", "response"))
            thought = stated.get("thoughtsTokenCount") or 0
            return Usage(asked - heard, heard, made - said + thought, said)
    return None


def audio_of(details: Any) -> int:
    return sum(d.get("tokenCount") or 0 for d in details or [] if d.get("modality") == "AUDIO")
