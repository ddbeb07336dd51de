"""What a person watches: progress with stage timings, samples to listen to, a fixed probe set judged and audited."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lightning_paras2s.asr import Transcriber
from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.models.speech_lm import sampling_noise
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.rewards import Reward, speak, word_error_rate
from lightning_paras2s.runs import batches_done, replace_file, run_dir

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


class SampleWriter(Callback):
    """Writes the first responses of a rollout to `samples/step-N/` (query, response, text, reward) and to TensorBoard.

    Args:
        every_n_batches: how often; count: responses each time, one a query.
    """

    def __init__(self, every_n_batches: int = 50, count: int = 4) -> None:
        self.every_n_batches, self.count = every_n_batches, count

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: DualStreamBatch, *args: Any
    ) -> None:
        step = batches_done(trainer)
        folder = run_dir(trainer)
        if step % self.every_n_batches or folder is None or not trainer.is_global_zero:
            return
        rollout, rewards = pl_module.last_rollout
        place = folder / "samples" / f"step-{step:08d}"
        place.mkdir(parents=True, exist_ok=True)
        lines = []
        for i, query in enumerate(batch.queries[: self.count]):
            response, reward = rollout.responses[i * pl_module.group_size], float(rewards[i * pl_module.group_size])
            lines.append({"query_id": query.id, "query": query.text, "text": response.text, "reward": reward})
            for name, audio in (("query", batch.audios[i]), ("response", response.audio)):
                if len(audio.samples):
                    write_audio(place / f"{i}-{name}.wav", audio)
                    sound = torch.from_numpy(audio.samples).unsqueeze(0)
                    trainer.logger.experiment.add_audio(f"samples/{i}-{name}", sound, step, audio.sample_rate)
            trainer.logger.experiment.add_text(f"samples/{i}", f"{query.text} -> {response.text} ({reward:.2f})", step)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_file(place / "samples.jsonl", lambda part: part.write_text(text))


class Probe(Callback):
    """Judges greedy answers to a fixed set of queries by rewards that training may not use (a judge, an audit).

    Args:
        data: gives the probe's queries by its `val_dataloader`.
        rewards: what to measure by name, logged as `probe/<name>`.
        transcriber: if given, `probe/wer` compares the voice with the text.
    """

    def __init__(
        self,
        data: LightningDataModule,
        judge: Reward | None = None,
        audit: Reward | None = None,
        transcriber: Transcriber | None = None,
        every_n_batches: int = 50,
        max_queries: int = 64,
    ) -> None:
        self.data, self.transcriber = data, transcriber
        self.rewards = {name: r for name, r in (("judge", judge), ("audit", audit)) if r is not None}
        self.every_n_batches, self.max_queries = every_n_batches, max_queries
        self.batches: list[DualStreamBatch] | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: GRPOModule, *args: Any) -> None:
        step = batches_done(trainer)
        if step % self.every_n_batches == 0 and trainer.logger is not None:
            metrics = {f"probe/{name}": value for name, value in self.measure(pl_module).items()}
            trainer.logger.log_metrics(metrics, step - 1)

    @torch.no_grad()
    def measure(self, module: GRPOModule) -> dict[str, float]:
        """Means over the probe set: each reward, its unscored share, WER of the voice against the text."""
        found: dict[str, list[float]] = {}
        greedy = replace(module.sampling, text_temperature=0.0, audio_temperature=0.0)
        for batch in self._load():
            noise = sampling_noise(0, 0, len(batch), greedy.max_steps)
            completion = module.policy.generate(batch.prompt.to(module.device), greedy, noise.to(module.device))
            responses = speak(completion, module.tokenizer, module.vocabulary)
            for name, reward in self.rewards.items():
                found.setdefault(name, []).extend(reward.score(batch, responses).tolist())
            if self.transcriber is not None:
                heard = self.transcriber.transcribe([r.audio for r in responses])
                pairs = zip(responses, heard, strict=True)
                found.setdefault("wer", []).extend(word_error_rate(r.text, words) for r, words in pairs)
        means = {name: float(np.nanmean(values)) for name, values in found.items() if not np.isnan(values).all()}
        unscored = {f"{name}_unscored": float(np.isnan(values).mean()) for name, values in found.items()}
        return means | unscored

    def _load(self) -> list[DualStreamBatch]:
        if self.batches is None:
            self.data.setup("validate")
            self.batches, count = [], 0
            for batch in self.data.val_dataloader():
                self.batches.append(batch)
                count += len(batch)
                if count >= self.max_queries:
                    break
        return self.batches
