"""Records that cross files: speech in memory, styles, and the JSON-lines records of the benchmark (docs: README,
"Records").

Importing this module must stay cheap: no torch, no Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.fields import SPARSE, check_fields, finite, object_in, written
from lightning_paras2s.turns import Turn, check_turns, read_turns

FACTORS = ("emotion", "sarcasm", "age", "gender")
STYLES: dict[str, tuple[str, ...]] = {
    "emotion": ("happy", "surprised", "sad", "angry", "fear", "disgust"),
    "sarcasm": ("sincere", "sarcastic"),
    "age": ("adult", "child"),
    "gender": ("male", "female"),
}
TONES = ("neutral", "cheerful", "excited", "empathetic", "calm", "apologetic")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Audio:
    """Mono speech.

    Attributes:
        samples: float32 in [-1, 1], [N].
        sample_rate: Hz.
    """

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Style:
    """How something was said. Fields are None where not known or not applicable.

    `emotion`, `sarcasm`, `age`, `gender` describe a query's speaker; `tone` describes an agent's response.
    """

    emotion: str | None = None
    sarcasm: str | None = None
    age: str | None = None
    gender: str | None = None
    tone: str | None = None

    def __post_init__(self) -> None:
        for factor in FACTORS:
            value = getattr(self, factor)
            allowed = STYLES[factor] + (("neutral",) if factor == "emotion" else ())
            if value is not None and value not in allowed:
                raise UserError(f"a style's {factor} must be one of {', '.join(allowed)}; got {value!r}")


@dataclass(frozen=True)
class Query:
    """One spoken query. The two halves of a contrast pair share `pair_id` and text, and differ in `styles[factor]`.

    Of a query that nobody labelled, `styles` is empty, and `factor` is "" where it is not known what it is about.
    `turns` is what was said before it, the oldest first; its line names them only where there are any.
    """

    id: str
    pair_id: str
    factor: str
    split: str
    text: str
    styles: dict[str, str]
    topic: str
    audio: str
    voice: str = ""
    level: str = ""
    source: str = ""
    license: str = ""
    turns: tuple[Turn, ...] = field(default=(), metadata=SPARSE)

    def __post_init__(self) -> None:
        check_turns(self.turns)
        for turn in self.turns:
            Style(**turn.styles)  # refuses what is no style

    @property
    def label(self) -> str:
        """Its style in its factor; "" where nobody told it."""
        return self.styles.get(self.factor, "")

    @property
    def pair(self) -> str:
        """Its contrast pair: a `pair_id` that two factors use names two pairs."""
        return f"{self.factor}/{self.pair_id}"

    @property
    def style(self) -> Style:
        if not isinstance(self.styles, dict) or set(self.styles) - set(FACTORS):
            raise UserError(f"a query's styles must map some of {', '.join(FACTORS)} to values; got {self.styles!r}")
        return Style(**self.styles)


@dataclass(frozen=True)
class Response:
    """What a system answered. `status` is "ok", or says why there is no usable answer; a failed response is never
    scored 0."""

    query_id: str
    system: str
    sample: int = 0
    audio: str = ""
    sha256: str = ""
    text: str | None = None
    seconds: float = 0.0
    latency: dict[str, float] = field(default_factory=dict)
    cost_usd: float | None = None
    status: str = "ok"
    config_sha: str = ""

    @property
    def id(self) -> str:
        return response_id(self.system, self.query_id, self.sample)


class Answered(NamedTuple):
    """What a response's id says: who answered which query, for which time."""

    system: str
    query_id: str
    sample: int


def response_id(system: str, query_id: str, sample: int) -> str:
    """SYSTEM/QUERY/SAMPLE; a slash in a system's name is written %2F, one in a query's id stays."""
    return f"{system.replace('%', '%25').replace('/', '%2F')}/{query_id}/{sample}"


