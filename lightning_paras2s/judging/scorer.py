"""The distilled reward model: query speech and response speech in, a distribution over the five scores out (paper,
section 4.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.errors import UserError, no_shards
from lightning_paras2s.types import Audio


class ResponseScorer(nn.Module, ABC):
    """Scores 1..5 as five classes; the reward is the expected score (docs/design: fewer ties than argmax)."""

    @property
    def untrained(self) -> bool:
        """Whether its weights are known to be random."""
        return False

    @abstractmethod
    def score_logits(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        """[B, 5], logits of the scores 1..5; a row of NaN where a response can't be scored (no audio)."""

    def forward(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        """Expected scores, [B], in 1..5; NaN = unscored, never 0."""
        return expected_score(self.score_logits(queries, responses))

    def factor_logits(self, queries: list[Audio]) -> Tensor:
        """[B, 4], logits of the factor (`types.FACTORS`) that each query is about, from its audio alone."""
        raise UserError(f"{type(self).__name__} tells no factor of a query; got a factor_weight above 0; set it to 0")

    def shard(self, mesh: DeviceMesh) -> None:
        """Split the weights over the ranks of `mesh` (FSDP2), in place."""
        raise no_shards(self)


def ready(build: Callable[[], ResponseScorer]) -> ResponseScorer:
    """A scorer that scores and does not learn.

    Raises:
        UserError: nobody trained it.
    """
    scorer = build().eval().requires_grad_(False)
    if scorer.untrained:
        raise UserError(
            f"a scorer that scores must be trained; got a {type(scorer).__name__} with random weights; name the class "
            "that reads them from a file, TrainedScorer, and its path"
        )
    return scorer


def expected_score(logits: Tensor) -> Tensor:
    """Mean of the scores 1..5 under softmax(logits): [B, 5] -> [B]."""
    return torch.softmax(logits.float(), -1) @ torch.arange(1.0, 6.0, device=logits.device)


def likeliest_score(logits: Tensor) -> Tensor:
    """The likeliest of the scores 1..5, [B, 5] -> [B]; NaN where a row is, as of the expected one."""
    return torch.where(logits.isnan().any(-1), torch.nan, logits.argmax(-1) + 1.0)
