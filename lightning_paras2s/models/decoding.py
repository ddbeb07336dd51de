"""Step-by-step sampling of both streams for many responses at once (paper Eq. 2), and log-probabilities of tokens.

Forced tokens are never sampled: audio blanks during the delay, text blanks after text EOS. A row stops at audio EOS and
then costs nothing once enough rows have stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling, inverse_cdf
from lightning_paras2s.models.transformer import StaticMemory

if TYPE_CHECKING:
    from lightning_paras2s.models.tiny_lm import TinySpeechLM

COMPACT_BELOW = 0.75  # finished rows leave the cache when fewer than this share of its rows still run


class Rollout:
    """The state of one `generate` call. `rows` maps the running rows of the cache to rows of the batch."""

    def __init__(self, model: TinySpeechLM, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int):
        self.model, self.sampling = model, sampling
        self.tables = model._tables()
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
        temperature = (self.sampling.text_temperature, self.sampling.audio_temperature)[stream]
        rows = self.rows[where]
        if len(rows) == 0:
            return
        logits = F.linear(state[where], table).float()
        tokens = inverse_cdf(logits, self.noise[rows, stream, step], temperature)
        self.tokens[rows, stream, step] = tokens
        self.actions[rows, stream, step] = True
        self.logps[rows, stream, step] = token_logps(logits, tokens, temperature)[0]

    def advance(self, step: int) -> None:
        """Read the step's tokens, after dropping finished rows where that pays."""
        if self.running.sum() < COMPACT_BELOW * len(self.rows):
            self._keep(self.running.nonzero().squeeze(-1))
        x = self.model._embed(self.tables, self.tokens[self.rows, :, step : step + 1])
        self.memory.step = step
        text, audio = self.model._run(x, (self.start + step).unsqueeze(-1), self.memory)
        self.text, self.audio = text[:, 0], audio[:, 0]

    def _keep(self, index: Tensor) -> None:
        self.memory.keep(index)
        self.start, self.rows = self.start[index], self.rows[index]
        self.running, self.text_open = self.running[index], self.text_open[index]

    def completion(self, steps: int) -> Completion:
        return Completion(self.tokens[..., :steps], self.actions[..., :steps], self.finished, self.logps[..., :steps])


def token_logps(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of the chosen tokens and all log-probabilities, in float32, at `temperature` (0 counts as 1).

    logits [N, V], tokens [N] -> [N], [N, V].
    """
    logits = logits.float() if temperature in (0, 1) else logits.float() / temperature
    every = logits.log_softmax(-1)
    return every.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), every


@torch.no_grad()
def entropies(every: Tensor) -> Tensor:
    """Entropy in nats of log-probabilities [N, V] -> [N]."""
    return -every.exp().mul_(every).sum(-1)
