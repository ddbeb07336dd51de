"""Two trainers in one process: they take turns, a timed step each, and are given the same reward."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable

import torch
from measure import Timing, clocks


class Turns:
    """Lets loops in different threads take turns and times each turn; the first round is not counted."""

    def __init__(self, names: list[str], args: argparse.Namespace) -> None:
        self.names, self.args, self.turn = names, args, 0
        self.timings = {name: Timing([], []) for name in names}
        self.condition = threading.Condition()
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def start(self, loop: Callable[[], None]) -> None:
        """Run `loop` in a second thread; what it raises is raised again by the others' next turn."""

        def guarded() -> None:
            torch.set_num_threads(self.args.threads)
            try:
                loop()
            except BaseException as failure:  # noqa: BLE001
                with self.condition:
                    self.failure = failure
                    self.condition.notify_all()

        self.thread = threading.Thread(target=guarded, daemon=True)
        self.thread.start()

    def begin(self, name: str) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.failure or self.names[self.turn % len(self.names)] == name)
        if self.failure:
            raise self.failure
        self.started = clocks(self.args.device)

    def end(self, name: str) -> None:
        if self.turn >= len(self.names):
            wall, processor = (now - then for now, then in zip(clocks(self.args.device), self.started, strict=True))
            self.timings[name].wall.append(wall)
            self.timings[name].processor.append(processor)
        with self.condition:
            self.turn += 1
            self.condition.notify_all()

    def join(self) -> None:
        if self.thread:
            self.thread.join()
        if self.failure:
            raise self.failure


def even_share(ids: tuple[int, ...]) -> float:
    return sum(i % 2 == 0 for i in ids) / max(1, len(ids))
