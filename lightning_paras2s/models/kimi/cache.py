"""Keys and values of all Qwen2 blocks in buffers allocated once: transformers' own `Cache`, with layers that write in
place.

`Cache` and `DynamicLayer` are subclassed and not imitated, since what blocks ask of a cache changes between releases of
transformers.
"""

from __future__ import annotations

import inspect
from functools import cache

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer


class BufferLayer(DynamicLayer):
    """One block's keys and values, [B, heads, capacity, d] each, of which `length` positions are written."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0
        self.place: Tensor | None = None  # [1]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (*key_states.shape[:2], self.capacity, key_states.shape[3])
        self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        """[B, heads, n, d] of the n newest positions -> all positions so far; of a fixed layer, all of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.place is not None:
            self.keys.index_copy_(2, self.place, key_states)
            self.values.index_copy_(2, self.place, value_states)
            return self.keys, self.values
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length


class KeyValueCache(Cache):
    """One `BufferLayer` a block. After `fix`, shapes no longer change: one position a step, at `place`."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[BufferLayer(capacity) for _ in range(layers)])
        self.place: Tensor | None = None  # [1]

    @property
    def length(self) -> int:
        """Positions before the next call of the model."""
        return self.layers[0].length

    def repeat(self, group_size: int) -> None:
        """Each row G times, copies adjacent."""
        if group_size > 1:
            self.batch_repeat_interleave(group_size)

    def fix(self) -> None:
        """From here on, decode with fixed shapes; what is not written yet is 0, since a mask does not undo a NaN."""
        self.place = torch.tensor([self.length], device=self.layers[0].keys.device)
        for layer in self.layers:
            layer.place = self.place
            layer.keys[:, :, layer.length :] = 0
            layer.values[:, :, layer.length :] = 0


@cache
def cache_argument(model: type[nn.Module]) -> str:
    """How the `forward` of a block, or of a stack of blocks, calls its cache: `past_key_values` up to transformers 5.23
    or so, then `cache`.

    A block takes any keyword, so a name that it does not know would be decoding without a past.
    """
    known = inspect.signature(model.forward).parameters
    (name,) = [n for n in ("cache", "past_key_values") if n in known][:1]
    return name
