"""Corpora as manifests of queries, with all that a query has no field for in a file of items beside it.

A query without one of our styles has none and no factor; what was published (options, good answers) lies in
NAME.items.jsonl. Recordings that are bytes in a table are written to NAME_audio; all others stay where they
are. Nothing of these corpora is redistributed here; tests use look-alike folders.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from lightning_paras2s.bench.corpora.rows import CorpusItem, Row
from lightning_paras2s.bench.queries.manifest import unheard, write_manifest
from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.mp3 import frame_at
from lightning_paras2s.running.logs import replace_jsonl, safe_name, say
from lightning_paras2s.shown.queries import UNLABELLED
from lightning_paras2s.turns import check_turns, read_turns
from lightning_paras2s.types import FACTORS, SPLITS, Query

Corpus = Literal[
    "voicebench",
    "uro_bench",
    "sd_eval",
    "televal",
    "mmsu",
    "open_s2s",
    "open_asqa",
    "echat",
    "cpqa",
    "mnsc",
    "s2s_arena",
    "arena",
]
CORPORA = get_args(Corpus)
HEADS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3"}


class Kept(NamedTuple):
    """A query with what else its corpus says, and the row that it is from."""

    query: Query
    item: CorpusItem
    row: Row


def import_corpus(corpus: str, root: Path, out: Path, split: str) -> dict[str, Any]:
    """Write a corpus's manifest and items; -> counts of what was kept and what was not, and why.

    Raises:
        UserError: the corpus's files are not what they must be.
    """
    check_choice("a split", split, SPLITS)
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"out must lie outside of root, or the next import reads it, too; got {out} in {root}; move it")
    reader = import_module(f"lightning_paras2s.bench.corpora.{corpus}")
    takes_split = "split" in inspect.signature(reader.read).parameters
    rows = reader.read(root, split) if takes_split else reader.read(root)
    counts: Counter[str] = Counter()
    kept = {k.query.id: k for k in keep(well_formed(rows, corpus, root), corpus, split, reader.LICENSE, out, counts)}
    if not kept:
        say(f"{root} holds no item to keep: {dict(counts)}; check root and split")
    items = out.with_name(f"{out.stem}.items.jsonl")
    replace_jsonl(items, [one.item for one in kept.values()])
    write_manifest(out, [one.query for one in kept.values()])
    told = {"items": str(items), "subsets": dict(Counter(one.item.subset for one in kept.values()))}
    if corpus == "s2s_arena":
        told["answers"] = write_answers(reader.answers, root, out, kept.values())
    styles = Counter(one.query.label or UNLABELLED for one in kept.values())
    sizes = Counter(Counter(one.query.pair_id for one in kept.values()).values())
    return {"manifest": str(out), "counts": dict(counts), "by_style": dict(styles), "group_sizes": dict(sizes)} | told


def well_formed(rows: Iterable[Row], corpus: str, root: Path) -> Iterator[Row]:
    """The rows; one whose fields are of other types than the corpus's is a mistake that names it."""
    count = 0
    try:
        for row in rows:
            count += 1
            yield row._replace(text=str(row.text or ""))
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise UserError(
            f"{root} must hold {corpus} as lightning_paras2s/bench/corpora/{corpus}.py tells; its item {count + 1} has "
            f"a field of another type ({error!r}); check root"
        ) from None


def keep(rows: Iterable[Row], corpus: str, split: str, license: str, out: Path, counts: Counter) -> Iterator[Kept]:
    """What can be used of the rows; the counts tell what became of each."""
    groups: dict[tuple[str, str], str] = {}
    seen: set[str] = set()
    for row in rows:
        name = "-".join(part for part in (corpus, row.subset, row.name) if part).replace("/", "-")
        why = row.why or ("no_audio" if row.audio is None else "")
        if not why and name in seen:
            why = "duplicate"
        audio = "" if why else place_of(row.audio, name, out)
        why = why or hindrance(audio, out)
        said = [] if why else said_before(row.turns, name, out)
        why = why or turns_hindrance(said, out)
        counts[why or "kept"] += 1
        if why:
            continue
        seen.add(name)
        factor = next((f for f in FACTORS if f in row.styles), "")
        pair = groups.setdefault((row.subset, row.pair), f"{corpus}-{len(groups):05d}") if row.pair else name
        source = f"{corpus}/{row.subset}" if row.subset else corpus
        about = (row.text, row.styles, row.topic, audio, "", row.level, source, license, read_turns(said))
        query = Query(name, pair, factor, split, *about)
        item = CorpusItem(name, corpus, row.subset, row.instruction, list(row.references), row.options, row.right,
                          row.labels, said, list(row.emotions), row.words)  # fmt: skip
        yield Kept(query, item, row)


def place_of(audio: Path | bytes | None, name: str, out: Path) -> str:
    """Where a recording is: its absolute place, or, of bytes, a file beside the manifest that is written here."""
    if not isinstance(audio, bytes):
        return str(Path(audio or "").resolve())
    end = next((end for head, end in HEADS.items() if audio.startswith(head)), ".mp3" if frame_at(audio, 0) else ".wav")
    folder = out.with_name(f"{out.stem}_audio")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{safe_name(name)}{end}"
    place.write_bytes(audio)
    return place.relative_to(out.parent).as_posix()


def said_before(turns: Iterable[dict[str, Any]], name: str, out: Path) -> list[dict[str, str]]:
    """Earlier turns with the places of their recordings; bytes are written there."""
    return [
        {**turn, "audio": place_of(turn["audio"], f"{name}-turn{number}", out) if turn["audio"] else ""}
        for number, turn in enumerate(turns, 1)
    ]


def turns_hindrance(turns: list[dict[str, str]], out: Path) -> str:
    """Why a query can't be kept with what was said before; "" = it can. (Without it, it would be another query.)"""
    try:
        check_turns(read_turns(turns))
    except UserError:
        return "unusable_turns"
    why = next((found for turn in turns if turn["audio"] and (found := hindrance(turn["audio"], out))), "")
    return f"turn_{why}" if why else ""


def hindrance(audio: str, out: Path) -> str:
    path = out.parent / audio
    return "no_audio" if not path.is_file() else "unheard" if cannot_be_heard(path) else ""


@lru_cache(maxsize=4096)  # many questions may share a recording
def cannot_be_heard(path: Path) -> bool:
    return bool(unheard(path))


def write_answers(read: Callable, root: Path, out: Path, kept: Iterable[Kept]) -> dict[str, Any]:
    """The answers of a release, a folder a model, as `evaluate` leaves them: `arena --runs` and `report` read them."""
    folder = out.with_name(f"{out.stem}_answers")
    made, strays = read(root, {one.row.name: one.query.id for one in kept})
    for model, rows in made.items():
        rows = [replace(row, sha256=sha256(Path(row.audio).read_bytes()).hexdigest()) for row in rows]
        replace_jsonl(folder / model / "responses.jsonl", rows)
    return {"folder": str(folder), "models": {model: len(rows) for model, rows in made.items()}, "strays": strays}
