"""Does it pay to speak and score one part of a rollout beside the sampling of the next? `GRPOModule` with a voice.

Four ways take turns, a step each, in one run: all at once, in two parts one after the other, in two parts beside each
other (`model.overlap`), and so with a part a query. Kimi-Audio's flow matching and vocoder speak; all weights are
random, the reward hears loudness, and the rate is 1e-12. The first round is not counted. Notes are medians:
seconds of each part of a step, tokens a second, and on a GPU the peak of memory.

    python speed/overlap.py [--model kimi_lora --queries 8 --prompt 150 --steps 157 --device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import cached_property

import lightning as L
import numpy as np
import torch
from grpo_step import Batches, Silent
from measure import Contender, Timing, clocks, finish, forward_flops, measure_ceiling, parse, rollout_bound
from policies import KIMI_TEST, POLICIES, Policy
from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.judging.rewards import Reward
from lightning_paras2s.models.kimi.bigvgan import BigVGAN, BigVGANConfig
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.detokenizer import Detokenizer
from lightning_paras2s.models.kimi.flow_matching import FlowConfig, FlowMatching
from lightning_paras2s.models.kimi.tokenizer import KimiTokenizer
from lightning_paras2s.models.speech_lm import Completion, Sampling
from lightning_paras2s.modules.beside import Overlap
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.speaking.codec import SpokenResponse, speak

Way = tuple[int, Overlap]  # parts of a rollout, and whether one is spoken beside the next one's sampling


def main(argv: list[str] | None = None) -> dict:
    sizes = {"queries": 8, "prompt": 150, "steps": 157, "micro_batch_tokens": 8192}
    args = parse(__doc__, argv, **sizes | {"model": "kimi_lora"})
    policy, ceiling = POLICIES[args.model](args), measure_ceiling(args)
    ways: dict[str, Way] = {"at once": (1, "never"), "2 parts in order": (2, "never"), "2 parts beside": (2, "always")}
    ways[f"{args.queries} parts beside"] = (args.queries, "always")
    turns = Turns(ways, args)
    fit(args, policy, turns)
    bound = rollout_bound(policy.shape, ceiling, args) + 3 * forward_flops(policy.shape, args) / ceiling.flops
    contenders = {name: Contender(lambda: None, bound) for name in ways}
    units = {"response steps": args.queries * args.group_size * args.steps}
    return finish("overlap", args, ceiling, contenders, turns.timings, units, turns.medians())


class Loudness(Reward):
    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        return torch.tensor([float(np.abs(r.audio.samples).mean()) if r.audio.seconds else 0.0 for r in responses])


class Speaking(Silent):
    """Kimi-Audio's voice with random weights."""

    def __init__(self, test: bool, device: str) -> None:
        self.test, self.device = test, device

    @cached_property
    def voice(self) -> KimiTokenizer:
        flow = FlowConfig(121, 32, 2, 2, ode_points=4) if self.test else FlowConfig()
        vocoder = BigVGANConfig(upsample_initial_channel=256 if self.test else 2048)
        with torch.device(self.device):
            detokenizer = Detokenizer(FlowMatching(flow), BigVGAN(vocoder))
        detokenizer.flow.to(torch.float32 if self.device == "cpu" else torch.bfloat16)
        config = KIMI_TEST if self.test else KimiConfig()
        return KimiTokenizer(None, None, detokenizer, config).eval().requires_grad_(False)

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        return speak(completion, self.voice if decode_audio else None, lambda ids: "")


class Turns(L.Callback):
    """Each step another way's; the first round is not counted."""

    def __init__(self, ways: dict[str, Way], args: argparse.Namespace) -> None:
        self.ways, self.args, self.step = ways, args, 0
        self.timings = {name: Timing([], []) for name in ways}
        self.notes: dict[str, list[float]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, module: GRPOModule, *_) -> None:
        self.name = list(self.ways)[self.step % len(self.ways)]
        module.rollout_parts, module.overlap = self.ways[self.name]
        if self.args.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.started = clocks(self.args.device)

    def on_train_batch_end(self, trainer: L.Trainer, module: GRPOModule, *_) -> None:
        wall, processor = (now - then for now, then in zip(clocks(self.args.device), self.started, strict=True))
        self.step += 1
        if self.step <= len(self.ways):
            return
        self.timings[self.name].wall.append(wall)
        self.timings[self.name].processor.append(processor)
        found = {f"seconds of {part}": seconds for part, seconds in module.clock.seconds.items()}
        found["tokens a second"] = float(trainer.callback_metrics["train/tokens_per_second"])
        if self.args.device == "cuda":
            found["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
        for name, value in found.items():
            self.notes.setdefault(f"{self.name}, {name}", []).append(value)

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(values), 3) for name, values in self.notes.items()}


def fit(args: argparse.Namespace, policy: Policy, turns: Turns) -> None:
    """`args.repeats` + 1 rounds."""
    module = GRPOModule(
        policy.build, Loudness, group_size=args.group_size, lr=1e-12, sampling=Sampling(args.steps),
        micro_batch_tokens=args.micro_batch_tokens,
    )  # fmt: skip
    steps = (args.repeats + 1) * len(turns.ways)
    trainer = L.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu", devices=1, max_steps=steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[turns],
    )  # fmt: skip
    data = Batches([DualStreamBatch(policy.prompt(args)) for _ in range(steps)])
    data.processor = Speaking("test" in args.model, args.device)
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    main(sys.argv[1:])
