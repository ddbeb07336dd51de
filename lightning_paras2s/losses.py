"""The arithmetic of training: group-relative advantages, the GRPO objective (paper Eq. 3-4), and next-token loss.

Pure functions of tensors. Axes: R = B*G responses, the G of a query adjacent; S = (text, audio); T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lightning_paras2s.errors import check_choice
from lightning_paras2s.models.speech_lm import AUDIO, TEXT

Scale = Literal["std", "none"]
Normalizer = Literal["response", "token", "constant"]
Ratio = Literal["joint", "stream", "sequence"]
Kl = Literal["k1", "k2", "k3"]
MAX_LOG_RATIO = 20.0  # exp(20) is 5e8: beyond it a ratio says no more, and would overflow


@dataclass(frozen=True)
class PerStream:
    """One number for each stream; neither has a default, or one that is not named would be set in silence.

    Args:
        text: of the text stream.
        audio: of the audio stream.
    """

    text: float
    audio: float

    def tensor(self, like: Tensor) -> Tensor:
        """[S, 1], to multiply [R, S, T]."""
        return like.new_tensor([[self.text], [self.audio]])


EVEN = PerStream(1.0, 1.0)


class GRPOLoss(NamedTuple):
    """`loss` has gradient and adds up over micro-batches; the rest are this micro-batch's means, for logging.

    Attributes:
        kl_text, kl_audio: the chosen estimator of KL(policy || reference), a mean over the stream's actions, nats; None
            without a reference.
        clip_low, clip_high: share of steps whose ratio was clipped below (advantage < 0) and above (advantage > 0).
        ratio: mean of policy / sampler.
    """

    loss: Tensor
    kl_text: Tensor | None
    kl_audio: Tensor | None
    clip_low: Tensor
    clip_high: Tensor
    ratio: Tensor


class SFTLoss(NamedTuple):
    """Weighted sum, and the mean cross-entropy of each stream, nats."""

    loss: Tensor
    text: Tensor
    audio: Tensor


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of `values` where `mask` is True, over `dim` or all; 0 where nothing counts. Masked values may be NaN."""
    kept = torch.where(mask, values, 0)
    if dim is None:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.sum(dim) / mask.sum(dim).clamp(min=1)


def or_one(count: Tensor) -> Tensor:
    """1 in place of 0: a mean of nothing is 0, and has a gradient of 0."""
    return torch.where(count > 0, count, torch.ones_like(count))


def group_advantages(rewards: Tensor, group_size: int, scale: Scale = "std", eps: float = 1e-4) -> Tensor:
    """Standardise rewards within each group of responses to one query (DeepSeekMath, arXiv 2402.03300, section 4.1).

    Unscored responses (NaN) take no part in their group's mean and standard deviation, and get advantage 0. A group
    with fewer than two scores, or whose scores are all equal, gets 0. The standard deviation divides by n - 1.

    Args:
        rewards: [B*G], the G responses to a query adjacent.
        group_size: G.
        scale: "std", or "none" to subtract the mean only (Dr. GRPO, arXiv 2503.20783).
        eps: added to the standard deviation.

    Returns:
        Advantages, [B*G], float32, finite.

    Raises:
        ValueError: if G does not divide the number of rewards.
        UserError: unknown `scale`.
    """
    if rewards.numel() % group_size:
        raise ValueError(f"group_size must divide the number of rewards; got {group_size} and {rewards.numel()}")
    check_choice("scale", scale, get_args(Scale))
    groups = rewards.detach().float().view(-1, group_size)  # [B, G]
    scored = groups.isfinite()
    centred = torch.where(scored, groups - masked_mean(groups, scored, 1).unsqueeze(1), 0)
    lowest = torch.where(scored, groups, torch.inf).amin(1, keepdim=True)
    highest = torch.where(scored, groups, -torch.inf).amax(1, keepdim=True)
    if scale == "std":
        variance = centred.pow(2).sum(1, keepdim=True) / (scored.sum(1, keepdim=True) - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + eps)
    # Equal scores are told by their range: their mean is off by rounding, which eps would blow up.
    return torch.where(highest > lowest, centred, 0).flatten()


