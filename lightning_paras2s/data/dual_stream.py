"""The batch that every stage sees: padded prompts, demonstrations, and whose they are (paper, section 4: a_i, t_i and
a_o, t_o)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_paras2s.models.speech_lm import Completion, Prompt
from lightning_paras2s.types import Audio, Query


@dataclass(frozen=True)
class DualStreamBatch:
    """A batch of prompts; with demonstrations for SFT, without for RL."""

    prompt: Prompt
    completion: Completion | None = None
    queries: list[Query] = field(default_factory=list)
    audios: list[Audio] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt)

    def to(self, device) -> DualStreamBatch:
        completion = None if self.completion is None else self.completion.to(device)
        return DualStreamBatch(self.prompt.to(device), completion, self.queries, self.audios)


def pad_prompts(rows: list[tuple[Tensor, Tensor, Tensor]], blanks: tuple[int, int]) -> Prompt:
    """Left-pad tokens [2, P_i], features [P_i, F] and their masks [P_i].

    Args:
        blanks: what stands before a prompt on the text and on the audio stream.
    """
    width = max(tokens.shape[1] for tokens, _, _ in rows)
    first, size = rows[0][0], (len(rows), width)
    tokens = first.new_tensor(blanks)[None, :, None].repeat(len(rows), 1, width)
    mask, where = torch.zeros(2, *size, dtype=torch.bool, device=first.device)
    features = rows[0][1].new_zeros(*size, rows[0][1].shape[-1])
    for i, (row, placed, at) in enumerate(rows):
        start = width - row.shape[1]
        tokens[i, :, start:], features[i, start:] = row, placed
        mask[i, start:], where[i, start:] = True, at
    return Prompt(tokens, mask, features, where)


def pad_completions(rows: list[tuple[Tensor, Tensor]], blanks: tuple[int, int]) -> Completion:
    """Right-pad demonstrations: tokens [2, T_i] with blanks, and what is to be learned of them [2, T_i]."""
    width = max(tokens.shape[1] for tokens, _ in rows)
    tokens = rows[0][0].new_tensor(blanks)[None, :, None].repeat(len(rows), 1, width)
    actions = torch.zeros(len(rows), 2, width, dtype=torch.bool, device=tokens.device)
    for i, (row, learned) in enumerate(rows):
        tokens[i, :, : row.shape[1]], actions[i, :, : row.shape[1]] = row, learned
    return Completion(tokens, actions, torch.ones(len(rows), dtype=torch.bool, device=tokens.device))
