"""Listeners rate responses, or choose between two, in a browser (gradio): `annotate` writes `Human` records.

Items come in an order of each annotator's own; systems are not named; nothing is rated before all its recordings were
heard to their ends; what is rated is on disk before the next item shows, and a rater who comes back goes on where they
stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_paras2s.audio import read_audio, seconds_of
from lightning_paras2s.bench.alike import require_folders
from lightning_paras2s.bench.pairs.meetings import VERDICTS
from lightning_paras2s.bench.pairs.runs import require_own_ids
from lightning_paras2s.bench.people.votes import rater
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.logs import Log, say
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Human, Query, Response, append_jsonl, read_jsonl

# The guideline's names (A.11.5).
SCORES = ("1 very poor", "2 poor", "3 average", "4 excellent (no enhancement)", "5 perfect (enhanced)")
TURN_RATE = 16_000  # Hz
FASTEST = 2.0  # times its speed that a browser's player goes
CHOICES = {"The first": "a", "The second": "b", "Both are good": "both_good", "Both are bad": "both_bad"}


@dataclass(frozen=True)
class Item:
    """What a listener hears: the query and one response (a rating), or two (a choice); and what was said before, which
    is shown above them (`turns`, their recordings under `root`). `heard` is the hash of the responses' recordings."""

    id: str
    query: str
    first: str
    second: str = ""
    turns: tuple[Turn, ...] = ()
    root: str = ""
    heard: str = ""

    @property
    def before(self) -> str:
        """What was said before, as HTML; "" where the query came first."""
        from lightning_paras2s.bench.listening import encode, turns_html

        def player(place: str) -> str:
            try:
                sound = encode(read_audio(Path(self.root) / place, TURN_RATE), "mp3")
            except UserError:
                return " (its recording can't be heard)"
            return f'<audio controls src="{sound}"></audio>'

        return turns_html(self.turns, player)

    @property
    def sounds(self) -> list[str]:
        """Its recordings, in the order that the page shows them."""
        return [place for place in (self.query, self.first, self.second) if place]


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
        runs: folders of `evaluate` with responses.jsonl, whose systems have names of their own.
        out: JSON lines to append to.
        pairwise: two systems' responses side by side (a, b, both_good, both_bad) instead of one with a score.
        limit: items.
        port: of the page.
        seed: of the choice of items and sides.
    """
    items = audible(load_items(manifest, runs, pairwise, limit, seed))
    try:
        import gradio
    except ImportError:
        raise UserError(
            "annotate needs the package gradio; got none; pip install 'lightning_paras2s[annotate]'"
        ) from None
    page(gradio, items, out, pairwise).launch(server_port=port, allowed_paths=folders_of(items))


def folders_of(items: list[Item]) -> list[str]:
    """The folders that recordings are served from, wherever they lie (imported speech stays in its corpus)."""
    places = {path for item in items for path in item.sounds}
    return sorted({str(Path(path).resolve().parent) for path in places})


def load_items(manifest: str, runs: list[str], pairwise: bool, limit: int | None, seed: int) -> list[Item]:
    """Items in a fixed order drawn from the seed; which system is heard first is drawn as well, and is in the id."""
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 item; got {limit}; leave it out for all")
    root = Path(manifest).parent
    queries = {q.id: q for q in read_jsonl(manifest, Query)}
    audio = {name: str(root / q.audio) for name, q in queries.items()}
    responses: dict[str, dict[str, list[tuple[str, str, str]]]] = {}  # query -> system -> its answers
    require_folders(runs)
    held = {run: Log(Path(run)).read("responses", Response) for run in runs}
    require_own_ids({run: [r.id for r in rows] for run, rows in held.items()})
    for run, rows in held.items():
        for r in rows:
            if r.status == "ok" and r.query_id in audio:
                systems = responses.setdefault(r.query_id, {})
                systems.setdefault(r.system, []).append((r.id, str(Path(run) / r.audio), r.sha256))
    random = np.random.default_rng(seed)
    items = []
    for query, found in sorted(responses.items()):
        said = {"turns": queries[query].turns, "root": str(root)} if queries[query].turns else {}
        if not pairwise:
            items += [
                Item(name, audio[query], path, **said, heard=sha) for rows in found.values() for name, path, sha in rows
            ]
        elif len(found) >= 2:
            chosen = [list(found.values())[i] for i in random.permutation(len(found))[:2]]
            (a, first, one), (b, second, two) = (rows[random.integers(len(rows))] for rows in chosen)
            heard = f"{one} | {two}" if one and two else ""
            items.append(Item(f"{a} | {b}", audio[query], first, second, **said, heard=heard))
    if not items:
        wanted = "responses of two systems" if pairwise else "a response"
        raise UserError(f"runs must hold {wanted} to a query of {manifest}; got none")
    return [items[i] for i in random.permutation(len(items))][:limit]


def audible(items: list[Item]) -> list[Item]:
    """The items whose recordings are all there; the others would show a player that plays nothing.

    Raises:
        UserError: no item is.
    """
    kept, faults = [], []
    for item in items:
        try:
            seconds_needed(item)
            kept.append(item)
        except UserError as error:
            faults.append(f"{item.id}: {error}")
    if not kept:
        raise UserError(f"there must be an item that can be heard; got none: {faults[0]}")
    if faults:
        say(f"{len(faults)} of {len(items)} items can't be heard and are left out: {'; '.join(faults[:3])}")
    return kept


def seconds_needed(item: Item) -> float:
    """The least that it takes to hear all of an item."""
    return sum(seconds_of(place) for place in item.sounds) / FASTEST


def remaining(items: list[Item], out: str, annotator: str) -> list[Item]:
    """What an annotator has not judged yet, in an order of their own; a recording that was replaced since is new."""
    path = Path(out)
    if path.is_file():
        append_jsonl(path, [])
    who = rater(annotator)
    own = [h for h in read_jsonl(path, Human) if rater(h.annotator) == who] if path.is_file() else []
    done = {(h.item_id, h.heard) for h in own}
    key = int.from_bytes(hashlib.sha256(annotator.encode()).digest()[:8], "big")
    order = np.random.default_rng(key).permutation(len(items))
    return [items[i] for i in order if not {(items[i].id, sha) for sha in (items[i].heard, "")} & done]


def judgement(item: Item, annotator: str, answer: str, seconds: float) -> Human:
    """A record of one answer of the page."""
    if not annotator.strip():
        raise UserError("an annotator must have a name; got none; enter one")
    score, verdict = (None, CHOICES[answer]) if item.second else (float(SCORES.index(answer) + 1), None)
    return Human(item.id, annotator.strip(), score, verdict, round(seconds, 1), item.heard)


def keep(
    items: list[Item], out: str, annotator: str, shown: str, answer: str, seconds: float, ended: Sequence[str]
) -> str:
    """Store an answer about the item that was `shown` (its id), under the name as it stands now -> what to tell.

    In a second tab, or after the name was corrected, another item may be next; it has not been heard.

    Args:
        seconds: since it was shown.
        ended: the id of the item that was last heard to its end, of each player.
    """
    item = next((item for item in items if item.id == shown), None)
    if item is None:
        return "Nothing was heard yet."
    if item not in remaining(items, out, annotator.strip()):
        return "You have judged this one already; your first answer stays."
    if unheard(item, seconds, ended):
        return UNHEARD
    append_jsonl(out, [judgement(item, annotator, answer, seconds)])
    return ""


UNHEARD = "Not saved: hear each recording to its end first."


def unheard(item: Item, seconds: float, ended: Sequence[str]) -> bool:
    """Was a player not at its end with this item, or all of them sooner than can be?"""
    players = ended[: len(item.sounds)]
    return any(name != item.id for name in players) or seconds < seconds_needed(item)


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

    def save(name: str, answer: str | None, started: float, shown: str, *ended: str) -> tuple:
        told = ""
        if name.strip() and answer and shown:
            told = keep(items, out, name, shown, answer, time.time() - started, ended)
        if told == UNHEARD or (shown and not answer):  # the same item goes on, its players as they are
            return (told or "Choose an answer first.", *[gradio.skip()] * 6)
        status, *rest = show(name)
        return (f"{told} {status}".strip(), *rest)

    def player(label: str, name: str, visible: bool = True):  # noqa: ANN202
        # Nothing to keep a recording by: its file's name may tell the system's.
        return gradio.Audio(label=label, interactive=False, visible=visible, elem_id=name, buttons=[])

    with gradio.Blocks(title="Listening test", analytics_enabled=False) as blocks:
        gradio.Markdown("Is the response a natural continuation of what the user said, and of how they said it?")
        name, start = gradio.Textbox(label="Your name", elem_id="rater"), gradio.Button("Begin", elem_id="begin")
        before = gradio.HTML(elem_id="before")  # earlier turns
        query, first = player("User", "query"), player("First response" if pairwise else "Response", "first")
        second = player("Second response", "second", pairwise)
        status = gradio.Markdown(elem_id="told")
        answer = gradio.Radio(list(CHOICES) if pairwise else list(SCORES), label="Your judgement", elem_id="answer")
        # Which item the page shows is the page's to say: by the time an end arrives, the next one may be up.
        started, heard = gradio.State(0.0), gradio.Textbox(visible=False)
        ended = [gradio.State("") for _ in range(3)]
        shown = [status, query, first, second, answer, started, heard]
        begun = start.click(show, [name], shown)
        kept = gradio.Button("Save and go on", elem_id="save").click(
            save, [name, answer, started, heard, *ended], shown
        )
        said = {item.id: item for item in items if item.turns}
        for event in (begun, kept) if said else ():
            event.then(lambda item: said[item].before if item in said else "", [heard], [before])
        for sound, last in zip((query, first, second), ended, strict=True):
            sound.stop(lambda item: item, [heard], [last], show_progress="hidden")
    return blocks


assert set(CHOICES.values()) == set(VERDICTS)
