"""Replies whose right score is known, because they were made so: what `judge_table` measures judges by.

To every spoken query a fitting reply, one in the wrong tone, one to the other style, a generic one, one about something
else, gibberish. The reference score is what guideline A.11.5 as rules (`rubric.score_act`) gives them on the style in
which the query was spoken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lightning_paras2s.data.embedded import reply_frames
from lightning_paras2s.data.suggestive import Spoken, every_style, neutral_texts, suggestive_texts
from lightning_paras2s.judging import rubric
from lightning_paras2s.types import FACTORS, STYLES, TONES, Query

KINDS = ("fitting", "flat", "jarring", "other_style", "generic", "off_topic", "gibberish")
TEXTS = ("neutral", "suggestive")


@dataclass(frozen=True)
class Constructed:
    """A spoken query and a reply whose right score is known.

    Attributes:
        spoken: the query.
        kind: one of KINDS.
        text, tone: of the reply.
        score: reference, 1..5.
    """

    spoken: Spoken
    kind: str
    text: str
    tone: str
    score: float

    @property
    def query(self) -> Query:
        text = self.spoken.text
        styles = {text.factor: self.spoken.style}
        return Query(f"{text.id}-{self.spoken.style}", text.id, text.factor, "test", text.text, styles, "", "")


def construct(texts: str, n: int, split: str, seed: int) -> list[Constructed]:
    """Seven replies to every spoken query: `n` texts a factor, each in two styles."""
    random = np.random.default_rng([seed, TEXTS.index(texts), split == "test"])
    made: list[Constructed] = []
    for factor in FACTORS:
        if texts == "neutral":
            chosen = neutral_texts(factor, n, split, seed)
        else:
            per_style = -(-n // len(STYLES[factor]))
            chosen = [t for t in suggestive_texts(factor, per_style, split, seed) if t.suggested in STYLES[factor]]
            chosen = [replace(t, styles=(t.suggested, _another(t.suggested, factor, random))) for t in chosen]
        for spoken in every_style(chosen, split, seed):
            made += replies(spoken, split, random)
    return made


def _another(style: str, factor: str, random: np.random.Generator) -> str:
    return str(random.choice([s for s in STYLES[factor] if s != style]))


def replies(spoken: Spoken, split: str, random: np.random.Generator) -> list[Constructed]:
    """One reply of each kind, with the reference score that the rules give to what it is."""
    text, style = spoken.text, spoken.style
    other = next((s for s in text.styles if s != style), _another(style, text.factor, random))
    best = [str(random.choice(sorted(rubric.BEST_TONES[s]))) for s in (style, other)]
    clash = sorted(rubric.CLASHING_TONES[style]) or sorted({*TONES} - rubric.BEST_TONES[style] - {"neutral"})
    say = {s: _reply(text.factor, s, text.subject, split, random) for s in (style, other)}
    generic = _reply("generic", "generic", text.subject, split, random)
    elsewhere = _reply(text.factor, style, "something else", split, random)
    shuffled = " ".join(random.permutation(say[style].rstrip(".?").split()))
    act, wrong = f"{text.factor}:{style}", f"{text.factor}:{other}"
    plan = [
        (say[style], best[0], act),
        (say[style], "neutral", act),
        (say[style], str(random.choice(clash)), act),
        (say[other], best[1], wrong),
        (generic, "neutral", rubric.GENERIC),
        (elsewhere, best[0], act),
        (shuffled, best[0], rubric.GIBBERISH),
    ]
    return [
        Constructed(spoken, kind, words, tone, reference_score(text.text, style, words, tone, done))
        for kind, (words, tone, done) in zip(KINDS, plan, strict=True)
    ]


def reference_score(query_text: str, style: str, words: str, tone: str, act: str) -> float:
    """The guideline's score for a reply whose words, tone and act are known."""
    return float(rubric.score_act(style, act, tone, rubric.names_topic(query_text, words)).score)


def _reply(factor: str, style: str, subject: str, split: str, random: np.random.Generator) -> str:
    forms = reply_frames(split, factor, style)
    return forms[random.integers(len(forms))].format(subject=subject)
