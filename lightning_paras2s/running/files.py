"""Files that appear whole or not at all, arrays among them, and JSON lines as they lie there."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` at the end; of a disk that is full nothing is left there.
    Several processes may write one file, so each has a place of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_arrays(path: Path, **arrays: Any) -> None:
    """An .npz file; `np.load` reads it."""
    with written_whole(path) as part, part.open("wb") as file:  # of a name `savez` would add .npz
        np.savez(file, **arrays)


def rows_in(path: Path, holds: str = "") -> list[dict[str, Any]]:
    """The JSON lines of a file in which that stands; none where there is no file."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if holds.encode() in line]
