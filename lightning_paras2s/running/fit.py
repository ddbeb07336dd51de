"""The stages' command line: `fit|validate|test|predict` (LightningCLI; model and data are chosen by class name)."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from lightning_paras2s.errors import OneLineErrors, UserError, of_disk
from lightning_paras2s.modules.training import StageModule
from lightning_paras2s.running.checkpoints import last_checkpoint, remove
from lightning_paras2s.running.defaults import fill, loggers_of, pinned_seeds
from lightning_paras2s.running.inputs import inputs_of_run, require_same
from lightning_paras2s.running.logs import RESULT, write_summary
from lightning_paras2s.running.options import CALLBACKS
from lightning_paras2s.running.precision import precision_of_run, settle
from lightning_paras2s.running.preflight import (
    card_bytes,
    check_card,
    check_run,
    check_sizes,
    check_trainer,
    launched,
    visible_gpus,
)
from lightning_paras2s.running.ranks import one_voice
from lightning_paras2s.running.runs import RunConfig, RunLogger, batches_done
from lightning_paras2s.running.shards import ShardsFit, another_models, check_whole, damaged
from lightning_paras2s.running.terminated import EndOnTerm
from lightning_paras2s.running.threads import say
from lightning_paras2s.running.trainer import StageTrainer

Found = TypeVar("Found")


class StageParser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with one-line errors."""


