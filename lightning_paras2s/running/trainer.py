"""Lightning's trainer with a precision `auto`, and a callback that shares the CPU's cores with whatever else runs."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator

from lightning_paras2s.running.precision import settle
from lightning_paras2s.running.threads import Threads, say

# Written with |, as typing.Optional[Union[int, float]] takes the order of whoever wrote it first in the process: float
# first would read a 1 as 1.0, which is all batches.
Batches = int | float | None
Precision = Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true", 64, 32, 16, "bf16"]


class StageTrainer(L.Trainer):
    """A trainer as Lightning's.

    Args:
        precision: `auto`, or one of Lightning's; `auto` is bf16-mixed where the CPU's bfloat16 arithmetic is faster
            than its float32, and on a GPU, else 32-true.
        limit_train_batches: of an epoch: a whole number counts batches (1 is one), one with a point is a share (1.0 is
            all); so below.
        limit_val_batches: of a validation.
        limit_test_batches: of a test.
        limit_predict_batches: of a prediction.
    """

    def __init__(
        self,
        *args: Any,
        precision: Precision | None = None,
        limit_train_batches: Batches = None,
        limit_val_batches: Batches = None,
        limit_test_batches: Batches = None,
        limit_predict_batches: Batches = None,
        **kwargs: Any,
    ) -> None:
        if precision == "auto":
            accelerator = kwargs.get("accelerator", "auto")
            precision, line = settle(precision, accelerator if isinstance(accelerator, str) else "cpu", None)
            say(line)
        super().__init__(
            *args,
            precision=precision,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


class ShareCores(Callback):
    """Says at the start how many threads there are, and gives way between batches to what else runs."""

    def __init__(self) -> None:
        self.threads: Threads | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.threads is None and isinstance(trainer.accelerator, CPUAccelerator):
            self.threads = Threads(trainer.num_devices)
            self.threads.start()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.threads is not None:
            self.threads.look()

    on_validation_batch_end = on_train_batch_end
