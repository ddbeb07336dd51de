"""What a GRPO update minimises, and what it learns from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.losses import EVEN, GRPOLoss, Kl, Normalizer, PerStream, Ratio, check_objective, grpo_loss
from lightning_paras2s.models.speech_lm import Completion, Sampling
from lightning_paras2s.modules.rollouts import Rollout


@dataclass(frozen=True)
class Objective:
    """What a run of GRPO minimises: the options of `grpo_loss`, where each is explained, with its source."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float | PerStream = 0.2
    ratio: Ratio = "joint"
    normalizer: Normalizer = "response"
    kl: Kl = "k3"
    unbiased_kl: bool = False
    weights: PerStream = EVEN

    def __post_init__(self) -> None:
        check_objective(self.ratio, self.normalizer, self.kl)
        for name in ("clip_low", "clip_high"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0; got {getattr(self, name)}; set model.{name}")
        if min(self.betas) < 0:
            raise UserError(f"beta must not be negative; got {self.beta}; set model.beta")

    @property
    def betas(self) -> tuple[float, float]:
        """Of the text and the audio stream."""
        return (self.beta.text, self.beta.audio) if isinstance(self.beta, PerStream) else (self.beta, self.beta)

    @property
    def needs_reference(self) -> bool:
        """Without a KL term nothing asks what the reference would say."""
        return any(self.betas)

    def loss(
        self,
        logps: Tensor,
        old_logps: Tensor,
        ref_logps: Tensor | None,
        advantages: Tensor,
        actions: Tensor,
        denominator: Tensor,
    ) -> GRPOLoss:
        """`grpo_loss` with these options."""
        return grpo_loss(logps, old_logps, ref_logps, advantages, actions, denominator=denominator, **vars(self))


@dataclass(frozen=True)
class Experience:
    """What the updates of one rollout learn from.

    Attributes:
        rewards, advantages: [B*G]; a reward is NaN where a response is unscored.
        old_logps: [B*G, 2, T], the sampler's; None = exactly on-policy: the update's own, detached.
        ref_logps: [B*G, 2, T], the reference's; None = nothing asks for it (`beta` 0).
        gap: between the sampler's log-probabilities in training and in decoding, for logging.
        shown: demonstrations of the same queries, [B] rows, that `Anchor` holds on to; None = it does not.
    """

    rollout: Rollout
    rewards: Tensor
    advantages: Tensor
    old_logps: Tensor | None
    ref_logps: Tensor | None
    gap: dict[str, Tensor]
    shown: Completion | None

    @property
    def scored(self) -> Tensor:
        """[B*G], bool."""
        return self.rewards.isfinite()


def check_sampling(sampling: Sampling) -> None:
    """
    Raises:
        UserError: answers that are all alike, or of a distribution that is cut.
    """
    sampling.check_scorable()
    for name in ("text_temperature", "audio_temperature"):
        if not getattr(sampling, name) > 0:
            raise UserError(
                f"sampling.{name} must be above 0, or all answers are one; got {getattr(sampling, name)}; "
                f"set model.sampling.{name}"
            )
