"""What a person sees of a GRPO run: curves, samples to listen to, and a probe whose numbers are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import CODES, ToyData, ToyLM, ToyScorer

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rewards import ScorerReward
from lightning_paras2s.models.speech_lm import Completion, Sampling
from lightning_paras2s.modules.callbacks import Probe, SampleWriter
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.runs import RunLogger, StepSeed
from lightning_paras2s.types import Audio, Evidence, Query, Style, Verdict

STREAMS = ("text", "audio")
TRAIN = {"reward", "reward_std", "zero_std_groups", "unscored", "kl", "ratio", "silence_fraction", "grad_norm", "lr"}
TRAIN |= {"clip_fraction/low", "clip_fraction/high", "tokens_per_second", "tokens_per_second_per_device"}
TRAIN |= {f"{name}/{s}" for name in ("kl", "entropy", "length", "eos_rate") for s in STREAMS}
TRAIN |= {f"logp_gap_{name}/{s}" for name in ("mean", "max") for s in STREAMS}
PROBE = {"judge", "audit", "judge_unscored", "audit_unscored", "wer", "silence_fraction", "seconds"}
PROBE |= {f"{name}/{s}" for name in ("length", "eos_rate") for s in STREAMS}


class Yes(Transcriber):
    """Hears "yes" in everything."""

    name = "yes"

    def write_down(self, audios: list[Audio]) -> list[str]:
        return ["yes"] * len(audios)


class Always(StyleRecognizer):
    """Hears one tone in everything."""

    def __init__(self, tone: str) -> None:
        self.tone = self.name = tone

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        return [Style(tone=self.tone)] * len(audios)


class ToneJudge(Judge):
    """Calm is worth 5 to who is sincere and 1 to who is not, any other tone 3; silence has no score."""

    name, rubric_sha = "tone", "0"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        if evidence.status == "silent":
            return Verdict(evidence.response_id, self.name, None, status=evidence.status)
        score = 3.0 if evidence.tone != "calm" else 5.0 if style.sarcasm == "sincere" else 1.0
        return Verdict(evidence.response_id, self.name, score)


def probe(**options) -> Probe:
    return Probe(ToneJudge(), Yes(), Always("calm"), Always("cheerful"), **options)


class Recited:
    """A policy with four answers: "yes", "no", "yes oh", and no word in silence; 12 codes are 0.12 s."""

    def eval(self) -> None: ...

    def generate(self, prompt, sampling: Sampling, noise=None, group_size: int = 1) -> Completion:
        assert sampling.text_temperature == sampling.audio_temperature == 0
        tokens = torch.zeros(4, 2, 14, dtype=torch.long)
        for row, words in enumerate(([2, 1], [3, 1], [2, 4, 1], [1])):
            tokens[row, 0, : len(words)] = torch.tensor(words)
            tokens[row, 1] = torch.tensor([CODES, *[0 if row == 3 else 2] * 12, CODES + 1])
        actions = torch.ones(4, 2, 14, dtype=torch.bool)
        actions[:, 1, 0] = False
        actions[:, 0] = torch.arange(14) < torch.tensor([[2], [2], [3], [1]])
        return Completion(tokens, actions, torch.ones(4, dtype=torch.bool))


def test_probe_on_four_answers_worked_out_by_hand():
    """Word errors against "yes": 0 of 1, 1 of 1, 1 of 2; queries alternate sincere and sarcastic; the last answer is
    silence, which has no word error rate, as in `evaluate`, and which this judge does not score."""
    trainer = SimpleNamespace(datamodule=ToyData())
    module = SimpleNamespace(policy=Recited(), trainer=trainer, sampling=Sampling(), device=torch.device("cpu"))
    batch = ToyData(labelled=False).collate([0, 1, 2, 3])
    found = probe().measure(module, batch, GRPOModule.greedy(module, batch))
    expected = {"judge": (5 + 1 + 5) / 3, "judge_unscored": 0.25, "audit": 3.0, "audit_unscored": 0.25}
    expected |= {"wer": (0 + 1 + 0.5) / 3, "silence_fraction": 0.25, "eos_rate/text": 1.0, "eos_rate/audio": 1.0}
    expected |= {"length/text": (2 + 2 + 3 + 1) / 4, "length/audio": 13.0}
    assert found == pytest.approx(expected)


def test_probe_takes_its_queries_from_all_over_the_validation_set():
    data, some = ToyData(labelled=False, size=16), probe(max_queries=4)
    some.on_train_start(SimpleNamespace(datamodule=data), SimpleNamespace(device=torch.device("cpu")))
    assert [q.id for q in some.batch.queries] == ["q0", "q4", "q8", "q12"]


class Raw(ToyData):
    """Its loader gives what the data module makes a batch of, as with the large families and `RejectionDataModule`."""

    def collate(self, items: list[int]) -> list[int]:
        return items

    def transfer_batch_to_device(self, batch: list[int], device, dataloader_idx: int) -> DualStreamBatch:
        return super().collate(batch)


class Empty(ToyData):
    """Nothing to validate on, as a manifest without `val`."""

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader([], self.collate, 4, shuffle=False, drop_last=False)


def test_probe_has_the_data_module_make_its_batch():
    some = probe(max_queries=2)
    some.on_train_start(SimpleNamespace(datamodule=Raw(labelled=False)), SimpleNamespace(device=torch.device("cpu")))
    assert [q.id for q in some.batch.queries] == ["q0", "q8"]


def test_probe_without_queries_to_validate_on():
    with pytest.raises(UserError, match="Probe needs queries to validate on; got none"):
        probe().on_train_start(SimpleNamespace(datamodule=Empty()), SimpleNamespace(device=torch.device("cpu")))


@pytest.mark.parametrize("watcher", [SampleWriter, probe])
def test_watching_every_0_batches_is_refused(watcher):
    with pytest.raises(UserError, match="every_n_batches must be at least 1; got 0"):
        watcher(every_n_batches=0)


def talkative() -> ToyLM:
    """Untrained, but its most likely answer is not to stop at once."""
    policy = ToyLM()
    with torch.no_grad():
        policy.heads[1].bias[2] += 3
    return policy


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two rollouts of a toy policy, watched."""
    folder = tmp_path_factory.mktemp("watched")
    torch.manual_seed(0)
    parts = (talkative, lambda: ScorerReward(ToyScorer))
    module = GRPOModule(*parts, group_size=4, sampling=Sampling(max_steps=20))
    L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=[CSVLogger(str(folder / "csv")), RunLogger(str(folder), "grpo", "a")],
        callbacks=[probe(every_n_batches=2, max_queries=4), SampleWriter(every_n_batches=2, count=2), StepSeed(0)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        limit_val_batches=0,
    ).fit(module, ToyData(labelled=False))
    return folder / "grpo" / "a"


