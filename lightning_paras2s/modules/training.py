"""What the stages share: a model's first weights, its shards, its optimizer and learning rate, and its export."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.speech_lm import SpeechLM
from lightning_paras2s.running.runs import remove, run_dir


@dataclass(frozen=True)
class Optimization:
    """How a stage's weights move: the options of its module, where each is explained."""

    lr: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    state_bits: int


class StageModule(L.LightningModule):
    """What supervised fine-tuning, reward modelling and RL repeat: one model that trains, its optimizer and its export.

    Attributes:
        exported: the file of the run's folder that holds the trained model.
    """

    exported = "policy.safetensors"

    def __init__(self, optimization: Optimization, seed: int) -> None:
        super().__init__()
        self.optimization, self.seed = optimization, seed

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
        """Scale gradients down to `max_grad_norm`; the norm before."""
        return clip_gradients(self.trained, self.optimization.max_grad_norm)

    def on_train_end(self) -> None:
        export(self, self.trained, self.exported)


class SupervisedModule(StageModule):
    """A stage that Lightning optimizes, a step a batch (or `accumulate_grad_batches`); its rate falls over the run."""

    def configure_gradient_clipping(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
        self.log("train/grad_norm", self.clip_gradients())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        lr = self.set_rate(self.optimizers().optimizer, int(self.trainer.estimated_stepping_batches))
        self.log("train/lr", lr)


def initial_policy(policy: Callable[[], SpeechLM], init_from: str | None, seed: int) -> SpeechLM:
    """The policy as a run starts with it: the weights of `init_from`, or random ones drawn from `seed` alone.

    A resumed run gets the same weights again, and with them the same reference.

    Raises:
        UserError: `init_from` is missing, damaged, of another class, or of another size than `policy`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = policy()
    if init_from is None:
        return fresh
    loaded = load_module(type(fresh), init_from)
    shapes = {name: tuple(p.shape) for name, p in fresh.state_dict().items()}
    for name, tensor in loaded.state_dict().items():
        if shapes.get(name) != tuple(tensor.shape):
            raise UserError(
                f"{init_from} must fit the configured policy; got {name} {tuple(tensor.shape)} for {shapes.get(name)}; "
                "set the policy's options as they were when it was trained"
            )
    return loaded


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, final: float = 0.1) -> float:
    """Share of the peak learning rate at a step: a linear rise over `warmup_steps`, then half a cosine down to `final`.

    `total_steps` of 0 or less keeps the peak after the rise.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if total_steps <= warmup_steps:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    state_bits: int = 32,
) -> Optimizer:
    """AdamW over the parameters that train; matrices decay, vectors don't. On a GPU it runs as one fused kernel.

    Args:
        state_bits: of each of the two moments, 32 or 8 (block-wise, arXiv 2110.02861; by torchao, which knows FSDP2's
            shards): 10 bytes a weight with its gradient instead of 16.

    Raises:
        UserError: nothing trains, other bits, or 8 without torchao.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UserError("at least one weight must train; got none; set lora_rank above 0 or train every weight")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if state_bits == 32:
        return AdamW(groups, lr=lr, betas=betas, fused=True if all(p.is_cuda for p in trained) else None)
    if state_bits != 8:
        raise UserError(f"state_bits must be 32 or 8; got {state_bits}; change model.state_bits")
    if find_spec("torchao") is None:
        raise UserError("state_bits: 8 needs torchao, which is missing; pip install 'lightning_paras2s[eightbit]'")
    from lightning_paras2s.running.adamw8bit import adamw8bit

    return adamw8bit(groups, lr, betas)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm`; the norm before, over all ranks' shards."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def place(module: L.LightningModule, policy: SpeechLM) -> None:
    """Split a policy just built over the strategy's ranks (FSDP2); read it whole where the strategy keeps it whole."""
    if module.device_mesh is None:
        policy.materialize()
    else:
        policy.shard(module.device_mesh["data_parallel"])


def export(module: L.LightningModule, model: SpeechLM | ResponseScorer, name: str) -> None:
    """Write a trained model to the run's folder. All ranks must call it: of a sharded model each holds a part."""
    folder = run_dir(module.trainer)
    if folder is None or module.trainer.fast_dev_run:
        return
    if module.trainer.is_global_zero:
        # a model that is a folder takes no other's place: that of the run when it had ended, and now went on
        remove((folder / name).with_suffix(""))
    module.trainer.strategy.barrier()
    if module.device_mesh is not None or module.trainer.is_global_zero:
        model.save(folder / name)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the rate outright: a checkpoint's rate must not win over the one that was asked for."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's, whose compiled step would not see another object
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
