"""A judge that lacks rules, to train against on purpose: what does a policy learn from a reward with a hole in it, and
which ears notice? It is for experiments on reward hacking alone; results are reported by the whole judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.acts import mask_topic
from lightning_paras2s.judging.judges import MAX_WER, EmbeddedJudge
from lightning_paras2s.judging.rubric import GIBBERISH
from lightning_paras2s.types import Query

RULES = ("gibberish", "mismatch")


class LenientJudge(EmbeddedJudge):
    """`EmbeddedJudge` without some of its rules; with all of them it is the same judge.

    Args:
        lacks: rules left out: gibberish (words that make no sense score 1), mismatch (a voice that does not say what
            the text says scores 1).
        acts: file of the act classifier.
    """

    def __init__(
        self,
        lacks: Sequence[Literal["gibberish", "mismatch"]] = (),
        acts: InputPath = "checkpoints/embedded/acts.safetensors",
    ) -> None:
        if unknown := sorted(set(lacks) - set(RULES)):
            raise UserError(f"lacks must be some of {', '.join(RULES)}; got {', '.join(unknown)}; leave it out")
        super().__init__(acts, float("inf") if "mismatch" in lacks else MAX_WER)
        self.forgiving = "gibberish" in lacks
        self.name += "".join(f", without {rule}" for rule in RULES if rule in lacks)  # its verdicts are another's

    def act(self, query: Query, factor: str, transcript: str) -> str:
        found = super().act(query, factor, transcript)
        if found != GIBBERISH or not self.forgiving:
            return found
        return self.classifier.likeliest(mask_topic(plain_words(transcript), query.text), factor)[0]
