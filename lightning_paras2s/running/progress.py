"""Work in parts, with a progress bar on stderr and the time of each stage kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Part = TypeVar("Part")


LINE_SECONDS = 60.0  # between two lines, where there is no terminal for a bar


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
        started = told = time.perf_counter()
        console, done = Console(stderr=True), 0
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(about, total=sum(sizes))
            for part, size in zip(parts, sizes, strict=True):
                yield part
                progress.advance(task, size)
                done += size
                if done and not console.is_terminal and (now := time.perf_counter()) - told >= LINE_SECONDS:
                    told = now
                    print(line_of(about, done, sum(sizes), now - started), file=sys.stderr, flush=True)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def line_of(about: str, done: int, whole: int, seconds: float) -> str:
    """ "answers heard: 300 of 1200 in 10 min, 30 min left"; what is left goes on as what is done."""
    left = seconds * (whole - done) / done
    return f"{about}: {done} of {whole} in {seconds / 60:.0f} min, {left / 60:.0f} min left"
