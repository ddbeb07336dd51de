"""Listeners rate responses, or choose between two, in a browser (gradio): `annotate` writes `Human` records.

Items come in an order of each annotator's own; systems are not named; what is rated is on disk before the next item
shows, and a rater who comes back goes on where they stopped.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_paras2s.bench.pairs.arena import VERDICTS
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.logs import Log
from lightning_paras2s.types import Human, Query, Response, append_jsonl, read_jsonl

SCORES = ("1 bad", "2 poor", "3 average", "4 excellent, not enhanced", "5 perfect, enhanced")  # guideline A.11.5
CHOICES = {"The first": "a", "The second": "b", "Both are good": "both_good", "Both are bad": "both_bad"}


@dataclass(frozen=True)
class Item:
    """What a listener hears: the query and one response (a rating), or two (a choice)."""

    id: str
    query: str
    first: str
    second: str = ""


def annotate(
    manifest: InputPath,
    runs: list[InputPath],
    out: str,
    pairwise: bool = False,
    limit: int | None = None,
    port: int = 7860,
    seed: int = 0,
) -> None:
    """Serve a page on which listeners rate the responses of runs; OUT grows by one `Human` record a judgement.

    Args:
        manifest: queries.jsonl.
        runs: folders of `evaluate` with responses.jsonl.
        out: JSON lines to append to.
        pairwise: two systems' responses side by side (a, b, both_good, both_bad) instead of one with a score.
        limit: items.
        port: of the page.
        seed: of the choice of items and sides.
    """
    items = load_items(manifest, runs, pairwise, limit, seed)
    try:
        import gradio
    except ImportError:
        raise UserError(
            "annotate needs the package gradio; got none; pip install 'lightning_paras2s[annotate]'"
        ) from None
    page(gradio, items, out, pairwise).launch(server_port=port, allowed_paths=folders_of(items))


def folders_of(items: list[Item]) -> list[str]:
    """The folders that recordings are served from, wherever they lie (imported speech stays in its corpus)."""
    places = {path for item in items for path in (item.query, item.first, item.second) if path}
    return sorted({str(Path(path).resolve().parent) for path in places})


def load_items(manifest: str, runs: list[str], pairwise: bool, limit: int | None, seed: int) -> list[Item]:
    """Items in a fixed order drawn from the seed; which system is heard first is drawn as well, and is in the id."""
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 item; got {limit}; leave it out for all")
    audio = {q.id: str(Path(manifest).parent / q.audio) for q in read_jsonl(manifest, Query)}
    responses: dict[str, dict[str, list[tuple[str, str]]]] = {}  # query -> system -> its answers
    for run in runs:
        for r in Log(Path(run)).read("responses", Response):
            if r.status == "ok" and r.query_id in audio:
                systems = responses.setdefault(r.query_id, {})
                systems.setdefault(r.system, []).append((r.id, str(Path(run) / r.audio)))
    random = np.random.default_rng(seed)
    items = []
    for query, found in sorted(responses.items()):
        if not pairwise:
            items += [Item(name, audio[query], path) for rows in found.values() for name, path in rows]
        elif len(found) >= 2:
            chosen = [list(found.values())[i] for i in random.permutation(len(found))[:2]]
            (a, first), (b, second) = (rows[random.integers(len(rows))] for rows in chosen)
            items.append(Item(f"{a} | {b}", audio[query], first, second))
    if not items:
        wanted = "responses of two systems" if pairwise else "a response"
        raise UserError(f"runs must hold {wanted} to a query of {manifest}; got none")
    return [items[i] for i in random.permutation(len(items))][:limit]


def remaining(items: list[Item], out: str, annotator: str) -> list[Item]:
    """What an annotator has not judged yet, in an order of their own."""
    path = Path(out)
    if path.is_file():
        append_jsonl(path, [])
    done = {h.item_id for h in read_jsonl(path, Human) if h.annotator == annotator} if path.is_file() else set()
    key = int.from_bytes(hashlib.sha256(annotator.encode()).digest()[:8], "big")
    order = np.random.default_rng(key).permutation(len(items))
    return [items[i] for i in order if items[i].id not in done]


def judgement(item: Item, annotator: str, answer: str, seconds: float) -> Human:
    """A record of one answer of the page."""
    if not annotator.strip():
        raise UserError("an annotator must have a name; got none; enter one")
    if item.second:
        return Human(item.id, annotator.strip(), verdict=CHOICES[answer], seconds=round(seconds, 1))
    return Human(item.id, annotator.strip(), score=float(SCORES.index(answer) + 1), seconds=round(seconds, 1))


def keep(items: list[Item], out: str, annotator: str, heard: str, answer: str, seconds: float) -> str:
    """Store an answer about the item that was *heard* (its id), under the name as it stands now -> what to tell.

    In a second tab, or after the name was corrected, another item may be next; it has not been heard.
    """
    item = next((item for item in items if item.id == heard), None)
    if item is None:
        return "Nothing was heard yet."
    if item not in remaining(items, out, annotator.strip()):
        return "You have judged this one already; your first answer stays."
    append_jsonl(out, [judgement(item, annotator, answer, seconds)])
    return ""


def page(gradio, items: list[Item], out: str, pairwise: bool):  # noqa: ANN001, ANN201  gradio is optional
    """The page: a name, the query, one or two responses, the answer."""

    def show(name: str) -> tuple:
        if not name.strip():
            return "Enter your name first.", None, None, None, None, 0.0, ""
        left = remaining(items, out, name.strip())
        if not left:
            return "All done. Thank you!", None, None, None, None, 0.0, ""
        item = left[0]
        return f"{len(left)} to go", item.query, item.first, item.second or None, None, time.time(), item.id

    def save(name: str, answer: str | None, started: float, heard: str) -> tuple:
        told = ""
        if name.strip() and answer and heard:
            told = keep(items, out, name, heard, answer, time.time() - started)
        status, *rest = show(name)
        return (f"{told} {status}".strip(), *rest)

    with gradio.Blocks(title="Listening test") as blocks:
        gradio.Markdown("Is the response a natural continuation of what the user said, and of how they said it?")
        name, status = gradio.Textbox(label="Your name"), gradio.Markdown()
        query = gradio.Audio(label="User", interactive=False)
        first = gradio.Audio(label="First response" if pairwise else "Response", interactive=False)
        second = gradio.Audio(label="Second response", interactive=False, visible=pairwise)
        answer = gradio.Radio(list(CHOICES) if pairwise else list(SCORES), label="Your judgement")
        started, heard = gradio.State(0.0), gradio.State("")
        shown = [status, query, first, second, answer, started, heard]
        gradio.Button("Begin").click(show, [name], shown)
        gradio.Button("Save and go on").click(save, [name, answer, started, heard], shown)
    return blocks


assert set(CHOICES.values()) == set(VERDICTS)
