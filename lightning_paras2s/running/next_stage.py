"""The command that comes after a stage of training: it depends on the stage and on the family of its model."""

from __future__ import annotations

import shlex

# Model's class -> where its family's configs lie.
ROOMS = {"TinySpeechLM": "", "TinyScorer": "", "KimiAudio": "paper/", "QwenOmniScorer": "paper/", "QwenOmni": "onegpu/"}


def command_after(stage: str, model: str, weights: str) -> str:
    """ "" where nobody knows: a model of one's own, or a stage that nothing follows."""
    room, place = ROOMS.get(model), shlex.quote(weights)
    if room is None:
        return ""
    if stage == "SFTModule":
        start = f"--model.policy.init_args.path {place}" if room else f"--model.init_from {place}"
        return f"fit --config {room}grpo.yaml {start}"
    if stage == "RewardModule":
        config = f"{room}grpo.yaml" if room else "grpo_scorer.yaml"
        return f"fit --config {config} --model.reward.init_args.scorer.init_args.path {place}"
    if stage == "GRPOModule":
        mine = f"{{mine: {{class_path: PolicySystem, init_args: {{policy: {weights}, processor: TinyProcessor}}}}}}"
        return f"evaluate --config {room}evaluate.yaml" + ("" if room else f" --systems {shlex.quote(mine)}")
    return ""
