"""Work in parts, with a progress bar on stderr and the time of each stage kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Part = TypeVar("Part")


class Stages:
    """`seconds` holds the wall time of each stage so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def over(self, parts: list[Part], sizes: list[int], about: str, stage: str) -> Iterator[Part]:
        """The parts, one after another; the bar counts their items (`sizes`)."""
        if not parts:
            return
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        started = time.perf_counter()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(about, total=sum(sizes))
            for part, size in zip(parts, sizes, strict=True):
                yield part
                progress.advance(task, size)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
