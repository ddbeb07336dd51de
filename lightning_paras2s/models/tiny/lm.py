"""The embedded policy: a small dual-stream transformer like Kimi-Audio (paper Eq. 2; arXiv 2504.18425, section 2).

The streams' embeddings are summed, a shared trunk reads them, and its hidden state forks into a text and an audio
branch. A prompt is read once, and the response's steps attend to its keys and values, in training all steps at once and
with gradient, in decoding (`decoding.py`) one by one from a static cache. Departures from
Kimi-Audio, all for its size: a tied text head, and audio embeddings and logits that are a full table plus one term for
each FSQ dimension of the code (FSQ: arXiv 2309.15505), so that codes that sound alike share what they learn.

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

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.selective import selective_logps
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Logps, Prompt, Sampling, SpeechLM, Streams
from lightning_paras2s.models.tiny.decoding import Rollout
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
from lightning_paras2s.models.tiny.transformer import Block, Memory, PromptMemory, ResponseMemory, RMSNorm, turns
from lightning_paras2s.models.tiny.vocabulary import TextVocab

TEXT_BLANK, TEXT_EOS = 0, 1
HEAD_CHUNK = 256  # tokens whose logits are held at once: 4 MB at 4,098 ids, so that a CPU's cache holds them


class Tables(NamedTuple):
    """Rows looked up at the input, and rows multiplied at the output: [V, C] each."""

    text_input: Tensor
    audio_input: Tensor
    text_output: Tensor
    audio_output: Tensor


class TinySpeechLM(SpeechLM):
    """A dual-stream decoder-only transformer of about 4 million parameters.

    Audio ids (`data.dual_stream.AudioIds`): the codes, then blank, EOS, user_start, user_end, assistant_start; the last
    three occur in prompts only and have no logit. Text ids: 0 = blank, 1 = EOS, the rest is the vocabulary's.

    Args:
        text_vocab_size: number of text ids; null = as many as `TextVocab` has.
        feature_size: F, numbers a frame of `Prompt.features`; by default those of a `TinyTokenizer`.
        levels: levels of each FSQ dimension of the codec; code = mixed-radix number of the dimensions, first fastest.
        width: of every layer; a multiple of 2 heads.
        heads: attention heads a layer.
        shared_layers: layers of the trunk.
        text_layers: layers of the text branch.
        audio_layers: layers of the audio branch.
        delay: steps by which audio trails text.
    """

    def __init__(
        self,
        text_vocab_size: int | None = None,
        feature_size: int = TinyTokenizer.feature_size,
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
            raise UserError(
                f"width must be a multiple of 2 * heads; got width {width}, heads {heads}; change one of them"
            )
        text_vocab_size = len(TextVocab()) if text_vocab_size is None else text_vocab_size
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
        # Each stream is normalised before the sum: left to themselves, the audio's scale drowns the text's.
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

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """See `SpeechLM.forward`: [R, T, V_text] and [R, T, codes + 2], float32."""
        tables = self._tables()
        text, audio = self._hidden(tables, prompt, completion)
        return F.linear(text, tables.text_output).float(), F.linear(audio, tables.audio_output).float()

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        """See `SpeechLM.logps`. Only a chunk of tokens has logits at a time, and only where there is an action.

        A temperature of 0 counts as 1.
        """
        sampling.check_scorable()
        tables = self._tables()
        writing = completion.actions[:, TEXT].any(0).nonzero()
        text_steps = int(writing.max()) + 1 if len(writing) else 1  # after the last text action its branch is not run
        hidden = self._hidden(tables, prompt, completion, text_steps)
        scores = []
        for stream, table, temperature in (
            (TEXT, tables.text_output, sampling.text_temperature),
            (AUDIO, tables.audio_output, sampling.audio_temperature),
        ):
            where = completion.actions[:, stream]  # [R, T]
            states = hidden[stream][where[:, : hidden[stream].shape[1]]]  # [actions, C]
            ids, ranges = completion.tokens[:, stream][where], ((0, len(table)),)
            found = selective_logps(states, table, ids, ranges, temperature, HEAD_CHUNK)
            scores.append(tuple(t.new_zeros(where.shape).masked_scatter(where, t) for t in found))
        return Logps(*(torch.stack(pair, 1) for pair in zip(*scores, strict=True)))

    @torch.no_grad()
    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        """See `SpeechLM.generate`. The result is as long as its longest row.

        Recorded log-probabilities are at the sampling temperature; those of greedy tokens (temperature 0) at 1.

        Raises:
            UserError: if a temperature is not 0 and there is no noise.
        """
        sampling.check_noise(noise)
        rollout = Rollout(self, prompt, sampling, noise, group_size)
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
        """Full rows plus FSQ terms; the head's terms, linear in the state, join the table before the product."""
        special = self.audio_table[self.codes :]
        codes = self.audio_table[: self.codes]
        audio_input = torch.cat([codes + F.embedding(self.code_levels, self.input_levels).sum(1), special])
        audio_output = torch.cat([codes + F.embedding(self.code_levels, self.output_levels).sum(1), special[:2]])
        return Tables(self.text_scale(self.text_table), self.audio_scale(audio_input), self.text_table, audio_output)

    def _embed(self, tables: Tables, tokens: Tensor) -> Tensor:
        """[R, 2, T] -> [R, T, C]."""
        return F.embedding(tokens[:, TEXT], tables.text_input) + F.embedding(tokens[:, AUDIO], tables.audio_input)

    def _prompt_embedding(self, tables: Tables, prompt: Prompt) -> Tensor:
        """[B, P, C]."""
        x = self._embed(tables, prompt.tokens)
        if prompt.features is None:
            return x
        return x + self.adaptor(prompt.features) * prompt.features_mask.unsqueeze(-1)

    def _run(
        self, x: Tensor, positions: Tensor, memory: Memory, text_steps: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Trunk and branches: x [R, T, C] at `positions` [R, T] -> normed text and audio states, [R, T, C].

        The text branch reads the first `text_steps` of the steps only, all unless told.
        """
        turn = turns(positions, self.settings["width"] // self.heads)  # [R, T, 1, D/2]
        fork = self.shared_layers + self.text_layers
        for index in range(self.shared_layers):
            x = self.layers[index](x, turn, memory, index)
        text, audio = x[:, :text_steps], x
        if text_steps != 0:
            text_turn = turn[:, :text_steps]
            for index in range(self.shared_layers, fork):
                text = self.layers[index](text, text_turn, memory, index)
        for index in range(fork, len(self.layers)):
            audio = self.layers[index](audio, turn, memory, index)
        return self.text_norm(text), self.audio_norm(audio)

    def _prefill(self, tables: Tables, prompt: Prompt) -> tuple[PromptMemory, Tensor, Tensor]:
        """Read the prompt: its keys and values, and the text and audio states of its last position, [B, 1, C]."""
        x, memory = self._prompt_embedding(tables, prompt), PromptMemory(prompt.mask)
        text, audio = self._run(x, (prompt.mask.cumsum(-1) - 1).clamp(min=0), memory)
        return memory, text[:, -1:], audio[:, -1:]

    def _hidden(
        self, tables: Tables, prompt: Prompt, completion: Completion, text_steps: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """States that predict each response step, [R, T, C]: of the prompt's last position and of steps 0..T-2; for
        the text of the first `text_steps` only, if given.
        """
        group_size = len(completion) // len(prompt)
        memory, *last = self._prefill(tables, prompt)
        text, audio = (state.repeat_interleave(group_size, 0) for state in last)
        steps = completion.tokens.shape[-1] - 1
        if steps == 0:
            return text, audio
        start = prompt.mask.sum(-1, keepdim=True).repeat_interleave(group_size, 0)
        positions = start + torch.arange(steps, device=start.device)
        x = self._embed(tables, completion.tokens[..., :-1])
        later = self._run(x, positions, ResponseMemory(memory, group_size, steps), text_steps and text_steps - 1)
        return torch.cat([text, later[0]], 1), torch.cat([audio, later[1]], 1)


def level_rows(levels: tuple[int, ...]) -> Tensor:
    """[codes, dimensions]: each code's rows in a table of all dimensions' levels, one dimension after another."""
    codes = torch.arange(prod(levels))
    rows, radix, offset = [], 1, 0
    for level in levels:
        rows.append(codes // radix % level + offset)
        radix, offset = radix * level, offset + level
    return torch.stack(rows, -1)
