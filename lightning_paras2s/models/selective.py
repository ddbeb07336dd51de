"""Log-probabilities of chosen tokens straight from hidden states, in chunks: the [tokens, vocabulary] logits never
exist.

Forward keeps a running log-sum-exp over blocks of the head's rows; backward computes the blocks again. Sums over blocks
are in float32 whatever the weights' type: rounding each block's share to bfloat16 biases the entropy downwards over
training.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TOKEN_CHUNK = 1024
VOCAB_CHUNK = 8192
# Log-probabilities below this count as this (2e-22): at temperatures below 1 most would be denormal numbers, with which
# a CPU's exponentials and products take fifty times as long.
FLOOR = -50.0
Ranges = tuple[tuple[int, int], ...]


def selective_logps(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    ranges: Ranges,
    temperature: float = 1.0,
    token_chunk: int = TOKEN_CHUNK,
    vocab_chunk: int = VOCAB_CHUNK,
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden W^T / temperature)[ids] over the legal rows of W, and the entropy of that distribution.

    Peak memory above the inputs is a few blocks of token_chunk x vocab_chunk float32, for any vocabulary.

    Args:
        hidden: [N, h]. N may be 0: the result is empty and its gradients are zeros, not None (ranks stay in step).
        weight: [V, h], the head.
        ids: [N], int64; each must lie in one of `ranges`.
        ranges: half-open, disjoint row ranges of `weight` that may be drawn; every other id has probability 0.
        temperature: 0 (greedy) is treated as 1.

    Returns:
        log-probabilities [N] and entropies [N], nats, float32, both differentiable.
    """
    blocks = [(a, min(a + vocab_chunk, end)) for start, end in ranges for a in range(start, end, vocab_chunk)]
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden, weight = (t.to(torch.get_autocast_dtype(kind)) for t in (hidden, weight))
    with torch.autocast(kind, enabled=False):
        return _Selective.apply(hidden, weight, ids, blocks, 1.0 / (temperature or 1.0), token_chunk)


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b as float32, from bfloat16 inputs without widening them first.

    A GPU gives the accumulator itself; a CPU has no such kernel and rounds it to bfloat16 once (widening the inputs
    would take four times as long).
    """
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        total += matmul_fp32(a, b)


def legal(ids: Tensor, ranges: Ranges) -> Tensor:
    """Which ids lie in one of the ranges: bool, same shape."""
    inside = torch.zeros_like(ids, dtype=torch.bool)
    for start, end in ranges:
        inside |= (ids >= start) & (ids < end)
    return inside


class _Selective(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, ids, blocks, scale, token_chunk):
        logps, lse, entropy = (hidden.new_zeros(len(hidden), dtype=torch.float32) for _ in range(3))
        for i in range(0, len(hidden), token_chunk):
            rows = slice(i, i + token_chunk)
            logps[rows], lse[rows], entropy[rows] = _forward_rows(hidden[rows], weight, ids[rows], blocks, scale)
        ctx.save_for_backward(hidden, weight, ids, lse, entropy)
        ctx.blocks, ctx.scale, ctx.token_chunk = blocks, scale, token_chunk
        ctx.set_materialize_grads(False)  # an entropy that is only logged then costs nothing here
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logps, grad_entropy):
        """With p = softmax(z): d logp_k/dz = onehot_k - p;  dH/dz_j = -p_j (log p_j + H)."""
        hidden, weight, ids, lse, entropy = ctx.saved_tensors
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        grad_logps = torch.zeros_like(lse) if grad_logps is None else grad_logps
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            for i in range(0, len(hidden), ctx.token_chunk):
                rows = slice(i, i + ctx.token_chunk)
                for a, b in ctx.blocks:
                    log_p = block_logits(hidden[rows], weight[a:b], ctx.scale).sub_(lse[rows, None]).clamp_(min=FLOOR)
                    if grad_entropy is None:
                        grad = log_p.exp_().mul_(-grad_logps[rows, None])
                    else:
                        slope = grad_logps[rows, None] + grad_entropy[rows, None] * (log_p + entropy[rows, None])
                        grad = log_p.exp_().mul_(-slope)
                    here = ((ids[rows] >= a) & (ids[rows] < b)).float() * grad_logps[rows]
                    grad.scatter_add_(1, (ids[rows] - a).clamp(0, b - a - 1)[:, None], here[:, None])
                    grad = (grad if ctx.scale == 1 else grad.mul_(ctx.scale)).to(hidden.dtype)
                    if want_hidden:
                        add_product(grad_hidden[rows], grad, weight[a:b])
                    if want_weight:
                        add_product(grad_weight[a:b], grad.T, hidden[rows])
        grad_hidden = grad_hidden.to(hidden.dtype) if want_hidden else None
        grad_weight = grad_weight.to(weight.dtype) if want_weight else None
        return grad_hidden, grad_weight, None, None, None, None


def block_logits(hidden: Tensor, weight: Tensor, scale: float) -> Tensor:
    """hidden [n, h], rows of the head [v, h] -> scaled logits [n, v], float32, a tensor of its own."""
    z = matmul_fp32(hidden, weight.T)
    return z if scale == 1 else z.mul_(scale)


def _forward_rows(
    hidden: Tensor, weight: Tensor, ids: Tensor, blocks: list, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One chunk of tokens: log-probability, log-sum-exp and entropy, [n] each, by a running maximum over the blocks."""
    n = len(hidden)
    top = hidden.new_full((n,), -torch.inf, dtype=torch.float32)
    total, weighted, chosen = (hidden.new_zeros(n, dtype=torch.float32) for _ in range(3))
    for a, b in blocks:
        z = block_logits(hidden, weight[a:b], scale)
        inside = (ids >= a) & (ids < b)
        chosen = torch.where(inside, z.gather(1, (ids - a).clamp(0, b - a - 1)[:, None])[:, 0], chosen)
        new_top = torch.maximum(top, z.amax(1))
        shrink = (top - new_top).exp()
        e = z.sub_(new_top[:, None]).clamp_(min=FLOOR).exp()
        here = e.sum(1)
        total = total * shrink + here
        weighted = weighted * shrink + e.mul_(z).sum(1) + new_top * here  # sum of e^(logit - top) * logit
        top = new_top
    lse = top + total.log()
    return chosen - lse, lse, lse - weighted / total
