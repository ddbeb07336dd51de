"""One process of SFT of tiny Kimi-Audio and of training a tiny QwenOmniScorer: `fsdp_stages_worker.py FOLDER
PROCESSES`; torchrun sets the rank. Both stages export what they trained to `FOLDER/{sft,reward}/PROCESSES`.
"""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from sounds import hiss
from test_kimi_audio import mixed_prompt, tiny_kimi
from torch.distributed.tensor import DTensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.preferences import PreferenceBatch
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.models.speech_lm import Sampling, sampling_noise
from lightning_paras2s.modules.reward import RewardModule
from lightning_paras2s.modules.sft import SFTModule
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.runs import RunLogger
from lightning_paras2s.types import Audio


class Batches(L.LightningDataModule):
    """Eight items, four a global batch."""

    def __init__(self, collate) -> None:
        super().__init__()
        self.collate = collate

    def train_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return ResumableLoader(range(8), self.collate, 4 // world, 0, False, rank=rank, world_size=world)

    def transfer_batch_to_device(self, batch, device, index):
        return batch.to(device)


def demonstrations() -> Batches:
    """Of very different lengths, so that ranks hold different numbers of actions."""
    prompt, sampling = mixed_prompt(8), Sampling(max_steps=14)
    answers = tiny_kimi().generate(prompt, sampling, sampling_noise(3, 0, 8, 14))
    assert answers.actions.sum((1, 2)).unique().numel() > 1
    pick = torch.tensor
    return Batches(lambda rows: DualStreamBatch(prompt.rows(pick(rows)), answers.rows(pick(rows))))


def judged() -> Batches:
    """Of which some answers are too short to be scored: one of the second rank's, then both of the first's."""
    return Batches(
        lambda rows: PreferenceBatch(
            [hiss(i) for i in rows],
            [short(hiss(100 + i)) if i in (2, 4, 5) else hiss(100 + i) for i in rows],
            torch.tensor([1.0 + i % 5 for i in rows]),
            [""] * len(rows),
            [f"q{i // 4}" for i in rows],
        )
    )


def short(audio: Audio) -> Audio:
    return Audio(audio.samples[:800], audio.sample_rate)


def train(module: L.LightningModule, data: Batches, folder: Path, name: str, processes: int) -> dict:
    L.seed_everything(0)
    strategy = ModelParallelStrategy(processes, 1) if processes > 1 else "auto"
    quiet = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)
    logger = RunLogger(str(folder), name, str(processes))
    trainer = L.Trainer(accelerator="cpu", devices=processes, strategy=strategy, max_epochs=1, logger=logger, **quiet)
    trainer.fit(module, data)
    sharded = sum(isinstance(p, DTensor) for p in module.parameters())
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key != "train/lr"}
    return {"sharded": sharded, "norm": float(trainer.callback_metrics["train/grad_norm"]), "metrics": metrics}


def main(folder: Path, processes: int) -> None:
    rank = int(os.environ.get("RANK", 0))
    qwen_omni.GUIDELINE = "Fit?"
    # built on the meta device, sharded, then each rank reads its own rows of the files
    sft = SFTModule(lambda: KimiAudio(str(folder / "kimi"), gather="float32"), lr=3e-4, warmup_steps=0)
    found = {"sft": train(sft, demonstrations(), folder, "sft", processes)}
    scorer = RewardModule(
        lambda: qwen_omni.QwenOmniScorer(str(folder / "omni"), lora_rank=4, dtype="float32"), lr=1e-3, warmup_steps=0
    )
    found["reward"] = train(scorer, judged(), folder, "reward", processes)
    torch.save(found, folder / f"{processes}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
