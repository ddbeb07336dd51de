"""Speech synthesis that survives a synthesizer that crashes its process."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from lightning_paras2s.data import spoken
from lightning_paras2s.data.dialogue import Utterance
from lightning_paras2s.data.embedded import Line
from lightning_paras2s.data.spoken import in_time, spoken_chunks
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Style


def fragile(lines: list[Line]) -> list[Utterance]:
    """Dies of "crash" in its first variation, of "often" in seven, and of "always" in any."""
    for line in lines:
        if line.text == "always" or line.seed < {"crash": 1, "often": 7}.get(line.text, 0):
            os.abort()
    return [Utterance(np.full((4, 66), line.seed, np.float16), line.text, line.style) for line in lines]


def lines(*texts: str) -> list[Line]:
    return [Line(text, Style(emotion="sad"), "a voice", 0) for text in texts]


def test_corpus_when_a_line_crashes_the_synthesizer() -> None:
    """All lines come back in order; the one that crashes is spoken with the next seed."""
    chunks = [lines("a", "b"), lines("c", "crash"), lines("d"), lines("e", "f")]
    found = [u for part in spoken_chunks(chunks, fragile) for u in part]
    assert [u.text for u in found] == ["a", "b", "c", "crash", "d", "e", "f"]
    assert [u.acoustics[0, 0] for u in found] == [0, 0, 0, 1, 0, 0, 0]


def slow(line: Line) -> Utterance:
    if line.text == "hang" and line.seed == 0:
        time.sleep(60)
    return Utterance(np.full((4, 66), line.seed, np.float16), line.text, line.style)


def stuck(lines: list[Line]) -> list[Utterance]:
    return [in_time(slow, line, patience=1.0) for line in lines]


def test_corpus_when_the_synthesizer_hangs() -> None:
    """As one that crashes: the line is spoken with the next seed, and the others as they are."""
    found = [u for part in spoken_chunks([lines("a"), lines("b", "hang")], stuck) for u in part]
    assert [(u.text, u.acoustics[0, 0]) for u in found] == [("a", 0), ("b", 0), ("hang", 1)]


def test_corpus_when_most_variations_of_a_line_crash() -> None:
    """As eSpeak NG does at "perfectly." in its voice rob with a pitch range above 95: four variations of a sarcastic
    line out of five, seven of them in a row at one seed."""
    (found,) = spoken_chunks([lines("often")], fragile)
    assert [(u.text, u.acoustics[0, 0]) for u in found] == [("often", 7)]


def test_corpus_when_a_line_always_crashes(monkeypatch) -> None:
    monkeypatch.setattr(spoken, "TRIES", 2)
    with pytest.raises(UserError, match="speaking 'always' in 3 variations"):
        spoken_chunks([lines("always")], fragile)
