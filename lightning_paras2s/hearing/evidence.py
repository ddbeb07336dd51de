"""What is heard in a response: words and tone, by a transcriber and a recogniser (paper Eq. 1: C and S)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import jiwer

from lightning_paras2s.audio import is_silent, read_audio
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.rubric import plain_words
from lightning_paras2s.types import Evidence, Response


@dataclass(frozen=True)
class Ears:
    """Who hears: a transcriber and a tone recogniser."""

    transcriber: Transcriber
    recognizer: StyleRecognizer

    @property
    def providers(self) -> dict[str, str]:
        return {"transcriber": self.transcriber.name, "recognizer": self.recognizer.name}


def hear(
    responses: list[Response], root: Path, ears: Ears, transcripts: Mapping[str, str] = MappingProxyType({})
) -> list[Evidence]:
    """What is heard in each response: words, tone, and how far the words are from the response's own text.

    Args:
        transcripts: response id -> words that the same transcriber heard before.
    """
    audios = {r.id: read_audio(root / r.audio, SAMPLE_RATE) for r in responses if r.audio}
    audible = {i: audio for i, audio in audios.items() if not is_silent(audio)}
    new = {i: audio for i, audio in audible.items() if i not in transcripts}
    heard = ears.transcriber.transcribe(list(new.values())) if new else []
    words = {**transcripts, **dict(zip(new, heard, strict=True))}
    tones = ears.recognizer.recognize(list(audible.values()), "response") if audible else []
    styles = dict(zip(audible, tones, strict=True))
    found = []
    for response in responses:
        status = response.status
        if status == "ok" and response.id not in audible:
            status = "silent"
        transcript = words.get(response.id, "") if response.id in audible else ""
        style = styles.get(response.id)
        if status == "ok" and style is not None and style.tone is None:  # asked, and not told
            status = "no_tone"
        tone = style.tone or "" if style is not None else ""
        wer = word_error_rate(response.text, transcript) if response.text and response.id in audible else None
        found.append(Evidence(response.id, transcript, wer, tone, tone, ears.providers, status))
    return found


def word_error_rate(text: str, transcript: str) -> float | None:
    """Of the transcript against the text, case and punctuation aside; None if the text has no words."""
    reference = " ".join(plain_words(text))
    return round(jiwer.wer(reference, " ".join(plain_words(transcript))), 4) if reference else None
