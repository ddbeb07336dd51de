"""Earlier turns in what a judge is asked: an addition to the guideline (A.11.5 knows of one request and its response),
made only where a query has some, and said to be one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from lightning_paras2s.servers.parts import audio_part, text_part
from lightning_paras2s.turns import Turn, in_lines

BEFORE = (
    "(Added to the guideline, since this request was not the dialogue's first: its earlier turns follow, for context. "
    "Score the agent's response to the user's last turn alone, as a continuation of the whole dialogue.)"
)
LAST = "The user's last turn:"
TURNS_SHA = hashlib.sha256(f"{BEFORE}\n{LAST}".encode()).hexdigest()[:16]  # of what such a verdict is known by


def with_turns(turns: Sequence[Turn], user: str) -> str:
    """What is told of the user, behind what was said before."""
    return f"{BEFORE}\n{in_lines(turns)}\n{LAST}\n{user}" if turns else user


def turn_parts(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The same for a judge that hears: the recordings where there are some, else the words."""
    if not turns:
        return []
    parts = [text_part(BEFORE)]
    for turn in turns:
        who = "user" if turn.role == "user" else "agent"
        heard = turn.sound is not None
        parts += [text_part(f"{who}:"), audio_part(turn.sound)] if heard else [text_part(f"{who}: {turn.text}")]
    return [*parts, text_part(LAST)]
