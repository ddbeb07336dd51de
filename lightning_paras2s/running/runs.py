"""A run on disk: `runs/<stage>/<version>/` with its config, metrics, samples and checkpoints, resumable bit for bit.

Killed at any point and resumed, a run ends with the same weights as one never killed: checkpoints appear whole or not
at all, the order of the data is a function of (seed, epoch), what is random in a step of (seed, step, rank), and what
is random between steps goes on from each rank's own generators, which are saved. No rollout outlives its batch, so
there is no buffer to save. One process writes a file; sharded (FSDP2), all ranks write a folder together (DCP).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.curves import layout
from lightning_paras2s.running.inputs import write_inputs
from lightning_paras2s.running.loaders import go_on
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.running.precision import machine
from lightning_paras2s.types import append_jsonl


class RunLogger(TensorBoardLogger):
    """TensorBoard events and, line for line beside them, `metrics.jsonl` (null = not finite).

    Args:
        save_dir: folder of all runs.
        name: folder of this kind of run.
        version: folder of this run; a run whose version exists already goes on. None takes the next number.
    """

    def __init__(self, save_dir: str = "runs", name: str = "default", version: int | str | None = None) -> None:
        super().__init__(save_dir, name=name, version=version)
        self.laid_out = False

    @property
    def metrics_path(self) -> Path:
        return Path(self.log_dir) / "metrics.jsonl"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not self.laid_out:
            self.experiment.add_custom_scalars(layout())
            self.laid_out = True
        super().log_metrics(metrics, step)
        append_jsonl(self.metrics_path, [{"step": step} | {name: float(value) for name, value in metrics.items()}])

    @rank_zero_only
    def rewind(self, step: int, validated: bool = True) -> None:
        """Drop what was logged from `step` on, and a half line: a resumed run writes it again; and without `validated`
        the validation behind the step before.
        """
        if not self.metrics_path.is_file():
            return
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        rows = [(line, row) for line in lines if line.endswith("\n") and (row := json.loads(line))["step"] < step]
        again = []  # TensorBoard's rows that stay, of the step whose validation goes
        if not validated:
            step -= 1
            rows = without_validation(rows, step)
            again = [row for _, row in rows if row["step"] == step]
        replace_file(self.metrics_path, "".join(line for line, _ in rows))
        # TensorBoard's readers leave out what an event file before this one has from here on (`purge_step`)
        start = SessionLog(status=SessionLog.START)
        self.experiment.file_writer.add_event(Event(step=step, session_log=start))
        for values in again:
            known = {name: math.nan if value is None else value for name, value in values.items() if name != "step"}
            super().log_metrics(known, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush the events; `config.yaml` already holds the hyper-parameters."""
        self.experiment.flush()


def without_validation(rows: list[tuple[str, dict[str, Any]]], step: int) -> list[tuple[str, dict[str, Any]]]:
    """Lines of a log, each with what it holds, without the validation behind a step, the last one. Gradients that are
    accumulated share a step: a validation between their batches stands before its line, and stays."""

    def holds(row: dict[str, Any], part: str) -> bool:
        return any(name.startswith(part) for name in row)

    stays = max((i for i, (_, row) in enumerate(rows) if holds(row, "train/")), default=-1)
    gone = [i > stays and row["step"] == step and holds(row, "val/") for i, (_, row) in enumerate(rows)]
    return [one for one, drop in zip(rows, gone, strict=True) if not drop]


class RunConfig(SaveConfigCallback):
    """Writes the config, and hashes of what lies at its paths, to the run's folder; a refused run writes neither."""

    inputs: dict[str, dict[str, str]] = {}  # noqa: RUF012  set once, by the command line

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Not yet: the checkpoint is read later, and may be another model's."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_dir(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        made = ", ".join(f"{name}: {value}" for name, value in machine(str(trainer.precision)).items())
        replace_file(folder / "config.yaml", f"# {made}\n{self.text}")
        write_inputs(folder, self.inputs)

    @property
    def text(self) -> str:
        return self.parser.dump(self.config, skip_none=False)

    def changes(self, folder: Path | None) -> str:
        """Options of model, data and seed that a run's config holds with other values: "beta 0.3 (was 0.1)"."""
        if folder is None or not (folder / "config.yaml").is_file():
            return ""
        was, now = (yaml.safe_load(text) for text in ((folder / "config.yaml").read_text(), self.text))
        return ", ".join(one for key in ("seed_everything", "model", "data") for one in changed(key, was, now))


def changed(key: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What both name under a key and one names otherwise; what only one of them knows is of another version."""
    if key not in was or key not in now or was[key] == now[key]:
        return
    if isinstance(was[key], dict) and isinstance(now[key], dict):
        for inner in was[key]:
            yield from changed(inner, was[key], now[key])
    else:
        yield f"{key} {now[key]} (was {was[key]})"


class StepSeed(Callback):
    """Seeds every training batch by (seed, batch, rank), so that ranks differ: Lightning seeds them alike.

    Between batches (in a loader) each rank's generators run on, and checkpoints hold them; validation leaves them be.

    Args:
        seed: of the run (`seed_everything`).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.resumed: dict[str, Any] | None = None
        self.places: list[dict[str, int]] = []  # of the training data's loader, where it can go on
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
        self.places = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
        if len(states) != trainer.world_size:
            raise UserError(
                f"a run must be resumed by as many processes as saved it, {len(states)}; got {trainer.world_size}; set "
                "trainer.devices and num_nodes as they were, or start a new run from its weights (model.init_from)"
            )
        self.resumed = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        go_on(trainer, self.places)
        done = batches_done(trainer)
        if done:
            rank_zero_info(f"resuming {trainer.log_dir} after {done} batches")
        if (logger := run_logger(trainer)) is not None:
            logger.rewind(steps_logged(trainer))
        if self.resumed is not None:
            set_generators(self.resumed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation = generators()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_generators(self.before_validation)


def run_logger(trainer: Trainer) -> RunLogger | None:
    """The run's own logger, wherever it stands among others."""
    return next((logger for logger in trainer.loggers if isinstance(logger, RunLogger)), None)


def run_dir(trainer: Trainer) -> Path | None:
    """The run's folder: its own logger's, else the first logger's; None without. Collective: call it on all ranks."""
    if not trainer.loggers:
        return None
    logger = run_logger(trainer)
    folder = trainer.log_dir if logger is None else trainer.strategy.broadcast(logger.log_dir)
    return None if folder is None else Path(folder)


def batches_done(trainer: Trainer) -> int:
    """Training batches so far, the one under way included."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def steps_logged(trainer: Trainer) -> int:
    """The step under which Lightning logs next: it counts batches where the module steps by itself, else steps."""
    return trainer.global_step if trainer.lightning_module.automatic_optimization else batches_done(trainer)


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
