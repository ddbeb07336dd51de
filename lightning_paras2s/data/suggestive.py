"""Texts whose words suggest how they are spoken, and the ways to pair words with voices (PolyTone; v2 of the paper).

The benchmark's queries are neutral: either style of their pair suits them. Life is not: who says "I am in tears" is
mostly sad. Here every text suggests one style of one factor. Spoken in that style alone (`confounded`), as found
data are, an analyser may learn the words; spoken in several styles (`polytone`), the words tell nothing and it must
hear the voice. Both arrangements hold the same texts and as many utterances of each.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from lightning_paras2s.data.embedded import Line, choose_voice, query_style, text_queries
from lightning_paras2s.tts import QUERY_VOICES
from lightning_paras2s.types import STYLES

# What an analyser tells apart: "neutral" is how emotion sounds where there is none.
LABELS: dict[str, tuple[str, ...]] = {**STYLES, "emotion": ("neutral", *STYLES["emotion"])}


@dataclass(frozen=True)
class Text:
    """A text and the style of `factor` that its words suggest ("" for the benchmark's neutral queries)."""

    id: str
    factor: str
    text: str
    suggested: str
    subject: str
    styles: tuple[str, ...]  # in which it may be spoken


@dataclass(frozen=True)
class Spoken:
    """A text, the style in which it is spoken, and the line that says so to the synthesizer."""

    text: Text
    style: str
    line: Line


@functools.lru_cache
def frames(split: str, factor: str, style: str) -> tuple[str, ...]:
    """Authored sentences with the slot {subject}; those of `train` and `test` share words and no sentence."""
    lines = (files("lightning_paras2s") / "data/text/suggestive.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(r["frame"] for r in rows if (r["split"], r["factor"], r["style"]) == (split, factor, style))


def suggestive_texts(factor: str, per_style: int, split: str, seed: int, sentences: str = "") -> list[Text]:
    """`per_style` texts for each style: sentences dealt in turn, subjects drawn from the split's queries.

    Args:
        sentences: the split of the sentences, where it is another than that of the subjects.
    """
    random = np.random.default_rng([seed, list(LABELS).index(factor)])
    subjects = sorted({q.subject for q in text_queries(split) if q.factor == factor})
    made = []
    for style in LABELS[factor]:
        forms = frames(sentences or split, factor, style)
        for index in range(per_style):
            subject = str(subjects[random.integers(len(subjects))])
            text = forms[index % len(forms)].format(subject=subject)
            made.append(Text(f"{factor}-{style}-{split}-{index:03d}", factor, text, style, subject, LABELS[factor]))
    return made


def neutral_texts(factor: str, count: int, split: str, seed: int) -> list[Text]:
    """Queries of the benchmark's text set, whose words suit both styles of their pair."""
    queries = [q for q in text_queries(split) if q.factor == factor]
    chosen = np.random.default_rng(seed).permutation(len(queries))[:count]
    return [Text(q.id, factor, q.text, "", q.subject, q.styles) for q in (queries[i] for i in sorted(chosen))]


def polytone(texts: list[Text], renditions: int, split: str, seed: int) -> list[Spoken]:
    """Each text in `renditions` different styles, drawn without regard to what its words suggest."""
    random = np.random.default_rng([seed, 1])
    return _speak([(t, s) for t in texts for s in random.permutation(t.styles)[:renditions].tolist()], split, seed)


def confounded(texts: list[Text], renditions: int, split: str, seed: int) -> list[Spoken]:
    """Each text as often as in `polytone` (other voices, other noise), always in the style that its words suggest."""
    return _speak([(t, t.suggested) for t in texts for _ in t.styles[:renditions]], split, seed)


def every_style(texts: list[Text], split: str, seed: int) -> list[Spoken]:
    """Each text once in each of its styles: what the leakage diagnostics hear."""
    return _speak([(t, s) for t in texts for s in t.styles], split, seed)


def _speak(parts: list[tuple[Text, str]], split: str, seed: int) -> list[Spoken]:
    """A voice of the split and a seed for each."""
    random = np.random.default_rng([seed, 2])
    made = []
    for index, (text, style) in enumerate(parts):
        name = choose_voice(text.factor, style, split, random)
        voice = QUERY_VOICES[split][name]
        manner = query_style(text.factor, style, voice.gender, voice.age)
        made.append(Spoken(text, style, Line(text.text, manner, name, seed * 1_000_003 + index)))
    return made
