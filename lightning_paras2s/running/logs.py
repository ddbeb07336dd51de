"""A run's folder: append-only JSON lines that survive a kill at any point, and files that appear whole or not at
all."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.fields import finite
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.running.origins import UNKNOWN, Inputs, Origins, made_from, reasons
from lightning_paras2s.types import Battle, Evidence, Measured, Response, Verdict, append_jsonl, iter_jsonl, to_json

Record = TypeVar("Record", Response, Evidence, Verdict, Measured, Battle)
# Statuses of what never got an answer (remote.Answer, llm.Reply, bench.systems); all others are answers, and stay.
UNANSWERED = ("timeout", "connection", "malformed", "not_asked", "max_usd", "pending", "no_reply", "missing")
UNANSWERED += ("closed_output",)
RESULT = "result.json"  # of a training that has ended, in its run's folder
UNANSWERED_PREFIXES = ("http_", "exit_")


@dataclass(frozen=True)
class Log:
    """One run's folder: read what is there, append what is new. `suffix` keeps the shards of one run apart."""

    folder: Path
    suffix: str = ""

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}.jsonl"

    def shards(self, name: str) -> list[Path]:
        """NAME.jsonl and those of shards (NAME-0of2.jsonl); any other file is nobody's, and told of."""
        found = sorted(self.folder.glob(f"{name}*.jsonl"))
        own = [path for path in found if re.fullmatch(rf"{name}(-\d+of\d+)?\.jsonl", path.name)]
        if strays := [path.name for path in found if path not in own]:
            say_once(f"{self.folder}: {', '.join(strays)} is no file of this run and is left out")
        return own

    @cached_property
    def origins(self) -> Origins:
        """What the folder's records were made from."""
        self._mend("inputs", "that line is dropped, and its item made anew")
        return Origins(self.shards("inputs"))

    def read(self, name: str, record: type[Record]) -> list[Record]:
        """All shards' records, without repetitions; a half-written last line of this shard's file is dropped, one of
        another's (which may be writing it) is skipped."""
        return list({record_key(row): row for row in self._every(name, record)}.values())

    def _every(self, name: str, record: type[Record]) -> list[Record]:
        """All shards' records, this one's own last: of those of one key the last holds."""
        self._mend(name, "that line is dropped, and its item asked for again")
        files = sorted(self.shards(name), key=lambda path: path == self.path(name))
        return [row for path in files for row in iter_jsonl(path, record, skip_half_line=True)]

    def _mend(self, name: str, what: str) -> None:
        own = self.path(name)
        if own.is_file() and half_line(own):
            say(f"{own} ended in the middle of a line: {what}")
            append_jsonl(own, [])

    def settled(
        self,
        name: str,
        record: type[Record],
        again: Callable[[Record], bool],
        inputs: Callable[[Record], Inputs | None] | None = None,
    ) -> list[Record]:
        """The records that stay; those to be asked for `again`, and those made from other inputs, are taken out of this
        shard's file, and counted.

        Args:
            inputs: what a record would be made from today; None for one that this run has no use for.
        """
        every = self._every(name, record)
        found = {record_key(row): row for row in every}
        if len(found) < len(every):  # several shards hold one: what can stay comes before what can't
            found |= {record_key(row): row for row in every if not again(row) and self._holds(name, row, inputs)}
        rows = list(found.values())
        stale = self.stale(name, rows, inputs) if inputs else {}
        statuses = Counter(row.status for row in rows if record_key(row) not in stale and again(row))
        if statuses:
            said = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
            say(f"{name} asked for again: {statuses.total()} ({said})")
        if not statuses and not stale and len(rows) == len(every):
            return rows
        kept = {record_key(row): row for row in rows if record_key(row) not in stale and not again(row)}
        if self.path(name).is_file():
            own = [row for row in iter_jsonl(self.path(name), record) if kept.get(record_key(row)) == row]
            replace_jsonl(self.path(name), own)
        return list(kept.values())

    def _holds(self, name: str, row: Record, inputs: Callable[[Record], Inputs | None] | None) -> bool:
        """Was a record made from what it would be made from today, as far as that is recorded?"""
        today = inputs(row) if inputs else None
        return today is None or name not in self.origins.kinds or not self.origins.differing(name, row, today)

    def stale(
        self, name: str, rows: Sequence[Record], inputs: Callable[[Record], Inputs | None]
    ) -> dict[tuple, list[str]]:
        """The key of each record that was made from other inputs than today's -> which; one line tells of them.

        Records of a folder from before inputs were kept are taken at their word, once, and one line says so.
        """
        today = [(row, found) for row in rows if (found := inputs(row)) is not None]
        if today and name not in self.origins.kinds:
            say(f"{self.folder}: what its {len(today)} {name} were made from is not recorded; they are kept")
            self.vouch(name, [row for row, _ in today], [found for _, found in today])
        differing = {record_key(row): self.origins.differing(name, row, found) for row, found in today}
        stale = {key: names for key, names in differing.items() if names}
        if stale:
            what = reasons(stale.values()).replace(UNKNOWN, "made from what is not recorded")
            say(f"{self.folder}: {len(stale)} of {len(today)} {name} are made anew, their inputs changed: {what}")
        return stale

    def append(self, name: str, rows: list[Any], inputs: Sequence[Inputs] | None = None) -> None:
        """Add records; the `inputs` of each are written before: a kill leaves no record that nothing vouches for."""
        if inputs is not None:
            self.vouch(name, rows, inputs)
        append_jsonl(self.path(name), rows)

    def vouch(self, name: str, rows: Sequence[Any], inputs: Sequence[Inputs]) -> None:
        lines = made_from(name, rows, inputs)
        append_jsonl(self.path("inputs"), lines)
        self.origins.add(lines)


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


