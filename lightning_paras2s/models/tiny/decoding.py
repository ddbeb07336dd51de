"""Step-by-step sampling of both streams for many responses at once (paper Eq. 2).

Forced tokens are never sampled: audio blanks during the delay, text blanks after text EOS. A row stops at audio EOS and
then costs nothing once enough rows have stopped.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.sampling import draw
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling, SpeechLM
from lightning_paras2s.models.tiny.fused import Attend, FusedTrunk, StaticMemory, after_norm, unit
from lightning_paras2s.models.tiny.transformer import turns

COMPACT_BELOW = 0.75  # finished rows leave the cache when fewer than this share of its rows still run


class Rollout:
    """The state of one `generate` call. `rows` maps the running rows of the cache to rows of the batch."""

    def __init__(self, model: SpeechLM, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int):
        self.model, self.sampling = model, sampling
        size, steps, device = len(prompt) * group_size, sampling.max_steps, prompt.tokens.device
        kind = device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        tables = model._tables()
        x = model._prompt_embedding(tables, prompt).float()  # [B, P, C]
        with torch.autocast(kind, enabled=False):
            self.trunk = FusedTrunk(list(model.layers), dtype)
            self.text_input, self.audio_input = tables.text_input, tables.audio_input
            temperatures = sampling.text_temperature or 1.0, sampling.audio_temperature or 1.0
            norms = (tables.text_output, model.text_norm), (tables.audio_output, model.audio_norm)
            self.heads = [
                (after_norm(table, norm.weight) / temperature).to(dtype).t().contiguous()  # [C, V]
                for (table, norm), temperature in zip(norms, temperatures, strict=True)
            ]
            self.memory = StaticMemory(prompt.mask, group_size, steps, len(model.layers), dtype)
            head_size = x.shape[-1] // model.heads
            positions = (prompt.mask.cumsum(-1) - 1).clamp(min=0)  # [B, P]
            states = self._run(x.flatten(0, 1), turns(positions, head_size).flatten(0, 1), self.memory.read, True)
            self.states = [s.view_as(x)[:, -1].repeat_interleave(group_size, 0) for s in states]  # [R, C] a stream
            start = prompt.mask.sum(-1).repeat_interleave(group_size, 0)  # [R], position of the first step
            self.turns = turns(start[:, None] + torch.arange(steps, device=device), head_size)  # [R, T, 1, D/2]
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
        temperature, *cut = self.sampling.of(stream)
        state, rows, head = self.states[stream], self.rows, self.heads[stream]
        if not bool(where.all()):
            index = where.nonzero().squeeze(-1)
            state, rows = state[index], rows[index]
        if len(rows) == 0:
            return
        logits = (unit(state).to(head.dtype) @ head).float()
        tokens, logps = draw(logits, self.noise[rows, stream, step], float(temperature > 0), *cut)  # the head is scaled
        self.tokens[rows, stream, step] = tokens
        self.actions[rows, stream, step] = True
        self.logps[rows, stream, step] = logps

    def advance(self, step: int) -> None:
        """Read the step's tokens, after dropping finished rows where that pays."""
        if self.running.sum() < COMPACT_BELOW * len(self.rows):
            self._keep(self.running.nonzero().squeeze(-1))
        text, audio = self.tokens[self.rows, :, step].unbind(1)
        x = F.embedding(text, self.text_input) + F.embedding(audio, self.audio_input)
        self.memory.step = step
        writing = bool((self.running & self.text_open).any())  # else the text branch has nothing more to say
        with torch.autocast(x.device.type, enabled=False):
            self.states = self._run(x.float(), self.turns[:, step], self.memory.attend, writing)

    def _run(self, x: Tensor, turn: Tensor, attend: Attend, writing: bool) -> list[Tensor]:
        """Trunk and branches over x [N, C]: the text and the audio states, before their norms."""
        shared, text, audio = self.model.parts
        x = self.trunk.run(x, turn, shared, attend)
        words = self.trunk.run(x, turn, text, attend) if writing else x
        return [words, self.trunk.run(x, turn, audio, attend)]

    def _keep(self, index: Tensor) -> None:
        self.memory.keep(index)
        self.turns, self.rows = self.turns[index], self.rows[index]
        self.running, self.text_open = self.running[index], self.text_open[index]

    def completion(self, steps: int) -> Completion:
        return Completion(self.tokens[..., :steps], self.actions[..., :steps], self.finished, self.logps[..., :steps])
