"""Supervised fine-tuning: next-token cross-entropy on both streams of demonstrated responses (paper, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.losses import PerStream, or_one, sft_loss
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Sampling, SpeechLM
from lightning_paras2s.modules.training import Optimization, SupervisedModule, initial_policy, place, require_suited
from lightning_paras2s.running.ranks import mean_over_ranks


class SFTModule(SupervisedModule):
    """Trains a policy on demonstrations; so is the embedded base pre-trained, whose tasks are demonstrations too.

    The loss needs the log-probabilities of the demonstrated tokens alone, so no [B, T, V] logits are made. Writes the
    trained policy to `policy.safetensors` in the run's folder (a family that has folders: to a folder `policy`). A
    batch is a mean over its actions; of `trainer.accumulate_grad_batches`, each counts alike, however long it is.

    Args:
        policy: builds the policy.
        init_from: weights to start from (.safetensors); None = random weights drawn from `seed`.
        text_weight: weight of the text stream's mean loss.
        audio_weight: weight of the audio stream's mean loss.
    """

    def __init__(
        self,
        policy: Callable[[], SpeechLM],
        init_from: InputPath | None = None,
        lr: float = 1e-5,
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        text_weight: float = 1.0,
        audio_weight: float = 1.0,
        max_grad_norm: float = 1.0,
        state_bits: int = 32,
        max_skipped: int = 10,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            Optimization(lr, warmup_steps, weight_decay, betas, max_grad_norm, state_bits, max_skipped), seed
        )
        self.build, self.init_from = policy, init_from
        self.weights = PerStream(text_weight, audio_weight)
        self.policy: SpeechLM | None = None

    @property
    def trained(self) -> SpeechLM:
        return self.policy

    def configure_model(self) -> None:
        if self.policy is None:
            self.policy = initial_policy(self.build, self.init_from, self.seed)
            place(self, self.policy, self.seed)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        require_suited(self, self.policy)

    def training_step(self, batch: DualStreamBatch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: DualStreamBatch, batch_idx: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: DualStreamBatch, split: str) -> Tensor:
        if batch.completion is None:
            raise UserError(
                "supervised training needs demonstrations; got queries without responses; use a labelled manifest"
            )
        actions = batch.completion.actions
        logps = self.policy.logps(batch.prompt, batch.completion, Sampling()).values
        counts = mean_over_ranks(actions.sum((0, 2)))
        loss, *by_stream = sft_loss(logps, actions, self.weights, counts)
        # of the demonstrated tokens: how often a sample at temperature 1 would be it, divided as the loss is
        likely = torch.where(actions, logps.detach().exp(), 0.0).sum((0, 2)) / or_one(counts)
        metrics = {f"{split}/loss": loss.detach()}
        for stream, name in ((TEXT, "text"), (AUDIO, "audio")):
            metrics[f"{split}/loss/{name}"] = by_stream[stream].detach()
            metrics[f"{split}/probability/{name}"] = likely[stream]
        # Lightning weighs validation batches by their rows.
        self.log_dict(metrics, batch_size=len(batch), sync_dist=True)
        return loss
