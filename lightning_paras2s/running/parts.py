"""Which ears and which judge these are: a part is known by its name, its weights and its thresholds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import singledispatch
from typing import Any

import numpy as np
import torch

DEPTH = 4  # a judge holds a classifier, which holds tuples of thresholds


def part_sha(part: Any) -> str:
    """Short hash of a part: `config_sha` where it has one, else its name, and all weights and real numbers in its
    attributes. Whole numbers don't count (batch sizes, counters), nor do other texts (folders, devices)."""
    whole = hashlib.sha256()
    for piece in _attributes(part, 0):
        whole.update(piece)
    return whole.hexdigest()[:16]


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
