"""Which ears and which judge these are: a part is known by its name, its weights and its thresholds."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from functools import singledispatch
from types import UnionType
from typing import Any

import numpy as np
import torch

from lightning_paras2s.running.origins import sha

PACKAGE = __name__.partition(".")[0]
ANYWHERE = ("samples", "batch_size", "concurrency", "device", "url", "api_key_env")  # what these say decides nothing
DEPTH = 4  # a judge holds a classifier, which holds tuples of thresholds


def part_sha(part: Any) -> str:
    """Short hash of a part: `config_sha` where it has one, else its name, and all weights and real numbers in its
    attributes. Whole numbers don't count (batch sizes, counters), nor do other texts (folders, devices), but for the
    options of a class of a user's own (`own_options`)."""
    whole = hashlib.sha256()
    for piece in _attributes(part, 0):
        whole.update(piece)
    return whole.hexdigest()[:16]


def settings_sha(part: Any, kinds: type | UnionType = int | float | str) -> str:
    """Short hash of a part by its class, its own values of some kinds, and its parts, each by class, rubric and
    `part_sha`, which counts no text and no whole number."""
    own, parts = own_options(part), {}
    for name, value in vars(part).items():
        if isinstance(value, kinds):
            own[name] = value
        elif hasattr(value, "__dict__"):
            parts[name] = [type(value).__name__, getattr(value, "rubric_sha", ""), part_sha(value)]
    return sha(type(part).__name__, own, parts)


def _attributes(part: Any, depth: int) -> Iterator[bytes]:
    if hasattr(part, "config_sha"):
        yield str(part.config_sha).encode()
    elif hasattr(part, "__dict__") and not isinstance(part, type) and depth < DEPTH:
        yield str(getattr(part, "name", "")).encode()
        for name, value in own_options(part).items():
            yield f"{name}={value}".encode("utf-8", "backslashreplace")
        for name in sorted(vars(part)):
            yield from content(vars(part)[name], depth + 1)


def own_options(part: Any, depth: int = 0) -> dict[str, str]:
    """What a part whose class is a user's own was constructed with, and keeps under the same names: its texts and
    numbers, lists of them, and objects of other classes with what these were constructed with. Ours tell by `name` what
    is not a weight; of others' it is not known, and a verdict, or what was heard, must not pass for that of other
    options."""
    kinds = type(part).__mro__
    made = next(kind for kind in kinds if "__init__" in vars(kind))
    if is_ours(made) or not inspect.isfunction(made.__init__) or not (depth or any(map(is_ours, kinds))):
        return {}
    names = [name for name in inspect.signature(made.__init__).parameters if name not in ANYWHERE]
    told = {name: option(vars(part)[name], depth) for name in names if name in vars(part)}
    return {name: value for name, value in told.items() if value is not None}


def option(value: Any, depth: int) -> str | None:
    """An option's value as text: a plain one, or an object by its class and its own options; None for our classes'
    objects, which are known by their names, and for what holds nothing that tells it apart."""
    if is_plain(value):
        return plain(value)
    if isinstance(value, dict) and all(map(is_plain, value)):
        value = [one for key in sorted(value, key=plain) for one in (plain(key), value[key])]
    if isinstance(value, list | tuple):
        told = [option(one, depth) for one in value]
        return repr(told) if any(one is not None for one in told) else None
    options = own_options(value, depth + 1) if hasattr(value, "__dict__") and depth < DEPTH else {}
    return f"{type(value).__name__} {sorted(options.items())}" if options else None


def is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == PACKAGE


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(is_plain, (*value, *value.values())))
    return isinstance(value, str | int | float | None) or (
        isinstance(value, list | tuple | set) and all(map(is_plain, value))
    )


def plain(value: Any) -> str:
    """A plain value as text, in one order; 1 and 1.0 are one number, a tuple is a list."""
    if isinstance(value, dict):
        return repr(sorted((plain(key), plain(one)) for key, one in value.items()))
    if isinstance(value, set):
        return repr(sorted(map(plain, value)))
    if isinstance(value, list | tuple):
        return repr(list(map(plain, value)))
    return repr(float(value)) if isinstance(value, int) else repr(value)


@singledispatch
def content(value: Any, depth: int) -> Iterator[bytes]:
    """The bytes of a value that tell one part from another."""
    yield from _attributes(value, depth)


@content.register
def _(value: float, depth: int) -> Iterator[bytes]:
    yield repr(value).encode()


@content.register
def _(value: np.ndarray, depth: int) -> Iterator[bytes]:
    yield np.ascontiguousarray(value).tobytes()


@content.register
def _(value: torch.Tensor, depth: int) -> Iterator[bytes]:
    yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@content.register
def _(value: torch.nn.Module, depth: int) -> Iterator[bytes]:
    for name, tensor in value.state_dict().items():
        yield name.encode()
        yield from content(tensor, depth)


@content.register
def _(value: dict, depth: int) -> Iterator[bytes]:
    for key in sorted(value, key=str):
        yield from content(value[key], depth)


@content.register(list)
@content.register(tuple)
def _(value: Any, depth: int) -> Iterator[bytes]:
    for inner in value:
        yield from content(inner, depth)
