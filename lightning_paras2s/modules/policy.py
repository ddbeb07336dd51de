"""What supervised and reinforcement training share: the policy's first weights, its optimizer and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.speech_lm import SpeechLM
from lightning_paras2s.types import UserError


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


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float]) -> Optimizer:
    """AdamW over the parameters that train; matrices decay, vectors don't."""
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=lr, betas=betas)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the rate outright: a checkpoint's rate must not win over the one that was asked for."""
    for group in optimizer.param_groups:
        group["lr"] = lr
