"""One exchange, heard: what sources give, and processors turn into tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lightning_paras2s.audio import Recording, seconds_of
from lightning_paras2s.turns import HeardTurn, Turn
from lightning_paras2s.types import Audio, Query, Style

SPEECH_RATE = 16_000  # Hz, of every utterance


@dataclass(frozen=True)
class Utterance:
    """Speech, as it was made or found.

    Attributes:
        acoustics: [T, 66] float16, 100 Hz, T a multiple of 4: what the embedded networks hear; empty = not heard yet.
        text: the words as spoken, with punctuation.
        style: of the speaker (query) or the agent (`tone`).
        onsets: of each word, in code frames (25 Hz); empty where nobody knows.
        samples: int16 at 16 kHz, where the waveform was asked for; else empty.
    """

    acoustics: np.ndarray
    text: str
    style: Style
    onsets: tuple[int, ...] = ()
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))

    @property
    def audio(self) -> Audio:
        return Audio(self.samples.astype(np.float32) / 32768, SPEECH_RATE)

    @property
    def seconds(self) -> float:
        return len(self.acoustics) / 100


class RecordedUtterance(Utterance):
    """A file's speech; it is read when its samples are first asked for."""

    def __init__(self, path: str | Path, text: str, style: Style) -> None:
        super().__init__(np.zeros((0, 0), np.float16), text, style)
        object.__setattr__(self, "path", Path(path))

    @property
    def audio(self) -> Audio:
        return Recording(self.path, SPEECH_RATE)

    @property
    def seconds(self) -> float:
        """By the file's header alone."""
        return seconds_of(self.path)


class HeardUtterance(Utterance):
    """Speech of which only the length is known."""

    def __init__(self, seconds: float) -> None:
        super().__init__(np.zeros((0, 0), np.float16), "", Style())
        object.__setattr__(self, "length", seconds)

    @property
    def seconds(self) -> float:
        return self.length


@dataclass(frozen=True)
class Dialogue:
    """One exchange, heard.

    Attributes:
        task: read, echo, name or chat.
        transcript: the user's words as the policy's text stream is given them; None = ask a transcriber.
        user, agent: speech; None where there is none.
        query: the benchmark's record of the user's speech, for judges; None in pre-training.
    """

    task: str
    transcript: str | None
    user: Utterance | None = None
    agent: Utterance | None = None
    query: Query | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said before."""
        return () if self.query is None else self.query.turns


def heard_turns(query: Query, root: Path) -> Query:
    """A query of a manifest in `root` whose earlier turns can be heard; a recording is read when it is asked for.

    Raises:
        UserError: a turn's recording is missing or unreadable.
    """
    if not query.turns:
        return query

    def heard(turn: Turn) -> Turn:
        path = root / turn.audio
        sound, seconds = Recording(path, SPEECH_RATE), seconds_of(path)
        return HeardTurn(turn.role, turn.text, turn.audio, turn.styles, sound, seconds)

    return replace(query, turns=tuple(heard(turn) if turn.audio else turn for turn in query.turns))
