"""What a person watches: progress with stage timings, samples to listen to, and a fixed probe set judged and audited."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = (
    "train/loss",
    "train/reward",
    "train/kl",
    "val/loss",
    "seconds/step",
    "seconds/rollout",
    "seconds/reward",
    "seconds/update",
)


class StageProgress(RichProgressBar):
    """A Rich progress bar with the loss or reward, the KL and the seconds of each part of a step.

    Args:
        refresh_rate: in batches; 0 turns the bar off.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = trainer.callback_metrics
        return {name.removeprefix("train/"): f"{float(metrics[name]):.3g}" for name in SHOWN if name in metrics}
