"""Messages to chat models that hear: a content is a text, or a list of parts of text and speech (OpenAI's format)."""

from __future__ import annotations

import base64
import io
from typing import Any

import soundfile

from lightning_paras2s.audio import in_range, resample
from lightning_paras2s.types import Audio

AUDIO_RATE = 16_000  # Hz of the 16-bit speech that is sent
Conversation = list[dict[str, Any]]  # messages {"role", "content"}


def text_part(text: str) -> dict[str, Any]:
    """A piece of text among the parts of a message."""
    return {"type": "text", "text": text}


def audio_part(audio: Audio) -> dict[str, Any]:
    """Speech among the parts of a message (`input_audio`): 16-bit WAV at 16 kHz."""
    file = io.BytesIO()
    samples, _ = in_range(resample(audio, AUDIO_RATE).samples)
    soundfile.write(file, samples, AUDIO_RATE, format="WAV", subtype="PCM_16")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def parts_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message; a plain text is one."""
    return [text_part(message["content"])] if isinstance(message["content"], str) else message["content"]


def audio_seconds(part: dict[str, Any]) -> float:
    """How long a part's speech lasts; 0 for text."""
    return len(part["input_audio"]["data"]) * 3 / 4 / (2 * AUDIO_RATE) if "input_audio" in part else 0.0
