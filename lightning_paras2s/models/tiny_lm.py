"""The embedded policy: a small dual-stream transformer with Kimi-Audio's shape (paper Eq. 2; Kimi-Audio, arXiv 2504.18425, section 2).

The streams' embeddings are summed, a shared trunk reads them, and its hidden state forks into a text and an audio branch. One code path
serves training and decoding: a prompt is read once, and the response's steps attend to its keys and values, in training all steps at
once and with gradient, in decoding one by one from a static cache. Departures from Kimi-Audio, all for its size: a tied text head, and
audio embeddings and logits that are a full table plus one term for each FSQ dimension of the code (FSQ: arXiv 2309.15505), so that
codes that sound alike share what they learn.

Axes: R = B*G rows, H heads, D numbers a head, C width, L layers.
"""

from __future__ import annotations

import copy
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.speech_lm import (
    AUDIO,
    TEXT,
    Completion,
    Logps,
    Prompt,
    Sampling,
    SpeechLM,
    Streams,
    inverse_cdf,
)
from lightning_paras2s.models.transformer import Block, PromptMemory, ResponseMemory, RMSNorm, StaticMemory, rotary
from lightning_paras2s.types import UserError

TEXT_BLANK, TEXT_EOS = 0, 1
COMPACT_BELOW = 0.75  # decoding drops finished rows from the cache when fewer than this share of its rows still run


class Tables(NamedTuple):
    """Rows looked up at the input, and rows multiplied at the output: [V, C] each."""

    text_input: Tensor
    audio_input: Tensor
    text_output: Tensor
    audio_output: Tensor


