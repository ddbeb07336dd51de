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
from lightning_paras2s.models.tiny.transformer import (
    Block,
    Memory,
    PromptMemory,
    ResponseMemory,
    RMSNorm,
    turns,
)
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

    Audio ids (`models.tiny.streams.AudioIds`): the codes, then blank, EOS, user_start, user_end, assistant_start; the
    last three occur in prompts only and have no logit. Text ids: 0 = blank, 1 = EOS, the rest is the vocabulary's.

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
        # [codes, levels of all dimensions], 1 = the code's: as a product, their sums take a third of looking them up.
        marks = torch.zeros(self.codes, sum(levels)).scatter_(1, level_rows(levels), 1.0)
        self.register_buffer("level_marks", marks, persistent=False)
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
        every = torch.ones_like(completion.actions)
        text, audio = self._states(tables, prompt, completion.tokens, every)
        logits = F.linear(text, tables.text_output), F.linear(audio, tables.audio_output)
        return tuple(found.float().unflatten(0, every[:, TEXT].shape) for found in logits)

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        """See `SpeechLM.logps`. Only a chunk of tokens has logits at a time, and only where there is an action.

        A temperature of 0 counts as 1.
        """
        sampling.check_scorable()
        tables = self._tables()
        states = self._states(tables, prompt, completion.tokens, completion.actions)
        scores = []
        for stream, table, temperature in (
            (TEXT, tables.text_output, sampling.text_temperature),
            (AUDIO, tables.audio_output, sampling.audio_temperature),
        ):
            where = completion.actions[:, stream]  # [R, T]
            ids, ranges = completion.tokens[:, stream][where], ((0, len(table)),)
            found = selective_logps(states[stream], table, ids, ranges, temperature, HEAD_CHUNK)
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
        return rollout.completion(step + 1).check_drawn()

    def positions(self, prompt: int, steps: int, group_size: int) -> int:
        """The prompt is read once."""
        return prompt + group_size * steps

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
        audio_input = torch.cat([codes + self.level_marks @ self.input_levels, special])
        audio_output = torch.cat([codes + self.level_marks @ self.output_levels, special[:2]])
        return Tables(self.text_scale(self.text_table), self.audio_scale(audio_input), self.text_table, audio_output)

    def _embed(self, tables: Tables, text: Tensor, audio: Tensor) -> Tensor:
        """Ids [...] of both streams -> [..., C]."""
        return F.embedding(text, tables.text_input) + F.embedding(audio, tables.audio_input)

    def _prompt_embedding(self, tables: Tables, prompt: Prompt) -> Tensor:
        """[B, P, C]."""
        x = self._embed(tables, *prompt.tokens.unbind(1))
        if prompt.features is None:
            return x
        return x + self.adaptor(prompt.features) * prompt.features_mask.unsqueeze(-1)

    def _turns(self, positions: Tensor) -> Tensor:
        return turns(positions, self.settings["width"] // self.heads)

    def _run(self, layers: range, x: Tensor, turn: Tensor, memory: Memory) -> Tensor:
        """Some of the layers over x [N, C]; none where there is no position."""
        for index in layers if len(x) else ():
            x = self.layers[index](x, turn, memory, index)
        return x

    @property
    def parts(self) -> tuple[range, range, range]:
        """The layers of the trunk, the text branch and the audio branch."""
        fork, ends = self.shared_layers, self.shared_layers + self.text_layers
        return range(fork), range(fork, ends), range(ends, len(self.layers))

    def _prefill(self, tables: Tables, prompt: Prompt) -> tuple[PromptMemory, Tensor, Tensor]:
        """Read the prompt: its keys and values, and the text and audio states of its last position, [B, C]."""
        shared, text, audio = self.parts
        memory, turn = PromptMemory(prompt.mask), self._turns((prompt.mask.cumsum(-1) - 1).clamp(min=0).flatten())
        x = self._run(shared, self._prompt_embedding(tables, prompt).flatten(0, 1), turn, memory)
        states = [self._run(branch, x, turn, memory).unflatten(0, prompt.mask.shape)[:, -1] for branch in (text, audio)]
        return memory, *states

    def _states(self, tables: Tables, prompt: Prompt, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Normed states that predict the tokens that are wanted, row by row.

        A row is read up to its last wanted token, by the text branch up to its last wanted text.

        Args:
            tokens: [R, 2, T]; wanted: [R, 2, T], bool.

        Returns:
            [wanted text tokens, C] and [wanted audio tokens, C].
        """
        group_size = len(tokens) // len(prompt)
        memory, *first = self._prefill(tables, prompt)
        first = [state.repeat_interleave(group_size, 0) for state in first]  # [R, C], before the first step
        steps = torch.arange(tokens.shape[2], device=tokens.device)
        reads = (wanted * steps).amax(-1)  # [R, 2], steps before the last one that is wanted
        ends = reads[:, TEXT], reads.amax(1)
        there = steps[: int(ends[AUDIO].amax())] < ends[AUDIO][:, None]  # [R, steps that any row reads]
        later = self._read(tables, memory, tokens[..., : there.shape[1]], there, ends[TEXT])
        norms = self.text_norm, self.audio_norm
        return tuple(
            norm(torch.cat([start, rest]).index_select(0, places_of(wanted[:, stream], end)))
            for stream, (norm, start, rest, end) in enumerate(zip(norms, first, later, ends, strict=True))
        )

    def _read(
        self, tables: Tables, past: PromptMemory, tokens: Tensor, there: Tensor, text_reads: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States behind the response steps `there` [R, T]: of the text branch, which reads each row's first
        `text_reads` [R] alone, and of the audio branch, [N, C].
        """
        shared, text, audio = self.parts
        group_size, start = len(there) // len(past.mask), past.mask.sum(-1)
        steps = torch.arange(there.shape[1], device=there.device)
        x = self._embed(tables, *(ids[there] for ids in tokens.unbind(1)))
        turn = self._turns((start.repeat_interleave(group_size)[:, None] + steps)[there])
        memory = ResponseMemory(past, group_size, there)
        x = self._run(shared, x, turn, memory)
        written = steps < text_reads[:, None]  # [R, T]
        index, written = written[there].nonzero().squeeze(-1), written[:, : int(text_reads.amax())]
        words = self._run(text, x.index_select(0, index), turn[index], ResponseMemory(past, group_size, written))
        return words, self._run(audio, x, turn, memory)


def places_of(wanted: Tensor, reads: Tensor) -> Tensor:
    """Where the states that predict the wanted steps [R, T] lie: those of step 0 first, [R], then behind each row's
    first `reads` [R] steps, row by row.
    """
    rows, steps = wanted.shape
    place = rows + (reads.cumsum(0) - reads)[:, None] + torch.arange(steps, device=wanted.device) - 1
    place[:, 0] = torch.arange(rows, device=wanted.device)
    return place[wanted]


def level_rows(levels: tuple[int, ...]) -> Tensor:
    """[codes, dimensions]: each code's rows in a table of all dimensions' levels, one dimension after another."""
    codes = torch.arange(prod(levels))
    rows, radix, offset = [], 1, 0
    for level in levels:
        rows.append(codes // radix % level + offset)
        radix, offset = radix * level, offset + level
    return torch.stack(rows, -1)
