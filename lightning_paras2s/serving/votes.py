"""Blind votes between two served systems: who may vote, on what, and the battle that it leaves in `battles.jsonl`.

A vote stands for a recording, known by its content, and two systems, known by name and weights. Systems are drawn and
hidden, sides are random, and a vote is taken only once both answers were heard to their ends. What waits for a vote is
in memory alone: after a restart nothing can land on an item that this listener did not hear.
"""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from lightning_paras2s.bench.pairs.meetings import VERDICTS
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.fields import is_text
from lightning_paras2s.running.logs import half_line, say
from lightning_paras2s.serving.chats import BadRequestError
from lightning_paras2s.types import Battle, append_jsonl, read_jsonl

FASTEST = 2.0  # times its speed that a browser's player goes
OPEN = 1000  # turns that may wait for a vote; the oldest is forgotten
LONGEST_NAME = 80


@dataclass
class Turn:
    """Two answers to a recording, shown to a listener.

    Attributes:
        sides: the systems, left and right.
        seconds: of their answers.
        told: what is told of either once it is voted on.
        free: since when a further answer may have been playing (the clock's time).
        heard: the sides that were heard to their ends, in that order.
    """

    rater: str
    query_id: str
    sides: tuple[str, str]
    seconds: tuple[float, float]
    told: tuple[dict[str, Any], dict[str, Any]]
    free: float
    heard: list[int] = field(default_factory=list)


class Votes:
    """The votes of a server, and those that are open.

    Args:
        path: JSON lines of battles, which `arena --battles` reads; votes that it holds are not taken again.

    Raises:
        UserError: it holds something else.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, random: Random | None = None) -> None:
        self.path, self.clock, self.random = path, clock, random or SystemRandom()
        self.turns: OrderedDict[str, Turn] = OrderedDict()
        if path.is_dir() or path.suffix != ".jsonl":
            raise UserError(f"battles must be a file of JSON lines (.jsonl); got {path}; name one")
        if path.is_file() and path.stat().st_size and half_line(path):
            say(f"{path} ended in the middle of a line: that vote is dropped")
            append_jsonl(path, [])
        held = read_jsonl(path, Battle) if path.is_file() else []
        self.done = {(game.judge, game.query_id, frozenset((game.a, game.b))) for game in held}

    def draw(self, rater: str, query_id: str, systems: Sequence[str]) -> tuple[str, str]:
        """Two systems, left and right, that this listener has not yet compared on this recording.

        Raises:
            BadRequestError: there are none.
        """
        pairs = [two for two in combinations(systems, 2) if (rater, query_id, frozenset(two)) not in self.done]
        if not pairs:
            raise BadRequestError("you have voted on this recording already; the first vote stays; send another", 409)
        left, right = self.random.choice(pairs)
        return (left, right) if self.random.random() < 0.5 else (right, left)

    def open(
        self,
        rater: str,
        query_id: str,
        sides: tuple[str, str],
        seconds: tuple[float, float],
        told: tuple[dict[str, Any], dict[str, Any]],
    ) -> str:
        """A turn's name, once its answers leave for the page."""
        name = uuid.uuid4().hex
        self.turns[name] = Turn(rater, query_id, sides, seconds, told, self.clock())
        while len(self.turns) > OPEN:
            self.turns.popitem(last=False)
        return name

    def hear(self, name: Any, side: Any) -> int:
        """An answer was heard to its end -> how many of the two were.

        Raises:
            BadRequestError: an unknown turn or side, or sooner than it can have been played.
        """
        turn = self._turn(name)
        if side not in (0, 1) or isinstance(side, bool):
            raise BadRequestError(f"a side must be 0 or 1; got {side!r}")
        if side not in turn.heard:
            passed, needed = self.clock() - turn.free, turn.seconds[side] / FASTEST
            if passed < needed:
                raise BadRequestError(f"an answer must be heard to its end ({needed:.1f} s); got {passed:.1f} s", 409)
            turn.heard.append(side)
            turn.free = self.clock()
        return len(turn.heard)

    def vote(self, name: Any, verdict: Any) -> tuple[Battle, Turn]:
        """A listener's verdict, on disk.

        Raises:
            BadRequestError: an unknown turn, an unheard answer, another verdict, a second vote.
        """
        turn = self._turn(name)
        if verdict not in VERDICTS:
            raise BadRequestError(f"a verdict must be one of {', '.join(VERDICTS)}; got {verdict!r}")
        if len(turn.heard) < 2:
            raise BadRequestError(f"both answers must be heard to their ends before a vote; got {len(turn.heard)}", 409)
        key = (turn.rater, turn.query_id, frozenset(turn.sides))
        if key in self.done:  # another tab of this listener's was first
            raise BadRequestError("you have voted on this recording already; the first vote stays; send another", 409)
        order = "ab" if turn.heard[0] == 0 else "ba"
        battle = Battle(turn.query_id, *turn.sides, order, verdict, turn.rater)
        append_jsonl(self.path, [battle])
        self.done.add(key)
        del self.turns[name]
        return battle, turn

    def _turn(self, name: Any) -> Turn:
        found = self.turns.get(name) if isinstance(name, str) else None
        if found is None:
            raise BadRequestError(
                "no such answers wait for a vote (it was given, or the server restarted); ask again", 410
            )
        return found


def name_of(rater: Any) -> str:
    """A listener's name as it is written down.

    Raises:
        BadRequestError: it is none.
    """
    name = rater.strip() if isinstance(rater, str) else ""
    if not name or len(name) > LONGEST_NAME or not is_text(name) or not name.isprintable():
        raise BadRequestError(f"a vote must have a name of 1 to {LONGEST_NAME} letters; got {rater!r:.100}; enter one")
    return name
