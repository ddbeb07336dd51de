"""A run's checkpoints: whole or not there, finite, the newest few, and of one branch alone."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.ranks import most_over_ranks
from lightning_paras2s.running.runs import (
    batches_done,
    generators,
    run_dir,
    run_logger,
    set_generators,
    steps_logged,
)

ABANDONED = "abandoned-"  # before the name of a checkpoint that lies ahead of the one that a run went on from


class Stood(NamedTuple):
    """Where a run stood at the end of the last batch that completed an optimizer step; its weights are those still.

    Attributes:
        batches: done by then.
        loop: Lightning's counts, and the loaders' places.
        generators: of this rank.
        due: whether the validation behind that batch is still to be made.
    """

    batches: int
    loop: dict[str, Any]
    generators: dict[str, Any]
    due: bool


class RunCheckpoint(Checkpoint):
    """Saves `checkpoints/step-N.ckpt` every few training batches, at the end of training and on SIGTERM, and keeps the
    newest.

    N counts training batches (rollouts in RL), not optimizer steps. A checkpoint is written beside its place and
    renamed, so that one which is there is whole; weights that are not finite are never saved. Between the batches of
    one optimizer step (`accumulate_grad_batches`) it waits for the step: half a gradient is not kept.

    Every checkpoint is of the end of a batch, wherever SIGTERM comes (behind an epoch, within a validation, between
    the batches of an optimizer step): a run goes on from there, whatever Lightning had counted since.

    A validation that was due behind that batch is made before the next one: Lightning is told that the run was ended
    within it. One that is due by the clock is not.

    A run that goes on from an older checkpoint of its own sets the later ones aside (`abandoned-step-N.ckpt`), or they
    would be taken for its newest.

    Args:
        every_n_batches: training batches between two checkpoints; 0 saves only at the end.
        keep: how many checkpoints stay, the newest; -1 keeps all.
    """

    def __init__(self, every_n_batches: int = 50, keep: int = 2) -> None:
        if every_n_batches < 0:
            raise UserError(
                f"checkpoint.every_n_batches must be at least 0; got {every_n_batches}; 0 is only at the end"
            )
        if keep != -1 and keep < 1:
            raise UserError(
                f"checkpoint.keep must be at least 1, or -1 for all; got {keep}; a run resumes from the last"
            )
        self.every_n_batches, self.keep = every_n_batches, keep
        self.saved, self.due, self.steps = (-1, False), False, 0
        self.stood: Stood | None = None
        self.owed = False  # the validation that the run was ended before, or within
        self.before: tuple[int, Any] = (-1, None)  # trainer.max_steps and val_check_batch, while one is owed
        self.ending = False  # what is saved is where the run stood, and not where it is

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        every, epoch = trainer.check_val_every_n_epoch, checkpoint["epoch"] + 1
        wanted = trainer.training and trainer.enable_validation and (every is None or epoch % every == 0)
        if not wanted or not checkpoint.get("validation_due"):
            return
        self.owed = True
        within_validation(checkpoint["loops"]["fit_loop"])
        if trainer.strategy.restore_checkpoint_after_setup:  # `on_fit_start` is over
            self.on_fit_start(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that has no steps left would end before its validation."""
        loop = trainer.fit_loop.epoch_loop
        self.before = (loop.max_steps, None)
        if self.owed and loop.max_steps != -1:
            loop.max_steps += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.owed and not trainer.sanity_checking:
            self.owed = False
            loop = trainer.fit_loop.epoch_loop
            loop.max_steps, trainer.val_check_batch = self.before
            loop.val_loop.batch_progress.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stood is not None and self.stood.batches == batches_done(trainer):
            self.stood = self.stood._replace(due=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.owed:
            self.before = (self.before[0], trainer.val_check_batch)
            trainer.val_check_batch = 1  # whatever the options are now
            if (logger := run_logger(trainer)) is not None:
                logger.rewind(steps_logged(trainer), validated=False)
        folder, done = run_dir(trainer), batches_done(trainer)
        self.steps = trainer.global_step
        if folder is not None and not trainer.fast_dev_run and trainer.is_global_zero:
            for path in checkpoints(folder):
                if number_of(path) > done:
                    aside = path.with_name(ABANDONED + path.name)
                    remove(aside)
                    path.replace(aside)
                    rank_zero_info(
                        f"{path} lies ahead of where the run goes on, after {done} batches: it is now {aside}"
                    )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.every_n_batches and batches_done(trainer) % self.every_n_batches == 0:
            self.due = True
        # no gradient waits for others of its optimizer step
        between = trainer.accumulate_grad_batches == 1 or trainer.global_step > self.steps
        self.steps = trainer.global_step
        if between:
            loop, due = copy.deepcopy(trainer.fit_loop.state_dict()), validation_due(trainer)
            self.stood = Stood(batches_done(trainer), loop, generators(), due)
        if self.due and between:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and self.stood is not None:
            set_generators(self.stood.generators)  # a validation may have drawn from them
            self.ending = True
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.ending:
            checkpoint["loops"]["fit_loop"] = self.stood.loop
        checkpoint["validation_due"] = self.stood is not None and self.stood.due

    def _save(self, trainer: Trainer) -> None:
        folder, step = run_dir(trainer), self.stood.batches if self.ending else batches_done(trainer)
        self.due = False
        state = (step, self.stood is not None and self.stood.due)
        if folder is None or trainer.fast_dev_run or state == self.saved:
            return
        refuse_sick(trainer, folder)
        place = folder / "checkpoints" / f"step-{step:08d}.ckpt"
        part = place.with_name(f".{place.name}.part")
        if trainer.is_global_zero:
            remove(part)  # of a run that was killed while it saved
        trainer.strategy.barrier()
        try:
            trainer.save_checkpoint(part, weights_only=False)  # returns when all ranks have written
            if trainer.is_global_zero:
                publish(part, place)
                for old in checkpoints(folder)[: 0 if self.keep == -1 else -self.keep]:
                    remove(old)
        except OSError:
            if trainer.is_global_zero:
                remove(part)  # of a disk that is full
            raise
        self.saved = state
        trainer.strategy.barrier()


def validation_due(trainer: Trainer) -> bool:
    """Whether Lightning validates behind the batch that ends, by its number."""
    every, interval, loop = trainer.check_val_every_n_epoch, trainer.val_check_batch, trainer.fit_loop.epoch_loop
    if not trainer.enable_validation or sum(trainer.num_val_batches) == 0 or interval is None:
        return False
    if every is not None and (trainer.current_epoch + 1) % every:
        return False
    if interval == math.inf:
        return loop.batch_progress.is_last_batch
    return ((loop.total_batch_idx if every is None else loop.batch_idx) + 1) % interval == 0


def within_validation(loop: dict[str, Any]) -> None:
    """Make Lightning's counts at the end of a batch those of the beginning of the validation behind it, in place."""
    batches, validation = loop["epoch_loop.batch_progress"], loop["epoch_loop.val_loop.batch_progress"]
    for count in ("total", "current"):
        batches[count]["completed"] = batches[count]["processed"]
        validation[count] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation["is_last_batch"] = False


def refuse_sick(trainer: Trainer, folder: Path) -> None:
    """
    Raises:
        UserError: weights or the optimizer's moments are not finite, on any rank.
    """
    sick = next((name for name, tensor in trained_tensors(trainer) if not bool(tensor.isfinite().all())), None)
    if most_over_ranks(int(sick is not None), trainer.strategy.root_device):
        last = last_checkpoint(folder)
        raise UserError(
            f"weights must be finite to be saved; got {sick or 'others'} after {batches_done(trainer)} batches; "
            f"nothing was replaced; go on from {last or 'the start'} with a lower learning rate"
        )


def trained_tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """Weights that train and their moments by name, this rank's parts."""
    names = {id(p): name for name, p in trainer.lightning_module.named_parameters()}
    for name, parameter in trainer.lightning_module.named_parameters():
        if parameter.requires_grad:
            yield name, local(parameter.detach())
    for optimizer in trainer.optimizers:
        for parameter, state in optimizer.state.items():
            # moments of 8 bits are whole numbers
            plain = [(key, t) for key, t in state.items() if type(t) in (Tensor, DTensor) and t.is_floating_point()]
            yield from ((f"{key} of {names.get(id(parameter), 'a weight')}", local(t)) for key, t in plain)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def number_of(path: Path) -> int:
    """The batches after which a checkpoint was saved."""
    return int(path.stem.removesuffix(".aside").rpartition("-")[2])


def checkpoints(folder: Path) -> list[Path]:
    """The run's whole checkpoints, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.ckpt"))


def last_checkpoint(folder: Path) -> Path | None:
    found = checkpoints(folder)
    return found[-1] if found else None


def publish(part: Path, place: Path) -> None:
    """Rename what is whole to its place. A folder cannot take another's in one move, so the old one stays until then
    under a name that is found and sorts below it.
    """
    aside = place.with_name(f"{place.stem}.aside{place.suffix}")
    if place.exists():
        remove(aside)
        place.replace(aside)
    part.replace(place)
    remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder (sharded checkpoints are folders), if there; not even half of it stays in its place."""
    if path.is_dir():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(path.replace(gone))
    else:
        path.unlink(missing_ok=True)
