"""The speech-native pairwise judge of S2S-Arena (arXiv 2503.05085): it hears the query and two responses.

As there, the criteria are alignment with the instruction, paralinguistic expressiveness and audio quality. Departures:
ties are allowed and typed, since a forced winner is invented in most games (TRACE: both bad in 58 %); every pair is
heard in both orders, because audio judges favour a place; the recordings are separate parts of one message, not one
file; pairs are drawn evenly, since the paper's preference for moderate rating gaps is not published. Its prompt is not
published either: this one is ours.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from lightning_paras2s.judging.scorer import ResponseScorer, ready
from lightning_paras2s.judging.turns import turn_parts
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.chat import ChatLLM, Reply
from lightning_paras2s.servers.parts import audio_part, text_part
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio

PROMPT = (
    "You will hear what a user said to a voice assistant, and two responses by two assistants. Judge which response is "
    "better by three criteria: does it do what the user asked for, given what was said and how it was said; is it "
    "expressive in the way that the user asked for or that suits the user's emotion, age, gender and intent; does it "
    "sound natural and clear. Judge what you hear, not its length, and not the order in which you hear it. If neither "
    "is better, say whether both are good or both are bad: both are bad if both miss what was asked, in words or in "
    "voice."
)
FORMAT = (
    "Answer in two lines:\nReason: <one short sentence>\nVerdict: <one of: response 1, response 2, both good, both bad>"
)
PARSER_VERSION = 1
PROMPT_SHA = hashlib.sha256(f"{PARSER_VERSION}\n{PROMPT}\n{FORMAT}".encode()).hexdigest()
OUTCOMES = {
    "response 1": "first",
    "1": "first",
    "response 2": "second",
    "2": "second",
    "both good": "both_good",
    "both bad": "both_bad",
}
FIELDS = ("reason", "verdict")
GOOD = 4.0  # a score from which a response is good


class Sounds(NamedTuple):
    """What a pairwise judge hears, in this order."""

    query: Audio
    first: Audio
    second: Audio


class Heard(Sounds):
    """The recordings of a game; `turns` is what was said before the query."""

    turns: tuple[Turn, ...] = ()

    def after(self, turns: tuple[Turn, ...]) -> Heard:
        self.turns = turns
        return self


@dataclass(frozen=True)
class Outcome:
    """first, second, both_good or both_bad; None unless `status` is ok."""

    verdict: str | None
    reason: str = ""
    raw: str = ""
    status: str = "ok"
    usage: dict[str, float] = field(default_factory=dict)


class PairJudge(ABC):
    """Compares two responses to a query by ear."""

    name: str

    @abstractmethod
    def compare(self, games: list[Heard]) -> list[Outcome]:
        """The outcome of each game, in order; what can't be judged has a status and no verdict."""


class AudioPairJudge(PairJudge):
    """A chat model that hears (S2S-Arena: Gemini-2.5-Pro; any server that takes OpenAI's `input_audio`).

    Args:
        llm: the chat model that hears both responses.
    """

    def __init__(self, llm: ChatLLM) -> None:
        self.llm, self.name = llm, f"pairwise-{PROMPT_SHA[:8]}/{llm.name}"

    def compare(self, games: list[Heard]) -> list[Outcome]:
        replies = self.llm.complete([[{"role": "user", "content": pair_prompt(game)}] for game in games])
        return [outcome_of(reply) for reply in replies]


class ScorerPairJudge(PairJudge):
    """A model of query and response speech: the higher expected score wins, if by more than `margin`.

    Args:
        scorer: builds the scorer with its weights.
        name: recorded in every battle: which weights these are.
        margin: smaller differences are ties, both_good from 4 on.
    """

    def __init__(self, scorer: Callable[[], ResponseScorer], name: str, margin: float = 0.25) -> None:
        self.scorer, self.margin = ready(scorer), margin
        self.name = f"pairwise-scorer-{margin:g}/{type(self.scorer).__name__}/{name}"

    @torch.no_grad()
    def compare(self, games: list[Heard]) -> list[Outcome]:
        if any(game.turns for game in games):
            say_once(f"{self.name} judges the last turn alone: it does not hear the queries' earlier turns")
        queries = [game.query for game in games]
        scores = [self.scorer(queries, [game[place] for game in games]).tolist() for place in (1, 2)]
        return [self._outcome(first, second) for first, second in zip(*scores, strict=True)]

    def _outcome(self, first: float, second: float) -> Outcome:
        if first != first or second != second:  # NaN: nothing was heard
            return Outcome(None, status="no_score")
        raw = f"{first:.3f} {second:.3f}"
        if abs(first - second) > self.margin:
            return Outcome("first" if first > second else "second", raw=raw)
        return Outcome("both_good" if (first + second) / 2 >= GOOD else "both_bad", raw=raw)


def pair_prompt(game: Heard) -> list[dict]:
    """The task as parts of a message, each recording behind its name; earlier turns, where there are any, before."""
    parts = [text_part(PROMPT), *turn_parts(game.turns)]
    for name, audio in zip(("The user:", "Response 1:", "Response 2:"), game, strict=True):
        parts += [text_part(name), audio_part(audio)]
    return [*parts, text_part(FORMAT)]


def outcome_of(reply: Reply) -> Outcome:
    """What a model answered, or why there is no verdict."""
    usage = {**reply.usage, "cost_usd": reply.cost_usd}
    if reply.text is None:
        return Outcome(None, reply.message, status=reply.status if reply.status != "ok" else "no_reply", usage=usage)
    verdict, reason, status = parse_pair_verdict(reply.text)
    return Outcome(verdict, reason, reply.text, status, usage)


def parse_pair_verdict(text: str) -> tuple[str | None, str, str]:
    """Verdict, reason and status; no verdict unless there is one "Verdict:" line with one of the four answers."""
    lines = {name: re.findall(rf"^[\s>*_#-]*{name}[*_]*\s*:[*_]*(.*)$", text, re.I | re.M) for name in FIELDS}
    reason = " ".join(line.strip() for line in lines["reason"])
    if not lines["verdict"]:
        return None, reason, "no_verdict"
    if len(lines["verdict"]) > 1:
        return None, reason, "several_verdicts"
    verdict = OUTCOMES.get(" ".join(lines["verdict"][0].lower().replace("_", " ").strip(" \t*`\"'.!").split()))
    return verdict, reason, "ok" if verdict else "unparsed"
