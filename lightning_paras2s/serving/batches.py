"""Requests that wait together: a bounded queue, answered in batches; where a batch fails, each by itself."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lightning_paras2s.bench.systems.base import Answer, S2SSystem
from lightning_paras2s.running.logs import say
from lightning_paras2s.serving.metrics import Metrics
from lightning_paras2s.types import Audio, Query


class FullError(Exception):
    """As many requests wait as may."""


@dataclass
class Waiting:
    """A request in the queue."""

    query: Query
    audio: Audio
    sample: int
    answer: asyncio.Future[Answer]


class Batches:
    """The queue of one system.

    Args:
        system: answers; one batch at a time, in `thread`.
        thread: one worker, shared by all systems of a process: they share its processors.
        rows: requests answered at once.
        wait_seconds: for others to come, once one is there.
        most: that may wait.
        metrics: are told of all of it.
    """

    def __init__(
        self,
        system: S2SSystem,
        thread: ThreadPoolExecutor,
        rows: int,
        wait_seconds: float,
        most: int,
        metrics: Metrics,
    ) -> None:
        self.system, self.thread, self.rows, self.wait_seconds = system, thread, rows, wait_seconds
        self.most, self.metrics = most, metrics
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()

    async def answer(self, query: Query, audio: Audio, sample: int) -> Answer:
        """The system's answer; what it raises for this query is raised here.

        Raises:
            FullError: too many wait already.
        """
        if self.queue.qsize() >= self.most:
            raise FullError
        self.metrics.accepted += 1
        waiting = Waiting(query, audio, sample, asyncio.get_running_loop().create_future())
        self.queue.put_nowait(waiting)
        return await waiting.answer

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            batch = [await self.queue.get()]
            if self.queue.qsize() < self.rows - 1:
                await asyncio.sleep(self.wait_seconds)
            while len(batch) < self.rows and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            for sample in sorted({waiting.sample for waiting in batch}):
                await self._answer([w for w in batch if w.sample == sample and not w.answer.done()])

    async def _answer(self, batch: list[Waiting]) -> None:
        """One batch; those that nobody waits for any more are left out before."""
        if not batch:
            return
        started = time.perf_counter()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self.thread, self._respond, batch)
        except Exception as error:
            if len(batch) > 1:  # one request must not fail the others
                for waiting in batch:
                    await self._answer([waiting])
                return
            say(f"the system failed at a request: {type(error).__name__}: {error}")
            if not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self.metrics.batch(len(batch), seconds, [w.audio for w in batch], answers)
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():  # nobody may wait any more
                waiting.answer.set_result(answer)

    def _respond(self, batch: list[Waiting]) -> list[Answer]:
        answers = self.system.respond([w.query for w in batch], [w.audio for w in batch], batch[0].sample)
        if len(answers) != len(batch):
            raise RuntimeError(f"{len(answers)} answers to {len(batch)} queries")
        return answers
