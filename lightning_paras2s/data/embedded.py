"""The embedded text set and the lines made from it: queries, demonstrations and word strings (spoken: `spoken.py`).

Training speech uses training topics, texts and voices only. The *words* of all splits form one lexicon, from which
random strings are read aloud in pre-training (as a pretrained LM knows all words); no sentence, query or topic of
another split appears there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from lightning_paras2s.judging.rubric import BEST_TONES
from lightning_paras2s.speaking.synthesizers import (
    AGENT_VOICE,
    QUERY_VOICES,
    Voice,
)
from lightning_paras2s.types import FACTORS, SPLITS, STYLES, TONES, Style


@dataclass(frozen=True)
class TextQuery:
    """One authored query text with its two contrasting styles."""

    id: str
    factor: str
    split: str
    topic: str
    subject: str
    text: str
    styles: tuple[str, str]


def authored(name: str) -> list[dict[str, Any]]:
    """The rows of a file of the text set."""
    rows = (files("lightning_paras2s") / f"data/text/{name}.jsonl").read_bytes()
    return [json.loads(line) for line in rows.splitlines()]


@functools.lru_cache
def text_queries(split: str) -> tuple[TextQuery, ...]:
    return tuple(TextQuery(**{**row, "styles": tuple(row["styles"])}) for row in authored(split))


@functools.lru_cache
def reply_frames(split: str, factor: str, style: str) -> tuple[str, ...]:
    """Authored replies with the slot {subject}; factor and style may be "generic"."""
    return tuple(r["frame"] for r in frames() if (r["split"], r["factor"], r["style"]) == (split, factor, style))


@functools.lru_cache
def frames() -> tuple[dict[str, Any], ...]:
    """The authored replies of all splits: {factor, style, split, frame, fits?} (data/fitting.py)."""
    return tuple(authored("frames"))


@functools.lru_cache
def lexicon(splits: tuple[str, ...] = SPLITS) -> tuple[str, ...]:
    """The words that the embedded networks know, sorted: those of the splits' queries and replies when the base was
    pre-trained.

    Kept in a file, because their order numbers the policy's vocabulary: queries may be rewritten in these words, and a
    new word means a new base.
    """
    return tuple(row["word"] for row in authored("lexicon") if not set(splits).isdisjoint(row["splits"]))


@functools.lru_cache
def subjects(splits: tuple[str, ...] = SPLITS) -> tuple[str, ...]:
    return tuple(sorted({q.subject for split in splits for q in text_queries(split)}))


def reply(query: TextQuery, style: str, split: str, random: np.random.Generator) -> str:
    """An authored reply to a query spoken in `style` ("generic" ignores the style)."""
    factor = "generic" if style == "generic" else query.factor
    frames = reply_frames(split, factor, style)
    return frames[random.integers(len(frames))].format(subject=query.subject)


def demonstration_tone(style: str, random: np.random.Generator, best: float = 0.8) -> str:
    """A tone that fits the style best (80 %), or a neutral one: tone varies apart from the wording."""
    tones = sorted(BEST_TONES[style])
    return tones[random.integers(len(tones))] if random.random() < best else "neutral"


def query_style(factor: str, value: str, gender: str, age: str) -> Style:
    """All labels of a query's speaker; the factors that the query is not about are plain (neutral, sincere is left
    unknown)."""
    emotion = value if factor == "emotion" else ("neutral" if factor != "sarcasm" else None)
    return Style(emotion=emotion, sarcasm=value if factor == "sarcasm" else None, age=age, gender=gender)


def cast(factor: str, value: str, voices: Mapping[str, Voice], random: np.random.Generator) -> tuple[str, Style]:
    """A voice that fits (children only where age says so; gender as gender says), and its speaker's labels."""
    age = value if factor == "age" else "adult"
    fit = [n for n, voice in voices.items() if voice.age == age and (factor != "gender" or voice.gender == value)]
    name = fit[random.integers(len(fit))]
    return name, query_style(factor, value, voices[name].gender, voices[name].age)


@dataclass(frozen=True)
class Line:
    """What is to be spoken: by the agent (`voice` = "agent", style.tone) or by a user."""

    text: str
    style: Style
    voice: str
    seed: int
    keep_samples: bool = False


def user_line(
    query: TextQuery, style: str, split: str, random: np.random.Generator, keep_samples: bool = False
) -> Line:
    """How a user of the split says a query in a style."""
    name, labels = cast(query.factor, style, QUERY_VOICES[split], random)
    return Line(query.text, labels, name, int(random.integers(2**31)), keep_samples)


def word_string(random: np.random.Generator, splits: tuple[str, ...] = SPLITS, low: int = 3, high: int = 7) -> str:
    """Random words of the splits' lexicon, half of them subjects: speech with no sentence of any split in it."""
    count = random.integers(low, high + 1)
    pools = (lexicon(splits), subjects(splits))
    return " ".join(
        str(pool[random.integers(len(pool))]) for pool in (pools[int(random.random() < 0.5)] for _ in range(count))
    )


def query_lines(
    size: int,
    seed: int,
    split: str = "train",
    strings: float = 0.4,
    lexica: tuple[str, ...] = SPLITS,
    factors: tuple[str, ...] = FACTORS,
) -> list[Line]:
    """User speech: the split's queries of the factors in any style of their factor, and random word strings."""
    random = np.random.default_rng(seed)
    lines = []
    for index in range(size):
        factor = factors[random.integers(len(factors))]
        queries = [q for q in text_queries(split) if q.factor == factor] or text_queries(split)
        value = STYLES[factor][random.integers(len(STYLES[factor]))]
        if factor == "emotion" and random.random() < 0.1:
            value = "neutral"
        text = word_string(random, lexica) if random.random() < strings else queries[random.integers(len(queries))].text
        name, style = cast(factor, value, QUERY_VOICES[split], random)
        lines.append(Line(text, style, name, seed * 1_000_003 + index))
    return lines


def agent_lines(
    size: int, seed: int, split: str = "train", strings: float = 0.5, lexica: tuple[str, ...] = SPLITS
) -> list[Line]:
    """Agent speech in every tone: replies of the split about its subjects, and random word strings."""
    random = np.random.default_rng(seed)
    queries, lines = text_queries(split), []
    for index in range(size):
        query = queries[random.integers(len(queries))]
        style = "generic" if random.random() < 0.2 else query.styles[random.integers(2)]
        text = word_string(random, lexica) if random.random() < strings else reply(query, style, split, random)
        lines.append(Line(text, Style(tone=TONES[random.integers(len(TONES))]), AGENT_VOICE, index))
    return lines
