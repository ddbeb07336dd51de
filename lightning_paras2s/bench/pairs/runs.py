"""Folders of `evaluate` that are compared or listened to: an answer belongs to one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning_paras2s.errors import UserError


def require_folders(runs: Sequence[str]) -> None:
    """Refuse a folder that is named twice: it would be compared with itself."""
    known: dict[Path, str] = {}
    for run in runs:
        place = Path(run).resolve()
        if place in known:
            raise UserError(f"runs must be different folders; got one as {known[place]} and as {run}; name it once")
        known[place] = run


def require_own_ids(ids: Mapping[str, Iterable[str]]) -> None:
    """Refuse a response's id that two runs hold: a rating names no run, so nobody could tell which of them it is of.

    Args:
        ids: run -> the ids of its responses.
    """
    known: dict[str, str] = {}
    for run, names in ids.items():
        for name in names:
            if known.setdefault(name, run) != run:
                raise UserError(
                    f"runs must hold answers of ids of their own; got {name!r} in {known[name]} and in {run}; evaluate "
                    "one of the systems under another name, or take one run at a time"
                )
