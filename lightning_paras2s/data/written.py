"""Answers as in the demonstrations, for the reward model to hear: good ones for every factor, others out of place."""

from __future__ import annotations

import hashlib

import numpy as np

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.embedded import demonstration_tone, reply_frames, text_queries
from lightning_paras2s.errors import UserError, check_share
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, Synthesizer
from lightning_paras2s.types import FACTORS, STYLES, TONES, Query, Style


class WrittenAnswers:
    """Spoken reply frames of the training split: by turns one for the query's style, one for its contrast and others
    for any style of any factor, generic ones among them; no answer of another training query is looked at.

    A policy that misses a factor samples next to no good answer to it, and a reward model of its samples alone can't
    tell one (docs/log.md, fourth round).

    Args:
        synthesizer: speaks them; the policy's codec makes them sound like its own.
        count: answers a query.
        own_subject: share that names the query's subject; the others name another training query's.
        fitting_tone: share in a tone that fits the answer's style as in the demonstrations; the others in any.
        generic: share of the others that fit no style.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        count: int = 4,
        own_subject: float = 0.85,
        fitting_tone: float = 0.7,
        generic: float = 0.15,
    ) -> None:
        for name, value in (("own_subject", own_subject), ("fitting_tone", fitting_tone), ("generic", generic)):
            check_share(name, value)
        self.synthesizer, self.count = synthesizer, count
        self.own_subject, self.fitting_tone, self.generic = own_subject, fitting_tone, generic
        self.styles = [(f, s) for f in FACTORS for s in STYLES[f] if reply_frames("train", f, s)]
        self.queries = {q.id: q for q in text_queries("train")}
        self.subjects = [q.subject for q in self.queries.values()]

    def answer(self, batch: DualStreamBatch, processor: Processor, seed: int = 0) -> list[SpokenResponse]:
        """`count` answers a query, adjacent; a function of (seed, the query's id).

        Raises:
            UserError: a query is none of the embedded text set's, whose answers these are.
        """
        others = [q.id for q in batch.queries if q.pair_id not in self.queries or not q.label]
        if others:
            raise UserError(
                f"written answers are to the embedded text set's queries; got {others[0]!r}; set model.written to null"
            )
        lines = [self.line(query, turn, seed) for query in batch.queries for turn in range(self.count)]
        spoken = [self.synthesizer.synthesize(text, Style(tone=tone), AGENT_VOICE) for text, tone in lines]
        audios = processor.through_codec(spoken)
        return [SpokenResponse(audio, text, True, ()) for audio, (text, _) in zip(audios, lines, strict=True)]

    def line(self, query: Query, turn: int, seed: int) -> tuple[str, str]:
        """Text and tone."""
        key = hashlib.sha256(f"{seed} {query.id} {turn}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(key[:8]))
        factor, style = self._style(query, turn, random)
        frames = reply_frames("train", factor, style)
        own = random.random() < self.own_subject
        subject = self.queries[query.pair_id].subject if own else self.subjects[random.integers(len(self.subjects))]
        text = frames[random.integers(len(frames))].format(subject=subject)
        fitting = factor != "generic" and random.random() < self.fitting_tone
        return text, demonstration_tone(style, random) if fitting else TONES[random.integers(len(TONES))]

    def _style(self, query: Query, turn: int, random: np.random.Generator) -> tuple[str, str]:
        own = query.styles[query.factor]
        if turn == 0:
            return query.factor, own
        if turn == 1:
            return query.factor, next(style for style in self.queries[query.pair_id].styles if style != own)
        if random.random() < self.generic:
            return "generic", "generic"
        return self.styles[random.integers(len(self.styles))]
