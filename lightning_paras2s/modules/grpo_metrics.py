"""What a GRPO run logs about its rollouts and updates, for each stream where it applies."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import silence_fraction
from lightning_paras2s.losses import GRPOLoss, masked_mean
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion
from lightning_paras2s.speaking.codec import SpokenResponse

STREAM_NAMES = ("text", "audio")


class Means:
    """Averages over the micro-batches of all updates of a rollout, weighed by their responses.

    `kl` is the sum of `kl/text`, nats a text token, and `kl/audio`, nats an audio action. It is no step's KL: a text is
    shorter than its speech, so most steps have no text action.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, float]] = {}
        self.largest: dict[str, Tensor] = {}

    def add(self, result: GRPOLoss, entropy: Tensor, completion: Completion, on_policy_logps: Tensor | None) -> None:
        rows = len(completion)
        if result.kl_text is not None:
            self.add_scalar("kl/text", result.kl_text, rows)
            self.add_scalar("kl/audio", result.kl_audio, rows)
            self.add_scalar("kl", result.kl_text + result.kl_audio, rows)
        self.add_scalar("clip_fraction/low", result.clip_low, rows)
        self.add_scalar("clip_fraction/high", result.clip_high, rows)
        self.add_scalar("ratio", result.ratio, rows)
        for stream, name in enumerate(STREAM_NAMES):
            self.add_scalar(f"entropy/{name}", masked_mean(entropy[:, stream], completion.actions[:, stream]), rows)
        if on_policy_logps is not None:
            for name, value in logp_gap(on_policy_logps, completion).items():
                if name.startswith("logp_gap_max"):
                    self.largest[name] = torch.maximum(value, self.largest.get(name, value))
                else:
                    self.add_scalar(name, value, rows)

    def add_scalar(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        total, weights = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (total + value.detach() * weight, weights + weight)

    def read(self) -> dict[str, Tensor]:
        return {name: total / weight for name, (total, weight) in self.sums.items()} | self.largest


@torch.no_grad()
def logp_gap(logps: Tensor, completion: Completion) -> dict[str, Tensor]:
    """|training - decoding| log-probabilities of each stream's actions, nats: mean and largest."""
    gap = (logps.detach() - completion.logps).abs()
    found = {}
    for stream, name in enumerate(STREAM_NAMES):
        actions = completion.actions[:, stream]
        found[f"logp_gap_mean/{name}"] = masked_mean(gap[:, stream], actions)
        found[f"logp_gap_max/{name}"] = torch.where(actions, gap[:, stream], 0).max()
    return found


def reward_metrics(rewards: Tensor, group_size: int) -> dict[str, Tensor]:
    """Mean and deviation of the scored rewards, the share of unscored ones, and of groups that teach nothing.

    `reward_best` is the mean of the groups' best: less `reward` it is the headroom that the policy's own samples show.
    """
    scored = rewards.isfinite()
    groups, counted = rewards.view(-1, group_size), scored.view(-1, group_size)
    lowest = torch.where(counted, groups, torch.inf).amin(1)
    highest = torch.where(counted, groups, -torch.inf).amax(1)
    mean = masked_mean(rewards, scored)
    return {
        "reward": mean,
        "reward_std": masked_mean((rewards - mean).square(), scored).sqrt(),
        "reward_best": masked_mean(highest, counted.any(1)),
        "zero_std_groups": (highest <= lowest).float().mean(),
        "unscored": (~scored).float().mean(),
    }


def rollout_metrics(completion: Completion, responses: list[SpokenResponse]) -> dict[str, Tensor]:
    """Lengths in actions, share of responses that end by their stream's EOS, and silence in what was decoded.

    A text stream has ended if an action is left to the audio after the last of the text: its EOS forces blanks.
    """
    lengths = completion.actions.sum(-1).float()  # [R, 2]
    steps = completion.steps.sum(-1)
    text_end = (completion.actions[:, TEXT].sum(-1) < steps).float()
    decoded = [silence_fraction(r.audio) for r in responses if len(r.audio.samples)]
    metrics = {
        "length/text": lengths[:, TEXT].mean(),
        "length/audio": lengths[:, AUDIO].mean(),
        "eos_rate/text": text_end.mean(),
        "eos_rate/audio": completion.finished.float().mean(),
    }
    return metrics | ({"silence_fraction": torch.tensor(float(np.mean(decoded)))} if decoded else {})
