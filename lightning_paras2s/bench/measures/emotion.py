"""Emotion in an answer's voice: as asked for and understood (URO-Bench), or one of those that fit (TELEVAL)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lightning_paras2s.errors import UserError


def understood_emotion(probability: float, wer: float) -> float:
    """URO-Bench's GenEmotion: the classifier's probability of the emotion that was asked for, times 1 - WER (not below
    0): a sob that says nothing is no sad answer.

    Args:
        probability: of the asked emotion, 0..1.
        wer: word error rate of the words that were asked for; may pass 1.

    Raises:
        UserError: a value that is none.
    """
    if not (0 <= probability <= 1 and wer >= 0):
        raise UserError(f"a probability must be within 0..1 and a WER at least 0; got {probability} and {wer}")
    return probability * max(0.0, 1.0 - wer)


def allowed_hits(heard: Sequence[str | None], allowed: Sequence[Collection[str]]) -> tuple[float, int]:
    """TELEVAL's share of answers whose emotion is one of those that fit the query, and of how many.

    An answer in which no emotion was heard (None) is unscored, not a miss; a query that allows none is a mistake.

    Raises:
        UserError: lists of different lengths, or a query that allows no emotion.
    """
    if len(heard) != len(allowed) or not all(allowed):
        raise UserError("each answer needs a query with an emotion that fits; got another number, or one without any")
    hits = [emotion in fits for emotion, fits in zip(heard, allowed, strict=True) if emotion is not None]
    return (float(np.mean(hits)) if hits else float("nan")), len(hits)


def expected_rating(probabilities: Mapping[str, float], ratings: Mapping[str, float]) -> float:
    """VocalBench's acoustic appropriateness: listeners' ratings of each emotion as an answer to the query, weighed by
    the classifier's probabilities; those of emotions that nobody rated are left out, and the rest made to sum to 1.

    Raises:
        UserError: no emotion is in both.
    """
    both = {name: p for name, p in probabilities.items() if name in ratings}
    if sum(both.values()) <= 0:
        raise UserError(f"a rated emotion must have a probability; got {sorted(ratings)} and {sorted(probabilities)}")
    return sum(p * ratings[name] for name, p in both.items()) / sum(both.values())
