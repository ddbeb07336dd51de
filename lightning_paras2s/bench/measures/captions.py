"""What a cascade without ears of its own is told: words with how they were said (DeSTA2, Lu et al., arXiv 2409.20007),
and room to think before it answers (OSUM-EChat, arXiv 2508.09600).

`bench/systems/caption_cascade.py` makes systems of both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from lightning_paras2s.errors import UserError

ORDER = ("gender", "age", "emotion", "sarcasm", "tone")
THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.S)


class Thought(NamedTuple):
    """What a model thought, and what it answers; None where it did not come to an answer."""

    thought: str
    answer: str | None


def speech_caption(words: str, heard: Mapping[str, str | None], start_seconds: float, end_seconds: float) -> str:
    """A recording as a line of text, in DeSTA2's form: "[00:00-00:03] Hello. (Gender: female, Emotion: happy)".

    Args:
        words: what was said; "" where nothing was understood.
        heard: what was heard beside them, name -> value; what is None or "" is left out.
        start_seconds: where it begins, cut to whole seconds.
        end_seconds: where it ends, rounded up: a second that was begun is named.

    Raises:
        UserError: it ends before it begins.
    """
    if not 0 <= start_seconds <= end_seconds:
        raise UserError(f"a recording must begin at 0 s or later and end after it; got {start_seconds}, {end_seconds}")
    names = [*ORDER, *(name for name in heard if name not in ORDER)]
    told = ", ".join(f"{name.capitalize()}: {heard[name]}" for name in names if heard.get(name))
    time = "-".join(f"{s // 60:02d}:{s % 60:02d}" for s in (int(start_seconds), -int(-end_seconds // 1)))
    return " ".join(part for part in (f"[{time}]", words, f"({told})" if told else "") if part)


def answer_after_thinking(reply: str) -> Thought:
    """The thought between <think> and </think>, and the answer behind it.

    A reply without a thought is all answer. One that is cut in its thought, or ends with it, has no answer: what was
    only thought is never spoken.
    """
    if match := THOUGHT.fullmatch(reply):
        return Thought(match[1].strip(), match[2].strip() or None)
    if "<think>" in reply or "</think>" in reply:
        return Thought(reply.replace("<think>", "").replace("</think>", "").strip(), None)
    return Thought("", reply.strip() or None)
