"""The three tests of a script (paper, appendix A.3), by a chat model; every answer is kept with its reason.

Neutrality: the words do not tell the style. Reasonability: speakers of both styles could say them. Paralinguistic
relevance: the best responses to the two styles differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lightning_paras2s.bench.queries.lists import parse_answer, parse_response
from lightning_paras2s.bench.queries.styles import (
    NEUTRALITY_PROMPT,
    REASONABILITY_PROMPT,
    RELEVANCE_PROMPT,
    RESPONSE_PROMPT,
)
from lightning_paras2s.servers.chat import ChatLLM, Reply


@dataclass(frozen=True)
class Candidate:
    """A script on its way: `status` is open, accepted, rejected (for good) or failed (no usable answer yet)."""

    id: str
    factor: str
    split: str
    topic: str
    text: str
    styles: tuple[str, str]
    subject: str = ""
    status: str = "open"
    why: str = ""
    answers: dict[str, dict[str, str]] = field(default_factory=dict)


Test = Callable[[ChatLLM, list[Candidate]], list[Candidate]]


def apply(test: Test, llm: ChatLLM, candidates: list[Candidate]) -> list[Candidate]:
    """Run a test on the candidates that are still open."""
    tested = iter(test(llm, [c for c in candidates if c.status == "open"]))
    return [next(tested) if c.status == "open" else c for c in candidates]


def neutrality(llm: ChatLLM, candidates: list[Candidate]) -> list[Candidate]:
    """Is the text more likely voiced in one style, in the other, or hard to tell? Only the last may stay."""
    prompts = [
        NEUTRALITY_PROMPT.format(text=c.text, factor=c.factor, first=c.styles[0], second=c.styles[1])
        for c in candidates
    ]
    replies = ask(llm, prompts)
    return [
        judge(c, "neutrality", r, (*c.styles, "neutral"), "neutral") for c, r in zip(candidates, replies, strict=True)
    ]


def reasonability(llm: ChatLLM, candidates: list[Candidate]) -> list[Candidate]:
    """Can a speaker of either style say it? Both must."""
    prompts = [REASONABILITY_PROMPT.format(text=c.text, factor=c.factor, style=s) for c in candidates for s in c.styles]
    replies = ask(llm, prompts)
    judged = []
    for i, candidate in enumerate(candidates):
        for style, reply in zip(candidate.styles, replies[2 * i : 2 * i + 2], strict=True):
            verdict = judge(candidate, f"reasonability {style}", reply, ("reasonable", "odd"), "reasonable")
            candidate = verdict if candidate.status == "open" else replace(candidate, answers=verdict.answers)
        judged.append(candidate)
    return judged


def relevance(llm: ChatLLM, candidates: list[Candidate]) -> list[Candidate]:
    """Do the best responses to the two styles differ? They must."""
    prompts = [RESPONSE_PROMPT.format(text=c.text, factor=c.factor, style=s) for c in candidates for s in c.styles]
    replies = ask(llm, prompts)
    answered = [with_responses(c, replies[2 * i : 2 * i + 2]) for i, c in enumerate(candidates)]

    def compare(llm: ChatLLM, open_ones: list[Candidate]) -> list[Candidate]:
        verdicts = ask(llm, [comparison(c) for c in open_ones])
        allowed = ("different", "similar")
        return [judge(c, "relevance", r, allowed, "different") for c, r in zip(open_ones, verdicts, strict=True)]

    return apply(compare, llm, answered)


def with_responses(candidate: Candidate, replies: list[Reply]) -> Candidate:
    for style, reply in zip(candidate.styles, replies, strict=True):
        response = parse_response(reply.text) if reply.text is not None else None
        if response is None:
            why = f"response {style}: {no_answer(reply) if reply.text is None else 'unparsed'}"
            return replace(candidate, status="failed", why=why)
        answer = {"response": response[0], "tone": response[1]}
        candidate = replace(candidate, answers={**candidate.answers, f"response {style}": answer})
    return candidate


def comparison(candidate: Candidate) -> str:
    first, second = (candidate.answers[f"response {style}"] for style in candidate.styles)
    return RELEVANCE_PROMPT.format(
        text=candidate.text,
        factor=candidate.factor,
        first_response=first["response"],
        first_tone=first["tone"],
        second_response=second["response"],
        second_tone=second["tone"],
    )


def judge(candidate: Candidate, test: str, reply: Reply, allowed: tuple[str, ...], wanted: str) -> Candidate:
    """Keep a test's answer with its reason, and reject or fail the candidate if it is not the wanted one."""
    if reply.text is None:
        return replace(candidate, status="failed", why=f"{test}: {no_answer(reply)}")
    answer, reason = parse_answer(reply.text, allowed)
    if answer is None:
        kept = {**candidate.answers, test: {"answer": "", "reason": "", "raw": reply.text}}
        return replace(candidate, status="failed", why=f"{test}: unparsed", answers=kept)
    kept = {**candidate.answers, test: {"answer": answer, "reason": reason}}
    if answer == wanted:
        return replace(candidate, answers=kept)
    return replace(candidate, status="rejected", why=f"{test}: {answer}", answers=kept)


def no_answer(reply: Reply) -> str:
    """Why a reply has no text: its status, and what the server said."""
    return ", ".join(filter(None, (reply.status, reply.message)))


def ask(llm: ChatLLM, prompts: list[str]) -> list[Reply]:
    return llm.complete([[{"role": "user", "content": prompt}] for prompt in prompts]) if prompts else []
