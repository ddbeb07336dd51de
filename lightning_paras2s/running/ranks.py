"""The processes of one job: they count together, wait for each other, end together, and speak once.

A rank that fails says so in the job's store, a rank that is killed is missed by its heartbeat; without that the others
would wait for it in a collective until the process group's timeout, half an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_paras2s.errors import user_error

LONGEST = timedelta(days=30)  # that ranks wait for a judge that one of them asks
TOLD_TO = (KeyboardInterrupt, SIGTERMException)  # end: all ranks are


class EndTogether(Callback):
    """Ends all ranks soon after one of them has failed; the one that failed tells why.

    If all fail alike (a missing file), rank 0 alone tells. One process needs none of this.

    Args:
        every_seconds: time between two heartbeats; a failure is known to all after one, and ends them after seven.
        patience_seconds: a rank that sends no heartbeat for as long is taken for dead.
    """

    def __init__(self, every_seconds: float = 1.0, patience_seconds: float = 60.0) -> None:
        self.every_seconds, self.patience_seconds = every_seconds, patience_seconds
        self.store: dist.Store | None = None
        self.over, self.times = threading.Event(), 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            self.connect(trainer)
            meet()  # makes the group for it while nobody is late
            threading.Thread(target=self.watch, daemon=True, name="end-together").start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.store is not None:
            # nobody leaves, and takes the store along, while others are still watched
            trainer.strategy.barrier()
            self.over.set()
            self.store = None

    def connect(self, trainer: Trainer) -> None:
        """A connection of its own to the store where the ranks met: the process group's may be in use."""
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self.over, self.times = threading.Event(), self.times + 1
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
        # not to be confused with another stage of this job, or with torchrun's earlier attempts
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self.times}"
        self.store = dist.PrefixStore(f"end_together/{attempt}", store)

    def watch(self) -> None:
        """Beat and listen until this process ends, or must."""
        heard: dict[int, tuple[int, int]] = {}
        try:
            while not self.over.wait(self.every_seconds):
                self.store.add(f"beat/{self.rank}", 1)
                if self.store.add("failures", 0):
                    self.follow()
                elif (rank := self.silent_rank(heard)) is not None:
                    self.give_up(f"rank {rank} has not been heard of for {self.patience_seconds:.0f} s")
        except RuntimeError:  # the network: whoever keeps the store is gone
            self.give_up("rank 0 has ended")

    def silent_rank(self, heard: dict[int, tuple[int, int]]) -> int | None:
        """A rank whose count has stood still for too many of our own beats. Rank 0 looks at all, all look at rank 0."""
        for rank in range(1, self.world_size) if self.rank == 0 else [0]:
            beats = self.store.add(f"beat/{rank}", 0)
            last, still = heard.get(rank, (-1, 0))
            heard[rank] = (beats, still + 1 if beats == last else 0)
            if heard[rank][1] * self.every_seconds > self.patience_seconds:
                return rank
        return None

    def follow(self) -> None:
        """Another rank has failed: end too, unless this one fails by itself just now, and when the other has told: a
        launcher ends all at the first exit.
        """
        if self.over.wait(3 * self.every_seconds):
            return
        self.store.set(f"failed/{self.rank}", "")
        code = self.store.add("code", 0)
        with contextlib.suppress(RuntimeError):  # the network: the store has ended with rank 0
            self.store.wait(["told"], timedelta(seconds=15 * self.every_seconds))
        leave(code)

    def give_up(self, why: str) -> None:
        """End for a rank that says no more; not if this one is ending by itself."""
        if self.over.wait(3 * self.every_seconds):
            return
        if self.rank < 2:  # one voice
            print(f"error: the job ends, because {why}", file=sys.stderr)
        leave(1)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1 or not dist.is_initialized() or isinstance(exception, TOLD_TO):
            return
        mistake = user_error(exception)
        code, words = 1 if mistake is None else 2, f"{type(exception).__name__}: {exception}"
        same = False
        with contextlib.suppress(RuntimeError):  # the network: the others may be gone already
            if self.store is None:
                self.connect(trainer)
            self.over.set()
            if self.rank == 0:
                self.store.set("failed/0", json.dumps(words))
            if self.store.add("failures", 1) == 1:
                self.store.add("code", code)
            others = range(1, self.world_size) if self.rank == 0 else [0]
            self.store.wait([f"failed/{rank}" for rank in others], timedelta(seconds=10 * self.every_seconds))
            same = self.rank > 0 and self.store.get("failed/0").decode() == json.dumps(words)
        if self.rank == 0:
            # It goes on and tells; but nothing on the way may hang: a communicator's destructor, a logger.
            timer = threading.Timer(20, os._exit, [code])
            timer.daemon = True
            timer.start()
            return
        if mistake is not None and not same:
            print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        elif not same:
            print(f"error: rank {self.rank} of {self.world_size} failed", file=sys.stderr)
            traceback.print_exception(exception)
        if self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set("told", "")
                # not before all is read and told: rank 0 waits for this, then leaves and takes the store along
                self.store.set(f"failed/{self.rank}", json.dumps(words))
        time.sleep(3 * self.every_seconds)  # the job's exit code is rank 0's
        leave(code)


def leave(code: int) -> None:
    """End this process at once, whatever its main thread waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def one_voice(grace_seconds: float = 5.0) -> Iterator[None]:
    """What every rank refuses alike before they have met, rank 0 alone tells; the others leave in silence, after it
    (a launcher ends all at the first exit).
    """
    try:
        yield
    except Exception as error:
        if rank_zero_only.rank == 0 or user_error(error) is None:
            raise
        time.sleep(grace_seconds)
        sys.exit(2)


def several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def meet() -> None:
    """Wait for all ranks behind what may take one of them long, a judge that is asked: an outage that its retries last
    through is longer than the process group's timeout, and a collective would end the job. A rank that dies meanwhile
    ends it by `EndTogether`. Collective.
    """
    if several():
        dist.barrier(group=patient_group(dist.group.WORLD))


@lru_cache(maxsize=1)
def patient_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All ranks of `world`, in a group that waits without end. Collective when first asked for."""
    return dist.new_group(backend="gloo", timeout=LONGEST)


def mean_over_ranks(value: Tensor) -> Tensor:
    """`value`, on each rank's own device, averaged. Collective."""
    return sum_over_ranks(value) / dist.get_world_size() if several() else value


def sum_over_ranks(value: Tensor) -> Tensor:
    """`value`, on each rank's own device, added up. Collective."""
    if not several():
        return value
    total = value.detach().float().clone()
    dist.all_reduce(total)
    return total


def most_over_ranks(count: int, device: torch.device) -> int:
    """The largest of the ranks' counts. Collective."""
    if not several():
        return count
    most = torch.tensor(count, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def metrics_over_ranks(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each metric's mean over the ranks that have it; of a `..._max...` the largest. Collective."""
    if not several():
        return metrics
    ranks: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(ranks, {name: float(value) for name, value in metrics.items()})
    found = {name: [rank[name] for rank in ranks if name in rank] for rank in ranks for name in rank}
    return {name: torch.tensor((max if "_max" in name else np.mean)(values)) for name, values in found.items()}
