"""What the stages share: a model's first weights, its shards, its steps, and its export."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM
from lightning_paras2s.modules.optimizer import adamw, clip_gradients, require_length, set_learning_rate, warmup_cosine
from lightning_paras2s.running.checkpoints import refuse_sick, remove
from lightning_paras2s.running.runs import batches_done, run_dir


@dataclass(frozen=True)
class Optimization:
    """How a stage's weights move: the options of its module, where each is explained.

    Raises:
        UserError: a rate, a norm or a count with which nothing would train.
    """

    lr: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    state_bits: int
    max_skipped: int

    def __post_init__(self) -> None:
        for name in ("lr", "max_grad_norm", "max_skipped"):
            if not getattr(self, name) > 0:
                raise UserError(
                    f"{name} must be above 0, or nothing trains; got {getattr(self, name)}; set model.{name}"
                )
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative; got {getattr(self, name)}; set model.{name}")


class Skipped:
    """Counts optimizer steps that were left out because their gradient was not finite.

    Attributes:
        most: so many in a row end the run.
        count, in_a_row: all of the run, and those since the last one that was made.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count, self.in_a_row = most, 0, 0

    def see(self, norm: Tensor) -> bool:
        """Is the step to be left out?

        Raises:
            UserError: too many in a row were.
        """
        if bool(norm.isfinite()):
            self.in_a_row = 0
            return False
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        if self.in_a_row >= self.most:
            raise UserError(
                f"a gradient must be finite; got {float(norm)} in {self.in_a_row} steps in a row, which were left out; "
                "look at the data, or lower model.lr (model.max_skipped says how many end the run)"
            )
        return True


