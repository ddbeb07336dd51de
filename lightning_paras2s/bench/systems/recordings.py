"""Answers that exist already, as files: a folder of recordings, or records of responses beside their audio."""

from __future__ import annotations

from pathlib import Path

from lightning_paras2s.bench.queries.recordings import OTHERS, READ
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Response, iter_jsonl


def recorded_in(folder: Path) -> list[Response]:
    """A folder's recordings, each named by its query's id.

    Raises:
        UserError: for two recordings of one query, or one in a format that can't be read here.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix[1:].lower() in READ | OTHERS and not p.name.startswith("."))
    if other := next((p for p in files if p.suffix[1:].lower() in OTHERS), None):
        raise UserError(f"{folder} must hold recordings as WAV, FLAC, OGG or MP3; got {other.name}; convert it")
    for one, other in zip(files, files[1:], strict=False):
        if one.stem == other.stem:
            raise UserError(f"{folder} must hold one recording a query; got {one.name} and {other.name}; remove one")
    return [Response(p.stem, "recorded", audio=p.name) for p in files]


def responses_of(path: Path, system: str | None) -> list[Response]:
    """The responses of one system in a file.

    Raises:
        UserError: the file holds those of several, and none is named, or lacks the one that is.
    """
    rows = list(iter_jsonl(path, Response, skip_half_line=True))
    names = sorted({row.system for row in rows})
    if system not in names if system is not None else len(names) > 1:
        wanted = "responses of one system" if system is None else f"responses of {system!r}"
        raise UserError(f"{path} must hold {wanted}; got those of {', '.join(names) or 'none'}; name one in `system`")
    return [row for row in rows if system in (None, row.system)]
