"""Tables as corpora are published: JSON lists, JSON lines, Parquet, and folders that Hugging Face's datasets saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError

Fields = dict[str, Any]
POINTER = b"version https://git-lfs"


def json_rows(path: Path, fields: Iterable[str] = ()) -> list[Fields]:
    """The objects of a JSON list, or of JSON lines, whatever the file's name says (MMSU's .jsonl is a list).

    Raises:
        UserError: no such file, no JSON, or a row without one of the fields.
    """
    if not path.is_file():
        raise UserError(f"the corpus must hold {path}; got none; check root")
    data = path.read_bytes()
    if data.startswith(POINTER):
        raise UserError(f"{path} must be data; got a Git LFS pointer to it; fetch it with `git lfs pull`")
    try:
        text = data.decode("utf-8-sig")
        lines = [text] if text.lstrip().startswith("[") else [line for line in text.split("\n") if line.strip()]
        rows = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} must be JSON in UTF-8, a list or an object a line; got {error}; mend it") from None
    if rows and isinstance(rows[0], list):
        rows = rows[0]
    return [checked(row, fields, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def arrow_rows(path: Path, fields: Iterable[str] = ()) -> Iterator[Fields]:
    """The rows of a .parquet or .arrow file, a few at a time; audio stays the bytes that it is.

    Raises:
        UserError: pyarrow is missing, the file is damaged, or a row lacks one of the fields.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} needs pyarrow; got none; pip install pyarrow") from None
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path} must be data; got a Git LFS pointer to it; fetch it with `git lfs pull`")
    number = 0
    try:
        if path.suffix == ".parquet":
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64)
        else:
            batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield checked(row, fields, f"{path}, row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} must be a whole table; got {error}; fetch it again") from None


def arrow_files(root: Path) -> list[Path]:
    """All .parquet and .arrow files under a folder, but for what tools keep beside them."""
    found = [p for p in root.rglob("*") if p.suffix in (".parquet", ".arrow") and not p.name.startswith("cache-")]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def checked(row: Any, fields: Iterable[str], where: str) -> Fields:
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object; got {type(row).__name__}; check root")
    if missing := [name for name in fields if name not in row]:
        raise UserError(f"{where}: must have {', '.join(missing)}; got {', '.join(row)}; check root")
    return row


def sound_of(value: Any, root: Path) -> Path | bytes | None:
    """A recording as `datasets` keeps it: bytes, or a path; its path is only a name where there are bytes."""
    if isinstance(value, dict):
        return value.get("bytes") or (found(root, value["path"]) if value.get("path") else None)
    return found(root, value) if isinstance(value, str) and value else None


def found(root: Path, name: Any) -> Path:
    """Where a file of a corpus is: as it says, under root, or under root by the end of its path (a published table may
    name a place on its author's disk). A bare name must be under root itself: many corpora repeat names in folders."""
    path = Path(name if isinstance(name, str) else "")  # no name: root itself, which is no file
    if path.is_absolute() and path.is_file():
        return path
    parts = path.parts[1:] if path.is_absolute() else path.parts
    places = [root.joinpath(*parts[start:]) for start in range(max(1, len(parts) - 1))]
    return next((place for place in places if place.is_file()), places[0])


def told(value: Any) -> str:
    """A label's text: without <>, and "" for what means none."""
    text = str(value if value is not None else "").strip().strip("<>").strip()
    return "" if text.lower() in ("none", "null", "unknown", "nan") else text


def letters(words: Iterable[Any]) -> dict[str, str]:
    """A, B, ... -> the options that there are."""
    return {letter: str(text) for letter, text in zip("ABCDEFGH", words, strict=False) if text is not None}
