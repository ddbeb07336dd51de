"""What one update learns from, and how it is cut into forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_paras2s.models.speech_lm import Completion, Prompt
from lightning_paras2s.modules.rewards import SpokenResponse


class MicroBatch(NamedTuple):
    """Queries of one forward pass. `counts` is False for a stand-in: it keeps a rank that has none left in step with
    the others' collectives.
    """

    queries: Tensor
    counts: bool


@dataclass(frozen=True)
class Rollout:
    """The prompts of B queries, B*G completions, and what they sound like."""

    prompt: Prompt
    completion: Completion
    responses: list[SpokenResponse]

    @property
    def tokens_per_query(self) -> int:
        """A prompt and its G responses, padded."""
        group_size = len(self.completion) // len(self.prompt)
        return self.prompt.tokens.shape[-1] + group_size * self.completion.tokens.shape[-1]

    def queries(self, index: Tensor) -> tuple[Prompt, Completion, Tensor]:
        """Some of the queries with their whole groups: prompts, completions, and the completions' rows."""
        group_size = len(self.completion) // len(self.prompt)
        rows = (index[:, None] * group_size + torch.arange(group_size, device=index.device)).flatten()
        return self.prompt.rows(index), self.completion.rows(rows), rows

    def parts_needed(self, queries: int, most_tokens: int) -> int:
        """Forward passes of at most so many tokens (0 = no limit); a single query may exceed them."""
        size = max(1, most_tokens // self.tokens_per_query if most_tokens else queries)
        return max(1, -(-queries // size))


def cut(index: Tensor, parts: int) -> list[MicroBatch]:
    """Queries [Q] in `parts` even parts; where they do not suffice, stand-ins."""
    found = index.tensor_split(parts)
    return [MicroBatch(part if len(part) else index.new_zeros(1), len(part) > 0) for part in found]
