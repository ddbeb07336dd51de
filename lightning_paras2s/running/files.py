"""Files that appear whole or not at all, and JSON lines as they lie there."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


def rows_in(path: Path, holds: str = "") -> list[dict[str, Any]]:
    """The JSON lines of a file in which that stands; none where there is no file."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if holds.encode() in line]
