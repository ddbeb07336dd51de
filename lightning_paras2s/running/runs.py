"""A run on disk: `runs/<stage>/<version>/` with its config, metrics, samples and checkpoints, resumable bit for bit.

Killed at any point and resumed, a run ends with the same weights as one never killed: checkpoints appear whole or not
at all, the order of the data is a function of (seed, epoch), what is random in a step of (seed, step, rank), and what
is random between steps goes on from each rank's own generators, which are saved. No rollout outlives its batch, so
there is no buffer to save. One process writes a file; sharded (FSDP2), all ranks write a folder together (DCP).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.precision import machine


class RunLogger(TensorBoardLogger):
    """TensorBoard events and, line for line beside them, `metrics.jsonl`."""

    def __init__(self, save_dir: str = "runs", name: str = "default", version: int | str | None = None) -> None:
        super().__init__(save_dir, name=name, version=version)

    @property
    def metrics_path(self) -> Path:
        return Path(self.log_dir) / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        values = {name: float(value) for name, value in metrics.items()}
        self.metrics_path.parent.mkdir(parents=True, exist_ok=True)
        with self.metrics_path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the lines of `metrics.jsonl` from `step` on, and a half line: a resumed run writes them again."""
        if not self.metrics_path.is_file():
            return
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
        replace_file(self.metrics_path, lambda part: part.write_text("".join(kept)))

    @rank_zero_only
    def save(self) -> None:
        """Flush the events; `config.yaml` already holds the hyper-parameters."""
        self.experiment.flush()


class RunConfig(SaveConfigCallback):
    """Writes the whole config to the run's folder; a resumed run replaces it, one that is refused does not."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Not yet: the checkpoint is read later, and may be another model's."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_dir(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        made = ", ".join(f"{name}: {value}" for name, value in machine(str(trainer.precision)).items())
        config = f"# {made}\n{self.parser.dump(self.config, skip_none=False)}"
        replace_file(folder / "config.yaml", lambda part: part.write_text(config))


class RunCheckpoint(Checkpoint):
    """Saves `checkpoints/step-N.ckpt` every few training batches and at the end of training, and keeps the newest.

    N counts training batches (rollouts in RL), not optimizer steps. A checkpoint is written beside its place and
    renamed, so that one which is there is whole.

    Args:
        every_n_batches: how often; 0 is only at the end.
        keep: how many to keep.
    """

    def __init__(self, every_n_batches: int = 50, keep: int = 2) -> None:
        self.every_n_batches, self.keep = every_n_batches, keep
        self.saved = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.every_n_batches and batches_done(trainer) % self.every_n_batches == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        folder, step = run_dir(trainer), batches_done(trainer)
        if folder is None or trainer.fast_dev_run or step == self.saved:
            return
        self.saved = step
        place = folder / "checkpoints" / f"step-{step:08d}.ckpt"
        part = place.with_name(f".{place.name}.part")
        if trainer.is_global_zero:
            remove(part)  # of a run that was killed while it saved
        trainer.strategy.barrier()
        trainer.save_checkpoint(part)  # returns when all ranks have written
        if trainer.is_global_zero:
            publish(part, place)
            for old in checkpoints(folder)[: -self.keep]:
                remove(old)
        trainer.strategy.barrier()


class StepSeed(Callback):
    """Seeds every training batch by (seed, batch, rank), so that ranks differ: Lightning seeds them alike.

    Between batches (in a loader) each rank's generators run on, and checkpoints hold them; validation leaves them be.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.resumed: dict[str, Any] | None = None
        self.before_validation: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        # The counter of *this* batch is already raised.
        words = [self.seed, batches_done(trainer), trainer.global_rank]
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Collective: Lightning keeps what rank 0 puts there."""
        checkpoint["generators"] = [generators()] * trainer.world_size
        if trainer.world_size > 1:
            dist.all_gather_object(checkpoint["generators"], generators())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("generators")
        if states is None or not trainer.training:
            return
        if len(states) != trainer.world_size:
            raise UserError(
                f"a run must be resumed by as many processes as saved it, {len(states)}; got {trainer.world_size}; set "
                "trainer.devices and num_nodes as they were, or start a new run from its weights (model.init_from)"
            )
        self.resumed = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = batches_done(trainer)
        if done:
            rank_zero_info(f"resuming {trainer.log_dir} after {done} batches")
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.rewind(done)
        if self.resumed is not None:
            set_generators(self.resumed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation = generators()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_generators(self.before_validation)


class ResumableLoader:
    """Batches of a data set in an order that is a function of (seed, epoch); its position is saved in checkpoints.

    Args:
        items: a sequence; each batch is `collate([items[i], ...])`.
        batch_size: of each rank.
        shuffle: else the order of `items`.
        drop_last: leave out an incomplete last batch.
        rank, world_size: each rank takes its own share of every global batch; of an incomplete one it may be none.
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
        self.items, self.collate, self.batch_size = items, collate, batch_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position, self.resumed = 0, 0, False

    def __len__(self) -> int:
        total = self.batch_size * self.world_size
        return len(self.items) // total if self.drop_last else -(-len(self.items) // total)

    def order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.items))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.items))

    def __iter__(self) -> Iterator[Any]:
        """One epoch: the rest of the one that was resumed, else the next."""
        if self.position and not self.resumed:
            self.epoch, self.position = self.epoch + 1, 0
        self.resumed = False
        order = self.order(self.epoch)
        while self.position < len(self):
            total = self.batch_size * self.world_size
            batch = order[self.position * total : (self.position + 1) * total]
            self.position += 1
            share = np.array_split(batch, self.world_size)[self.rank]
            if len(share):
                yield self.collate([self.items[i] for i in share])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.resumed = self.position < len(self)


def run_dir(trainer: Trainer) -> Path | None:
    """The run's folder; None without a logger. Collective: call it on all ranks."""
    return None if trainer.log_dir is None or trainer.logger is None else Path(trainer.log_dir)


def batches_done(trainer: Trainer) -> int:
    """Training batches so far, the one under way included."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def checkpoints(folder: Path) -> list[Path]:
    """The run's whole checkpoints, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.ckpt"))


def last_checkpoint(folder: Path) -> Path | None:
    found = checkpoints(folder)
    return found[-1] if found else None


def generators() -> dict[str, Any]:
    """The states of this process's generators, in types that `torch.load(weights_only=True)` takes."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    numpy = (kind, keys.tolist(), *rest)
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": random.getstate()}


def set_generators(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


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


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.replace(path)


def remove(path: Path) -> None:
    """Delete a file or a folder (sharded checkpoints are folders), if there; not even half of it stays in its place."""
    if path.is_dir():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(path.replace(gone))
    else:
        path.unlink(missing_ok=True)
