"""`DualStreamDataModule`: dialogues -> batches, for SFT (with answers), judged samples, RL and prediction (without),
at every scale. It owns files, loaders, order and resume, ranks and transfer; what differs between models is the
processor's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.sources import DialogueSource
from lightning_paras2s.errors import UserError, check_apart
from lightning_paras2s.models.processor import Items, Processor
from lightning_paras2s.running.loaders import ResumableLoader


class BucketedLoader(ResumableLoader):
    """Batches of like length: `lengths` are sorted with some noise, up to 12 positions, and cut in batches, whose order
    is a function of (seed, epoch)."""

    def __init__(
        self,
        items: Items,
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(items, collate, batch_size, seed, True, True, rank, world_size)

    def order(self, epoch: int, size: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch])
        noisy = np.asarray(self.items.lengths) + random.random(len(self.items)) * 12
        order = noisy.argsort(kind="stable")
        # A few items sit out each epoch, others every time, so that all batches are whole.
        order = np.delete(order, random.permutation(len(order))[: len(order) % size])
        return order.reshape(-1, size)[random.permutation(len(order) // size)].ravel()


class DualStreamDataModule(LightningDataModule):
    """Batches for every stage.

    Args:
        source: a `DialogueSource`.
        processor: of the policy's family: its ears, voice and words.
        labelled: True = with answers (SFT, or RL that holds on to them); False = prompts alone (RL: the labels and
            answers are dropped).
        batch_size: queries a batch and process (the global B is this times the processes).
        val_batch_size: the same for validation.
        seed: of the order of the training dialogues; null follows `seed_everything`.
        cache_dir: where speech and codes are kept between runs.
    """

    def __init__(
        self,
        source: Callable[[], DialogueSource] | DialogueSource,
        processor: Processor,
        labelled: bool = True,
        batch_size: int = 32,
        val_batch_size: int = 64,
        seed: int | None = None,
        cache_dir: str = "cache",
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, DialogueSource) else source()
        self.processor = processor
        self.labelled, self.batch_size, self.val_batch_size = labelled, batch_size, val_batch_size
        self.seed, self.cache_dir = seed or 0, cache_dir
        self.train: Items | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.train is None:
            found = [self.source.dialogues(split, self.cache_dir) for split in ("train", "val")]
            check_apart(*([d.query.id for d in part if d.query] for part in found))
            for dialogues in found:
                self.processor.check_turns(dialogues)
                self.processor.check(dialogues, self.labelled, self.max_steps)
            self.train, self.val = (self.processor.prepare(d, self.labelled, self.cache_dir) for d in found)

    @property
    def max_steps(self) -> int:
        """Of the policy's own answers, which must fit behind the query; 0 where it gives none."""
        sampling = None if self.trainer is None else self.trainer.lightning_module.sampling
        return 0 if sampling is None else sampling.max_steps

    @property
    def ranks(self) -> dict[str, int]:
        """This rank and how many there are."""
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def train_dataloader(self) -> ResumableLoader:
        loader = BucketedLoader(self.train, self.processor.collate, self.batch_size, self.seed, **self.ranks)
        if not len(loader):
            raise UserError(
                f"the source must hold a global batch, {self.batch_size * loader.world_size} dialogues; "
                f"got {len(self.train)}; lower data.batch_size"
            )
        return loader

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, self.processor.collate, self.val_batch_size, shuffle=False, drop_last=False)

    def predict_dataloader(self) -> list[ResumableLoader]:
        """The training and the validation dialogues, once each."""
        shared = {"shuffle": False, "drop_last": False, **self.ranks}
        items = (self.train, self.val)
        return [ResumableLoader(part, self.processor.collate, self.batch_size, **shared) for part in items]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> DualStreamBatch:
        return self.processor.to_device(batch, device)
