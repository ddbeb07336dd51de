"""A pre-norm transformer layer (LLaMA's: arXiv 2302.13971) whose keys and values live in a memory that is passed in.

The three memories make reading a prompt, training on responses and decoding step by step one code path.
Axes: R rows, H heads, T positions, D numbers a head, C = H * D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(ABC):
    """Keys and values of every layer, and who may see them."""

    @abstractmethod
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Take a layer's new queries, keys and values, [R, H, T, D]; return what the queries see, [R, H, T, D]."""


class PromptMemory(Memory):
    """Reads left-padded prompts, mask [B, P], and keeps their keys and values, [B, H, P, D] a layer, with gradient."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.layers: list[tuple[Tensor, Tensor]] = []
        causal = torch.ones(2 * mask.shape[-1:], dtype=torch.bool, device=mask.device).tril()
        # Padding attends to itself only: a row that sees nothing would be NaN, also in the gradient.
        self.seen = additive((causal & mask[:, None, None]) | causal & causal.T)  # [B, 1, P, P]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        assert layer == len(self.layers)
        self.layers.append((key, value))
        return attention(query, key, value, self.seen)


class ResponseMemory(Memory):
    """G responses a prompt, all steps at once, with gradient: they see the prompt, then their own steps so far."""

    def __init__(self, prompt: PromptMemory, group_size: int, steps: int) -> None:
        self.prompt, self.group_size = prompt, group_size
        mask = prompt.mask.repeat_interleave(group_size, 0)[:, None, None]  # [R, 1, 1, P]
        causal = torch.ones(steps, steps, dtype=torch.bool, device=mask.device).tril()
        self.seen = additive(torch.cat([mask.expand(-1, 1, steps, -1), causal.expand(len(mask), 1, -1, -1)], -1))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        past_key, past_value = self.prompt.layers[layer]
        key, value = self._after(past_key, key), self._after(past_value, value)
        return attention(query, key, value, self.seen[:, :, : query.shape[2], : key.shape[2]])

    def _after(self, past: Tensor, new: Tensor) -> Tensor:
        """Each prompt's [B, H, P, D] before its rows' own [R, H, T, D], in one copy: [R, H, P + T, D]."""
        past = past.unsqueeze(1).expand(-1, self.group_size, -1, -1, -1)
        return torch.cat([past, new.unflatten(0, (-1, self.group_size))], 3).flatten(0, 1)


class StaticMemory(Memory):
    """Decoding, one step at a time, for rows that share prompts.

    A prompt's keys are read once for its G queries, 2 to 5 times faster on a CPU than a copy a row; each row's own keys
    and values live in buffers of fixed size, allocated once. `step` is the step that comes next, `slots` [R] a row's
    place among the B*G; rows can be dropped by `keep`.
    """

    def __init__(self, prompt: PromptMemory, group_size: int, max_steps: int) -> None:
        rows = len(prompt.mask) * group_size
        key = prompt.layers[0][0]
        self.group_size, self.step = group_size, 0
        self.prompt = [tuple(t.transpose(-1, -2).contiguous() for t in pair) for pair in prompt.layers]  # [B, H, D, P]
        size = (rows, key.shape[1], max_steps, key.shape[3])
        self.own = [tuple(key.new_empty(size) for _ in "kv") for _ in self.prompt]
        padding = torch.zeros_like(prompt.mask, dtype=torch.float32).masked_fill(~prompt.mask, -torch.inf)  # [B, P]
        self.padding = None if bool(prompt.mask.all()) else padding[:, None, None]
        self.slots = torch.arange(rows, device=key.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        end = self.step + 1
        own_key, own_value = (buffer[:, :, :end] for buffer in self.own[layer])
        own_key[:, :, self.step], own_value[:, :, self.step] = key[:, :, 0], value[:, :, 0]
        prompt_key, prompt_value = self.prompt[layer]
        query = query * query.shape[-1] ** -0.5
        shared = self._group(query) @ prompt_key  # [B, H, G, P]
        if self.padding is not None:
            shared = shared + self.padding
        scores = torch.cat([self._ungroup(shared), query @ own_key.transpose(-1, -2)], -1)  # [R, H, 1, P + end]
        weights = scores.float().softmax(-1).to(value.dtype)
        prompt_weights, own_weights = weights.split([prompt_key.shape[-1], end], -1)
        seen = self._group(prompt_weights) @ prompt_value.transpose(-1, -2)
        return self._ungroup(seen) + own_weights @ own_value

    def keep(self, index: Tensor) -> None:
        """Keep only the rows `index`, and the prompts that they need."""
        self.own = [tuple(buffer[index] for buffer in pair) for pair in self.own]
        slots = self.slots[index]
        prompts, place = (slots // self.group_size).unique(return_inverse=True)
        self.prompt = [tuple(t[prompts] for t in pair) for pair in self.prompt]
        self.padding = None if self.padding is None else self.padding[prompts]
        self.slots = place * self.group_size + slots % self.group_size

    def _group(self, x: Tensor) -> Tensor:
        """[R, H, 1, X] -> [B, H, G, X], 0 in the place of a dropped row."""
        size = len(self.prompt[0][0]) * self.group_size
        if len(x) < size:
            x = x.new_zeros(size, *x.shape[1:]).index_copy(0, self.slots, x)
        return x.unflatten(0, (-1, self.group_size)).squeeze(3).transpose(1, 2)

    def _ungroup(self, x: Tensor) -> Tensor:
        """[B, H, G, X] -> [R, H, 1, X]."""
        x = x.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        return x[self.slots] if len(self.slots) < len(x) else x


class RMSNorm(nn.Module):
    """Root mean square normalisation with a gain, in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-6)


class Block(nn.Module):
    """Attention with rotary positions, then a SwiGLU network of twice the width (arXiv 2002.05202), both pre-normed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)  # gate and value
        self.mlp_out = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], memory: Memory, index: int) -> Tensor:
        """x [R, T, C]; `index` is this layer's place in `memory`."""
        rows, steps, width = x.shape
        mixed = self.attention_in(self.attention_norm(x)).view(rows, steps, 3, self.heads, -1)
        mixed = mixed.permute(2, 0, 3, 1, 4)  # [3, R, H, T, D]
        query, key = rotate(mixed[:2], cos_sin)
        seen = memory.attend(index, query, key, mixed[2])
        x = x + self.attention_out(seen.transpose(1, 2).reshape(rows, steps, width))
        gate, hidden = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
        return x + self.mlp_out(F.silu(gate) * hidden)


def additive(seen: Tensor) -> Tensor:
    """0 where True, -inf elsewhere: made once, not by the attention of every layer."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """Attention in float32: on a CPU a bfloat16 training step is faster so (backward 0.8 s, not 1.3, 64 rows)."""
    with torch.autocast(query.device.type, enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), seen)


def rotary(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding (arXiv 2104.09864): positions [R, T] -> [R, 1, T, D/2] each."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x [.., R, H, T, D] by its positions, in x's dtype."""
    cos, sin = cos_sin
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
