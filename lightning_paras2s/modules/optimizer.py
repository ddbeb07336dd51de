"""AdamW over what trains (arXiv 1711.05101), its learning rate, and the norm of its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from lightning_paras2s.errors import UserError, check_rounding


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float], state_bits: int = 32
) -> Optimizer:
    """AdamW over the parameters that train; matrices decay, vectors don't. On a GPU it runs as one fused kernel. Of a
    state that it loads it takes the moments alone: its options stay its own.

    Args:
        state_bits: of each of the two moments, 32 or 8 (block-wise, arXiv 2110.02861; by torchao, which knows FSDP2's
            shards): 10 bytes a weight with its gradient instead of 16.

    Raises:
        UserError: nothing trains, other bits, 8 without torchao, or a 16-bit weight whose small steps would be lost.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UserError("at least one weight must train; got none; set lora_rank above 0 or train every weight")
    parts = ([p for p in trained if p.ndim >= 2], weight_decay), ([p for p in trained if p.ndim < 2], 0.0)
    groups = [{"params": some, "weight_decay": decay} for some, decay in parts if some]
    optimizer = of_bits(state_bits, groups, lr, betas)
    for dtype in {p.dtype for p in trained}:
        check_rounding(str(dtype).removeprefix("torch."), state_bits)
    optimizer.register_load_state_dict_pre_hook(own_options)
    return optimizer


def of_bits(state_bits: int, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    if state_bits == 32:
        on_gpu = all(p.is_cuda for group in groups for p in group["params"])
        return AdamW(groups, lr=lr, betas=betas, fused=True if on_gpu else None)
    if state_bits != 8:
        raise UserError(f"state_bits must be 32 or 8; got {state_bits}; change model.state_bits")
    if find_spec("torchao") is None:
        raise UserError("state_bits: 8 needs torchao, which is missing; pip install 'lightning_paras2s[eightbit]'")
    from lightning_paras2s.running.adamw8bit import adamw8bit

    return adamw8bit(groups, lr, betas)


def own_options(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state whose groups have the optimizer's own decay, betas and kernel: a resumed run trains with the options that
    were asked for, on whatever device it is. Other groups are left to torch, which refuses them.
    """
    groups = state_dict["param_groups"]
    if len(groups) != len(optimizer.param_groups):
        return state_dict
    pairs = zip(groups, optimizer.param_groups, strict=True)
    return state_dict | {"param_groups": [{**saved, **own, "params": saved["params"]} for saved, own in pairs]}


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the rate outright: a checkpoint's rate must not win over the one that was asked for."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's, whose compiled step would not see another object
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def warmup_cosine(step: int, warmup_steps: int, total_steps: float, final: float = 0.1) -> float:
    """Share of the peak learning rate at a step: a linear rise over `warmup_steps`, then half a cosine down to `final`.

    `total_steps` of 0 or less keeps the peak after the rise.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if total_steps <= warmup_steps:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def require_length(trainer: Trainer) -> None:
    """
    Raises:
        UserError: a run has no end over which its learning rate could fall.
    """
    # not `estimated_stepping_batches`: it makes the loader before a resumed run's position is there to be loaded
    if trainer.max_steps == -1 and trainer.max_epochs == -1:
        raise UserError(
            "a run whose learning rate falls must know its length; got neither trainer.max_steps nor max_epochs; set "
            "one (beside trainer.max_time, if that is to end it)"
        )


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale gradients down to `max_norm`; the norm before, over all ranks' shards."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
