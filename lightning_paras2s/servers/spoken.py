"""Speech in what servers answer: completions with audio, whole or streamed, and the bytes that hold it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import soundfile

from lightning_paras2s import mp3
from lightning_paras2s.audio import UNSTATED, mono, ogg_ends, wav_sound
from lightning_paras2s.types import Audio

Format = Literal["wav", "pcm16", "flac", "mp3", "opus"]
EXACT = 32768.0  # 16-bit samples are whole multiples of its inverse


@dataclass(frozen=True)
class Usage:
    """Tokens that a server counted."""

    text_in: float = 0.0
    audio_in: float = 0.0
    text_out: float = 0.0
    audio_out: float = 0.0


@dataclass(frozen=True)
class Spoken:
    """What a server said. `audio` is None where `status` says why; `usage` is None where it states none."""

    audio: Audio | None
    text: str | None
    status: str
    usage: Usage | None
    fingerprint: str = ""


def wav_bytes(audio: Audio) -> bytes:
    """16-bit WAV; samples of a 16-bit recording come back from it bit by bit."""
    file = io.BytesIO()
    samples = np.clip(np.rint(audio.samples * EXACT), -EXACT, EXACT - 1).astype(np.int16)
    soundfile.write(file, samples, audio.sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def read_sound(body: bytes, kind: Format, pcm_rate: int) -> Audio:
    """Speech from a server's bytes; what calls itself WAV is read as WAV, whatever was asked for.

    Raises:
        ValueError: if it is cut ("cut" in the message), empty or no sound.
    """
    if kind == "pcm16" and body[:4] != b"RIFF":
        if len(body) % 2:
            raise ValueError("samples are cut")
        samples, rate = np.frombuffer(body, "<i2").astype(np.float32)[:, None] / EXACT, pcm_rate
    else:
        try:
            samples, rate = soundfile.read(io.BytesIO(whole(body)), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"no sound: {error}") from None
    if not np.isfinite(samples).all():
        raise ValueError("samples are not finite")
    return Audio(mono(samples) if len(samples) else np.zeros(0, np.float32), rate)


def whole(body: bytes) -> bytes:
    """A WAV or MP3 with a header that states all of its sound: that of a stream states what its first piece holds, or
    nothing. Anything else stays as it is.

    Raises:
        ValueError: if it holds less than its header says, sound that is not in one piece, or an Ogg without its end.
    """
    if not ogg_ends(io.BytesIO(body)):
        raise ValueError("speech is cut: its last Ogg page is not marked as the end")
    if (found := mp3.stream(body)) is not None:
        if (found.stated or 0) > found.frames + 1:  # some count their header, too
            raise ValueError(f"speech is cut: {found.frames} of {found.stated} frames")
        return mp3.restated(body, found)
    if body[:4] != b"RIFF":
        return body
    sound = wav_sound(io.BytesIO(body))
    if sound is None:
        raise ValueError("speech is cut: a WAV without samples")
    if sound.stated >= UNSTATED or sound.stated == sound.held:
        return body
    if sound.stated > sound.held:
        raise ValueError(f"speech is cut: {sound.held} of {sound.stated} bytes")
    if sound.place + sound.held != len(body):
        raise ValueError(f"speech is cut in two: {sound.stated} bytes, other chunks, {sound.held - sound.stated} bytes")
    return body[: sound.place - 4] + struct.pack("<I", sound.held) + body[sound.place :]


def decoded(pieces: list[str]) -> bytes:
    """Base64 in pieces, each padded by itself or all of one text.

    Raises:
        ValueError: if it is none.
    """
    try:
        if any(len(piece) % 4 for piece in pieces):
            return base64.b64decode("".join(pieces), validate=True)
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None


def read_spoken(body: bytes, kind: Format, pcm_rate: int) -> Spoken:
    """A chat completion with audio, in one piece.

    Raises:
        ValueError: if it, or its speech, is cut or malformed; then asking again may help.
    """
    found = json.loads(body)
    match found:
        case {"choices": [*choices]} if choices and all(isinstance(c, dict) for c in choices):
            messages = [c.get("message") or {} for c in choices]
            return spoken(messages, [c.get("finish_reason") for c in choices], found, kind, pcm_rate)
    raise ValueError("a completion must hold choices")


def read_streamed(body: bytes, kind: Format, pcm_rate: int) -> Spoken:
    """The same as server-sent events.

    Raises:
        ValueError: if the stream is cut or malformed.
    """
    # Bytes are split at CR and LF alone, as the protocol has it; text would be at what JSON may hold raw (U+2028).
    events = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
    chunks = [json.loads(event) for event in events if event != b"[DONE]"]
    for chunk in chunks:
        if not isinstance(chunk, dict) or "error" in chunk:
            raise ValueError(f"an event must be a piece of a completion; got {str(chunk)[:200]}")
    choices = [choice for chunk in chunks for choice in chunk.get("choices") or []]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if not reasons:
        raise ValueError("a stream is cut: nothing says that it ended")
    stated = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    prints = next((chunk["system_fingerprint"] for chunk in chunks if chunk.get("system_fingerprint")), None)
    whole = {"usage": stated, "system_fingerprint": prints}
    return spoken([choice.get("delta") or {} for choice in choices], reasons, whole, kind, pcm_rate)


def spoken(messages: list[dict], reasons: list[Any], whole: dict[str, Any], kind: Format, pcm_rate: int) -> Spoken:
    """Messages, or the pieces of one, put together. Some servers give text and speech as two choices."""
    sounds = [m["audio"] for m in messages if isinstance(m.get("audio"), dict)]
    pieces = [sound["data"] for sound in sounds if sound.get("data")]
    said = "".join(sound.get("transcript") or "" for sound in sounds)
    text = said or "".join(m["content"] for m in messages if isinstance(m.get("content"), str))
    refused = "content_filter" in reasons or any(m.get("refusal") for m in messages)
    usage, prints = usage_of(whole.get("usage")), whole.get("system_fingerprint") or ""
    if refused or not pieces:
        status = "refused" if refused else "text_only" if text.strip() else "empty"
        return Spoken(None, text if text.strip() else None, status, usage, prints)
    try:
        audio = read_sound(decoded(pieces), kind, pcm_rate)
    except ValueError as error:
        if "cut" in str(error):
            raise
        return Spoken(None, text if text.strip() else None, "bad_audio", usage, prints)
    return Spoken(audio, text if text.strip() else None, "truncated" if "length" in reasons else "ok", usage, prints)


def usage_of(stated: Any) -> Usage | None:
    """Tokens by kind from an API's usage; what has no kind is text."""
    match stated:
        case {"prompt_tokens": int(asked), "completion_tokens": int(made)}:
            heard = (stated.get("prompt_tokens_details") or {}).get("audio_tokens") or 0
            said = (stated.get("completion_tokens_details") or {}).get("audio_tokens") or 0
            return Usage(asked - heard, heard, made - said, said)
    return None
