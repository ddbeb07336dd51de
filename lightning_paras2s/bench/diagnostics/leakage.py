"""`leakage`: texts spoken in several styles, named by analysers, and what `voice_or_words.py` finds in that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from lightning_paras2s.bench.diagnostics.voice_or_words import Named, compare
from lightning_paras2s.data.suggestive import (
    PROBE,
    VOICES,
    Spoken,
    every_style,
    neutral_texts,
    probe_texts,
    suggestive_texts,
)
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.polytone import PolyToneRecognizer, WordEar
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import FACTORS, Audio, Style

SHIPPED = {"polytone": "polytone", "control": "polytone-control"}


def leakage(
    analysers: dict[str, list[str]] | None = None,
    transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
    texts: Literal["probe", "test"] = PROBE,
    per_style: int = 7,
    neutral: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Tell whether style analysers listen or read: accuracies by what the words do, and two leakage diagnostics.

    Texts are spoken by voices that training does not have in all of their styles, in memory; nothing is written.

    Args:
        analysers: name -> prefixes of weights, one a seed; default: the shipped `polytone` and its `control`.
        transcriber: weights of the ear for words.
        texts: "probe" (sentences and subjects that are used for nothing else), or "test" (sentences with the subjects
            of the benchmark's test set, and its neutral queries).
        per_style: with "test", texts that suggest a style, of emotion (three times as many of the other factors).
        neutral: with "test", texts of the benchmark a factor.
        seed: of voices, and of texts with "test".
    """
    analysers = analysers or {name: [f"checkpoints/embedded/{file}"] for name, file in SHIPPED.items()}
    if min(per_style, neutral) < 1:
        raise UserError(f"there must be texts of both kinds; got per_style={per_style}, neutral={neutral}")
    if texts not in (PROBE, "test"):
        raise UserError(f"texts must be probe or test; got {texts!r}")
    spoken = probe_set(seed) if texts == PROBE else split_set(per_style, neutral, seed)
    ear = WordEar(transcriber)
    heard = [ear.listen(speak(s, texts)) for s in spoken]
    rows = {
        name: [named(spoken, PolyToneRecognizer(prefix, transcriber).label(heard)) for prefix in prefixes]
        for name, prefixes in analysers.items()
    }
    return {**compare(rows), "texts": texts, "n": len(spoken), "seed": seed, "transcriber": ear.transcriber.name}


def probe_set(seed: int = 0) -> list[Spoken]:
    """The texts of PROBE by its voices, each in all of its styles."""
    return [spoken for factor in FACTORS for spoken in every_style(probe_texts(factor), PROBE, seed)]


def speak(spoken: Spoken, split: str) -> Audio:
    line = spoken.line
    return EspeakSynthesizer().speak_as_user(line.text, line.style, VOICES[split][line.voice], line.seed)


def split_set(per_style: int, neutral: int, seed: int = 0, factors: Sequence[str] = FACTORS) -> list[Spoken]:
    """Test texts by test voices, each in all of its styles: sentences whose words suggest a style, and neutral ones."""
    made: list[Spoken] = []
    for factor in factors:
        size = per_style if factor == "emotion" else 3 * per_style
        texts = suggestive_texts(factor, size, "test", seed) + neutral_texts(factor, neutral, "test", seed)
        made += every_style(texts, "test", seed)
    return made


def named(spoken: Sequence[Spoken], styles: Sequence[Style]) -> list[Named]:
    """The probe's recordings with what an analyser named, in the factor that each is about."""
    return [
        Named(s.text.id, s.text.factor, s.style, s.text.suggested, getattr(style, s.text.factor) or "")
        for s, style in zip(spoken, styles, strict=True)
    ]
