"""Emotion in an answer's voice: as asked for and understood (URO-Bench), or among those that fit (TELEVAL)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def allowed_probability(probabilities: Mapping[str, float], allowed: Collection[str]) -> float:
    """TELEVAL's score of an answer's voice: the classifier's highest probability among the emotions that fit the query,
    0 where none of them was heard.

    Raises:
        UserError: no emotion was heard, or none fits.
    """
    if not probabilities or not allowed:
        raise UserError(f"a voice must be heard, and an emotion that fits be told; got {probabilities} and {allowed}")
    return max(probabilities.get(name, 0.0) for name in allowed)


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
