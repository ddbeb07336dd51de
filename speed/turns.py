"""Trainers that take turns, a timed step each, each in a process of its own as its users run it.

In one process the two would have thread pools of their own on the same cores. OpenMP then no longer lets threads wait
actively at its barriers, which makes whoever runs many small operations slower than it is alone. A process that waits
for its turn waits for a semaphore and uses no core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import traceback
from collections.abc import Callable
from queue import Empty

import torch
from measure import Timing, clocks

FINISHED = "finished"


class Turns:
    """Lets loops in different processes take turns and times each turn; the first round is not counted.

    Args:
        names: whose turn comes after whose; the first is this process.
        args: the benchmark's, with `threads` and `device`.
    """

    def __init__(self, names: list[str], args: argparse.Namespace) -> None:
        self.names, self.args = names, args
        self.spawn = multiprocessing.get_context("spawn")
        self.may = {name: self.spawn.Semaphore(int(name == names[0])) for name in names}
        self.told = self.spawn.Queue()  # (name, seconds, processor seconds) of each turn, or (name, how it ended)
        self.others: dict[str, multiprocessing.Process] = {}
        self.ended: set[str] = set()
        self.timings = {name: Timing([], []) for name in names}
        self.taken = 0

    def start(self, name: str, loop: Callable, *given) -> None:
        """Run `loop(*given, turns)` in a second process; what it raises is told by this one's next turn."""
        turn = Turn(name, self.names, self.may, self.told, self.args)
        self.others[name] = self.spawn.Process(target=_guarded, args=(loop, given, turn), daemon=True)
        self.others[name].start()

    def begin(self, name: str) -> None:
        while not self.may[name].acquire(timeout=0.2):
            self._listen()
        self._listen()
        self.started = clocks(self.args.device)

    def end(self, name: str) -> None:
        if self.taken:
            _note(self.timings[name], self.started, self.args.device)
        self.taken += 1
        self.may[_after(name, self.names)].release()

    def join(self) -> None:
        """Wait for the others' last turns."""
        while self.others.keys() - self.ended:
            self._listen(wait=0.2)

    def _listen(self, wait: float = 0.0) -> None:
        """Take in what the others have told so far."""
        while True:
            try:
                name, *what = self.told.get(timeout=wait) if wait else self.told.get_nowait()
            except Empty:
                break
            if len(what) == 2:
                self.timings[name].wall.append(what[0])
                self.timings[name].processor.append(what[1])
            elif what[0] != FINISHED:
                raise RuntimeError(f"{name} ended: {what[0]}")
            else:
                self.ended.add(name)
        for name, process in self.others.items():
            if name not in self.ended and process.exitcode:
                raise RuntimeError(f"{name} ended with exit code {process.exitcode}")


class Turn:
    """The other process's side of `Turns`."""

    def __init__(self, name: str, names: list[str], may: dict, told, args: argparse.Namespace) -> None:
        self.name, self.names, self.may, self.told, self.args, self.taken = name, names, may, told, args, 0

    def begin(self, name: str) -> None:
        self.may[name].acquire()
        self.started = clocks(self.args.device)

    def end(self, name: str) -> None:
        if self.taken:
            timing = Timing([], [])
            _note(timing, self.started, self.args.device)
            self.told.put((name, timing.wall[0], timing.processor[0]))
        self.taken += 1
        self.may[_after(name, self.names)].release()


def _guarded(loop: Callable, given: tuple, turn: Turn) -> None:
    torch.set_num_threads(turn.args.threads)
    try:
        loop(*given, turn)
        turn.told.put((turn.name, FINISHED))
    except BaseException as failure:  # noqa: BLE001
        turn.told.put((turn.name, traceback.format_exc() or repr(failure)))


def _note(timing: Timing, started: tuple[float, float], device: str) -> None:
    wall, processor = (now - then for now, then in zip(clocks(device), started, strict=True))
    timing.wall.append(wall)
    timing.processor.append(processor)


def _after(name: str, names: list[str]) -> str:
    return names[(names.index(name) + 1) % len(names)]


def even_share(ids: tuple[int, ...]) -> float:
    return sum(i % 2 == 0 for i in ids) / max(1, len(ids))
