"""One token a row by inverse CDF, from one uniform a row: samples then depend on no batch and no generator's state.
`OwnDraws` seeds what libraries draw, who ask for no uniforms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_paras2s.models.selective import FLOOR

BLOCK = 64  # ids


def draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One token a row from its own uniform, by inverse CDF, and its log-probability, from one pass over the logits.

    The CDF is summed up over blocks of ids first, then inside the block that the uniform falls into: a cumulative sum
    over all ids costs more than the rest together. Temperature 0 takes the most likely token; its log-probability is
    that at 1. After a cut, log-probabilities are those among the tokens that are left.

    logits [N, V] float32, uniform [N] -> tokens [N], log-probabilities [N].
    """
    scaled = logits if temperature in (0, 1) else logits / temperature
    if temperature and (0 < top_k < scaled.shape[-1] or top_p < 1):
        scaled = likeliest(scaled, top_k, top_p)
    below = F.threshold_(scaled - scaled.amax(-1, keepdim=True), FLOOR, -torch.inf)  # no denormal numbers
    weights = below.exp_()  # [N, V], the likeliest id's is 1
    size, whole = weights.shape[-1], weights.shape[-1] // BLOCK
    inner = weights[:, : whole * BLOCK].unflatten(1, (whole, BLOCK)).sum(-1)
    sums = torch.cat([inner, weights[:, whole * BLOCK :].sum(-1, keepdim=True)], -1).double()  # [N, whole + 1]
    upto = sums.cumsum(-1)
    total = upto[:, -1:]
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        target = uniform.double().unsqueeze(-1) * total
        block = torch.searchsorted(upto, target, right=True).clamp(max=whole)
        ids = block * BLOCK + torch.arange(BLOCK, device=block.device)
        inside = weights.gather(1, ids.clamp(max=size - 1)).double().masked_fill(ids >= size, 0).cumsum(-1)
        before = (upto - sums).gather(1, block)
        tokens = block * BLOCK + torch.searchsorted(inside, target - before, right=True).clamp(max=BLOCK - 1)
        tokens = tokens.clamp(max=size - 1)
    return tokens.squeeze(-1), (weights.gather(1, tokens).log() - total.log().float()).squeeze(-1)


def likeliest(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """-inf outside the `top_k` largest (0 = all), of which the fewest that hold `top_p` of their probability are kept,
    the likeliest always: [N, V] -> [N, V]. The same operations at every call, as a CUDA graph needs.
    """
    size = logits.shape[-1]
    values, ids = logits.topk(min(top_k, size) if top_k else size)  # falling
    if top_p < 1:
        shares = values.softmax(-1)
        values = values.masked_fill(shares.cumsum(-1) - shares >= top_p, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, ids, values)


class OwnDraws(TorchFunctionMode):
    """`torch.randn` and `torch.multinomial` draw, within it and in its thread alone, the numbers that they would after
    `torch.manual_seed(seed)`. Torch's own generators, which belong to the whole process, are left as they are.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.generators = seed, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.randn, torch.multinomial):
            device = args[0].device if func is torch.multinomial else torch.device(kwargs.get("device") or "cpu")
            if device not in self.generators:
                self.generators[device] = torch.Generator(device).manual_seed(self.seed)
            kwargs["generator"] = self.generators[device]
        return func(*args, **kwargs)