def test_curves_are_in_the_events_and_in_the_lines(run):
    events = EventAccumulator(str(run), {"scalars": 0}).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for prefix, names, steps in (("train", TRAIN, [0, 1]), ("probe", PROBE, [0, 1])):
        for name in names:
            tag = f"{prefix}/{name}"
            drawn = [(e.step, e.value) for e in events.Scalars(tag)]
            written = [(line["step"], line[tag]) for line in lines if tag in line]
            assert [step for step, _ in drawn] == steps, tag
            np.testing.assert_allclose([v for _, v in drawn], [v for _, v in written], rtol=1e-6)  # events: float32
    parts = ("rollout", "decode", "reward", "logps", "update")
    assert {"seconds/step", *(f"{of}/{part}" for of in ("seconds", "share") for part in parts)} <= set(
        events.Tags()["scalars"]
    )
    for line in (line for line in lines if "seconds/step" in line):  # one process is one device
        assert line["train/tokens_per_second_per_device"] == line["train/tokens_per_second"] > 0
        assert line["share/update"] == pytest.approx(line["seconds/update"] / line["seconds/step"], rel=1e-4)


def test_first_rollout_shows_a_policy_that_equals_its_reference(run):
    first = next(line for line in map(json.loads, (run / "metrics.jsonl").open()) if "train/kl" in line)
    assert first["train/ratio"] == 1 and first["train/kl"] < 1e-6 and first["train/clip_fraction/high"] == 0
    assert max(first[f"train/logp_gap_max/{s}"] for s in STREAMS) < 1e-4
    assert 0 < first["train/entropy/text"] <= np.log(6) + 1e-5 and 0 < first["train/entropy/audio"] <= np.log(8) + 1e-5


def test_samples_can_be_read_and_listened_to(run):
    folder = run / "samples" / "step-00000002"
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line.keys() == {"query_id", "query", "text", "reward"} for line in lines)
    events = EventAccumulator(str(run), {"audio": 0, "tensors": 0}).Reload()
    for i, line in enumerate(lines):
        assert 1 <= line["reward"] <= 5
        _, shown = events.Tensors(f"samples/{i}/text_summary")
        text = shown.tensor_proto.string_val[0].decode()
        assert shown.step == 2 and line["text"] in text and line["query"] in text and f"{line['reward']:.2f}" in text
        for name in ("query", "response"):
            samples, rate = soundfile.read(folder / f"{i}-{name}.wav")
            _, heard = events.Audio(f"samples/{i}-{name}")
            assert rate == heard.sample_rate == 16_000 and len(samples) == heard.length_frames > 0


def test_the_first_rollout_is_kept_too(run):
    """A run of fewer batches than `every_n_batches` had nothing under Audio and Text."""
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-00000001", "step-00000002"]
    events = EventAccumulator(str(run), {"audio": 0, "tensors": 0}).Reload()
    assert [shown.step for shown in events.Tensors("samples/0/text_summary")] == [1, 2]
