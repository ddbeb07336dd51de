"""Training data that a run finds again where it was: batches whose order is a function of (seed, epoch), and their
place in the epoch, which checkpoints hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from lightning_paras2s.errors import UserError, check_batch_size


class ResumableLoader:
    """Batches of a data set in an order that is a function of (seed, epoch); its position is saved in checkpoints.

    The position counts queries and not batches, so that a run which goes on with another batch size leaves none out and
    takes none twice, but for what makes no whole batch at the epoch's end.

    Args:
        items: a sequence; each batch is `collate([items[i], ...])`.
        batch_size: of each rank.
        shuffle: else the order of `items`.
        drop_last: leave out an incomplete last batch.
        rank, world_size: each rank takes its own share of every global batch; of an incomplete one it may be none.

    Raises:
        UserError: no batch size, or fewer items than one global batch, where incomplete ones are left out.
    """

    def __init__(
        self,
        items: Sequence[Any],
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_batch_size(batch_size)
        if drop_last and len(items) < batch_size * world_size:
            raise UserError(
                f"the data must hold a global batch, {batch_size * world_size} queries; got {len(items)}; "
                "lower data.batch_size"
            )
        self.items, self.collate, self.batch_size = items, collate, batch_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        # `size`: the global batch with which the epoch began; `over`: the trainer takes no more of this epoch
        self.epoch, self.taken, self.size, self.resumed, self.over = 0, 0, self.total, False, False
        self.limit: int | float = math.inf  # batches an epoch, where the trainer takes fewer than there are

    @property
    def total(self) -> int:
        """Queries of a global batch."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.items) // self.total if self.drop_last else -(-len(self.items) // self.total)

    def order(self, epoch: int, size: int) -> np.ndarray:
        """The items of an epoch that began with global batches of `size`."""
        if not self.shuffle:
            return np.arange(len(self.items))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.items))

    def __iter__(self) -> Iterator[Any]:
        """One epoch: the rest of the one that was resumed, else the next."""
        order = self.order(self.epoch, self.size)
        if self.taken and (self.over or not self.resumed or not self.left(len(order))):
            self.epoch, self.taken, self.size = self.epoch + 1, 0, self.total
            order = self.order(self.epoch, self.size)
        self.resumed, self.over = False, False
        while self.left(len(order)):
            batch = order[self.taken : self.taken + self.total]
            self.taken += len(batch)
            share = np.array_split(batch, self.world_size)[self.rank]
            if len(share):
                yield self.collate([self.items[i] for i in share])

    def left(self, size: int) -> int:
        """Batches that this epoch, of `size` queries, still has."""
        rest = int(min(size, self.limit * self.total)) - self.taken
        return max(0, rest // self.total if self.drop_last else -(-rest // self.total))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "taken": self.taken, "size": self.size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.taken, self.size, self.resumed = state["epoch"], state["taken"], state["size"], True

    def behind(self, batches: int) -> int:
        """Where in an epoch of `batches` it goes on: as many are left as there are of today's size.

        Raises:
            UserError: none is left of an epoch that has not ended.
        """
        if self.over:
            return batches
        order = self.order(self.epoch, self.size)
        if self.taken and not self.left(len(order)):
            raise UserError(
                f"a run in the middle of an epoch must have a whole batch of it left; got {len(order) - self.taken} "
                f"queries for batches of {self.total}; go on with a smaller data.batch_size"
            )
        return batches - self.left(len(order))


class PlannedLoader(ResumableLoader):
    """The batches that a plan makes for each epoch (of like length, say, or of one kind), the last of them shorter.

    The position counts batches: within an epoch their size must stay.

    Args:
        items: a sequence; each batch is `collate([items[i], ...])`.
        plan: epoch -> the indices of each batch; as many batches in every epoch.
        batch_size: of the plan.
        rank, world_size: each rank takes one of `world_size` batches; those that don't go round are left out.
    """

    def __init__(
        self,
        items: Sequence[Any],
        collate: Callable[[list[Any]], Any],
        plan: Callable[[int], list[list[int]]],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_batch_size(batch_size)
        self.plan, self.of = plan, batch_size
        self.was = batch_size  # when the epoch began
        take = lambda batches: collate([items[i] for i in batches[0]])  # noqa: E731
        super().__init__(plan(0), take, 1, drop_last=world_size > 1, rank=rank, world_size=world_size)

    def order(self, epoch: int, size: int) -> np.ndarray:
        self.items = self.plan(epoch)
        return np.arange(len(self.items))

    def state_dict(self) -> dict[str, int]:
        return {**super().state_dict(), "of": self.of}

    def load_state_dict(self, state: dict[str, int]) -> None:
        super().load_state_dict(state)
        self.was = state["of"]

    def behind(self, batches: int) -> int:
        """
        Raises:
            UserError: the epoch began with another batch size.
        """
        if self.was != self.of and not self.over:
            raise UserError(
                f"data.batch_size must be {self.was} until this run's epoch ends; got {self.of}; go on with "
                f"{self.was}, or start another run"
            )
        return super().behind(batches)


def go_on(trainer: Trainer, places: list[dict[str, int]]) -> None:
    """Set a run's training data, and Lightning's count of the epoch's batches, to where they were.

    Lightning gives a loader its place too late to ask how many batches it has, not at all where a schedule asked for
    the run's length before, and not behind the last epoch of a run whose epochs are raised.

    Args:
        trainer: of the run.
        places: of the loaders, as the checkpoint has them; none for a run that begins.

    Raises:
        UserError: another batch size does not fit the epoch that the run is in.
    """
    loader, progress = trainer.train_dataloader, trainer.fit_loop.epoch_loop.batch_progress
    if not isinstance(loader, ResumableLoader):
        return
    loader.limit = trainer.num_training_batches
    if not places:
        return
    loader.load_state_dict(places[0])
    loader.over = progress.is_last_batch or not trainer.fit_loop.restarting
    was, each = progress.current.ready, trainer.accumulate_grad_batches
    moved = loader.behind(trainer.num_training_batches) - was
    if moved and not loader.over and (was + moved) % each:
        raise UserError(
            f"another data.batch_size in the middle of an epoch must leave whole optimizer steps of {each} batches; "
            f"got {was + moved} batches of the new size done; go on with the old size"
        )
    progress.current.increment_by(moved)


def ranks(trainer: Trainer | None) -> dict[str, int]:
    """This process's rank and how many there are, as loaders take them."""
    if trainer is None:
        return {"rank": 0, "world_size": 1}
    return {"rank": trainer.global_rank, "world_size": trainer.world_size}
