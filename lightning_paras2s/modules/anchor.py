"""What holds a stream beside the reward: next-token cross-entropy of demonstrations, added to GRPO's objective.

WavAlign (arXiv 2604.14932) learns the words by RL and holds the voice by SFT. Here both are chosen for each stream:
`model.weights` says which stream feels the reward, `model.anchor` which one is held, and how much. Departs from
WavAlign, whose gate follows a group's best reward and variance: the weight is a constant, so that it can be ablated.

What is shown comes with the batch: recorded answers (`DualStreamDataModule` with `labelled`), or the reference's own
best (`RejectionDataModule`), which every family has. Queries that an update leaves out are not shown in it either.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.losses import PerStream, masked_mean, sft_loss
from lightning_paras2s.models.speech_lm import Completion, Sampling, SpeechLM
from lightning_paras2s.modules.grpo_metrics import STREAM_NAMES, Means
from lightning_paras2s.modules.objective import Experience
from lightning_paras2s.modules.rollouts import MicroBatch
from lightning_paras2s.running.ranks import mean_over_ranks

NO_ANCHOR = PerStream(0.0, 0.0)


@dataclass(frozen=True)
class Anchor:
    """The weights of both streams' cross-entropy; with 0 and 0 nothing is shown and nothing is computed.

    Raises:
        UserError: a negative weight.
    """

    weights: PerStream

    def __post_init__(self) -> None:
        if min(self.weights.text, self.weights.audio) < 0:
            raise UserError(f"anchor must not be negative; got {self.weights}; set model.anchor")

    def shown(self, batch: DualStreamBatch) -> Completion | None:
        """The batch's demonstrations, one a query; None where nothing is held.

        Raises:
            UserError: there are none.
        """
        if not (self.weights.text or self.weights.audio):
            return None
        if batch.completion is None:
            raise UserError(
                "model.anchor needs an answer to each query to hold on to; got queries without answers; use "
                "--config controls/anchor_audio.yaml (the reference's best answers), or set data.labelled true"
            )
        return batch.completion

    def loss(self, policy: SpeechLM, learned: Experience, part: MicroBatch, counts: Tensor, means: Means) -> Tensor:
        """A micro-batch's share of the loss: over all of an update's it is `SFTModule`'s, of the same queries.

        Args:
            counts: `shown_actions` of the update.
        """
        shown = learned.shown.rows(part.queries)
        logps = policy.logps(learned.rollout.prompt.rows(part.queries), shown, Sampling()).values
        if part.counts:
            for stream, name in enumerate(STREAM_NAMES):
                nats = -masked_mean(logps[:, stream], shown.actions[:, stream])
                means.add_scalar(f"anchor/{name}", nats, len(part.queries))
        return sft_loss(logps, shown.actions & part.counts, self.weights, counts).loss


def shown_actions(learned: Experience, queries: Tensor) -> Tensor | None:
    """What the cross-entropy of an update is divided by: its demonstrations' actions a stream, a mean over ranks, [2].
    None where nothing is shown.
    """
    if learned.shown is None:
        return None
    return mean_over_ranks(learned.shown.rows(queries).actions.sum((0, 2)).float())
