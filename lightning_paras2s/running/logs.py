"""A run's folder: append-only JSON lines that survive a kill at any point, and files that appear whole or not at
all."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Evidence, Response, Verdict, append_jsonl, iter_jsonl, to_json

Record = TypeVar("Record", Response, Evidence, Verdict)
# Statuses of what never got an answer (remote.Answer, llm.Reply, bench.systems); all others are answers, and stay.
UNANSWERED = ("timeout", "connection", "malformed", "not_asked", "max_usd", "pending", "no_reply", "missing")
UNANSWERED_PREFIXES = ("http_", "exit_")


@dataclass(frozen=True)
class Log:
    """One run's folder: read what is there, append what is new. `suffix` keeps the shards of one run apart."""

    folder: Path
    suffix: str = ""

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}.jsonl"

    def read(self, name: str, record: type[Record]) -> list[Record]:
        """All shards' records, without repetitions; a half-written last line of this shard's file is dropped, one of
        another's (which may be writing it) is skipped."""
        own = self.path(name)
        if own.is_file() and half_line(own):
            say(f"{own} ended in the middle of a line: that line is dropped, and its item asked for again")
            append_jsonl(own, [])
        shards = sorted(self.folder.glob(f"{name}*.jsonl"))
        rows = [row for path in shards for row in iter_jsonl(path, record, skip_half_line=True)]
        return list({record_key(row): row for row in rows}.values())

    def settled(self, name: str, record: type[Record], again: Callable[[Record], bool]) -> list[Record]:
        """The records that stay; those to be asked for `again` are taken out of this shard's file, and counted."""
        rows = self.read(name, record)
        statuses = Counter(row.status for row in rows if again(row))
        if not statuses:
            return rows
        said = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
        say(f"{name} asked for again: {statuses.total()} ({said})")
        if self.path(name).is_file():
            kept = [row for row in iter_jsonl(self.path(name), record) if not again(row)]
            replace_file(self.path(name), "".join(to_json(row) + "\n" for row in kept))
        return [row for row in rows if not again(row)]

    def append(self, name: str, rows: list[Any]) -> None:
        append_jsonl(self.path(name), rows)


def unanswered(status: str) -> bool:
    """Did no answer come? (A resume asks again. A refusal, a cut or an unreadable reply is an answer: it stays.)"""
    return status in UNANSWERED or status.startswith(UNANSWERED_PREFIXES)


def half_line(path: Path) -> bool:
    """Does a file end in the middle of a line, as a kill leaves it?"""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"


def say(line: str) -> None:
    print(line, file=sys.stderr)


def record_key(row: Response | Evidence | Verdict) -> tuple:
    """What a log may hold once."""
    if isinstance(row, Verdict):
        return row.response_id, row.judge, row.rubric_sha, row.label_source, row.sample
    return (row.id if isinstance(row, Response) else row.response_id,)


def recorded(folder: Path, names: list[str]) -> list[str]:
    """The systems whose responses a folder holds: those named, or all."""
    found = sorted({row.system for row in Log(folder).read("responses", Response)})
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise UserError(
            f"{folder} must hold responses of {', '.join(missing) or 'some system'} to be scored again; "
            f"got {', '.join(found) or 'none'}; run `evaluate` without rescore first"
        )
    return names or found


class Judging(NamedTuple):
    """Who judged, and how: what verdicts must share to be compared."""

    judge: str
    rubric_sha: str
    label_source: str


def verdicts_of(run: Path) -> tuple[Judging, list[Verdict]]:
    """The verdicts of one judge in a run's folder: the only one there, or the one that its summary.json is about."""
    rows = Log(run).read("verdicts", Verdict)
    found = {Judging(v.judge, v.rubric_sha, v.label_source) for v in rows}
    if (run / "summary.json").is_file():
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        found &= {Judging(*(summary[name] for name in Judging._fields))}
    if len(found) != 1:
        raise UserError(f"{run} must hold verdicts of one judge; got {len(found)}; run `evaluate` there to its end")
    judging = found.pop()
    return judging, [v for v in rows if Judging(v.judge, v.rubric_sha, v.label_source) == judging]


def check_config(name: str, config_sha: str, done: Iterable[Response], folder: Path) -> None:
    """Answers of a system that was configured otherwise must not be mixed in."""
    stale = {row.config_sha for row in done if row.system == name} - {config_sha}
    if stale:
        raise UserError(
            f"{folder} holds answers of {name!r} with config {stale.pop()}; got {config_sha}; "
            "choose another output folder"
        )


def write_summary(path: Path, result: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    replace_file(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def safe_name(name: str) -> str:
    """A file name for an id: itself if it is harmless, else a readable part and a hash."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return plain if plain == name else f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
