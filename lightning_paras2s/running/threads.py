"""How many threads a process gets: the cores that are really there, less what others keep busy.

A parallel operation ends at a barrier where each thread spins for the last one. On its own core that takes a
microsecond; where two programs share the cores, a spinning thread holds the core that the last one waits for, and the
barrier takes a time slice, thousands of times a second: a step is ten times slower. So threads give way to whatever
else runs, and come back when it ends. An explicit OMP_NUM_THREADS is obeyed, and is what to set where two runs must be
equal to the last bit: sums depend on the number of threads.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from lightning_paras2s.running.machine import usable_threads

STAT = Path("/proc/stat")
TICK = 100.0  # of /proc/stat, a second
BUSY = 0.6  # of a core, before a thread gives way: a desktop's background does not count
Given, Found = TypeVar("Given"), TypeVar("Found")
SHORTEST = 0.3  # seconds between two looks: the counters move in hundredths


class Load(NamedTuple):
    """Seconds since some start: on the clock, that this process's cores were busy, and that it was itself."""

    clock: float
    busy: float
    own: float


def cores() -> int:
    """Cores that this process may use."""
    return usable_threads()[0]


def load(stat: Path = STAT) -> Load | None:
    """As of now; None where the system does not say."""
    if not stat.is_file() or not hasattr(os, "sched_getaffinity"):
        return None
    mine = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    rows = [line.split() for line in stat.read_text().splitlines()]
    busy = sum(sum(map(int, row[1:4])) for row in rows if row and row[0] in mine)  # user, nice, system
    return Load(time.monotonic(), busy / TICK, time.process_time())


def others(before: Load, now: Load) -> float:
    """Cores that other programs kept busy between the two."""
    return max(0.0, (now.busy - before.busy - (now.own - before.own)) / (now.clock - before.clock))


def fitting(there: int, busy: float, processes: int = 1) -> int:
    """Threads of each of `processes` equal processes where others keep `busy` cores of those `there` are."""
    taken = math.floor(busy + 1 - BUSY)
    return max(1, (there - taken) // processes)


def asked(environment: Mapping[str, str] = os.environ) -> bool:
    return bool(environment.get("OMP_NUM_THREADS"))


def side_by_side(work: Callable[[Given], Found], items: Sequence[Given]) -> list[Found]:
    """Work of one thread on each item, as many items at a time as OMP_NUM_THREADS or the cores allow; in order."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # OpenMP takes a number for each level
    with ThreadPoolExecutor(int(first) if first.isdecimal() and int(first) else cores()) as pool:
        return list(pool.map(work, items))


def say(line: str) -> None:
    """On stderr, by one process of those that a launcher starts on this machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)


class Threads:
    """Sets the number of threads of this process, at first and whenever `look` finds that others come or go.

    Args:
        processes: equal ones on this machine that share its cores, this one included.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes, self.fixed = processes, asked()
        self.before = load()
        self.count = torch.get_num_threads()

    def start(self) -> int:
        """Set and say the number."""
        if self.fixed:
            say(f"threads: {self.count}, as OMP_NUM_THREADS says")
            return self.count
        there, busy = cores(), self._busy(wait=True)
        self._set(fitting(there, busy or 0.0, self.processes))
        shared = f", {self.processes} processes" if self.processes > 1 else ""
        used = "" if busy is None else f", others use {busy:.1f}"
        say(f"threads: {self.count} ({there} cores{shared}{used}); OMP_NUM_THREADS sets another number")
        return self.count

    def look(self) -> int:
        """Give way to others, or take up what they left: cheap, to be asked between steps."""
        if not self.fixed and (busy := self._busy(wait=False)) is not None:
            wanted = fitting(cores(), busy, self.processes)
            if wanted != self.count:
                say(f"threads: {self.count} -> {wanted}, others use {busy:.1f} cores")
                self._set(wanted)
        return self.count

    def _set(self, count: int) -> None:
        self.count = count
        torch.set_num_threads(count)

    def _busy(self, wait: bool) -> float | None:
        """Cores that others used since the last look; None if that was too short ago."""
        if self.before is None:
            return None
        if wait:
            time.sleep(max(0.0, self.before.clock + SHORTEST - time.monotonic()))
        now = load()
        if now.clock - self.before.clock < SHORTEST and not wait:
            return None
        busy, self.before = others(self.before, now), now
        siblings = 0 if wait else (self.processes - 1) * self.count  # they are no others
        return max(0.0, busy - siblings)
