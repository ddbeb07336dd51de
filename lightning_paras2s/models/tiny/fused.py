"""The policy's layers for sampling: the numbers of `transformer.Block` in fewer operations (25 a layer and step that
touch memory; 41 the plain way), without gradient.

At these sizes a decoding step waits for its operations, not for their arithmetic. So everything that is the same at
every step is done once a rollout: a norm's gain, the attention's scale and (outside) a temperature go into the next
matrix; matrices are transposed as a product reads them; the two numbers that a rotary position turns lie side by side,
which makes the turn one complex product; all steps' turns are one table.

Axes: N rows or positions, R = B*G rows, H heads, P prompt positions, T steps, D numbers a head, C = H * D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.tiny.transformer import EPSILON, Block, additive, as_complex

# Takes a layer's number and its queries (scaled), keys and values, [N, 3, H, D]; returns what the queries see, [N, C].
Attend = Callable[[int, Tensor], Tensor]


class FusedLayer(NamedTuple):
    """A block's matrices, each [in, out], the norms' gains within."""

    attention_in: Tensor
    attention_out: Tensor
    mlp_in: Tensor
    mlp_out: Tensor


def fuse(block: Block, dtype: torch.dtype) -> FusedLayer:
    width = block.attention_out.in_features
    mixed = after_norm(block.paired(), block.attention_norm.weight)
    mixed[:width] *= (width // block.heads) ** -0.5  # the attention's scale
    mlp_in = after_norm(block.mlp_in.weight, block.mlp_norm.weight)
    rest = (block.attention_out.weight, mlp_in, block.mlp_out.weight)
    return FusedLayer(*(weight.to(dtype).t().contiguous() for weight in (mixed, *rest)))


def after_norm(weight: Tensor, gain: Tensor) -> Tensor:
    """weight [out, C] of a product that follows an RMS norm with `gain` [C], to follow `unit` instead."""
    return weight * (gain * len(gain) ** 0.5)


def unit(x: Tensor) -> Tensor:
    """x [N, C] over its length: an RMS norm without its gain and the factor sqrt(C)."""
    floor = x.new_tensor((x.shape[-1] * EPSILON) ** 0.5)
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def add_product(x: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """x + a @ weight, x in float32."""
    return torch.addmm(x, a, weight) if x.dtype == weight.dtype else x + a.to(weight.dtype) @ weight


class FusedTrunk:
    """Layers of a policy as they are now, in `dtype`; activations between them are float32."""

    def __init__(self, layers: list[Block], dtype: torch.dtype) -> None:
        self.layers, self.heads, self.dtype = [fuse(layer, dtype) for layer in layers], layers[0].heads, dtype

    def run(self, x: Tensor, turn: Tensor, indices: range, attend: Attend) -> Tensor:
        """Layers `indices` over x [N, C] at positions `turn` [N, 1, D/2]."""
        rows = len(x)
        for index in indices:
            layer = self.layers[index]
            mixed = (unit(x).to(self.dtype) @ layer.attention_in).float()
            mixed = mixed.view(rows, 3, self.heads, -1)
            as_complex(mixed).mul_(turn.unsqueeze(1))
            x = add_product(x, attend(index, mixed), layer.attention_out)
            gate, hidden = (unit(x).to(self.dtype) @ layer.mlp_in).chunk(2, -1)
            x = add_product(x, F.silu(gate).mul_(hidden), layer.mlp_out)
        return x


class StaticMemory:
    """Keys and values of B prompts and of their B*G rows' steps, in buffers that are allocated once.

    A prompt's keys are read once for its G queries, 2 to 5 times faster on a CPU than a copy a row. `slots` [R] is a
    row's place among the B*G; rows can be dropped by `keep`. `mask` [B, P], True = a real position.
    """

    def __init__(self, mask: Tensor, group_size: int, max_steps: int, layers: int, dtype: torch.dtype) -> None:
        self.mask, self.group_size, self.max_steps, self.dtype = mask, group_size, max_steps, dtype
        causal = torch.ones(2 * mask.shape[-1:], dtype=torch.bool, device=mask.device).tril()
        # Padding attends to itself only: a row that sees nothing would be NaN.
        self.seen = additive((causal & mask[:, None, None]) | causal & causal.T)  # [B, 1, P, P]
        padding = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
        self.padding = None if bool(mask.all()) else padding[:, None, None].to(dtype)  # [B, 1, 1, P]
        self.prompt: list[tuple[Tensor, Tensor]] = [()] * layers  # keys [B, H, D, P] and values [B, H, P, D]
        self.own: list[Tensor] = [mask.new_empty(0)] * layers  # [2, R, H, max_steps, D]
        self.slots = torch.arange(len(mask) * group_size, device=mask.device)
        self.full, self.step = True, 0

    def read(self, layer: int, mixed: Tensor) -> Tensor:
        """`Attend` of whole prompts, N = B * P; keeps their keys and values."""
        rows, length = self.mask.shape
        query, key, value = mixed.unflatten(0, (rows, length)).permute(2, 0, 3, 1, 4)  # [B, H, P, D] each
        self.prompt[layer] = (key.transpose(2, 3).to(self.dtype).contiguous(), value.to(self.dtype).contiguous())
        heads, size = query.shape[1], query.shape[3]
        own = (2, rows * self.group_size, heads, self.max_steps, size)
        self.own[layer] = torch.empty(own, dtype=self.dtype, device=query.device)
        seen = F.scaled_dot_product_attention(query, key, value, self.seen, scale=1.0)
        return seen.transpose(1, 2).reshape(rows * length, heads * size)

    def attend(self, layer: int, mixed: Tensor) -> Tensor:
        """`Attend` of the rows' step number `step`, N = R."""
        rows, _, heads, size = mixed.shape
        own, (prompt_key, prompt_value), end = self.own[layer], self.prompt[layer], self.step + 1
        own[:, :, :, self.step] = mixed[:, 1:].transpose(0, 1)
        query = mixed[:, 0].to(self.dtype)
        own_key, own_value = own.flatten(1, 2)[:, :, :end]  # [R*H, end, D]
        shared = torch.matmul(self._group(query), prompt_key)  # [B, H, G, P]
        if self.padding is not None:
            shared += self.padding
        scores = torch.bmm(query.reshape(rows * heads, 1, size), own_key.transpose(1, 2)).view(rows, heads, end)
        weights = torch.cat([self._ungroup(shared), scores], -1).float().softmax(-1).to(self.dtype)  # [R, H, P + end]
        width = prompt_key.shape[-1]
        seen = self._ungroup(torch.matmul(self._group(weights[..., :width]), prompt_value))  # [R, H, D]
        mine = weights[..., width:].view(rows * heads, 1, end)
        return torch.baddbmm(seen.reshape(rows * heads, 1, size), mine, own_value).view(rows, heads * size)

    def keep(self, index: Tensor) -> None:
        """Keep only the rows `index`, and the prompts that they need."""
        self.own = [buffer[:, index] for buffer in self.own]
        slots = self.slots[index]
        prompts, place = (slots // self.group_size).unique(return_inverse=True)
        if len(prompts) < len(self.prompt[0][0]):
            self.prompt = [tuple(t[prompts] for t in pair) for pair in self.prompt]
            self.padding = None if self.padding is None else self.padding[prompts]
        self.slots = place * self.group_size + slots % self.group_size
        self.full = len(self.slots) == len(prompts) * self.group_size

    def _group(self, x: Tensor) -> Tensor:
        """[R, H, X] -> [B, H, G, X], 0 in the place of a dropped row."""
        if not self.full:
            size = len(self.prompt[0][0]) * self.group_size
            x = x.new_zeros(size, *x.shape[1:]).index_copy_(0, self.slots, x)
        return x.unflatten(0, (-1, self.group_size)).transpose(1, 2)

    def _ungroup(self, x: Tensor) -> Tensor:
        """[B, H, G, X] -> [R, H, X]."""
        x = x.transpose(1, 2).flatten(0, 1)
        return x if self.full else x[self.slots]