def answered(response: str) -> Answered:
    """The parts of a response's id.

    Raises:
        UserError: if it is none.
    """
    system, _, rest = response.partition("/")
    query_id, _, sample = rest.rpartition("/")
    if not (system and query_id and sample.isdigit()):
        raise UserError(f"a response's id must be SYSTEM/QUERY/SAMPLE; got {response!r}")
    return Answered(system.replace("%2F", "/").replace("%25", "%"), query_id, int(sample))


@dataclass(frozen=True)
class Evidence:
    """What was heard in a response: the judge reads this and nothing else of the response."""

    response_id: str
    transcript: str = ""
    wer: float | None = None
    tone: str = ""
    tone_raw: str = ""
    providers: dict[str, str] = field(default_factory=dict)
    status: str = "ok"


@dataclass(frozen=True)
class Verdict:
    """A judgement on the Likert scale 1..5; `score` is None unless `status` is "ok"."""

    response_id: str
    judge: str
    score: float | None
    reason: str = ""
    rubric_sha: str = ""
    label_source: str = "gold"
    sample: int = 0
    raw: str = ""
    usage: dict[str, float] = field(default_factory=dict)
    status: str = "ok"


@dataclass(frozen=True)
class Measured:
    """What a measure of a related benchmark says of a response; `value` is None where there is nothing to measure, and
    `status` says why. `read` is what was read in the response (a letter, an emotion), `parts` are the counts that a
    figure of the whole set is made of."""

    response_id: str
    measure: str
    value: float | None = None
    read: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    status: str = "ok"


@dataclass(frozen=True)
class Battle:
    """One pairwise comparison; `verdict` is a, b, both_good or both_bad."""

    query_id: str
    a: str
    b: str
    order: str
    verdict: str
    judge: str


@dataclass(frozen=True)
class Human:
    """A human rating of a response or battle (`item_id`); `heard` is the SHA-256 of the recording that was rated (two,
    joined by " | ", of a battle), "" where nobody wrote it down."""

    item_id: str
    annotator: str
    score: float | None = None
    verdict: str | None = None
    seconds: float | None = None
    heard: str = field(default="", metadata=SPARSE)


Record = TypeVar("Record", Query, Response, Evidence, Verdict, Measured, Battle, Human)


def read_jsonl(path: str | Path, record: type[Record]) -> list[Record]:
    """Read records, one JSON object a line.

    Raises:
        UserError: naming file and line for a line that is not JSON, lacks a field, has an unknown field or one of
            another type, or repeats an id.
    """
    return list(iter_jsonl(path, record))


def iter_jsonl(path: str | Path, record: type[Record], skip_half_line: bool = False) -> Iterator[Record]:
    """As `read_jsonl`, one by one; `skip_half_line` leaves out a last line that is not ended (its writer was killed, or
    is writing)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} must be an existing JSON-lines file of {record.__name__.lower()} records; check the path"
        )
    seen: dict[str, int] = {}
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if not raw.strip() or (skip_half_line and not raw.endswith(b"\n")):
                continue
            item = _record(raw, record, f"{path}:{number}")
            if isinstance(item, Query | Response):
                if item.id in seen:
                    raise UserError(
                        f"{path}:{number}: id {item.id!r} was already used on line {seen[item.id]}; ids must be unique"
                    )
                seen[item.id] = number
            yield item


def _record(raw: bytes, record: type[Record], where: str) -> Record:
    """One line's record, each field of its type."""
    values = object_in(raw, where)
    check_fields(values, record, where)
    try:
        if record is Query and "turns" in values:
            values["turns"] = read_turns(values["turns"])
        item = record(**values)
        if isinstance(item, Query):
            item.style  # noqa: B018  refuses what is no style
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return item


def to_json(item: Any) -> str:
    """One JSON line for a record or a dict (no trailing newline)."""
    return json.dumps(finite(written(item)), ensure_ascii=False, allow_nan=False)


def append_jsonl(path: str | Path, items: list[Any]) -> None:
    """Append records in one write; a file cut in the middle of its last line is mended first by dropping that half
    line."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.seek(0, 2)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                keep = file.read().rfind(b"\n") + 1
                file.truncate(keep)
        file.write("".join(to_json(item) + "\n" for item in items).encode())
