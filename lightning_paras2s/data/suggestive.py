"""Texts whose words suggest how they are spoken, and the ways to pair words with voices (PolyTone; v2 of the paper).

The benchmark's queries are neutral: either style of their pair suits them. Life is not: who says "I am in tears" is
mostly sad. Here every text suggests one style of one factor. Spoken in that style alone (`confounded`), as found
data are, an analyser may learn the words; spoken in several styles (`polytone`), the words tell nothing and it must
hear the voice. Both arrangements hold the same texts and as many utterances of each.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from lightning_paras2s.data.embedded import Line, authored, cast, text_queries
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES, Voice
from lightning_paras2s.types import STYLES

# What an analyser tells apart: "neutral" is how emotion sounds where there is none.
LABELS: dict[str, tuple[str, ...]] = {**STYLES, "emotion": ("neutral", *STYLES["emotion"])}
PROBE = "probe"  # texts and voices that were fixed before anything was measured on them (docs/judge.md)


def _probe_voices() -> dict[str, Voice]:
    """Men that no split has; eSpeak has one such woman, so those of `test` speak, too; children's sizes are new."""
    men = "en-US+Alex en-GB-x-rp+antonio en-US+pablo en-GB-x-rp+Mario en-US+boris"
    women = "en-US+steph3 en-US+f4 en-GB-x-rp+belinda en-US+anika en-GB-x-rp+steph2"
    voices = {name: Voice(name, "male") for name in men.split()} | {n: Voice(n, "female") for n in women.split()}
    sizes = zip(women.split(), (1.27, 1.23, 1.29, 1.35, 1.31), strict=True)
    return voices | {f"{name}/child": Voice(name, "female", "child", size) for name, size in sizes}


VOICES = {**QUERY_VOICES, PROBE: _probe_voices()}


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
    """Authored sentences; those of `train` and `test`, with the slot {subject}, share words and no sentence. Those of
    PROBE are whole, of subjects that no split has, and not nearly alike to any of the others."""
    rows = authored("suggestive")
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


def probe_texts(factor: str) -> list[Text]:
    """All sentences of PROBE for a factor: those that suggest a style, and the neutral ones, shared by all factors."""
    groups = [(style, frames(PROBE, factor, style)) for style in LABELS[factor]] + [("", frames(PROBE, "", ""))]
    return [
        Text(f"{factor}-{style or 'none'}-{PROBE}-{index:03d}", factor, text, style, "", LABELS[factor])
        for style, texts in groups
        for index, text in enumerate(texts)
    ]


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
        name, manner = cast(text.factor, style, VOICES[split], random)
        made.append(Spoken(text, style, Line(text.text, manner, name, seed * 1_000_003 + index)))
    return made
