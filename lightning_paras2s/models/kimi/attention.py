"""What Qwen2 blocks need around them: positions and masks of padded batches, the rotary table."""

from __future__ import annotations

import torch
from torch import Tensor


def positions_of(mask: Tensor) -> Tensor:
    """Position of each token among the real ones: [B, L] bool -> int64; padding gets some valid position."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def rotary_table(positions: Tensor, size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, sin [B, L, d] in half-split form, computed in float32: angle = position * theta^(-2i/d). No buffers: none
    to lose on load.
    """
    frequencies = theta ** -(torch.arange(0, size, 2, device=positions.device).float() / size)
    angles = torch.cat([positions[..., None].float() * frequencies] * 2, -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def attention_mask(mask: Tensor, queries: int, dtype: torch.dtype, attention: str) -> Tensor | None:
    """[B, 1, queries, keys]: which keys the last `queries` positions see; bool for sdpa, additive for eager.

    None if sdpa's own causal (or, for one query, full) attention does it. Padding sees itself, since an empty row
    gives NaN.
    """
    keys = mask.shape[1]
    if attention == "sdpa" and (queries == 1 or queries == keys) and bool(mask.all()):
        return None
    place = torch.arange(keys, device=mask.device)
    own = place[keys - queries :, None]  # [queries, 1]
    allowed = (((place <= own) & mask[:, None, :]) | (place == own))[:, None]
    return (
        allowed
        if attention == "sdpa"
        else torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    )
