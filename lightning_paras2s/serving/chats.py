"""OpenAI's chat completions with audio, from the server's side: what a request asks, how an answer is written."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from lightning_paras2s.audio import in_range, resample
from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer
from lightning_paras2s.errors import UserError
from lightning_paras2s.servers.spoken import EXACT, decoded, read_sound, wav_bytes
from lightning_paras2s.turns import HeardTurn, Turn
from lightning_paras2s.types import Audio, Query

FORMATS = ("wav", "pcm16", "flac", "mp3", "opus")
PCM_RATE = 24_000  # Hz of pcm16, as OpenAI has it
RATES = {  # Hz that a format has; the others have any
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
}
PIECE = 9600  # bytes of speech in an event of a stream: 0.2 s of pcm16
KEPT_SECONDS = 3600  # what `expires_at` says; answers are not kept
# What a request may hold: what is read, and what changes no answer.
TAKEN = ("model", "messages", "modalities", "audio", "stream", "stream_options", "seed", "n")
TAKEN += ("user", "safety_identifier", "prompt_cache_key", "metadata", "service_tier", "parallel_tool_calls")
# Values of other fields that ask for what is done anyway, beside null and what is empty.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "store": (False,),
}
LENGTHS = ("max_tokens", "max_completion_tokens")
LONGEST_TOKENS = 1024  # room for a minute of speech at 12.5 a second, and its words: answers end before by themselves


class BadRequestError(Exception):
    """A request that can't be answered, with the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        speaks: whether speech is wanted, or text alone.
        sample: from the request's seed; another one gives another answer where the system draws.
    """

    model: str
    query: Query
    audio: Audio
    speaks: bool
    kind: str
    stream: bool
    sample: int


def read_request(body: bytes, max_seconds: float) -> Asked:
    """What a chat request asks.

    Raises:
        BadRequestError: with what must hold, and what came.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"a request must be one JSON object; got {body[:60]!r} ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), str):
        raise BadRequestError("a request must be a JSON object with a model")
    check_fields(found)
    if found.get("n") not in (None, 1):
        raise BadRequestError(f"n must be 1; got {found['n']!r}; ask again with another seed")
    kinds, sound = found.get("modalities") or ["text"], found.get("audio") or {}
    kind = sound.get("format", "wav") if isinstance(sound, dict) else None
    if kind not in FORMATS:
        raise BadRequestError(f"audio.format must be one of {', '.join(FORMATS)}; got {kind!r}")
    seed = found.get("seed")
    if not isinstance(kinds, list) or not isinstance(seed, int | None):
        raise BadRequestError(f"modalities must be a list and seed an integer; got {kinds!r} and {seed!r}")
    *earlier, last = messages_of(found.get("messages"))
    speech, raw = speech_of(last)
    audio = heard(speech, raw, max_seconds)
    try:
        query = query_of(raw, earlier, max_seconds)
    except UserError as error:
        raise BadRequestError(f"messages: {error}") from None
    return Asked(found["model"], query, audio, "audio" in kinds, kind, bool(found.get("stream")), seed or 0)


def check_fields(found: dict[str, Any]) -> None:
    """Refuse what a request asks for in vain: it would be answered otherwise than it thinks.

    Raises:
        BadRequestError: naming the fields.
    """
    for name in LENGTHS:
        tokens = found.get(name)
        if tokens is not None and not (isinstance(tokens, int) and tokens >= LONGEST_TOKENS):
            raise BadRequestError(
                f"{name} must be an integer from {LONGEST_TOKENS} on, since the model ends its answers by itself; got "
                f"{tokens!r:.60}; leave it out"
            )
    known = {*TAKEN, *LENGTHS}
    given = [n for n in found if n not in known and found[n] not in (None, [], {}, "", *HARMLESS.get(n, ()))]
    if given:
        raise BadRequestError(
            "the model's sampling is the server's, and it takes neither instructions nor tools; got "
            f"{', '.join(given):.200}; leave it out"
        )