class StageModule(L.LightningModule):
    """What supervised fine-tuning, reward modelling and RL repeat: one model that trains, its optimizer and its export.

    A step whose gradient is not finite is left out and counted (`train/skipped`). Checkpoints hold the weights that
    train: of an adapter's frozen base, which a resumed run reads again, they hold none (sharded ones hold all). Options
    that stages share are explained here.

    Args:
        warmup_steps: optimizer steps over which the learning rate rises.
        weight_decay: weight decay of matrices; vectors have none.
        betas: AdamW's decay of its first and second moment, a step.
        max_grad_norm: gradients are scaled down to this norm.
        seed: of random first weights; null follows `seed_everything`.

    Attributes:
        exported: the file of the run's folder that holds the trained model.
        sampling: how the stage draws answers; None = it draws none.
    """

    exported = "policy.safetensors"
    sampling: Sampling | None = None

    def __init__(self, optimization: Optimization, seed: int | None) -> None:
        super().__init__()
        self.optimization, self.seed = optimization, seed or 0
        self.skipped, self.written = Skipped(optimization.max_skipped), False

    @property
    @abstractmethod
    def trained(self) -> SpeechLM | ResponseScorer:
        """The model that trains, once it is built."""

    def configure_optimizers(self) -> Optimizer:
        o = self.optimization
        return adamw(self.trained.parameters(), o.lr, o.weight_decay, o.betas, o.state_bits)

    def set_rate(self, optimizer: Optimizer, total_steps: int) -> float:
        """The learning rate of the optimizer step that comes; 0 total steps = it does not fall."""
        lr = self.optimization.lr * warmup_cosine(self.global_step, self.optimization.warmup_steps, total_steps)
        set_learning_rate(optimizer, lr)
        return lr

    def clip_gradients(self) -> Tensor:
        """Scale gradients down to `max_grad_norm`, or drop them where they are not finite: without gradients the
        optimizer moves neither weights nor moments. The norm before.
        """
        norm = clip_gradients(self.trained, self.optimization.max_grad_norm)
        if self.skipped.see(norm):
            for parameter in self.trained.parameters():
                parameter.grad = None
        return norm

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped"] = (self.skipped.count, self.skipped.in_a_row)
        checkpoint["state_bits"] = self.optimization.state_bits
        if self.device_mesh is None:
            for name in frozen_names(self):
                checkpoint["state_dict"].pop(name, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            UserError: a run goes on with moments of other bits, which its optimizer would neither read nor make anew.
        """
        bits = self.optimization.state_bits
        if self.trainer.training and (was := checkpoint.get("state_bits", bits)) != bits:
            raise UserError(
                f"model.state_bits must be {was}, as when this run began; got {bits}; set it as it was, or start a new "
                "run from this one's weights"
            )
        self.skipped.count, self.skipped.in_a_row = checkpoint.get("skipped", (0, 0))
        if self.device_mesh is None and "state_dict" in checkpoint:
            own = self.state_dict()
            for name in frozen_names(self):
                checkpoint["state_dict"].setdefault(name, own[name])

    def on_train_end(self) -> None:
        export(self, self.trained, self.exported)
        self.written = True

    def on_fit_end(self) -> None:
        """A run that was ended between its last batch and its export has nothing left to train, but to write."""
        if not self.written and batches_done(self.trainer) > 0:
            export(self, self.trained, self.exported)


class SupervisedModule(StageModule):
    """A stage that Lightning optimizes, a step a batch (or `accumulate_grad_batches`); its rate falls over the run.

    Args:
        lr: peak learning rate, after `warmup_steps`; then half a cosine to a tenth over the run.
        state_bits: 32, or 8 for an optimizer of less memory, see `optimizer.adamw`.
        max_skipped: the run stops after so many steps in a row whose gradient was not finite; each is left out and
            counted (`train/skipped`).
    """

    def on_fit_start(self) -> None:
        require_length(self.trainer)

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        self.log("train/grad_norm", self.clip_gradients())
        self.log("train/skipped", float(self.skipped.count))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        lr = self.set_rate(self.optimizers().optimizer, int(self.trainer.estimated_stepping_batches))
        self.log("train/lr", lr)


def require_suited(module: L.LightningModule, policy: SpeechLM) -> None:
    """The policy's ids must be those that the data module's processor writes, or one line says what differs."""
    processor = getattr(module.trainer.datamodule, "processor", None)
    if processor is not None:
        processor.suits(policy)


def frozen_names(module: nn.Module) -> list[str]:
    """Weights that do not train, where others do."""
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """What begins at random in here is drawn from `seed` alone; torch's own generators go on as if nothing was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def initial_policy(policy: Callable[[], SpeechLM], init_from: str | None, seed: int) -> SpeechLM:
    """The policy as a run starts with it: the weights of `init_from`, or random ones drawn from `seed` alone.

    A resumed run gets the same weights again, and with them the same reference.

    Raises:
        UserError: `init_from` is missing, damaged, of another class, or of another size than `policy`.
    """
    with drawn_from(seed):
        fresh = policy()
    if init_from is None:
        return fresh
    loaded = load_module(type(fresh), init_from)
    asked, found = (json.loads(json.dumps(model.settings)) for model in (fresh, loaded))  # tuples are lists in the file
    wanted, got = ({n: tuple(p.shape) for n, p in model.state_dict().items()} for model in (fresh, loaded))
    misfits = [(name, found[name], value) for name, value in asked.items() if found[name] != value]
    misfits += [(name, shape, wanted.get(name)) for name, shape in got.items() if wanted.get(name) != shape]
    for name, has, needs in misfits:
        raise UserError(
            f"{init_from} must fit the configured policy; got {name} {has} for {needs}; set the policy's options as "
            "they were when it was trained"
        )
    return loaded


def place(module: L.LightningModule, policy: SpeechLM, seed: int) -> None:
    """Split a policy just built over the strategy's ranks (FSDP2); read it whole where the strategy keeps it whole.
    What begins at random is then drawn as `initial_policy` draws it.
    """
    with drawn_from(seed):
        if module.device_mesh is None:
            policy.materialize()
        else:
            policy.shard(module.device_mesh["data_parallel"])


def export(module: L.LightningModule, model: SpeechLM | ResponseScorer, name: str) -> None:
    """Write a trained model to the run's folder. All ranks must call it: of a sharded model each holds a part."""
    folder = run_dir(module.trainer)
    if folder is None or module.trainer.fast_dev_run:
        return
    refuse_sick(module.trainer, folder)
    if module.trainer.is_global_zero:
        # a model that is a folder takes no other's place: that of the run when it had ended, and now went on
        remove((folder / name).with_suffix(""))
    module.trainer.strategy.barrier()
    if module.device_mesh is not None or module.trainer.is_global_zero:
        model.save(folder / name)
