"""A pre-norm transformer layer (LLaMA's: arXiv 2302.13971) whose keys and values live in a memory that is passed in.

The two memories make reading a prompt and training on its responses one code path; sampling has its own (`fused.py`).
Axes: R rows, H heads, T positions, D numbers a head, C = H * D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6  # of the norms


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


class RMSNorm(nn.Module):
    """Root mean square normalisation with a gain, in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPSILON)


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
