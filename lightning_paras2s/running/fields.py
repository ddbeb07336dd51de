"""JSON: does a value fit a field's type, what do bytes hold, and can it be written again?"""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from math import isfinite
from types import MappingProxyType
from typing import Any

from lightning_paras2s.errors import UserError

SPARSE = MappingProxyType({"sparse": True})  # of a field that is written only where it holds something


@lru_cache
def fields_of(record: type) -> dict[str, tuple[bool, str]]:
    """A record's fields: is it required, and its type as it is written in the class."""
    none = dataclasses.MISSING
    return {f.name: (f.default is none and f.default_factory is none, f.type) for f in dataclasses.fields(record)}


def fits(value: Any, kind: str) -> bool:
    """Is a JSON value of a type (str, int, float, None, dict[str, ...]; any other type is the reader's to check)?"""
    if kind == "str":
        return isinstance(value, str) and is_text(value)
    if kind in ("int", "float"):
        number = isinstance(value, int if kind == "int" else int | float) and not isinstance(value, bool)
        return number and abs(value) < 1e300 and isfinite(value)
    if kind.startswith("dict[str, "):
        inner = kind.removeprefix("dict[str, ").removesuffix("]")
        return isinstance(value, dict) and all(is_text(k) and fits(v, inner) for k, v in value.items())
    if kind.startswith(("tuple[str, ", "list[str")):
        return isinstance(value, list) and all(fits(inner, "str") for inner in value)
    return value is None if kind == "None" else True


def is_text(value: str) -> bool:
    """Half of a surrogate pair is a string in JSON, but no text that could be written."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def in_words(kind: str) -> str:
    names = {"str": "a text", "int": "a whole number", "float": "a finite number", "None": "null"}
    names |= {"dict[str, str]": "an object of texts", "dict[str, float]": "an object of finite numbers"}
    return " or ".join(names.get(option, option) for option in kind.split(" | "))


def object_in(raw: bytes, where: str) -> dict[str, Any]:
    """
    Raises:
        UserError: a line is no JSON object.
    """
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and nesting without end
        line = raw[:400].decode("utf-8", errors="replace").strip()
        raise UserError(f"{where}: each line must be one JSON object; got {line[:60]!r} ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: each line must be one JSON object; got {type(values).__name__}")
    return values


def check_fields(values: dict[str, Any], record: type, where: str) -> None:
    """
    Raises:
        UserError: a line's values lack one of a record's fields, or one is unknown, or of another type.
    """
    kind, fields = record.__name__.lower(), fields_of(record)
    missing = sorted(name for name, (required, _) in fields.items() if required and name not in values)
    unknown = sorted(values.keys() - fields.keys())
    if missing:
        raise UserError(f"{where}: a {kind} must have {', '.join(missing)}; add the missing field")
    if unknown:
        raise UserError(f"{where}: unknown field {', '.join(unknown)}; a {kind} has {', '.join(fields)}")
    for name, value in values.items():
        wanted = fields[name][1]
        if not any(fits(value, option) for option in wanted.split(" | ")):
            raise UserError(f"{where}: a {kind}'s {name} must be {in_words(wanted)}; got {value!r:.60}; mend the line")


def written(record: Any) -> dict[str, Any]:
    """A record's fields as its line has them; a dict is its own."""
    if isinstance(record, dict):
        return record
    empty = {f.name for f in dataclasses.fields(record) if f.metadata.get("sparse") and not getattr(record, f.name)}
    return {name: value for name, value in dataclasses.asdict(record).items() if name not in empty}


def json_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object that bytes hold; None where they hold anything else."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def finite(value: Any) -> Any:
    """A JSON value without NaN and infinity, which JSON lacks: they become null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
