"""Step-by-step sampling of both streams for many responses at once (paper Eq. 2).

Forced tokens are never sampled: audio blanks during the delay, text blanks after text EOS. A row stops at audio EOS and
then costs nothing once enough rows have stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling
from lightning_paras2s.models.tiny.transformer import StaticMemory

if TYPE_CHECKING:
    from lightning_paras2s.models.tiny.lm import Tables, TinySpeechLM

BLOCK = 64  # ids
COMPACT_BELOW = 0.75  # finished rows leave the cache when fewer than this share of its rows still run


class Rollout:
    """The state of one `generate` call. `rows` maps the running rows of the cache to rows of the batch."""

    def __init__(self, model: TinySpeechLM, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int):
        self.model, self.sampling = model, sampling
        self.tables = cast_heads(model._tables(), prompt.tokens.device.type)
        memory, *last = model._prefill(self.tables, prompt)
        self.text, self.audio = (state[:, 0].repeat_interleave(group_size, 0) for state in last)  # [R, C]
        size, steps = len(prompt) * group_size, sampling.max_steps
        device = prompt.tokens.device
        self.memory = StaticMemory(memory, group_size, steps)
        self.start = prompt.mask.sum(-1).repeat_interleave(group_size, 0)  # [R], position of the first step
        self.noise = torch.zeros(size, 2, steps, device=device) if noise is None else noise.to(device)
        self.rows = torch.arange(size, device=device)
        self.running = torch.ones(size, dtype=torch.bool, device=device)  # in the cache's order
        self.text_open = torch.ones(size, dtype=torch.bool, device=device)
        blanks = torch.tensor([model.streams.text_blank, model.streams.audio_blank], device=device)
        self.tokens = blanks[None, :, None].repeat(size, 1, steps)
        self.actions = torch.zeros(size, 2, steps, dtype=torch.bool, device=device)
        self.logps = torch.zeros(size, 2, steps, device=device)
        self.finished = torch.zeros(size, dtype=torch.bool, device=device)

    @property
    def done(self) -> bool:
        return not bool(self.running.any())

    def choose(self, step: int) -> None:
        """Sample both streams of a step for every running row; forced tokens stay blank."""
        streams = self.model.streams
        self._sample(TEXT, step, self.running & self.text_open)
        if step >= streams.delay:
            self._sample(AUDIO, step, self.running)
        text, audio = self.tokens[self.rows, :, step].unbind(1)
        self.text_open = self.text_open & (text != streams.text_eos)
        ended = self.running & (audio == streams.audio_eos)
        self.finished[self.rows] |= ended
        self.running = self.running & ~ended

    def _sample(self, stream: int, step: int, where: Tensor) -> None:
        """Sample `stream` at `step` in the rows `where` of the cache."""
        state, table = ((self.text, self.tables.text_output), (self.audio, self.tables.audio_output))[stream]
        rows = self.rows[where]
        if len(rows) == 0:
            return
        logits = F.linear(state[where], table).float()
        tokens, logps = draw(logits, self.noise[rows, stream, step], *self.sampling.of(stream))
        self.tokens[rows, stream, step] = tokens
        self.actions[rows, stream, step] = True
        self.logps[rows, stream, step] = logps

    def advance(self, step: int) -> None:
        """Read the step's tokens, after dropping finished rows where that pays."""
        if self.running.sum() < COMPACT_BELOW * len(self.rows):
            self._keep(self.running.nonzero().squeeze(-1))
        x = self.model._embed(self.tables, self.tokens[self.rows, :, step : step + 1])
        self.memory.step = step
        writing = bool((self.running & self.text_open).any())  # else the text branch has nothing more to say
        text, audio = self.model._run(x, (self.start + step).unsqueeze(-1), self.memory, int(writing))
        self.text, self.audio = text[:, 0] if writing else self.text, audio[:, 0]

    def _keep(self, index: Tensor) -> None:
        self.memory.keep(index)
        self.start, self.rows, self.text = self.start[index], self.rows[index], self.text[index]
        self.running, self.text_open = self.running[index], self.text_open[index]

    def completion(self, steps: int) -> Completion:
        return Completion(self.tokens[..., :steps], self.actions[..., :steps], self.finished, self.logps[..., :steps])


def draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`inverse_cdf` and the drawn tokens' log-probabilities from one pass over the logits.

    The CDF is summed up over blocks of ids first, then inside the block that the uniform falls into: a cumulative sum
    over all ids costs more than the rest together. Temperature 0 takes the most likely token; its log-probability is
    that at 1. After a cut, log-probabilities are those among the tokens that are left.

    logits [N, V] float32, uniform [N] -> tokens [N], log-probabilities [N].
    """
    scaled = logits if temperature in (0, 1) else logits / temperature
    if temperature and (0 < top_k < scaled.shape[-1] or top_p < 1):
        scaled = likeliest(scaled, top_k, top_p)
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp_()  # [N, V], the likeliest id's is 1
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


@contextmanager
def cast_once(kind: str) -> Iterator[None]:
    """Under autocast on device type `kind`, cast each weight once for all steps.

    Lightning switches autocast's cache off, since casts made without gradient would be found again by the update; so
    the cache lives for the rollout alone.
    """
    if not torch.is_autocast_enabled(kind):
        yield
        return
    with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=True):
        try:
            yield
        finally:
            torch.clear_autocast_cache()


def cast_heads(tables: Tables, kind: str) -> Tables:
    """The output tables as autocast would cast them at every step."""
    if not torch.is_autocast_enabled(kind):
        return tables
    dtype = torch.get_autocast_dtype(kind)
    return tables._replace(text_output=tables.text_output.to(dtype), audio_output=tables.audio_output.to(dtype))
