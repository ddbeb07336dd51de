"""What a chat model writes for `demonstrate`: an answer and its tone, for each query and its labels (paper, 4.1).

A reply that came is kept with what it was asked and what it cost, good or not; one that never came is asked for again
by the next run. Servers' replies lie in their own cache from the moment they come, so that a kill in a batch of
requests pays none of them twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_paras2s.bench.queries.answer_flaws import read_answer
from lightning_paras2s.bench.queries.styles import DEMONSTRATION_PROMPT
from lightning_paras2s.bench.queries.three_tests import ask
from lightning_paras2s.running.logs import unanswered
from lightning_paras2s.running.origins import sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.servers.chat import CHARACTERS_A_TOKEN, ChatLLM, Reply
from lightning_paras2s.servers.spending import expected_usd
from lightning_paras2s.turns import after
from lightning_paras2s.types import FACTORS, TONES, Query, append_jsonl, read_jsonl

CHUNK = 64  # queries that a chat model is asked for at a time
ANSWER_TOKENS, ANSWER_CHARACTERS = 60, 150  # of a reply, of its words (25 or so); for estimates, above the mean


@dataclass(frozen=True)
class Written:
    """What a chat model wrote for a query. `status` is ok, or says why its reply is no answer; `raw` is then the reply.

    `inputs` is the hash of what was asked of whom.
    """

    query_id: str
    text: str | None
    tone: str
    status: str = "ok"
    raw: str = ""
    cost_usd: float = 0.0
    inputs: str = ""


class Writer:
    """A folder's `written.jsonl`, and the chat model that fills it."""

    def __init__(self, folder: Path, llm: ChatLLM, queries: Sequence[Query]) -> None:
        self.path, self.llm, self.queries = folder / "written.jsonl", llm, queries
        who = sha(llm.name, part_sha(llm))
        self.inputs = {q.id: sha(prompt_of(q), who) for q in queries}
        held = read_jsonl(self.path, Written) if self.mended() else []
        self.spent = sum(row.cost_usd for row in held)  # what was written before and is of no use today was paid, too
        found = {row.query_id: row for row in held}
        self.done = {i: row for i, row in found.items() if self.inputs.get(i) == row.inputs}

    def mended(self) -> bool:
        """Whether there is a file; a half line that a kill left is dropped."""
        if self.path.is_file():
            append_jsonl(self.path, [])
        return self.path.is_file()

    @property
    def todo(self) -> list[Query]:
        return [q for q in self.queries if q.id not in self.done]

    def write(self) -> dict[str, Written]:
        """All queries' answers; those that never came have their status, and are not kept."""
        todo, found = self.todo, dict(self.done)
        parts = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
        for part in Stages().over(parts, [len(part) for part in parts], f"answers by {self.llm.name}"[:28], "write"):
            replies = ask(self.llm, [prompt_of(q) for q in part])
            rows = [self.row(q, reply) for q, reply in zip(part, replies, strict=True)]
            append_jsonl(self.path, [row for row in rows if not unanswered(row.status)])
            found |= {row.query_id: row for row in rows}
            self.spent += sum(row.cost_usd for row in rows)
        return found

    def row(self, query: Query, reply: Reply) -> Written:
        asked = Written(query.id, None, "", reply.status, reply.message, reply.cost_usd, self.inputs[query.id])
        if reply.text is None:
            return asked
        text, tone, status = read_answer(reply.text, query)
        return replace(asked, text=text, tone=tone, status=status, raw="" if status == "ok" else reply.text)

    def estimate(self) -> tuple[int, float]:
        """Tokens and USD of what is left to be asked."""
        todo = self.todo
        asked = sum(len(prompt_of(q)) for q in todo) / CHARACTERS_A_TOKEN
        answered = len(todo) * ANSWER_TOKENS
        return round(asked + answered), expected_usd(self.llm, asked, answered)


def prompt_of(query: Query) -> str:
    """What is asked for a query: its words, all that is known of its speaker, the factor that it is about, and what was
    said before."""
    known = ", ".join(f"{f} {query.styles[f]}" for f in FACTORS if f in query.styles)
    style, tones = query.styles[query.factor], f"{', '.join(TONES[:-1])} or {TONES[-1]}"
    asked = DEMONSTRATION_PROMPT.format(text=query.text, labels=known, factor=query.factor, style=style, tones=tones)
    return after(query.turns, asked)
