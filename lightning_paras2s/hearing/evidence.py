"""What is heard in speech: words and style, by a transcriber and a recogniser (paper Eq. 1: C and S).

Rewards, the probe, `evaluate` and `filter` all hear through `listen`, and all evidence is made by `make_evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lightning_paras2s.audio import is_silent, read_audio
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.models.tiny.features import SAMPLE_RATE
from lightning_paras2s.types import Audio, Evidence, Response, Style

FOREIGN = "foreign_speech"


@dataclass(frozen=True)
class Ears:
    """Who hears: a transcriber and a tone recogniser. `trusting`: strange speech is taken as it is heard."""

    transcriber: Transcriber
    recognizer: StyleRecognizer
    trusting: bool = False

    @property
    def providers(self) -> dict[str, str]:
        trust = "/any-speech" if self.trusting else ""  # told apart, because the same audio has another status
        return {"transcriber": self.transcriber.name + trust, "recognizer": self.recognizer.name}


class Said(NamedTuple):
    """A response as a listener gets it. `text` is what it was meant to say: None = not known, "" = nothing."""

    id: str
    audio: Audio | None
    text: str | None
    status: str = "ok"


class Heard(NamedTuple):
    """What was heard in one recording, the words as the ear wrote them; None where nobody listened."""

    transcript: str | None
    style: Style | None


def listen(
    audios: Mapping[str, Audio],
    transcriber: Transcriber | None,
    recognizer: StyleRecognizer | None,
    role: str,
    transcripts: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Heard]:
    """Words and style of the recordings in which there is something to hear; the others are not in the result.

    Args:
        audios: id -> recording.
        role: "query" or "response" (`StyleRecognizer.recognize`).
        transcripts: id -> words that the same transcriber heard before.
    """
    audible = {i: audio for i, audio in audios.items() if not is_silent(audio)}
    words: dict[str, str | None] = dict.fromkeys(audible)
    styles: dict[str, Style | None] = dict.fromkeys(audible)
    if transcriber is not None:
        new = {i: audio for i, audio in audible.items() if i not in transcripts}
        told = transcriber.write_down(list(new.values())) if new else []
        words |= {i: transcripts[i] for i in audible if i in transcripts} | dict(zip(new, told, strict=True))
    if recognizer is not None and audible:
        styles |= dict(zip(audible, recognizer.recognize(list(audible.values()), role), strict=True))
    return {i: Heard(words[i], styles[i]) for i in audible}


def make_evidence(
    said: Sequence[Said], ears: Ears, transcripts: Mapping[str, str] = MappingProxyType({})
) -> list[Evidence]:
    """What is heard in each response: words, tone, and how far the words are from the response's own text.

    A response that was answered well ("ok") but in which there is nothing to hear is "silent"; one whose tone the
    recogniser was asked for and did not tell is "no_tone". Silence has no word error rate (`words.word_error_rate`: of
    characters in a script without spaces), nor has an unknown text.
    """
    heard = listen(
        {s.id: s.audio for s in said if s.audio is not None}, ears.transcriber, ears.recognizer, "response", transcripts
    )
    found = []
    for response in said:
        if response.id not in heard:
            status = "silent" if response.status == "ok" else response.status
            found.append(Evidence(response.id, providers=ears.providers, status=status))
            continue
        transcript, style = heard[response.id].transcript or "", heard[response.id].style
        tone = (style.tone or "") if style is not None else ""
        status = "no_tone" if response.status == "ok" and not tone else response.status
        wer = None if response.text is None else round(word_error_rate(response.text, transcript), 4)
        found.append(Evidence(response.id, transcript, wer, tone, tone, ears.providers, status))
    return found


def hear(
    responses: list[Response], root: Path, ears: Ears, transcripts: Mapping[str, str] = MappingProxyType({})
) -> list[Evidence]:
    """`make_evidence` of recorded responses, whose audio lies under `root`.

    One in speech that the transcriber does not know is "foreign_speech", which no judge scores. (A reward has no such
    status: a policy could escape a low one by noise.)
    """
    audios = {r.id: read_audio(root / r.audio, SAMPLE_RATE) for r in responses if r.audio}
    found = make_evidence([Said(r.id, audios.get(r.id), r.text, r.status) for r in responses], ears, transcripts)
    heard = [] if ears.trusting else [e.response_id for e in found if e.status == "ok"]
    strange = dict(zip(heard, ears.transcriber.strange([audios[i] for i in heard]), strict=True))
    return [replace(e, status=FOREIGN) if strange.get(e.response_id) else e for e in found]