@lru_cache(maxsize=1000)
def say_once(line: str) -> None:
    say(line)


def record_key(row: Response | Evidence | Verdict | Measured | Battle) -> tuple:
    """What a log may hold once."""
    match row:
        case Verdict():
            return row.response_id, row.judge, row.rubric_sha, row.label_source, row.sample
        case Measured():
            return row.response_id, row.measure
        case Battle():
            return row.query_id, row.a, row.b, row.order, row.judge
        case Response():
            return (row.id,)
    return (row.response_id,)


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

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Judging:
        return cls(*(summary[name] for name in cls._fields))

    def own(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        return [v for v in verdicts if Judging(v.judge, v.rubric_sha, v.label_source) == self]


def drawn_for(summary: Mapping[str, Any], verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those of a summary's judge, as many on each answer as it was asked for: one that was asked more often before left
    more."""
    drawn = summary.get("judge_samples", float("inf"))
    return [v for v in Judging.of(summary).own(verdicts) if v.sample < drawn]


def verdicts_of(run: Path) -> tuple[Judging, list[Verdict]]:
    """The verdicts of one judge in a run's folder: the only one there, or the one that its summary.json is about."""
    rows = Log(run).read("verdicts", Verdict)
    found = {Judging(v.judge, v.rubric_sha, v.label_source) for v in rows}
    if (run / "summary.json").is_file():
        summary = read_summary(run / "summary.json", Judging._fields)
        found &= {Judging.of(summary)}
        rows = drawn_for(summary, rows)
    if len(found) != 1:
        raise UserError(f"{run} must hold verdicts of one judge; got {len(found)}; run `evaluate` there to its end")
    judging = found.pop()
    return judging, judging.own(rows)


def read_summary(path: Path, fields: Sequence[str], remedy: str = "run `evaluate` again") -> dict[str, Any]:
    """A run's summary.json, or another command's, which must hold some fields.

    Raises:
        UserError: if it is none.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} must be one JSON object; got something else ({error}); {remedy}") from None
    missing = [key for key in fields if not isinstance(summary, dict) or key not in summary]
    if missing:
        raise UserError(f"{path} must hold {', '.join(missing)}; {remedy}")
    return summary


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
    replace_file(path, json_text(result))


def json_text(value: Any) -> str:
    """JSON for a file: what is not a number is null."""
    return json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


def replace_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write records or dicts as JSON lines, whole or not at all."""
    replace_file(path, "".join(to_json(row) + "\n" for row in rows))


def safe_name(name: str) -> str:
    """A file name for an id: itself if it is harmless, else a readable part and a hash."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    harmless = plain == name and name.strip(".") and len(name.encode()) <= 150
    return plain if harmless else f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
