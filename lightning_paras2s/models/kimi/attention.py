"""What Qwen2 blocks need around them: positions and masks of padded batches, the rotary table, a key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of all layers in buffers allocated once; the `update` that Qwen2 attention calls writes in
    place.

    After `fix`, shapes no longer change: one position a step, at `place`, and all of the buffers are returned.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.capacity, self.length = capacity, 0
        self.place: Tensor | None = None  # [1]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """key, value: [B, heads, n, d] of the n newest positions -> all positions so far. `length` moves once a model
        step.
        """
        if self.keys[layer] is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self.keys[layer], self.values[layer] = key.new_empty(shape), value.new_empty(shape)
        if self.place is not None:
            self.keys[layer].index_copy_(2, self.place, key)
            self.values[layer].index_copy_(2, self.place, value)
            return self.keys[layer], self.values[layer]
        end = self.length + key.shape[2]
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def repeat(self, group_size: int) -> None:
        """Each row G times, copies adjacent."""
        if group_size > 1:
            self.keys = [k.repeat_interleave(group_size, 0) for k in self.keys]
            self.values = [v.repeat_interleave(group_size, 0) for v in self.values]

    def fix(self) -> None:
        """From here on, decode with fixed shapes; what is not written yet is 0, since a mask does not undo a NaN."""
        self.place = torch.tensor([self.length], device=self.keys[0].device)
        for buffer in (*self.keys, *self.values):
            buffer[:, :, self.length :] = 0


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