def loss_denominator(actions: Tensor, normalizer: Normalizer = "response", max_steps: int = 1) -> Tensor:
    """What the sum over a *global* batch is divided by; micro-batches (and ranks) then add up to the whole.

    actions [R, S, T] -> the number of responses ("response": paper Eq. 3), of steps ("token": DAPO, arXiv 2503.14476),
    or of responses times `max_steps` ("constant": Dr. GRPO, arXiv 2503.20783). A response without an action takes no
    part: unscored ones, whose actions do not count, would else make the gradient of the scored ones smaller by the
    share of a group that a judge failed on. Nothing there is 0.
    """
    check_choice("normalizer", normalizer, get_args(Normalizer))
    if normalizer == "token":
        return actions.any(1).sum().float()
    return actions.any(1).any(1).sum().float() * (max_steps if normalizer == "constant" else 1)


def grpo_loss(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor | None,
    advantages: Tensor,
    actions: Tensor,
    *,
    denominator: Tensor | float,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float | PerStream = 0.2,
    ratio: Ratio = "joint",
    normalizer: Normalizer = "response",
    kl: Kl = "k3",
    unbiased_kl: bool = False,
    weights: PerStream = EVEN,
) -> GRPOLoss:
    """The negative of the paper's objective (Eq. 3), with its KL term (Eq. 4).

    The action of a step is the pair (text, audio), so its log-probability is the sum over the streams; forced
    tokens contribute nothing. Steps are averaged over a response, then over responses. Defaults are the paper's
    (appendix A.6); it prints no clip, 0.2 is PPO's (arXiv 1707.06347):

        J = mean over responses i of (1 / T_i) sum over steps t of
            min(r_it A_i, clip(r_it, 1 - clip_low, 1 + clip_high) A_i) - beta KL_it,
        r_it = exp(sum over streams s of logps_its - old_logps_its),  A_i = advantages,  T_i = steps with an action.

    Args:
        logps, old_logps, ref_logps: [R, S, T], of the policy, the sampler, the reference; None = no reference, beta 0.
        advantages: [R]; actions: [R, S, T], bool.
        denominator: `loss_denominator` of the global batch, of which this may be a part.
        beta: weight of the KL of the pair, or of each stream's own (whose sum is the pair's KL in expectation, with
            less variance: the two heads are independent given the past).
        ratio: clip the pair's ratio ("joint", the paper), each stream's ("stream"; the same gradient as long as
            policy and sampler are equal), or the response's geometric mean ("sequence": GSPO, arXiv 2507.18071).
        kl: estimator (joschu.net/blog/kl-approx.html). As a loss, k3 has the gradient of KL(reference || policy), k2
            the right one on-policy, k1 a mean of 0.
        unbiased_kl: give any estimator the gradient of KL(policy || reference), also off-policy, by weighing it with
            the ratio (for k3 equal to DeepSeek-V3.2's correction, arXiv 2512.02556).
        weights: of the streams' log-ratios, so of their policy gradients; the KL is not weighed.
    """
    check_objective(ratio, normalizer, kl)
    steps = actions.any(1)  # [R, T]
    log_ratio = torch.where(actions, logps - old_logps, 0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratios, mask, scale = RATIOS[ratio](log_ratio, actions, weights)  # [R, K, T], [R, K, T], [K, 1]
    advantage = advantages[:, None, None]
    clipped = ratios.clamp(1 - clip_low, 1 + clip_high)
    policy = -torch.minimum(ratios * advantage, clipped * advantage)
    per_step = torch.where(mask, policy * scale, 0).sum(1)  # [R, T]

    kl_streams = None
    if ref_logps is not None:
        kl_streams = kl_estimate(logps, ref_logps, old_logps, actions, kl, unbiased_kl)  # [R, S, T]
        if isinstance(beta, PerStream):
            per_step = per_step + (kl_streams * beta.tensor(logps)).sum(1)
        elif beta:
            pair = (torch.where(actions, t, 0).sum(1) for t in (logps, ref_logps, old_logps))  # [R, T] each
            per_step = per_step + beta * kl_estimate(*pair, steps, kl, unbiased_kl)

    share = steps / (steps.sum(1, keepdim=True).clamp(min=1) if normalizer == "response" else 1)
    loss = (per_step * share).sum() / denominator
    with torch.no_grad():
        low = masked_mean(((ratios < 1 - clip_low) & (advantage < 0)).float(), mask)
        high = masked_mean(((ratios > 1 + clip_high) & (advantage > 0)).float(), mask)
        found = kl_streams is not None
        kls = [masked_mean(kl_streams[:, s], actions[:, s]) if found else None for s in (TEXT, AUDIO)]
        return GRPOLoss(loss, *kls, low, high, masked_mean(ratios, mask))


def joint_ratio(log_ratio: Tensor, actions: Tensor, weights: PerStream) -> tuple[Tensor, Tensor, Tensor]:
    """One ratio a step, of the pair: [R, S, T] -> ratios [R, 1, T], what counts [R, 1, T], scale [1, 1]."""
    pair = (log_ratio * weights.tensor(log_ratio)).sum(1, keepdim=True)
    return pair.exp(), actions.any(1, keepdim=True), log_ratio.new_ones(1, 1)


def stream_ratio(log_ratio: Tensor, actions: Tensor, weights: PerStream) -> tuple[Tensor, Tensor, Tensor]:
    """One ratio a token: [R, S, T] -> ratios [R, S, T], what counts [R, S, T], scale [S, 1]."""
    return log_ratio.exp(), actions, weights.tensor(log_ratio)


def sequence_ratio(log_ratio: Tensor, actions: Tensor, weights: PerStream) -> tuple[Tensor, Tensor, Tensor]:
    """The geometric mean of a response's step ratios, at each of its steps: shapes as `joint_ratio`."""
    steps = actions.any(1, keepdim=True)
    pair = (log_ratio * weights.tensor(log_ratio)).sum(1, keepdim=True)
    mean = masked_mean(pair, steps, 2).unsqueeze(2).expand_as(pair)
    return mean.exp(), steps, log_ratio.new_ones(1, 1)


def kl_estimate(
    logps: Tensor, ref_logps: Tensor, old_logps: Tensor, mask: Tensor, kl: str = "k3", unbiased: bool = False
) -> Tensor:
    """An estimate of KL(policy || reference) for each action (k3: paper Eq. 4), 0 outside `mask`; all of one shape.

    With `unbiased`, value (of k1, k3) and gradient are right on average for actions drawn from the sampler `old_logps`:
    both are weighed by policy / sampler, and the gradient is that of E[log policy - log reference] under the policy.
    """
    gap = torch.where(mask, logps - ref_logps, 0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    value = KL_ESTIMATORS[kl](gap)
    if not unbiased:
        return value
    score = torch.where(mask, logps, 0)
    log_ratio = torch.where(mask, logps - old_logps, 0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    weight = log_ratio.detach().exp()
    slope = weight * gap.detach()
    return (weight * value).detach() + slope * (score - score.detach())


def sft_loss(logps: Tensor, actions: Tensor, weights: PerStream = EVEN, counts: Tensor | None = None) -> SFTLoss:
    """Next-token cross-entropy of demonstrations (paper, section 4.1), a mean over each stream's actions.

    Padding and forced tokens take no part: with them the text stream would mostly learn its blanks. Departure: each
    stream is a mean of its own, so that a token of the text, which has fewer, counts for more than one of the audio;
    in the paper's likelihood of the pair both count alike.

    Args:
        logps: [R, 2, T], of the demonstrated tokens; actions: which of them are learned.
        counts: [2], actions a stream to divide by; None = those here. Ranks pass the mean over ranks, since their
            gradients are averaged: the loss then depends on no rank count. It may lie below 1, where ranks are more
            than actions.
    """
    counts = actions.sum((0, 2)) if counts is None else counts
    means = -torch.where(actions, logps, 0.0).sum((0, 2)) / or_one(counts)
    return SFTLoss(weights.text * means[TEXT] + weights.audio * means[AUDIO], *means.unbind())


def check_objective(ratio: str, normalizer: str, kl: str) -> None:
    """Raises UserError for an option that the loss does not know, before a rollout is spent on it."""
    for name, value, choices in (("ratio", ratio, Ratio), ("normalizer", normalizer, Normalizer), ("kl", kl, Kl)):
        check_choice(name, value, get_args(choices))


RATIOS: dict[str, Callable] = {"joint": joint_ratio, "stream": stream_ratio, "sequence": sequence_ratio}
KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda gap: gap,
    "k2": lambda gap: gap.pow(2) / 2,
    "k3": lambda gap: (-gap).exp() + gap - 1,
}
