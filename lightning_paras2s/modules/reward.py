"""Distil a judge into a `ResponseScorer`: cross-entropy over the five scores of judged samples (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from lightning_paras2s.data.preferences import PreferenceBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import off_scale
from lightning_paras2s.judging.scorer import ResponseScorer, expected_score
from lightning_paras2s.losses import or_one
from lightning_paras2s.modules.training import Optimization, SupervisedModule, drawn_from
from lightning_paras2s.running.ranks import mean_over_ranks
from lightning_paras2s.types import FACTORS


class RewardModule(SupervisedModule):
    """Trains a scorer; validation compares its expected scores with the judge's. Writes `scorer.safetensors`.

    `val/pearson` is the correlation that the paper tells (section 5.4). `val/pearson_within` is that of differences
    from a query's mean: GRPO's advantages see nothing else of a reward.

    Args:
        scorer: builds the scorer; random parts are drawn from `seed`.
        factor_weight: of the cross-entropy of the factor that a query is about, told from its audio alone; for scorers
            that have `factor_logits`. The judge is told it, so its student may be told in training.
    """

    exported = "scorer.safetensors"

    def __init__(
        self,
        scorer: Callable[[], ResponseScorer],
        lr: float = 1e-6,
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        max_grad_norm: float = 1.0,
        factor_weight: float = 0.0,
        state_bits: int = 32,
        max_skipped: int = 10,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            Optimization(lr, warmup_steps, weight_decay, betas, max_grad_norm, state_bits, max_skipped), seed
        )
        self.build, self.factor_weight = scorer, factor_weight
        self.scorer: ResponseScorer | None = None
        self.judged: list[tuple[Tensor, Tensor, list[str]]] = []

    @property
    def trained(self) -> ResponseScorer:
        return self.scorer

    def configure_model(self) -> None:
        if self.scorer is None:
            with drawn_from(self.seed):
                self.scorer = self.build()
            if self.device_mesh is not None:
                self.scorer.shard(self.device_mesh["data_parallel"])

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        logits = self.scorer.score_logits(batch.queries, batch.responses)
        loss = score_loss(logits, batch.scores, mean_over_ranks(is_scored(logits).sum()))
        self.log("train/loss", loss, batch_size=len(batch), sync_dist=True)
        if self.factor_weight:
            known = torch.tensor(sum(map(bool, batch.factors)), device=logits.device)
            about = factor_loss(self.scorer.factor_logits(batch.queries), batch.factors, mean_over_ranks(known))
            self.log("train/factor_loss", about, batch_size=len(batch), sync_dist=True)
            loss = loss + self.factor_weight * about
        return loss

    def validation_step(self, batch: PreferenceBatch, batch_idx: int) -> None:
        logits = self.scorer.score_logits(batch.queries, batch.responses)
        rows = is_scored(logits).sum()
        loss = score_loss(logits, batch.scores, rows)
        self.log("val/loss", loss, batch_size=int(rows), sync_dist=True)  # a batch without any weighs nothing
        self.judged.append((expected_score(logits), batch.scores, batch.query_ids))

    def on_validation_epoch_end(self) -> None:
        *scores, ids = zip(*self.judged, strict=True)
        self.judged.clear()
        expected, judged = (torch.cat(parts).float().cpu() for parts in scores)
        found = agreement(expected, judged, [one for part in ids for one in part])
        self.log_dict({f"val/{name}": value for name, value in found.items()})


def is_scored(logits: Tensor) -> Tensor:
    """The rows that could be scored: [B, 5] -> [B]."""
    return logits.isfinite().all(-1)


def score_loss(logits: Tensor, scores: Tensor, count: Tensor | None = None) -> Tensor:
    """Cross-entropy of scores 1..5, a mean over rows that could be scored: logits [B, 5], scores [B].

    A score between two classes (a mean of several verdicts) is shared between them.

    Args:
        count: of rows, for the mean; by default those of `logits`. Ranks average their gradients, so that theirs is
            the mean of the ranks' counts.

    Raises:
        UserError: a score outside of 1..5, of which a class would get a negative share and the loss no lower bound.
    """
    if (strange := next((s for s in scores.tolist() if off_scale(s)), None)) is not None:
        raise UserError(f"scores must be from 1 to 5; got {strange:g}; map the reward's scores onto 1..5")
    scored = is_scored(logits)
    low = (scores.floor().clamp(1, 4) - 1).long()  # [B], 0..3
    upper = (scores - 1 - low).unsqueeze(-1)
    target = (1 - upper) * F.one_hot(low, 5) + upper * F.one_hot(low + 1, 5)
    losses = -(target[scored] * torch.log_softmax(logits[scored].float(), -1)).sum(-1)
    return losses.sum() / or_one(scored.sum() if count is None else count)


def factor_loss(logits: Tensor, factors: list[str], count: Tensor | None = None) -> Tensor:
    """Cross-entropy of the queries' factors, a mean over those that are known: logits [B, 4]; `count` as above."""
    known = torch.tensor([FACTORS.index(factor) if factor else -1 for factor in factors], device=logits.device)
    total = F.cross_entropy(logits.float(), known, ignore_index=-1, reduction="sum")
    return total / or_one((known >= 0).sum() if count is None else count)


def agreement(expected: Tensor, judged: Tensor, query_ids: Sequence[str]) -> dict[str, float]:
    """Pearson, Spearman, mean absolute error over rows with both scores [N], and Pearson of the differences from each
    query's mean; a correlation with a constant is 0."""
    both = (expected.isfinite() & judged.isfinite()).numpy()
    scores = np.stack([expected.double().numpy(), judged.double().numpy()])[:, both]
    _, query = np.unique(np.array(query_ids, str)[both], return_inverse=True)
    means = np.stack([np.bincount(query, of) for of in scores]) / np.bincount(query)
    within = scores - means[:, query]
    return {
        "pearson": coefficient(pearsonr, scores),
        "pearson_within": coefficient(pearsonr, within),
        "spearman": coefficient(spearmanr, scores),
        "mae": float(abs(scores[0] - scores[1]).mean()) if scores.size else float("nan"),
    }


def coefficient(of: Callable, pair: NDArray) -> float:
    """Of [2, N]; what is less than rounding is no variation."""
    varied = pair.shape[1] > 1 and (pair.std(1) > 1e-9).all()
    return float(of(*pair).statistic) if varied else 0.0
