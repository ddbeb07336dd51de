"""What a person watches: progress with stage timings, samples to listen to, a fixed probe set judged and audited."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError, check_least
from lightning_paras2s.hearing.evidence import Ears, make_evidence
from lightning_paras2s.hearing.outside import OutsideEars, outside_ears
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rewards import JudgeReward, as_said, judge_scores
from lightning_paras2s.models.speech_lm import Completion
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.grpo_metrics import rollout_metrics
from lightning_paras2s.running.logs import replace_jsonl, say
from lightning_paras2s.running.ranks import meet
from lightning_paras2s.running.runs import batches_done, run_dir, run_logger
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Evidence, Query

LEFT_OUT = "raise it, or leave the callback out"
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
        every_n_batches: training batches between two writings; the first rollout, of the policy as it starts, is
            written, too.
        count: responses each time, one a query.
    """

    def __init__(self, every_n_batches: int = 50, count: int = 4) -> None:
        check_least("SampleWriter.every_n_batches", every_n_batches, 1, LEFT_OUT)
        check_least("SampleWriter.count", count, 1, LEFT_OUT)
        self.every_n_batches, self.count = every_n_batches, count

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: DualStreamBatch, *args: Any
    ) -> None:
        step = batches_done(trainer)
        folder = run_dir(trainer)
        if (step > 1 and step % self.every_n_batches) or folder is None or not trainer.is_global_zero:
            return
        board = None if (logger := run_logger(trainer)) is None else logger.experiment
        rollout, rewards = pl_module.last_rollout
        place = folder / "samples" / f"step-{step:08d}"
        place.mkdir(parents=True, exist_ok=True)
        lines = []
        for i, query in enumerate(batch.queries[: self.count]):
            response, reward = rollout.responses[i * pl_module.group_size], float(rewards[i * pl_module.group_size])
            lines.append({"query_id": query.id, "query": query.text, "text": response.text, "reward": reward})
            for name, audio in (("query", batch.audios[i]), ("response", response.audio)):
                if len(audio.samples) and np.isfinite(audio.samples).all():
                    write_audio(place / f"{i}-{name}.wav", audio)
                    sound = torch.from_numpy(audio.samples).unsqueeze(0)
                    if board is not None:
                        board.add_audio(f"samples/{i}-{name}", sound, step, audio.sample_rate)
            if board is not None:
                board.add_text(f"samples/{i}", f"{query.text} -> {response.text} (reward {reward:.2f})", step)
        replace_jsonl(place / "samples.jsonl", lines)


class Probe(Callback):
    """Judges greedy answers to a fixed set of held-out queries: with gold labels, and by an audit's ears beside.

    Before the first batch and then every few, it logs `probe/judge`, `probe/audit`, the share of each that is unscored,
    `probe/wer` (the voice against the text), `probe/wer_outside` (the same by an ear from outside),
    `probe/silence_fraction`, lengths, EOS rates and its own time.

    Args:
        judge: scores what is heard.
        transcriber: hears the answer's words.
        style: hears the answer's tone.
        audit: hears the tone for the judge once more; nothing is trained on it or against it.
        every_n_batches: training batches between two probes; there is one before the first.
        max_queries: spread evenly over the data's validation set.
        outside_queries: of them, so many are heard by Whisper tiny.en of the extra `ears`, too (1 s of one core each);
            where that is not installed, a line says so.
    """

    def __init__(
        self,
        judge: Judge,
        transcriber: Transcriber,
        style: StyleRecognizer,
        audit: StyleRecognizer | None = None,
        every_n_batches: int = 50,
        max_queries: int = 32,
        outside_queries: int = 0,
    ) -> None:
        check_least("Probe.every_n_batches", every_n_batches, 1, LEFT_OUT)
        check_least("Probe.max_queries", max_queries, 1, LEFT_OUT)
        self.ears, self.audit = JudgeReward(judge, transcriber, style), audit
        self.outside = outside_ears(naturalness=False, sense=False) if outside_queries else OutsideEars()
        self.outside_queries = outside_queries
        for note in self.outside.notes:
            say(note)
        self.every_n_batches, self.max_queries = every_n_batches, max_queries
        self.batch: DualStreamBatch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: GRPOModule) -> None:
        data = trainer.datamodule
        loader = data.val_dataloader()
        size = len(loader.items)
        if not size:
            raise UserError("Probe needs queries to validate on; got none; give the source some, or leave Probe out")
        count = min(self.max_queries, size)
        loaded = loader.collate([loader.items[i * size // count] for i in range(count)])
        self.batch = data.transfer_batch_to_device(loaded, pl_module.device, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GRPOModule, *args: Any) -> None:
        if batches_done(trainer) == 1:  # the counter of this batch is already raised
            self._log(trainer, pl_module, 0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: GRPOModule, *args: Any) -> None:
        step = batches_done(trainer)
        if step % self.every_n_batches == 0:
            self._log(trainer, pl_module, step - 1)

    def _log(self, trainer: Trainer, module: GRPOModule, step: int) -> None:
        started = time.perf_counter()
        completion = module.greedy(self.batch)
        if trainer.is_global_zero:  # all answer alike, and a judge is paid by the answer
            metrics = self.measure(module, self.batch, completion) | {"seconds": time.perf_counter() - started}
            for logger in trainer.loggers:
                logger.log_metrics({f"probe/{name}": value for name, value in metrics.items()}, step)
        meet()

    @torch.no_grad()
    def measure(self, module: GRPOModule, batch: DualStreamBatch, completion: Completion) -> dict[str, float]:
        """What answers to the batch are worth; means of scores leave out what could not be scored."""
        responses = module.trainer.datamodule.processor.speak(completion)
        heard = self.ears.hear(responses)
        metrics = {name: float(value) for name, value in rollout_metrics(completion, responses).items()}
        wers = [evidence.wer for evidence in heard if evidence.wer is not None]  # silence has none
        metrics |= {"wer": float(np.mean(wers))} if wers else {}
        metrics |= wer_outside(self.outside, responses[: self.outside_queries])
        metrics |= self._judged("judge", batch.queries, heard)
        if self.audit is not None:
            words = {evidence.response_id: evidence.transcript for evidence in heard}
            again = make_evidence(as_said(responses), Ears(self.ears.transcriber, self.audit), words)
            metrics |= self._judged("audit", batch.queries, again)
        return metrics

    def _judged(self, name: str, queries: list[Query], heard: list[Evidence]) -> dict[str, float]:
        scores = judge_scores(self.ears.judge, queries, [query.style for query in queries], heard)
        scored = scores.isfinite()
        unscored = {f"{name}_unscored": float((~scored).float().mean())}
        return unscored | ({name: float(scores[scored].mean())} if scored.any() else {})


def wer_outside(ears: OutsideEars, responses: list[SpokenResponse]) -> dict[str, float]:
    """How far what an ear from outside hears is from the responses' texts; nothing where there is no such ear."""
    if ears.transcriber is None or not responses:
        return {}
    heard = ears.transcriber.write_down([response.audio for response in responses])
    rates = [word_error_rate(response.text, h) for response, h in zip(responses, heard, strict=True)]
    return {"wer_outside": float(np.mean(rates))}
