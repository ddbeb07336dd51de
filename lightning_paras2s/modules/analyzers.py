"""Training of the PolyTone analysers and of their control (ParaS2S v2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.data.suggestive import LABELS
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.polytone import Analyser, Heard, analyser_path, check_factor
from lightning_paras2s.models.tiny.features import MELS
from lightning_paras2s.modules.labelled import FactorBatches, Labelled
from lightning_paras2s.modules.speech import SpeechPartModule, mask_frames
from lightning_paras2s.types import FACTORS


class PolyToneModule(SpeechPartModule):
    """Trains one analyser a factor, each on its own factor's recordings; they share nothing but the run.

    Args:
        analyser: builds the analyser of a factor.
        factors: which of emotion, sarcasm, age and gender.
        export: weights are `<export>-<factor>.safetensors`.
    """

    def __init__(
        self,
        analyser: Callable[[str], Analyser],
        factors: tuple[str, ...] = FACTORS,
        lr: float = 2e-3,
        warmup_steps: int = 50,
        export: str = "",
    ) -> None:
        super().__init__(lr, warmup_steps, export)
        for factor in factors:
            check_factor(factor)
        self.build, self.factors = analyser, factors
        self.network: nn.ModuleDict | None = None

    def configure_model(self) -> None:
        if self.network is None:
            self.network = nn.ModuleDict({factor: self.build(factor) for factor in self.factors})

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if isinstance(data := self.trainer.datamodule, FactorBatches):
            check_factors(self.factors, {row.factor for row in data.train})

    def training_step(self, batch: list[Labelled], batch_idx: int) -> Tensor:
        factor = batch[0].factor
        logits = self.network[factor]([augment(row.heard) for row in batch])
        loss = F.cross_entropy(logits, targets(batch).to(logits.device))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        self.log(f"train/{factor}", loss, batch_size=len(batch))
        return loss

    def validation_step(self, batch: list[Labelled], batch_idx: int) -> None:
        for factor in self.factors:
            rows = [row for row in batch if row.factor == factor]
            if rows:
                right = self.network[factor]([row.heard for row in rows]).argmax(-1).cpu() == targets(rows)
                self.log(f"val/{factor}", right.float().mean(), prog_bar=True, batch_size=len(rows))

    def on_train_end(self) -> None:
        if self.export and self.trainer.is_global_zero:
            for factor, analyser in self.network.items():
                analyser.save(analyser_path(self.export, factor))


def check_factors(trained: Iterable[str], given: set[str]) -> None:
    """
    Raises:
        UserError: an analyser would be exported as it was built, or recordings have none.
    """
    if set(trained) != given:
        raise UserError(
            f"model.factors must be those of the recordings, {', '.join(sorted(given))}; got {', '.join(trained)}; set "
            "model.factors and data.factors alike, and give recordings of each"
        )


def targets(batch: list[Labelled]) -> Tensor:
    return torch.tensor([LABELS[row.factor].index(row.style) for row in batch])


def augment(heard: Heard) -> Heard:
    """Masking and a change of level of the acoustics, where there are any (as in `StyleModule`)."""
    if not len(heard.acoustics):
        return heard
    frames = mask_frames(torch.from_numpy(heard.acoustics).float()[None], time=0.1)
    frames[..., :MELS] += 0.05 * torch.randn(())
    return heard._replace(acoustics=frames[0].numpy())
