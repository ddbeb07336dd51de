"""How fast is a GRPO step? `GRPOModule` in Lightning's trainer against TRL's `GRPOTrainer`, each in its own process.

A step is everything between two batches: rollout, rewards, reference and policy log-probabilities, loss, backward,
AdamW, metrics. The two trainers take turns, one step each; the first step of either is not counted. TRL (extra
`bench`) trains a Qwen2 text model with as many layers, width, heads and MLP and as many output rows as the policy's
two heads together, on as many queries, responses and positions, at temperature 1, with a reference (beta 0.2), loss
`grpo`, without gradient checkpointing, logging or saving. The reward is the share of even ids, on either side.

    python speed/grpo_step.py [--dtype bfloat16] [--model kimi_lora --device cuda --peers none]
"""

from __future__ import annotations

import argparse
import sys

import lightning as L
import torch
from measure import Contender, finish, forward_flops, measure_ceiling, parse, rollout_bound
from policies import POLICIES, Policy
from torch import Tensor
from torch.utils.data import DataLoader
from turns import Turns, even_share

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.judging.rewards import Reward
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.speech_lm import Completion, Sampling
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.speaking.codec import SpokenResponse, speak


def main(argv: list[str] | None = None) -> dict:
    args = parse(__doc__, argv, micro_batch_tokens=0, peers="trl")
    policy, ceiling = POLICIES[args.model](args), measure_ceiling(args)
    passes = 3 if "lora" in args.model else 4  # reference; forward, backward
    bound = rollout_bound(policy.shape, ceiling, args) + passes * forward_flops(policy.shape, args) / ceiling.flops
    turns = Turns(["ours", "trl"] if args.peers == "trl" else ["ours"], args)
    parts: dict[str, list[float]] = {}
    if args.peers == "trl":
        from trl_peer import train

        turns.start("trl", train, args, policy.shape)
    fit(args, policy, turns, parts)
    turns.join()
    notes = {f"ours, seconds of {name}": round(sorted(v)[len(v) // 2], 3) for name, v in parts.items()}
    contenders = {name: Contender(lambda: None, bound) for name in turns.timings}
    units = {"response steps": args.queries * args.group_size * args.steps}
    return finish("grpo_step", args, ceiling, contenders, turns.timings, units, notes)


class EvenIds(Reward):
    """The share of even ids on the text stream: costs nothing, and differs within a group."""

    needs_audio = False

    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        return torch.tensor([even_share(r.text_ids) for r in responses])


class Silent(Processor):
    """Where no waveform is asked for: words are numbers."""

    name, files, settings = "numbers", (), {}

    def prepare(self, *_) -> None:
        raise NotImplementedError

    hear = length = load_policy = collate = to_device = prepare

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        return speak(completion, None, lambda ids: " ".join(map(str, ids)))


class Batches(L.LightningDataModule):
    processor = Silent()

    def __init__(self, batches: list[DualStreamBatch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


class Steps(L.Callback):
    def __init__(self, turns: Turns, parts: dict[str, list[float]]) -> None:
        self.turns, self.parts = turns, parts

    def on_train_batch_start(self, *_) -> None:
        self.turns.begin("ours")

    def on_train_batch_end(self, trainer: L.Trainer, module: GRPOModule, *_) -> None:
        self.turns.end("ours")
        for name, seconds in module.clock.seconds.items():
            self.parts.setdefault(name, []).append(seconds)


def fit(args: argparse.Namespace, policy: Policy, turns: Turns, parts: dict[str, list[float]]) -> None:
    """`args.repeats` + 1 steps of ours."""
    module = GRPOModule(
        policy.build, EvenIds, group_size=args.group_size, lr=1e-5,
        sampling=Sampling(args.steps), micro_batch_tokens=args.micro_batch_tokens,
    )  # fmt: skip
    mixed = args.dtype == "bfloat16" and args.model.startswith("tiny")
    trainer = L.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu", devices=1, max_steps=args.repeats + 1,
        precision="bf16-mixed" if mixed else "32-true", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Steps(turns, parts)],
    )  # fmt: skip
    batches = [DualStreamBatch(policy.prompt(args)) for _ in range(args.repeats + 1)]
    trainer.fit(module, datamodule=Batches(batches))


if __name__ == "__main__":
    main(sys.argv[1:])
