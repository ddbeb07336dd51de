"""Query mining (paper, section 3.1 steps 1, 2 and 4): generate, parse, deduplicate, and test each script thrice.

Nothing is guessed: what a model did not answer in the format asked for is a status, counted and shown; every rejected
candidate is kept with why. An answer that never came is asked for again by the next run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from lightning_paras2s.bench.queries.duplicates import first_of_each, near_in_meaning
from lightning_paras2s.bench.queries.lists import flaw, parse_numbered_list, split_styles
from lightning_paras2s.bench.queries.meaning import TextEmbedder
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.queries.scripts import scripts_of
from lightning_paras2s.bench.queries.styles import (
    CONTRASTS,
    NEUTRALITY_PROMPT,
    REASONABILITY_PROMPT,
    RELEVANCE_PROMPT,
    RESPONSE_PROMPT,
    TOPICS,
    generation_prompt,
)
from lightning_paras2s.bench.queries.three_tests import Candidate, apply, ask, neutrality, reasonability, relevance
from lightning_paras2s.data.embedded import TextQuery
from lightning_paras2s.errors import InputPath, UserError, check_some
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.running.logs import replace_jsonl
from lightning_paras2s.servers.chat import CHARACTERS_A_TOKEN, ChatLLM, OpenAIChat
from lightning_paras2s.servers.spending import cap, expected_usd
from lightning_paras2s.types import FACTORS, SPLITS

ITEM_TOKENS, ANSWER_TOKENS = 18, 45  # of a generated query, of an answer to a test; for price estimates


class Generation(NamedTuple):
    """One prompt that asks for a list of queries."""

    factor: str
    split: str
    topic: str
    styles: tuple[str, str]
    prompt: str


def mine(
    out: str,
    llm: ChatLLM | None = None,
    factors: Sequence[str] = FACTORS,
    splits: Sequence[str] = SPLITS,
    count: int = 100,
    rounds: int = 1,
    source: Literal["embedded", "open"] | InputPath | None = None,
    embedder: TextEmbedder | None = None,
    min_cosine: float = 0.8,
    max_usd: float | None = None,
    dry_run: bool = False,
) -> dict:
    """Mine scripts with a chat model: OUT/scripts.jsonl for `synthesize`; every candidate and prompt with its status.

    A run that was killed or ran out of money continues where it stopped: answers are in the model's cache.

    Args:
        out: folder to write.
        llm: ScriptedLLM by default (offline); the paper's is OpenAIChat with gpt-4.1.
        factors: emotion, sarcasm, age, gender.
        splits: whose topics to ask for.
        count: queries a prompt asks for.
        rounds: how often each prompt is asked.
        source: test these scripts instead of generating any: "embedded", "open", or a file of scripts.
        embedder: also reject what is near in meaning to an earlier query; by default, words alone are compared.
        min_cosine: from where on two embeddings count as near; what .8 finds is in docs/open_text.md.
        max_usd: ask nothing that could take what this start costs above so many USD.
        dry_run: ask nothing; tell the number of requests and what they would cost.

    Returns:
        Counts of prompts by status, of candidates by status and reason, and the cost.
    """
    check(factors, splits, count, rounds, min_cosine)
    scripts = Path(out) / "scripts.jsonl"
    if source and Path(source).resolve() == scripts.resolve():
        raise UserError(f"out must not hold the scripts that are read; {scripts} is one; name another folder")
    llm = llm or ScriptedLLM()
    if isinstance(llm, OpenAIChat):
        cap(llm, max_usd)
    prompts = [] if source else generations(factors, splits, count)
    if dry_run:
        existing = len(load(source, factors, splits)) if source else 0
        return estimate(llm, [g.prompt for g in prompts] * rounds, count, existing)
    if source:
        rows, candidates = [], load(source, factors, splits)
    else:
        rows, candidates = generate(llm, prompts * rounds, count)
    candidates = deduplicate(candidates, embedder, min_cosine)
    for test in (neutrality, reasonability, relevance):
        candidates = apply(test, llm, candidates)
    candidates = [replace(c, status="accepted") if c.status == "open" else c for c in candidates]
    folder = Path(out)
    replace_jsonl(folder / "prompts.jsonl", rows)
    replace_jsonl(folder / "candidates.jsonl", candidates)
    replace_jsonl(scripts, [script_of(c) for c in candidates if c.status == "accepted"])
    return summary(folder, llm, rows, candidates)


def check(factors: Sequence[str], splits: Sequence[str], count: int, rounds: int, min_cosine: float) -> None:
    check_some("factors", factors, FACTORS)
    check_some("splits", splits, SPLITS)
    if count < 2 or rounds < 1:
        raise UserError(f"count must be at least 2 and rounds at least 1; got count={count}, rounds={rounds}")
    if not 0 < min_cosine <= 1:
        raise UserError(f"min_cosine must be above 0 and at most 1; got {min_cosine}; .8 is the default")


def generations(factors: Sequence[str], splits: Sequence[str], count: int) -> list[Generation]:
    """The prompts of A.11.1 to A.11.4: one a topic, and for emotion one a topic and contrast."""
    return [
        Generation(factor, split, topic, styles, generation_prompt(factor, topic, styles, count))
        for factor in factors
        for split in splits
        for topic in TOPICS[factor][split]
        for styles in CONTRASTS[factor]
    ]


def generate(llm: ChatLLM, prompts: list[Generation], count: int) -> tuple[list[dict], list[Candidate]]:
    """Ask for lists -> what came of each prompt, and all items as candidates (flawed ones rejected already)."""
    rows, candidates = [], []
    for generation, reply in zip(prompts, ask(llm, [g.prompt for g in prompts]), strict=True):
        found = parse_numbered_list(reply.text, count) if reply.text is not None else None
        items = [candidate_of(generation, item) for item in found.items] if found else []
        repeats = sum(c.why == "repeats_example" for c in items)
        status = reply.status if found is None else found.status
        row = {"factor": generation.factor, "topic": generation.topic, "styles": generation.styles, "status": status}
        rows.append(
            {**row, "items": len(items), "repeats_example": repeats, "reply": reply.text if not items else None}
        )
        candidates += items
    return rows, candidates


def candidate_of(generation: Generation, item: str) -> Candidate:
    text, styles = split_styles(item) if generation.factor == "emotion" else (item, None)
    name = hashlib.sha256(plain_text(text).encode()).hexdigest()[:10]
    candidate = Candidate(f"{generation.factor}-{name}", *generation[:3], text, generation.styles)
    why = flaw(text, generation.factor)
    if why is None and styles is not None and set(styles) != set(generation.styles):
        why = f"wrong_styles: {', '.join(styles)}"
    return replace(candidate, status="rejected", why=why) if why else candidate


def load(source: str, factors: Sequence[str], splits: Sequence[str]) -> list[Candidate]:
    """Scripts that exist, as candidates."""
    chosen = [s for s in scripts_of(source) if s.factor in factors and s.split in splits]
    if not chosen:
        wanted = ", ".join([*factors, *splits])
        raise UserError(f"{source} must hold scripts of {wanted}; got none; choose other factors, splits or source")
    return [Candidate(s.id, s.factor, s.split, s.topic, s.text, s.styles, s.subject) for s in chosen]


def script_of(candidate: Candidate) -> TextQuery:
    c = candidate
    return TextQuery(c.id, c.factor, c.split, c.topic, c.subject, c.text, c.styles)


def deduplicate(
    candidates: list[Candidate], embedder: TextEmbedder | None = None, min_cosine: float = 0.8
) -> list[Candidate]:
    """Reject near duplicates by words and, with an embedder, by meaning; test keeps what splits share, then val."""
    order = sorted(range(len(candidates)), key=lambda i: ("test", "val", "train").index(candidates[i].split))
    order = [i for i in order if candidates[i].status == "open"]
    texts = [candidates[i].text for i in order]
    meant = near_in_meaning(embedder.embed(texts), min_cosine) if embedder and texts else []
    result = list(candidates)
    for i, repeated in zip(order, first_of_each(texts, more=meant), strict=True):
        if repeated is not None:
            original = candidates[order[repeated]]
            result[i] = replace(candidates[i], status="rejected", why=f"duplicate: of {original.id} ({original.text})")
    return result


def estimate(llm: ChatLLM, prompts: list[str], count: int, existing: int) -> dict:
    """What a run would ask and cost, if every item were parsed and passed every test."""
    scripts = existing or count * len(prompts)
    tests = (
        NEUTRALITY_PROMPT,
        REASONABILITY_PROMPT,
        REASONABILITY_PROMPT,
        RESPONSE_PROMPT,
        RESPONSE_PROMPT,
        RELEVANCE_PROMPT,
    )
    asked = sum(len(p) for p in prompts) / CHARACTERS_A_TOKEN
    asked += scripts * sum(len(t) / CHARACTERS_A_TOKEN + 2 * ITEM_TOKENS for t in tests)
    answered = count * len(prompts) * ITEM_TOKENS + scripts * len(tests) * ANSWER_TOKENS
    requests = len(prompts) + scripts * len(tests)
    return {
        "dry_run": True,
        "requests": requests,
        "candidates": scripts,
        "tokens": round(asked + answered),
        "usd": round(expected_usd(llm, asked, answered), 2),
    }


def summary(folder: Path, llm: ChatLLM, rows: list[dict], candidates: list[Candidate]) -> dict:
    paid = isinstance(llm, OpenAIChat)
    accepted = Counter(f"{c.factor} {c.split}" for c in candidates if c.status == "accepted")
    return {
        "scripts": str(folder / "scripts.jsonl"),
        "llm": llm.name,
        "prompts": dict(Counter(row["status"] for row in rows)),
        "candidates": dict(Counter(c.status for c in candidates)),
        "why": dict(Counter(f"{c.status} {c.why.split(': ')[0]}" for c in candidates if c.why).most_common()),
        "accepted": dict(accepted),
        "usd": round(llm.spent_usd, 4) if paid else 0.0,
        "asked": dict(llm.asked) if paid else {},
    }
