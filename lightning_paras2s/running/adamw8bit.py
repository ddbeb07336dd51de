"""AdamW whose moments are kept in 8 bits, block by block (arXiv 2110.02861), by torchao, resumable by Lightning."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def adamw8bit(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> Optimizer:
    """Steps of bfloat16 weights are rounded up or down at random, by nearness: rounded to the nearest, a rate below
    1e-3 of the weights would move nothing.
    """
    from torchao.optim import AdamW8bit  # an extra: this module is imported without it

    optimizer = AdamW8bit(groups, lr=lr, betas=betas, bf16_stochastic_round=True)
    optimizer.register_state_dict_post_hook(plain_moments)
    optimizer.register_load_state_dict_pre_hook(packed_moments)
    return optimizer


def plain_moments(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Moments as dictionaries of plain tensors: torchao's own type fails in Lightning's `torch.load`, whose
    `map_location` is a function. Sharded moments stay as they are; torchao and DCP know each other.
    """
    return state_dict | {"state": {i: {n: plain(v) for n, v in s.items()} for i, s in state_dict["state"].items()}}


def packed_moments(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `plain_moments`."""
    return state_dict | {"state": {i: {n: packed(v) for n, v in s.items()} for i, s in state_dict["state"].items()}}


def plain(moment: Any) -> Any:
    from torchao.optim.subclass_8bit import OptimState8bit

    if not isinstance(moment, OptimState8bit):
        return moment
    names, (signed, dtype) = moment.__tensor_flatten__()
    return {name: getattr(moment, name) for name in names} | {"signed": signed, "dtype": dtype}


def packed(moment: Any) -> Any:
    from torchao.optim.subclass_8bit import OptimState8bit

    return OptimState8bit(**moment) if isinstance(moment, dict) else moment