class StageCLI(LightningCLI):
    """One command line for all stages.

    Runs go to `runs/<name>/<version>/`. A run whose version exists already goes on from its last checkpoint, as with
    `--ckpt_path last`.

    Args:
        args: the stage and its options, as one types them.
        check_only: build what the options name, and run nothing.
    """

    def __init__(self, args: list[str], check_only: bool = False) -> None:
        self.result: dict[str, Any] | None = None
        self.check_only = check_only
        with one_voice():
            super().__init__(
                L.LightningModule,
                L.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=RunConfig,
                trainer_class=StageTrainer,
                seed_everything_default=0,
                parser_class=StageParser,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in CALLBACKS.items():
            module, _, cls = callback.partition(":")
            parser.add_lightning_class_args(getattr(import_module(module), cls), name)
        parser.link_arguments("seed_everything", "step_seed.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Lightning lets a checkpoint's hyper-parameters win over the command line; here the command line wins."""

    def instantiate_classes(self) -> None:
        self.asked = self.config
        self.config = self.config.clone()
        self.config[self.subcommand] = fill(self.config[self.subcommand])
        with one_line():
            super().instantiate_classes()

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """The config that is kept with the run is the one that was asked for: it starts the same run with any seed."""
        self.config = self.asked
        return super().instantiate_trainer(**options)

    def before_instantiate_classes(self) -> None:
        trainer, earlier = self.config[self.subcommand].trainer, earlier_run(self.config[self.subcommand])
        check_sizes(self.config[self.subcommand].as_dict(), self.subcommand)
        trainer.precision, line = settle(trainer.precision, trainer.accelerator, precision_of_run(earlier))
        check_trainer(trainer, visible_gpus(), launched(os.environ))
        small = check_card(self.config[self.subcommand].as_dict(), card_bytes(trainer))
        for told in filter(None, (line, small, pinned_seeds(self.config[self.subcommand]))):
            say(told)
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")

    def before_fit(self) -> None:
        self._resolve_checkpoint("fit", default="last")
        going_on = self.config_init.fit.ckpt_path is not None
        self.changed = ", ".join(found.changes(self._folder()) for found in self._of(RunConfig) if going_on)
        if self.changed:
            rank_zero_info(f"options that were others when this run began: {self.changed}")
        self._check_inputs()

    def after_fit(self) -> None:
        """What a person is told at the end.

        Raises:
            UserError: nothing was trained, or other options were asked of a run that had ended.
        """
        folder = self._folder()
        if batches_done(self.trainer) == 0:
            raise UserError(
                "a run must train at least one batch; got none; look at the trainer's limits (max_time, "
                "limit_train_batches) and at callbacks that end a run"
            )
        if self.changed and isinstance(self.model, StageModule) and not self.model.written:
            raise UserError(
                f"a run that has ended must keep its options; got {self.changed}; give this one a name of its own "
                "(--trainer.logger.version), or raise trainer.max_steps to train on with the new ones"
            )
        if self.trainer.is_global_zero and folder is not None and isinstance(self.model, StageModule):
            self.result = result_of(self.trainer, self.model, folder)
            if self.model.written or not (folder / RESULT).is_file():
                write_summary(folder / RESULT, self.result)

    def before_validate(self) -> None:
        self._resolve_checkpoint("validate", default=None)

    def before_test(self) -> None:
        self._resolve_checkpoint("test", default=None)

    def before_predict(self) -> None:
        self._resolve_checkpoint("predict", default=None)

    def _folder(self) -> Path | None:
        """The run's; None without a logger, and with fast_dev_run's, which keeps nothing. `runs.run_dir` asks all
        ranks, which have not been started yet."""
        found = getattr(self.trainer.logger, "log_dir", None)
        return None if found is None else Path(found)

    def _run_subcommand(self, subcommand: str) -> None:
        """A mistake noticed before the first batch leaves nothing of the run behind.

        Raises:
            UserError: also where the checkpoint is another model's.
        """
        check_run(subcommand, self.model, self.trainer)
        if self.check_only:
            getattr(self, f"before_{subcommand}")()
            return
        folder = self._folder()
        before = set() if folder is None else set(folder.glob("*"))
        made = [] if folder is None else [place for place in (folder, *folder.parents[:2]) if not place.exists()]
        try:
            with one_line():
                super()._run_subcommand(subcommand)
        except SIGTERMException:
            by, code = ("Ctrl-C", 130) if any(one.interrupted for one in self._of(EndOnTerm)) else ("SIGTERM", 143)
            rank_zero_info(f"ended by {by} after {batches_done(self.trainer)} batches; started again it goes on")
            sys.exit(code)
        except SystemExit as end:
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            if batches_done(self.trainer) == 0:
                remove_made(folder, before, made)
            rank_zero_info("ended by Ctrl-C at once; started again it goes on from its last checkpoint, if it has one")
            sys.exit(130)
        except (UserError, RuntimeError) as error:
            if batches_done(self.trainer) == 0:
                remove_made(folder, before, made)
            if "loading state_dict" not in str(error):
                raise
            path, misfit = self.config_init[subcommand].ckpt_path, " ".join(str(error).splitlines()[1:2]).strip()
            raise another_models(path, misfit) from None

    def _of(self, kind: type[Found]) -> list[Found]:
        return [one for one in self.trainer.callbacks if isinstance(one, kind)]

    def _resolve_checkpoint(self, subcommand: str, default: str | None) -> None:
        config = self.config_init[subcommand]
        asked = config.ckpt_path or default
        if asked == "last":
            folder = self._folder()
            found = None if folder is None else last_checkpoint(folder)
            asked = None if found is None else str(found)
            if subcommand != "fit" and asked is None:
                raise UserError(f"--ckpt_path last needs a run with checkpoints; got {folder}; name its version")
        elif asked is not None and not Path(asked).exists():
            raise UserError(f"--ckpt_path must be an existing checkpoint or 'last'; got {asked}")
        if asked is not None:
            self._check_checkpoint(Path(asked))
        config.ckpt_path = asked

    def _check_inputs(self) -> None:
        """Before weights are read that a run must not go on with."""
        inputs, start = inputs_of_run(self.config[self.subcommand].as_dict()), self.config_init.fit.ckpt_path
        if start is not None and (told := require_same(Path(start).parent.parent, inputs)):
            rank_zero_info(told)
        for found in self._of(RunConfig):
            found.inputs = inputs

    def _check_checkpoint(self, path: Path) -> None:
        """A file was written by one process, a folder by several (FSDP2)."""
        if path.is_file() and not zipfile.is_zipfile(path):
            raise damaged(path, "")
        if path.is_dir():
            check_whole(path)
            strategy = self.trainer.strategy
            if not isinstance(strategy, ModelParallelStrategy):
                raise UserError(
                    f"{path} was written in shards (FSDP2) and must be read so; got {type(strategy).__name__}; set the "
                    "trainer's options as they were, or start a new run from the weights in the run's folder"
                )
            self.trainer.callbacks.append(ShardsFit(path))


def earlier_run(config: Namespace) -> Path:
    """The folder of the run that a stage's config would go on with, by the checkpoint that it names, else by its own
    logger; that of a new run is not there."""
    if (start := config.get("ckpt_path")) not in (None, "last"):
        return Path(start).parent.parent
    own, *_ = loggers_of(config.trainer.logger, config.model.class_path if config.model else "")
    return Path(RunLogger(**vars(own.init_args)).log_dir)


def remove_made(folder: Path | None, before: set[Path], made: list[Path]) -> None:
    """What a run that has not begun has left: files that its folder did not hold `before`, and folders of its own."""
    for path in set() if folder is None else set(folder.glob("*")) - before:
        remove(path)
    for place in made:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def result_of(trainer: L.Trainer, module: StageModule, folder: Path) -> dict[str, Any]:
    """Of a run that has ended: its length, the last value of each metric, and where its weights are."""
    file = folder / module.exported
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "stage": type(module).__name__,
        "model": type(module.trained).__name__,
        "folder": str(folder),
        "weights": str(file if file.exists() else file.with_suffix("")),
        "steps": trainer.global_step,
        "batches": batches_done(trainer),
        "ranks": trainer.world_size,  # each of which has had as many batches
        "skipped": module.skipped.count,
        "trained": module.written,  # else it had ended before
        "metrics": found,
    }


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Lightning's refusals, missing packages and disks that take nothing are mistakes that a user can mend."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(" ".join(str(error).split())) from error
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("lightning_paras2s"):
            raise
        raise UserError(f"a package is missing: {' '.join(str(error).split())}; install it") from error
    except OSError as error:
        if (told := of_disk(error)) is None:
            raise
        raise told from error
