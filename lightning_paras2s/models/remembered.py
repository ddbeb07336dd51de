"""Tensors and networks that are made once a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P, R = ParamSpec("P"), TypeVar("R")


def remembered(maxsize: int = 128) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`functools.lru_cache` for functions that make tensors, which a later training can use.

    Lightning validates, tests and predicts in `torch.inference_mode`: a tensor made there can't be saved for a backward
    pass, and who asks first isn't who asks last.
    """

    def decorate(make: Callable[P, R]) -> Callable[P, R]:
        @lru_cache(maxsize)
        @wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> R:
            with torch.inference_mode(False), torch.no_grad():
                return make(*args, **kwargs)

        return made

    return decorate
