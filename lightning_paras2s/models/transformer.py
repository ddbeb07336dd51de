"""A pre-norm transformer layer whose keys and values live in a memory that the caller chooses (LLaMA's layer: arXiv 2302.13971).

The three memories make reading a prompt, training on responses and decoding step by step one code path.
Axes: R rows, H heads, T positions, D numbers a head, C = H * D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(Protocol):
    """Keys and values of every layer."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take the layer's new keys and values, [R, H, T, D]; return all that its queries may see, [R, H, S, D]."""


@dataclass
class PromptMemory:
    """Collects the prompt's keys and values, [B, H, P, D] a layer, with gradient."""

    layers: list[tuple[Tensor, Tensor]]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        assert layer == len(self.layers)
        self.layers.append((key, value))
        return key, value


@dataclass
class ResponseMemory:
    """The prompt's keys and values, shared by its G responses, before a response's own: all steps at once, with gradient."""

    prompt: PromptMemory
    group_size: int

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        past = (t.repeat_interleave(self.group_size, 0) for t in self.prompt.layers[layer])
        return tuple(torch.cat(pair, 2) for pair in zip(past, (key, value), strict=True))


class StaticMemory:
    """A cache of fixed size for decoding: the prompt, then `max_steps` steps. `step` says where the next keys and values go."""

    def __init__(self, prompt: PromptMemory, group_size: int, max_steps: int) -> None:
        self.prompt_size, self.step = prompt.layers[0][0].shape[2], 0
        self.layers = [
            tuple(F.pad(t.repeat_interleave(group_size, 0), (0, 0, 0, max_steps)) for t in pair) for pair in prompt.layers
        ]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        end = self.prompt_size + self.step
        for cache, new in zip(self.layers[layer], (key, value), strict=True):
            cache[:, :, end] = new[:, :, 0]
        return tuple(cache[:, :, : end + 1] for cache in self.layers[layer])

    def keep(self, index: Tensor) -> None:
        """Keep only the rows `index`."""
        self.layers = [tuple(cache[index] for cache in pair) for pair in self.layers]


class RMSNorm(nn.Module):
    """Root mean square normalisation with a gain, in float32 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-6)


class Block(nn.Module):
    """Attention with rotary positions, then a SwiGLU network of twice the width (arXiv 2002.05202), both on the normed residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)  # gate and value
        self.mlp_out = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor], memory: Memory, index: int, mask: Tensor | None) -> Tensor:
        """x [R, T, C]; `mask` [R, 1, T, S], True = may be seen; `index` is this layer's place in `memory`."""
        rows, steps, width = x.shape
        mixed = self.attention_in(self.attention_norm(x)).view(rows, steps, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # [R, H, T, D]
        key, value = memory.extend(index, rotate(key, cos_sin), value)
        seen = F.scaled_dot_product_attention(rotate(query, cos_sin), key, value, mask)
        x = x + self.attention_out(seen.transpose(1, 2).reshape(rows, steps, width))
        gate, hidden = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
        return x + self.mlp_out(F.silu(gate) * hidden)


def rotary(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding (arXiv 2104.09864): positions [R, T] -> [R, 1, T, D/2] each."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Turn x [R, H, T, D] by its positions, in x's dtype."""
    cos, sin = cos_sin
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
