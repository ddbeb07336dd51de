"""One process of a GRPO run on tiny Kimi-Audio: `fsdp_worker.py FOLDER PROCESSES [RANK_THAT_RAISES]`; torchrun sets
the rank.

Writes what rank 0 ends with: whole weights, the last loss, and each rank's first sampled tokens.
"""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from test_kimi_audio import mixed_prompt, tiny_kimi
from torch.distributed.tensor import DTensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.rewards import Reward
from lightning_paras2s.runs import ResumableLoader


class Letters(Reward):
    """Rewards low text ids; the rank that must raise does so at the second step."""

    needs_audio = False

    def __init__(self, fault: bool) -> None:
        self.fault, self.calls = fault, 0

    def score(self, batch, responses):
        self.calls += 1
        if self.fault and self.calls == 2:
            raise RuntimeError("the reward broke down on purpose")
        return torch.tensor([sum(i < 128 for i in r.text_ids) / len(r.text_ids) for r in responses])


class Words:
    def decode(self, ids):
        return ""


class Silent(torch.nn.Module):
    sample_rate, vocab_size = 24_000, 320


class Prompts(L.LightningDataModule):
    """Four queries a global batch, two batches."""

    def train_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        prompt = mixed_prompt(8)
        collate = lambda rows: DualStreamBatch(prompt.rows(torch.tensor(rows)))  # noqa: E731
        return ResumableLoader(range(8), collate, 4 // world, 0, False, rank=rank, world_size=world)

    def transfer_batch_to_device(self, batch, device, index):
        return batch.to(device)


def main(folder: Path, processes: int, fault: int) -> None:
    L.seed_everything(0)
    rank = int(os.environ.get("RANK", 0))
    module = GRPOModule(
        lambda: tiny_kimi(gather="float32"),
        Silent,
        lambda: Letters(fault == rank),
        Words,
        group_size=4,
        beta=0.2,
        lr=3e-4,
        sampling=Sampling(max_steps=8),
    )
    strategy = ModelParallelStrategy(processes, 1) if processes > 1 else "auto"
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, default_root_dir=folder, **quiet
    )
    trainer.fit(module, Prompts())
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in module.policy.named_parameters()}
    sharded = sum(isinstance(p, DTensor) for p in module.policy.parameters())
    found = {"weights": {n: p.detach() for n, p in whole.items()}, "sharded": sharded}
    found["tokens"] = module.last_rollout[0].completion.tokens
    found["metrics"] = {k: float(v) for k, v in trainer.callback_metrics.items()}
    torch.save(found, folder / f"{processes}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1)
