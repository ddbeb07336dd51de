"""The slow half of a GRPO step: answers are spoken and scored beside the sampling of the next ones.

At the scale of a GPU the voice takes longer than the policy (`plan`), and neither needs the other's part of the batch.
A rollout is then drawn in parts: while one is spoken and scored, by a thread on a stream of its own, the next is
sampled. Each answer has its own noise, so that parts change none. On a CPU nothing is gained, and all runs in order.

What a voice or a reward must keep to: no collective (ranks would answer each other's), nothing that the policy reads,
and no draw from torch's own generators while the policy samples (`OwnDraws`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.models.speech_lm import Completion, Streams

Overlap = Literal["auto", "always", "never"]
Found = TypeVar("Found")


class Clock:
    """Seconds of a step's parts; of two that run beside each other both count in full."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`seconds/...` of each part, and its share of the step."""
        found = {f"seconds/{name}": value for name, value in self.seconds.items()}
        shares = {f"share/{name}": value / self.seconds["step"] for name, value in self.seconds.items()}
        return found | {name: value for name, value in shares.items() if name != "share/step"}


class Follower:
    """Runs what follows each part of a rollout, one after another. Where one has failed, the next call raises it, and
    none behind it is begun: a judge is paid by the answer.

    Args:
        device: where it computes.
        beside: in a thread (on a GPU: and on a stream) of its own, which takes gradients' and autocast's state along;
            else at once.
    """

    def __init__(self, device: torch.device, beside: bool) -> None:
        self.device, self.pool, self.stream = device, ThreadPoolExecutor(1) if beside else None, None
        self.begun: list[Future] = []
        if beside and device.type == "cuda":
            self.stream = side_stream(device)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def follow(self, function: Callable[..., Found], *args) -> Callable[[], Found]:
        """Start it; its result is asked for later, and raises what it raised."""
        if self.pool is None:
            found = function(*args)
            return lambda: found
        self._check()
        ready = None if self.stream is None else torch.cuda.current_stream(self.device).record_event()
        kind = self.device.type
        autocast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        self.begun.append(self.pool.submit(self._run, ready, autocast, function, args))
        return self.begun[-1].result

    def _check(self) -> None:
        for earlier in filter(Future.done, self.begun):
            earlier.result()

    def _run(self, ready, autocast: tuple[bool, torch.dtype], function: Callable[..., Found], args: tuple) -> Found:
        self._check()
        enabled, dtype = autocast
        stream = nullcontext() if self.stream is None else torch.cuda.stream(self.stream)
        with torch.no_grad(), stream, torch.autocast(self.device.type, dtype=dtype, enabled=enabled):
            if self.stream is not None:
                self.stream.wait_event(ready)
            found = function(*args)
            if self.stream is not None:
                self.stream.synchronize()  # what it made is whole before another stream reads it
        return found


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all rollouts, since the allocator keeps freed memory by stream."""
    return torch.cuda.Stream(device)


def in_parts(
    batch: DualStreamBatch,
    noise: Tensor,
    parts: int,
    sample: Callable[[DualStreamBatch, Tensor], Completion],
    score: Callable[[DualStreamBatch, Completion], Found],
    overlap: Overlap = "auto",
) -> tuple[list[Completion], list[Found]]:
    """Sample a batch in parts and score each, beside the sampling of the next one or in order.

    Args:
        noise: [B*G, ...], the rows of a query adjacent.
        overlap: auto = beside on a GPU.
    """
    device, parts = noise.device, min(parts, len(batch))
    beside = parts > 1 and (overlap == "always" or overlap == "auto" and device.type == "cuda")
    completions, scores = [], []
    with Follower(device, beside) as follower:
        for index in torch.arange(len(batch), device=device).tensor_split(parts):
            part = batch if parts == 1 else batch_rows(batch, index)
            drawn = noise.unflatten(0, (len(batch), -1))[index].flatten(0, 1)
            completions.append(sample(part, drawn))
            scores.append(follower.follow(score, part, completions[-1]))
        return completions, [result() for result in scores]


def check_parts(parts: int, overlap: str) -> None:
    check_choice("overlap", overlap, get_args(Overlap))
    if parts < 1:
        raise UserError(f"rollout_parts must be at least 1; got {parts}; set model.rollout_parts")
    if overlap == "always" and parts == 1:
        raise UserError(
            "overlap: always needs a rollout in parts, or there is no next one to sample; got rollout_parts 1; set "
            "model.rollout_parts 2 or more, or leave model.overlap out"
        )


def batch_rows(batch: DualStreamBatch, index: Tensor) -> DualStreamBatch:
    """Some of a batch's queries, without demonstrations."""
    queries, audios = ([items[i] for i in index.tolist()] if items else [] for items in (batch.queries, batch.audios))
    return DualStreamBatch(batch.prompt.rows(index), None, queries, audios)


def joined(parts: list[Completion], streams: Streams) -> Completion:
    """Completions one below another; the shorter ones are padded with blanks."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.tokens.shape[2] for part in parts)
    blanks = parts[0].tokens.new_tensor([streams.text_blank, streams.audio_blank])[None, :, None]
    tokens, actions, logps = [], [], []
    for part in parts:
        more = width - part.tokens.shape[2]
        tokens.append(torch.cat([part.tokens, blanks.expand(len(part), 2, more)], 2))
        actions.append(torch.nn.functional.pad(part.actions, (0, more)))
        logps.append(torch.nn.functional.pad(part.logps, (0, more)))
    finished = torch.cat([part.finished for part in parts])
    return Completion(torch.cat(tokens), torch.cat(actions), finished, torch.cat(logps))
