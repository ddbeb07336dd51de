"""A pre-norm transformer layer (LLaMA's: arXiv 2302.13971) whose keys and values live in a memory that is passed in.

The two memories make reading a prompt and training on its responses one code path; sampling has its own (`fused.py`).
A layer computes positions that are there, one below another, whichever rows they are of; only attention sees rows.
Axes: N positions, R rows, H heads, T positions of a row, D numbers a head, C = H * D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPSILON = 1e-6  # of the norms


class Memory(ABC):
    """Keys and values of every layer, and who may see them."""

    @abstractmethod
    def attend(self, layer: int, mixed: Tensor) -> Tensor:
        """Take a layer's new queries, keys and values, [N, 3, H, D]; return what the queries see, [N, C]."""


class PromptMemory(Memory):
    """Reads left-padded prompts, mask [B, P], N = B * P, and keeps their keys and values, [B, H, P, D] a layer, with
    gradient."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self.layers: list[tuple[Tensor, Tensor]] = []
        causal = torch.ones(2 * mask.shape[-1:], dtype=torch.bool, device=mask.device).tril()
        # Padding attends to itself only: a row that sees nothing would be NaN, also in the gradient.
        self.seen = additive((causal & mask[:, None, None]) | causal & causal.T)  # [B, 1, P, P]

    def attend(self, layer: int, mixed: Tensor) -> Tensor:
        assert layer == len(self.layers)
        query, key, value = by_head(mixed.unflatten(0, self.mask.shape))
        self.layers.append((key, value))
        return attention(query, key, value, self.seen)


class ResponseMemory(Memory):
    """G responses a prompt, all steps at once, with gradient: they see the prompt, then their own steps so far.

    Args:
        there: [R, T], True = a step that is read, each row's first ones; N of them.
    """

    def __init__(self, prompt: PromptMemory, group_size: int, there: Tensor) -> None:
        self.prompt, self.group_size, self.shape = prompt, group_size, there.shape
        self.places = there.flatten().nonzero().squeeze(-1)  # [N]
        steps, mask = there.shape[1], prompt.mask.repeat_interleave(group_size, 0)[:, None, None]  # [R, 1, 1, P]
        causal = torch.ones(steps, steps, dtype=torch.bool, device=mask.device).tril()
        self.seen = additive(torch.cat([mask.expand(-1, 1, steps, -1), causal.expand(len(mask), 1, -1, -1)], -1))

    def attend(self, layer: int, mixed: Tensor) -> Tensor:
        # Nobody sees the steps that are left out: they lie behind their rows' ends.
        rows = mixed.new_zeros(self.shape.numel(), *mixed.shape[1:]).index_copy(0, self.places, mixed)
        query, key, value = by_head(rows.unflatten(0, self.shape))
        past_key, past_value = self.prompt.layers[layer]
        key, value = self._after(past_key, key), self._after(past_value, value)
        return attention(query, key, value, self.seen).index_select(0, self.places)

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
        return _Normalise.apply(x.float(), self.weight)


class _Normalise(torch.autograd.Function):
    """torch has no fused RMS norm on a CPU: this makes half as many passes over x, and keeps one tensor of its size."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        width = x.shape[-1]
        floor = x.new_tensor((width * EPSILON) ** 0.5)
        scale = width**0.5 / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        """With u = s x, s = 1 / rms(x): dL/dx = s (g w - u mean(g w u)), dL/dw = sum of g u over the rows."""
        unit, scale, weight = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            along = grad * unit
            slope = (along @ weight / len(weight)).unsqueeze(-1)
            to_x = torch.addcmul(grad * weight, unit, slope, value=-1).mul_(scale)
        return to_x, along.flatten(0, -2).sum(0)


class _Turn(torch.autograd.Function):
    """Rotary positions: queries and keys of mixed [N, 3, H, D] times `turn` [N, 1, 1, D/2], in place."""

    @staticmethod
    def forward(ctx, mixed: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        ctx.mark_dirty(mixed)
        as_complex(mixed).mul_(turn)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        as_complex(grad).mul_(ctx.saved_tensors[0].conj())
        return grad, None


class _GatedUnit(torch.autograd.Function):
    """silu(gate) * value of their concatenation [.., 2 N]; both are computed again for the gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        """With s = sigmoid(g): d silu / dg = s (1 + g (1 - s))."""
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, -1)
        result = torch.empty_like(x)
        to_gate, to_value = result.chunk(2, -1)
        share = torch.sigmoid(gate)
        torch.mul(gate, share, out=to_value)
        torch.addcmul(share, to_value, 1 - share, out=to_gate)
        to_gate.mul_(value).mul_(grad)
        to_value.mul_(grad)
        return result


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

    def forward(self, x: Tensor, turn: Tensor, memory: Memory, index: int) -> Tensor:
        """x [N, C], `turn` [N, 1, D/2] as `turns` gives; `index` is this layer's place in `memory`."""
        mixed = F.linear(self.attention_norm(x), self.paired()).float().view(len(x), 3, self.heads, -1)
        x = x + self.attention_out(memory.attend(index, _Turn.apply(mixed, turn.unsqueeze(1))))
        return x + self.mlp_out(_GatedUnit.apply(self.mlp_in(self.mlp_norm(x))))

    def paired(self) -> Tensor:
        """`attention_in`'s weight [3C, C], in which the two numbers of a query or key that a position turns (the i-th
        and the one D/2 behind it) are neighbours: a complex number.
        """
        weight = self.attention_in.weight.unflatten(0, (3, self.heads, 2, -1))  # [3, H, 2, D/2, C]
        return torch.cat([weight[:2].transpose(3, 2).flatten(0, 3), weight[2].flatten(0, 2)])


def by_head(mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [R, H, T, D] of mixed [R, T, 3, H, D]."""
    return mixed.permute(2, 0, 3, 1, 4).unbind(0)


def additive(seen: Tensor) -> Tensor:
    """0 where True, -inf elsewhere: made once, not by the attention of every layer."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """What queries [R, H, T, D] see, [R * T, C]. In float32: on a CPU a bfloat16 training step is faster so (backward
    0.8 s, not 1.3, 64 rows)."""
    with torch.autocast(query.device.type, enabled=False):
        found = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), seen)
    return found.transpose(1, 2).flatten(2).flatten(0, 1)


def turns(positions: Tensor, size: int) -> Tensor:
    """Rotary positions [...] as complex numbers of length 1, [..., 1, D/2] (arXiv 2104.09864)."""
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions[..., None, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def as_complex(mixed: Tensor) -> Tensor:
    """The queries and keys of mixed [.., 3, H, D] as complex numbers [.., 2, H, D/2], a view."""
    return torch.view_as_complex(mixed[..., :2, :, :].unflatten(-1, (-1, 2)))
