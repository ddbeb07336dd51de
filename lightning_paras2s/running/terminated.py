"""SIGTERM to any of several processes ends all of them behind the same batch; Ctrl-C is a SIGTERM, too.

Lightning broadcasts from within the signal's handler: ranks that are between other collectives at that moment answer
each other's questions, or wait for each other for ever. Here the handler only notes the signal, and the ranks compare
notes where they meet anyway.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_paras2s.running.ranks import most_over_ranks


class EndOnTerm(Callback):
    """Ends several processes as `RunCheckpoint` and the exit code 143 need it; one process is left to Lightning.

    The batch under way ends first, and a validation under way, too: ranks may hold different numbers of its batches.
    A second Ctrl-C ends at once.
    """

    def __init__(self) -> None:
        self.noted, self.ending, self.interrupted = False, False, False
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.world_size > 1:
            self.before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self.note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.before[signal.SIGINT] = signal.signal(signal.SIGINT, self.interrupt)

    def note(self, *_: Any) -> None:
        self.noted = True

    def interrupt(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.before.pop(signal.SIGINT))
        self.interrupted = True
        rank_zero_info("\nCtrl-C: ends behind this batch, and saves; a second one ends at once, and does not")
        os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Not yet: the batch's metrics are logged behind this."""
        self.compare(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.compare(trainer)
        self.end()

    def restore(self, *_: Any) -> None:
        while self.before:
            signal.signal(*self.before.popitem())

    def compare(self, trainer: Trainer) -> None:
        """Collective."""
        self.ending = bool(most_over_ranks(int(self.noted), trainer.strategy.root_device))

    def end(self, *_: Any) -> None:
        if self.ending:
            raise SIGTERMException

    on_exception = on_train_end = restore
    on_train_batch_start = on_validation_start = on_train_epoch_end = end
