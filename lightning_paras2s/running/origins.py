"""What each record of a run's folder was made from: an answer is known by its inputs, never by its name alone.

Beside the records lies `inputs.jsonl`: for each record (by the hash of its line) the hashes of all its inputs, by name
("audio", "text", "labels", "ears", ...). A resume compares them with today's; a record made from something else, or one
that no line vouches for (put there by hand, or another run's), is made anew, and one line says how many and why.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.fields import finite
from lightning_paras2s.types import Query, iter_jsonl, to_json

UNKNOWN = "not recorded"
EDGE = 1 << 16  # bytes of each end of a large file that its hash covers
BY_USE = {"__pycache__", ".git"}  # folders that change when what is beside them is used
Inputs = Mapping[str, str]  # name of an input -> hash of its content


@dataclass(frozen=True)
class Made:
    """A line of `inputs.jsonl`: a record's file (`of`), the hash of its line, and what it was made from."""

    of: str
    row: str
    inputs: dict[str, str]


class Origins:
    """What a folder's `inputs*.jsonl` (those of all shards) vouch for."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.known: dict[tuple[str, str], list[dict[str, str]]] = {}  # two shards may make one line of other inputs
        self.kinds: set[str] = set()
        self.add(made for path in files for made in iter_jsonl(path, Made, skip_half_line=True))

    def add(self, rows: Iterable[Made]) -> None:
        for made in rows:
            self.known.setdefault((made.of, made.row), []).append(made.inputs)
            self.kinds.add(made.of)

    def of(self, of: str, row: Any, *names: str) -> dict[str, str]:
        """Some of what a record was made from; {} if nothing vouches for it."""
        last = self.known.get((of, row_sha(row)), [{}])[-1]
        return {name: value for name, value in last.items() if name in names}

    def differing(self, of: str, row: Any, inputs: Inputs) -> list[str]:
        """Which of a record's inputs are others today; [UNKNOWN] if nothing vouches for it."""
        found = self.known.get((of, row_sha(row)), [])
        others = [[name for name in {**was, **inputs} if was.get(name) != inputs.get(name)] for was in found]
        return min(reversed(others), key=len, default=[UNKNOWN])


def contradictions(was: Mapping[str, Any], made: Mapping[str, Any], inside: str = "") -> list[str]:
    """Names under which a folder's record says something else than `made`, "synthesizer.variation" for one inside of
    another. A record of an earlier version is taken at its word where it names nothing."""
    found = []
    for name, value in made.items():
        before = was.get(name, value)
        if isinstance(before, dict) and isinstance(value, dict):
            found += contradictions(before, value, f"{inside}{name}.")
        elif before != value:
            found.append(f"{inside}{name}")
    return found


def made_from(of: str, rows: Sequence[Any], inputs: Sequence[Inputs]) -> list[Made]:
    """The lines to write before the records themselves are written."""
    return [Made(of, row_sha(row), dict(found)) for row, found in zip(rows, inputs, strict=True)]


def reasons(differing: Iterable[Sequence[str]]) -> str:
    """ "audio 3, labels 1": how many records each input made stale."""
    counts = Counter(name for names in differing for name in names)
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def sha(*values: Any) -> str:
    """Short hash of JSON values."""
    return hashlib.sha256(json.dumps(finite(values), sort_keys=True).encode()).hexdigest()[:16]


def row_sha(row: Any) -> str:
    """Short hash of a record's line."""
    return hashlib.sha256(to_json(row).encode()).hexdigest()[:16]


def file_sha(path: Path) -> str:
    """Short hash of a file's bytes; "" where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def weights_sha(path: Path) -> str:
    """Short hash of weights as they lie there: a file's bytes; or a folder's names, sizes, and both ends of each file
    (19 GB need not be read through), but for what changes by use (`BY_USE`). It is part of what names an answer.

    Raises:
        UserError: there is nothing at `path`.
    """
    if path.is_file():
        return file_sha(path)
    if not path.is_dir():
        raise UserError(f"weights must be an existing file or folder; got {path}; fetch them or check the path")
    whole = hashlib.sha256()
    for file, line in files_in(path):
        if BY_USE & set(file.relative_to(path).parts):
            continue
        whole.update(line)
        with file.open("rb") as opened:
            whole.update(opened.read(EDGE))
            opened.seek(max(0, file.stat().st_size - EDGE))
            whole.update(opened.read(EDGE))
    return whole.hexdigest()[:16]


def content_sha(path: Path) -> str:
    """As `weights_sha`, but tensors that are written twice are the same: safetensors puts what its header tells in any
    order. A run's inputs are compared by it; answers were named by the bytes before, and keep their names.
    """
    whole = hashlib.sha256()
    for file, line in files_in(path) if path.is_dir() else [(path, b"")]:
        whole.update(line)
        size = file.stat().st_size
        with file.open("rb") as opened:
            whole.update(ordered_header(opened, size) if file.suffix == ".safetensors" else b"")
            if path.is_dir() and size - opened.tell() > 2 * EDGE:
                whole.update(opened.read(EDGE))
                opened.seek(size - EDGE)
            while block := opened.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()[:16]


def files_in(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """A folder's files in order, each with the line of its name and size that a hash begins with."""
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield file, f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode()


def ordered_header(opened: BinaryIO, size: int) -> bytes:
    """What a safetensors file tells before its tensors (8 bytes of length, and JSON), read and put in order; nothing is
    read of a file that is none, or cut.
    """
    length = int.from_bytes(opened.read(8), "little")
    try:
        return json.dumps(json.loads(opened.read(length if length < size else 0)), sort_keys=True).encode()
    except ValueError:
        opened.seek(0)
        return b""


def inputs_of(query: Query, root: Path) -> dict[str, str]:
    """What a system is given of a query: its recording, its words, its labels (which only a topline reads), and its
    earlier turns where it has any."""
    made = {"audio": file_sha(root / query.audio), "text": sha(query.text), "labels": sha(query.factor, query.styles)}
    turns = [[t.role, t.text, t.styles, file_sha(root / t.audio) if t.audio else ""] for t in query.turns]
    return made | ({"turns": sha(turns)} if turns else {})


def queries_sha(queries: Sequence[Query], inputs: Mapping[str, Inputs]) -> str:
    """Which queries these are, by their content; runs on the same ones can be compared."""
    return sha(sorted([q.id, q.pair_id, sorted(inputs[q.id].items())] for q in queries))
