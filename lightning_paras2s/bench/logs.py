"""A run's folder: append-only JSON lines that survive a kill at any point, and files that appear whole or not at
all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightning_paras2s.types import Evidence, Response, Verdict, append_jsonl, read_jsonl

Record = TypeVar("Record", Response, Evidence, Verdict)


@dataclass(frozen=True)
class Log:
    """One run's folder: read what is there, append what is new. `suffix` keeps the shards of one run apart."""

    folder: Path
    suffix: str = ""

    def read(self, name: str, record: type[Record]) -> list[Record]:
        """All shards' records, without repetitions; a half-written last line of this shard's file is dropped."""
        own = self.folder / f"{name}{self.suffix}.jsonl"
        if own.is_file():
            append_jsonl(own, [])
        rows = [row for path in sorted(self.folder.glob(f"{name}*.jsonl")) for row in read_jsonl(path, record)]
        return list({record_key(row): row for row in rows}.values())

    def append(self, name: str, rows: list[Any]) -> None:
        append_jsonl(self.folder / f"{name}{self.suffix}.jsonl", rows)


def record_key(row: Response | Evidence | Verdict) -> tuple:
    """What a log may hold once."""
    if isinstance(row, Verdict):
        return row.response_id, row.judge, row.rubric_sha, row.label_source, row.sample
    return (row.id if isinstance(row, Response) else row.response_id,)


def write_summary(path: Path, result: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def safe_name(name: str) -> str:
    """A file name for an id: itself if it is harmless, else a readable part and a hash."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return plain if plain == name else f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