def messages_of(messages: Any) -> list[dict[str, Any]]:
    """A conversation's messages.

    Raises:
        BadRequestError: there are none, one is by another than user and assistant, or the last one is no recording.
    """
    match messages:
        case [*earlier, {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": str()}}]}] if all(
            isinstance(m, dict) and m.get("role") in ("user", "assistant") for m in earlier
        ):
            return messages
    raise BadRequestError(
        "messages must end with a user message of one input_audio part, before which user and assistant may have "
        f"spoken by turns: the model hears the last utterance and reads no text or instructions; got {shape(messages)}"
    )


def query_of(raw: bytes, earlier: list[dict[str, Any]], max_seconds: float) -> Query:
    """What is asked, named after its content: the recording's, and that of the messages before it.

    Raises:
        BadRequestError, UserError: a message is no turn, or they are out of order.
    """
    turns = []
    for number, message in enumerate(earlier, 1):
        try:
            turns.append(turn_of(message, max_seconds))
        except (BadRequestError, UserError) as error:
            status = error.status if isinstance(error, BadRequestError) else 400
            raise BadRequestError(f"message {number}: {error}", status) from None
    whole = hashlib.sha256(raw)
    if earlier:
        whole.update(json.dumps(earlier, sort_keys=True).encode())
    name = whole.hexdigest()[:16]
    return Query(name, name, "emotion", "test", "", {}, "", "", turns=tuple(turns))


def turn_of(message: dict[str, Any], max_seconds: float) -> Turn:
    """An earlier message as a turn: a text, or parts of text and, of a user, a recording.

    Raises:
        BadRequestError: it holds another thing. (An assistant's `audio` may name an answer of before: none is kept.)
    """
    role, content = message["role"], message.get("content")
    match [{"type": "text", "text": content}] if isinstance(content, str) else content:
        case [{"type": "text", "text": str(text)}]:
            return Turn(role, text)
        case [{"type": "input_audio", "input_audio": {"data": str()}}] if role == "user":
            text = ""
        case [{"type": "input_audio", "input_audio": {"data": str()}}, {"type": "text", "text": str(text)}] | [
            {"type": "text", "text": str(text)},
            {"type": "input_audio", "input_audio": {"data": str()}},
        ] if role == "user":
            pass
        case _:
            raise BadRequestError(
                "an earlier message must be a text, or a user's one input_audio part (with its text, or without); an "
                "assistant's is its words (answers are not kept here, so that an audio id tells nothing); got "
                f"{shape([message])}"
            )
    sound = heard(*speech_of(message), max_seconds)
    return HeardTurn(role, text, sound=sound, seconds=sound.seconds)


def speech_of(message: dict[str, Any]) -> tuple[str, bytes]:
    """The format and the bytes of a message's recording.

    Raises:
        BadRequestError: it is no base64.
    """
    part = next(part["input_audio"] for part in message["content"] if part["type"] == "input_audio")
    kind, data = part.get("format", "wav"), part["data"]
    try:
        return str(kind), decoded([data.partition(",")[2] if data.startswith("data:") else data])
    except ValueError as error:
        raise BadRequestError(f"input_audio.data must be base64; got {data[:20]!r} ({error})") from None


def shape(messages: Any) -> str:
    """What a conversation looks like, in a line."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return repr(messages)[:60]
    told = []
    for message in messages:
        parts = message.get("content")
        kinds = [str(p.get("type")) for p in parts if isinstance(p, dict)] if isinstance(parts, list) else ["text"]
        told.append(f"{message.get('role')}: {' + '.join(kinds) or 'nothing'}")
    return ", ".join(told) or "none"


def heard(kind: str, raw: bytes, max_seconds: float) -> Audio:
    """The recording at the system's rate, as `evaluate` would read it from a file.

    Raises:
        BadRequestError: no sound, or too much of it.
    """
    try:
        audio = read_sound(raw, "pcm16" if kind == "pcm16" else "wav", PCM_RATE)
    except ValueError as error:
        raise BadRequestError(f"input_audio must be readable {kind}; got {error}") from None
    if not len(audio.samples) or audio.seconds > max_seconds:
        raise BadRequestError(f"input_audio must last up to {max_seconds:g} s; got {audio.seconds:.1f} s", 413)
    return resample(Audio(in_range(audio.samples)[0], audio.sample_rate), SAMPLE_RATE)


def sound_bytes(audio: Audio, kind: str) -> bytes:
    """Speech in the format that was asked for, at the next higher rate that it has."""
    if kind == "wav":
        return wav_bytes(audio)
    if kind == "pcm16":
        samples = resample(audio, PCM_RATE).samples
        return np.clip(np.rint(samples * EXACT), -EXACT, EXACT - 1).astype("<i2").tobytes()
    rates = RATES.get(kind, (audio.sample_rate,))
    audio = resample(audio, min((rate for rate in rates if rate >= audio.sample_rate), default=rates[-1]))
    file = io.BytesIO()
    written = {"flac": ("FLAC", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}[kind]
    soundfile.write(file, in_range(audio.samples)[0], audio.sample_rate, format=written[0], subtype=written[1])
    return file.getvalue()


def completion(asked: Asked, answer: Answer, fingerprint: str, name: str) -> dict[str, Any]:
    """An answer as one object."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or "", "refusal": None}
    if asked.speaks:
        data = base64.b64encode(sound_bytes(answer.audio, asked.kind)).decode()
        sound = {"id": f"audio_{name}", "data": data, "expires_at": int(time.time()) + KEPT_SECONDS}
        message |= {"content": None, "audio": {**sound, "transcript": answer.text or ""}}
    reason = "length" if answer.status == "truncated" else "stop"
    choices = [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}]
    return {**head(asked, fingerprint, name, "chat.completion"), "choices": choices}


def events(asked: Asked, answer: Answer, fingerprint: str, name: str) -> list[str]:
    """The same as server-sent events. The model answers whole; a stream only brings it piece by piece."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if asked.speaks else answer.text or ""}]
    if asked.speaks:
        raw = sound_bytes(answer.audio, asked.kind)
        deltas.append({"audio": {"id": f"audio_{name}", "transcript": answer.text or ""}})
        pieces = [base64.b64encode(raw[i : i + PIECE]).decode() for i in range(0, len(raw), PIECE)]
        deltas += [{"audio": {"id": f"audio_{name}", "data": piece}} for piece in pieces]
        deltas.append({"audio": {"id": f"audio_{name}", "expires_at": int(time.time()) + KEPT_SECONDS}})
    reason = "length" if answer.status == "truncated" else "stop"
    whole = head(asked, fingerprint, name, "chat.completion.chunk")
    ends = [*((delta, None) for delta in deltas), ({}, reason)]
    chunks = [{**whole, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in ends]
    return [*(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]


def head(asked: Asked, fingerprint: str, name: str, kind: str) -> dict[str, Any]:
    whole = {"id": f"chatcmpl-{name}", "object": kind, "created": int(time.time()), "model": asked.model}
    return {**whole, "system_fingerprint": fingerprint}
