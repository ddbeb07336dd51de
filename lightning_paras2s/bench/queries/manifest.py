"""What is evaluated: a manifest of queries, written and read with checks, and its contrast pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import soundfile

from lightning_paras2s.audio import MAX_SECONDS, read_audio, readable
from lightning_paras2s.bench.asked import places_of
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_jsonl
from lightning_paras2s.types import Query, read_jsonl

Item = TypeVar("Item")


def write_manifest(path: Path, queries: Iterable[Query]) -> None:
    """Write a manifest whole or not at all. Its audio paths are relative to its folder: what is moved together with its
    recordings can be read where it is then."""
    folder = path.parent.resolve()
    rows = [placed(q, lambda audio: relative(audio, folder) if os.path.isabs(audio) else audio) for q in queries]
    replace_jsonl(path, rows)


def placed(query: Query, place: Callable[[str], str]) -> Query:
    """The query with another place for each of its recordings, those of its earlier turns too."""
    turns = tuple(replace(turn, audio=place(turn.audio)) if turn.audio else turn for turn in query.turns)
    return replace(query, audio=place(query.audio), turns=turns)


def relative(audio: str, folder: Path) -> str:
    """An absolute path as seen from a folder."""
    return Path(os.path.relpath(audio, folder)).as_posix()


def read_queries(manifest: str, limit: int | None) -> list[Query]:
    """The manifest's queries, checked: factor, style, audio; at most `limit` contrast pairs a factor."""
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 contrast pair a factor; got {limit}; leave it out for all")
    queries = read_jsonl(manifest, Query)
    if not queries:
        raise UserError(f"a manifest must list at least one query; got none in {manifest}; write it with `synthesize`")
    check_ids(queries, manifest)
    for number, query in enumerate(queries, 1):
        if query.styles and not query.label:
            raise UserError(
                f"{manifest}:{number}: a query's styles must hold its factor {query.factor!r}; got {query.styles}"
            )
        for name, audio in recordings_of(query):
            if not (Path(manifest).parent / audio).is_file():
                raise UserError(
                    f"{manifest}:{number}: {name} must be an existing file; got {audio!r}; check the manifest"
                )
    return [q for q, place in zip(queries, places_of(queries), strict=True) if limit is None or place < limit]


def check_ids(queries: Sequence[Query], manifest: str) -> None:
    """Refuse a query of a manifest without an id, or without a pair: those without one would pass for one."""
    for number, query in enumerate(queries, 1):
        for name in ("id", "pair_id"):
            if not getattr(query, name):
                raise UserError(f"{manifest}:{number}: a query's {name} must not be empty; mend the line")


def check_manifests(manifests: Sequence[str]) -> None:
    if not manifests:
        raise UserError("manifests must name at least one list of queries; got none; write one with `synthesize`")


def recordings_of(query: Query) -> list[tuple[str, str]]:
    """Each of a query's recordings: what it is, and its place."""
    turns = [(f"audio of turn {i}", turn.audio) for i, turn in enumerate(query.turns, 1) if turn.audio]
    return [("audio", query.audio), *turns]


def unheard_of(query: Query, root: Path) -> str:
    """Why one of a query's recordings can't be heard; "" if all can."""
    return next((why for _, audio in recordings_of(query) if (why := unheard(root / audio))), "")


def check_labelled(queries: Iterable[Query], who: str) -> None:
    """Refuse queries without labels to `who` needs them: a `UserError` that names the first."""
    if (bare := next((q.id for q in queries if not q.label), None)) is not None:
        raise UserError(f"{who} must have every query's style; got none of {bare!r}; have styles predicted, or add it")


def moved(query: Query, root: Path, folder: Path) -> Query:
    """A query of a manifest in `root`, as one in `folder` names its recordings."""
    return placed(query, lambda audio: relative(str(root / audio), folder))


def unheard(path: Path) -> str:
    """Why a recording can't be heard, "" if it can: by its header, unless that says too little."""
    try:
        info = soundfile.info(readable(path))
        sound = info.subtype.startswith(("PCM", "VORBIS", "OPUS", "MPEG")) and 0 < info.duration <= MAX_SECONDS
    except (soundfile.LibsndfileError, OSError):
        sound = False
    try:
        if not sound:
            read_audio(path, 16_000)
    except UserError as error:
        return str(error)
    return ""


def batches_of(queries: list[Query], batch_size: int) -> list[list[Query]]:
    """Whole contrast pairs in the manifest's order, at most `batch_size` queries a batch unless one pair has more."""
    pairs: dict[str, list[Query]] = {}
    for query in queries:
        pairs.setdefault(query.pair, []).append(query)
    batches: list[list[Query]] = []
    for pair in pairs.values():
        if not batches or len(batches[-1]) + len(pair) > batch_size:
            batches.append([])
        batches[-1] += pair
    return batches


def shard_of(batches: list[list[Item]], shard: str) -> list[list[Item]]:
    """Every k-th batch from the i-th: a shard's batches are those of a single run, so even what a batch could touch
    (the rounding of a matrix product) is the same."""
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f'a shard must be "i/k" with 0 <= i < k; got {shard!r}')
    return batches[int(index) :: int(count)]


def other_styles(queries: list[Query]) -> dict[str, str]:
    """Query id -> the style of the other half of its pair; queries without another half are left out."""
    styles: dict[str, set[str]] = {}
    for query in queries:
        styles.setdefault(query.pair, set()).add(query.label)
    found = {}
    for query in queries:
        others = styles[query.pair] - {query.label, ""}
        if len(others) == 1:
            found[query.id] = others.pop()
    return found
