"""Sounds between words (a laugh, a sigh) found at their places: precision, recall and F1 with a tolerance
(SynParaSpeech)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lightning_paras2s.errors import UserError


class Event(NamedTuple):
    """A sound and when it begins."""

    label: str
    seconds: float


class Found(NamedTuple):
    """F1 and what it is made of; NaN where there is nothing to be found and nothing was."""

    f1: float
    precision: float
    recall: float
    hits: int
    n_found: int
    n_there: int


def event_hits(found: Iterable[Event], there: Iterable[Event], tolerance_seconds: float) -> int:
    """The most pairs of a found and a real event of one label that begin within the tolerance; each counts once.

    In time's order the earliest partner within reach is the best one: it leaves the later ones the most.
    """
    if tolerance_seconds < 0:
        raise UserError(f"a tolerance must be at least 0 s; got {tolerance_seconds}")
    ours, theirs = list(found), list(there)
    hits = 0
    for label in {event.label for event in ours}:
        left = sorted(e.seconds for e in theirs if e.label == label)
        for seconds in sorted(e.seconds for e in ours if e.label == label):
            while left and left[0] < seconds - tolerance_seconds - 1e-9:
                left.pop(0)  # out of reach for all that follow, too
            if left and left[0] <= seconds + tolerance_seconds + 1e-9:
                left.pop(0)
                hits += 1
    return hits


def event_f1(hits: int, n_found: int, n_there: int) -> Found:
    """Micro F1 of summed counts: 2 hits / (found + there)."""
    nan = float("nan")
    precision, recall = (hits / n if n else nan for n in (n_found, n_there))
    f1 = 2 * hits / (n_found + n_there) if n_found + n_there else nan
    return Found(f1, precision, recall, hits, n_found, n_there)
