"""What one update learns from, and how it is cut into optimizer steps and forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.speech_lm import Completion, Prompt, SpeechLM
from lightning_paras2s.running.ranks import mean_over_ranks, most_over_ranks
from lightning_paras2s.speaking.codec import SpokenResponse


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
    def group_size(self) -> int:
        return len(self.completion) // len(self.prompt)

    def queries(self, index: Tensor) -> tuple[Prompt, Completion, Tensor]:
        """Some of the queries with their whole groups: prompts, completions, and the completions' rows."""
        rows = (index[:, None] * self.group_size + torch.arange(self.group_size, device=index.device)).flatten()
        return self.prompt.rows(index), self.completion.rows(rows), rows

    def parts_needed(self, policy: SpeechLM, queries: int, most_tokens: int) -> int:
        """Forward passes of at most so many of the policy's tokens (0 = no limit); a single query may exceed them."""
        widths = self.prompt.tokens.shape[-1], self.completion.tokens.shape[-1]
        size = max(1, most_tokens // policy.positions(*widths, self.group_size) if most_tokens else queries)
        return max(1, -(-queries // size))

    def micro_batches(self, policy: SpeechLM, index: Tensor, most_tokens: int) -> list[MicroBatch]:
        """Queries within the token budget, on all ranks in as many parts: each is a collective pass."""
        return cut(index, most_over_ranks(self.parts_needed(policy, len(index), most_tokens), index.device))


def cut(index: Tensor, parts: int) -> list[MicroBatch]:
    """Queries [Q] in `parts` even parts; where they do not suffice, stand-ins."""
    found = index.tensor_split(parts)
    return [MicroBatch(part if len(part) else index.new_zeros(1), len(part) > 0) for part in found]


def check_cuts(group_size: int, mu: int, minibatches: int) -> None:
    """
    Raises:
        UserError: no group to compare with, or no update.
    """
    if group_size < 2:
        raise UserError(
            f"group_size must be at least 2, because a response is judged against its group; got {group_size}"
        )
    if mu < 1 or minibatches < 1:
        raise UserError(f"mu and minibatches must be at least 1; got {mu} and {minibatches}")


def check_unscored(rewards: Tensor, most: float, step: int) -> None:
    """
    Raises:
        UserError: a larger share than `most` of a rollout's rewards, over all ranks, is NaN.
    """
    unscored = float(mean_over_ranks((~rewards.isfinite()).float().mean()))
    if unscored > most:
        raise UserError(
            f"at most {most:.0%} of a rollout's responses may be unscored; got {unscored:.0%} at step {step}; look at "
            "the reward, or raise model.max_unscored"
        )


def check_idle(count: int, most: int) -> None:
    """
    Raises:
        UserError: so many rollouts in a row had nothing to learn from: `max_steps` would never come.
    """
    if count >= most:
        raise UserError(
            f"a rollout must have something to learn from; got none in {count} in a row; look at train/unscored and "
            "train/zero_std_groups, or let them feel the KL (model.drop_zero_variance false)"
        )


def useful_queries(rewards: Tensor, advantages: Tensor, group_size: int, drop_zero_variance: bool) -> Tensor:
    """Queries [Q] of which a response was scored and, with `drop_zero_variance`, has an advantage: rewards, advantages
    [B*G].
    """
    useful = rewards.isfinite().view(-1, group_size).any(1)
    if drop_zero_variance:
        useful &= (advantages != 0).view(-1, group_size).any(1)
    return useful.nonzero().flatten()


def minibatches_of(queries: Tensor, mu: int, minibatches: int) -> Iterator[Tensor]:
    """The queries of each optimizer step, mu times over; none if no rank has any.

    All ranks take the same number of steps: one that has fewer queries left takes part with none.
    """
    most = most_over_ranks(len(queries), queries.device)
    for _ in range(mu if most else 0):
        shuffled = queries[torch.randperm(len(queries)).to(queries.device)] if minibatches > 1 else queries
        yield from shuffled.tensor_split(minibatches)[: min(most, minibatches)]
