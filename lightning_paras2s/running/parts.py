"""Which ears and which judge these are: a part is known by its name, its weights and its thresholds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import singledispatch
from types import UnionType
from typing import Any

import numpy as np
import torch

from lightning_paras2s.running.origins import sha

DEPTH = 4  # a judge holds a classifier, which holds tuples of thresholds


def part_sha(part: Any) -> str:
    """Short hash of a part: `config_sha` where it has one, else its name, and all weights and real numbers in its
    attributes. Whole numbers don't count (batch sizes, counters), nor do other texts (folders, devices)."""
    whole = hashlib.sha256()
    for piece in _attributes(part, 0):
        whole.update(piece)
    return whole.hexdigest()[:16]


def settings_sha(part: Any, kinds: type | UnionType = int | float | str) -> str:
    """Short hash of a part by its class, its own values of some kinds, and its parts, each by class, rubric and
    `part_sha`, which counts no text and no whole number."""
    own, parts = {}, {}
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
        for name in sorted(vars(part)):
            yield from content(vars(part)[name], depth + 1)


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