class TinySpeechLM(SpeechLM):
    """A dual-stream decoder-only transformer of about 4 million parameters.

    Audio ids: the codes, then blank, EOS, user_start, user_end, assistant_start; the last three occur in prompts only and have no logit.
    Text ids: 0 = blank, 1 = EOS, the rest is the vocabulary's.

    Args:
        text_vocab_size: number of text ids.
        feature_size: F, numbers a frame of `Prompt.features`.
        levels: levels of each FSQ dimension of the codec; code = mixed-radix number of the dimensions, first fastest.
        width, heads: of every layer; shared_layers, text_layers, audio_layers: trunk and branches.
        delay: steps by which audio trails text.
    """

    def __init__(
        self,
        text_vocab_size: int,
        feature_size: int,
        levels: tuple[int, ...] = (8, 8, 8, 8),
        width: int = 192,
        heads: int = 6,
        shared_layers: int = 4,
        text_layers: int = 1,
        audio_layers: int = 2,
        delay: int = 2,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise UserError(f"width must be a multiple of 2 * heads; got width {width}, heads {heads}; change one of them")
        self.settings = {
            "text_vocab_size": text_vocab_size,
            "feature_size": feature_size,
            "levels": list(levels),
            "width": width,
            "heads": heads,
            "shared_layers": shared_layers,
            "text_layers": text_layers,
            "audio_layers": audio_layers,
            "delay": delay,
        }
        self.codes = prod(levels)
        self.streams = Streams(TEXT_BLANK, TEXT_EOS, self.codes, self.codes + 1, delay)
        self.heads, self.shared_layers, self.text_layers = heads, shared_layers, text_layers

        self.text_table = nn.Parameter(torch.empty(text_vocab_size, width))
        self.audio_table = nn.Parameter(torch.empty(self.codes + 5, width))
        self.input_levels = nn.Parameter(torch.empty(sum(levels), width))
        self.output_levels = nn.Parameter(torch.empty(sum(levels), width))
        self.register_buffer("code_levels", level_rows(levels), persistent=False)  # [codes, dimensions]
        # Each stream is normalised before the sum: with scales left to themselves the audio drowns the text, and the query is ignored.
        self.text_scale, self.audio_scale = RMSNorm(width), RMSNorm(width)
        self.adaptor = nn.Sequential(
            nn.Linear(feature_size, width), nn.GELU(), nn.Linear(width, width, bias=False), RMSNorm(width)
        )
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(shared_layers + text_layers + audio_layers))
        self.text_norm, self.audio_norm = RMSNorm(width), RMSNorm(width)
        self._initialise()

    def _initialise(self) -> None:
        width, depth = self.settings["width"], len(self.layers)
        for table in (self.text_table, self.audio_table, self.input_levels, self.output_levels):
            nn.init.normal_(table, std=0.5 * width**-0.5)  # logits of about .5, so a first loss near log V
        for layer in self.layers:
            for linear in (layer.attention_out, layer.mlp_out):
                nn.init.normal_(linear.weight, std=(linear.in_features * 2 * depth) ** -0.5)

    @property
    def user_start(self) -> int:
        return self.codes + 2

    @property
    def user_end(self) -> int:
        return self.codes + 3

    @property
    def assistant_start(self) -> int:
        return self.codes + 4

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """See `SpeechLM.forward`: [R, T, V_text] and [R, T, codes + 2], float32."""
        tables = self._tables()
        text, audio = self._hidden(tables, prompt, completion)
        return F.linear(text, tables.text_output).float(), F.linear(audio, tables.audio_output).float()

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        """See `SpeechLM.logps`. Logits exist only where there is an action. A temperature of 0 counts as 1."""
        tables = self._tables()
        hidden = self._hidden(tables, prompt, completion)
        scores = []
        for stream, table, temperature in (
            (TEXT, tables.text_output, sampling.text_temperature),
            (AUDIO, tables.audio_output, sampling.audio_temperature),
        ):
            where = completion.actions[:, stream]  # [R, T]
            logits = F.linear(hidden[stream][where], table)  # [actions, V]
            values, entropy = token_logps(logits, completion.tokens[:, stream][where], temperature)
            zeros = values.new_zeros(where.shape)
            scores.append((zeros.masked_scatter(where, values), zeros.masked_scatter(where, entropy)))
        return Logps(*(torch.stack(pair, 1) for pair in zip(*scores, strict=True)))

    @torch.no_grad()
    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        """See `SpeechLM.generate`. The result is as long as its longest row.

        Recorded log-probabilities are at the sampling temperature; greedy tokens (temperature 0) have them at temperature 1.

        Raises:
            UserError: if a temperature is not 0 and there is no noise.
        """
        sampled = sampling.text_temperature != 0 or sampling.audio_temperature != 0
        if noise is None and sampled:
            raise UserError("sampling must have noise unless both temperatures are 0; got None; pass sampling_noise(...)")
        rollout = _Rollout(self, prompt, sampling, noise, group_size)
        for step in range(sampling.max_steps):
            rollout.choose(step)
            if rollout.done or step + 1 == sampling.max_steps:
                break
            rollout.advance(step)
        return rollout.completion(step + 1)

    def reference(self) -> TinySpeechLM:
        """A frozen copy in eval mode."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write weights and constructor arguments as safetensors, whole or not at all."""
        save_module(self, path, dtype)

    @classmethod
    def load(cls, path: str | Path) -> TinySpeechLM:
        """Raises UserError if the file is missing, broken, or of another model or version."""
        return load_module(cls, path)

    def _tables(self) -> Tables:
        """Full rows plus FSQ terms. Terms of the head are linear in the hidden state too, so they are added to the table, not to the logits."""
        special = self.audio_table[self.codes :]
        codes = self.audio_table[: self.codes]
        audio_input = torch.cat([codes + F.embedding(self.code_levels, self.input_levels).sum(1), special])
        audio_output = torch.cat([codes + F.embedding(self.code_levels, self.output_levels).sum(1), special[:2]])
        return Tables(self.text_scale(self.text_table), self.audio_scale(audio_input), self.text_table, audio_output)

    def _embed(self, tables: Tables, tokens: Tensor) -> Tensor:
        """[R, 2, T] -> [R, T, C]."""
        return F.embedding(tokens[:, TEXT], tables.text_input) + F.embedding(tokens[:, AUDIO], tables.audio_input)

    def _run(self, x: Tensor, positions: Tensor, memory, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Trunk and branches: x [R, T, C] at `positions` [R, T] -> normed text and audio states, [R, T, C]."""
        cos_sin = rotary(positions, self.settings["width"] // self.heads)
        fork = self.shared_layers + self.text_layers
        for index in range(self.shared_layers):
            x = self.layers[index](x, cos_sin, memory, index, mask)
        text = audio = x
        for index in range(self.shared_layers, fork):
            text = self.layers[index](text, cos_sin, memory, index, mask)
        for index in range(fork, len(self.layers)):
            audio = self.layers[index](audio, cos_sin, memory, index, mask)
        return self.text_norm(text), self.audio_norm(audio)

    def _prefill(self, tables: Tables, prompt: Prompt) -> tuple[PromptMemory, Tensor, Tensor]:
        """Read the prompt: its keys and values, and the text and audio states of its last position, [B, 1, C]."""
        x = self._embed(tables, prompt.tokens)
        if prompt.features is not None:
            x = x + self.adaptor(prompt.features) * prompt.features_mask.unsqueeze(-1)
        size = prompt.tokens.shape[-1]
        causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        # Padding attends to itself only: a row of all False would be NaN, also in the gradient.
        itself = torch.eye(size, dtype=torch.bool, device=x.device)
        mask = (causal & prompt.mask[:, None, None]) | itself  # [B, 1, P, P]
        memory = PromptMemory([])
        text, audio = self._run(x, (prompt.mask.cumsum(-1) - 1).clamp(min=0), memory, mask)
        return memory, text[:, -1:], audio[:, -1:]

    def _hidden(self, tables: Tables, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """States that predict each response step, text and audio, [R, T, C]: of the prompt's last position and of steps 0..T-2."""
        group_size = len(completion) // len(prompt)
        memory, *last = self._prefill(tables, prompt)
        text, audio = (state.repeat_interleave(group_size, 0) for state in last)
        steps = completion.tokens.shape[-1] - 1
        if steps == 0:
            return text, audio
        causal = torch.ones(steps, steps, dtype=torch.bool, device=text.device).tril()
        seen = prompt.mask.repeat_interleave(group_size, 0)  # [R, P]
        mask = torch.cat(
            [seen[:, None, None].expand(-1, 1, steps, -1), causal.expand(len(seen), 1, -1, -1)], -1
        )  # [R, 1, T-1, P+T-1]
        positions = seen.sum(-1, keepdim=True) + torch.arange(steps, device=text.device)
        x = self._embed(tables, completion.tokens[..., :-1])
        later = self._run(x, positions, ResponseMemory(memory, group_size), mask)
        return torch.cat([text, later[0]], 1), torch.cat([audio, later[1]], 1)


class _Rollout:
    """The state of one `generate` call. `rows` maps the running rows of the cache to rows of the batch."""

    def __init__(self, model: TinySpeechLM, prompt: Prompt, sampling: Sampling, noise: Tensor | None, group_size: int):
        self.model, self.sampling = model, sampling
        self.tables = model._tables()
        memory, *last = model._prefill(self.tables, prompt)
        self.text, self.audio = (state[:, 0].repeat_interleave(group_size, 0) for state in last)  # [R, C]
        size, steps = len(prompt) * group_size, sampling.max_steps
        device = prompt.tokens.device
        self.memory = StaticMemory(memory, group_size, steps)
        self.mask = F.pad(prompt.mask.repeat_interleave(group_size, 0), (0, steps), value=True)[:, None, None]
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
        self.logps[rows, stream, step] = token_logps(logits, tokens, temperature).values

    def advance(self, step: int) -> None:
        """Read the step's tokens, after dropping finished rows where that pays."""
        if self.running.sum() < COMPACT_BELOW * len(self.rows):
            self._keep(self.running.nonzero().squeeze(-1))
        x = self.model._embed(self.tables, self.tokens[self.rows, :, step : step + 1])
        mask = self.mask[..., : self.memory.prompt_size + step + 1]
        self.memory.step = step
        text, audio = self.model._run(x, (self.start + step).unsqueeze(-1), self.memory, mask)
        self.text, self.audio = text[:, 0], audio[:, 0]

    def _keep(self, index: Tensor) -> None:
        self.memory.keep(index)
        self.mask, self.start, self.rows = self.mask[index], self.start[index], self.rows[index]
        self.running, self.text_open = self.running[index], self.text_open[index]

    def completion(self, steps: int) -> Completion:
        return Completion(
            self.tokens[..., :steps], self.actions[..., :steps], self.finished, self.logps[..., :steps]
        )


class TokenLogps(NamedTuple):
    """Log-probability of the chosen tokens, and entropy of their distributions."""

    values: Tensor
    entropy: Tensor


def token_logps(logits: Tensor, tokens: Tensor, temperature: float) -> TokenLogps:
    """logits [N, V], tokens [N] -> [N] each, in float32, at `temperature` (0 counts as 1)."""
    logits = logits.float() / (temperature or 1.0)
    total = logits.logsumexp(-1)
    values = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - total
    return TokenLogps(values, total - (logits.softmax(-1) * logits).sum(-1))


def level_rows(levels: tuple[int, ...]) -> Tensor:
    """[codes, dimensions]: the rows of each code's levels in a table that lists the levels of all dimensions one after another."""
    codes = torch.arange(prod(levels))
    rows, radix, offset = [], 1, 0
    for level in levels:
        rows.append(codes // radix % level + offset)
        radix, offset = radix * level, offset + level
    return torch.stack(rows, -1)
