"""GRPO moves what a tiny random Qwen2.5-Omni writes, which codes it speaks, and what is heard of them: a reward on each
rises by more than the draw of answers explains.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from omni_release import write_release
from test_qwen_family import queries
from torch import Tensor
from toys import quiet_trainer, toy_query

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.judging.rewards import Reward, TokenCountReward
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.qwen_omni.processor import QwenOmniProcessor
from lightning_paras2s.models.speech_lm import AUDIO, Completion, Sampling, sampling_noise
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.running.loaders import ResumableLoader

QUERIES, STEPS = 4, 8
SAMPLING = Sampling(STEPS)


class Remembering(QwenOmniProcessor):
    """Keeps the tokens that it last spoke, for a reward on codes."""

    last: Completion

    def speak(self, completion: Completion, decode_audio: bool = True):
        self.last = completion
        return super().speak(completion, decode_audio)


class Prompts(L.LightningDataModule):
    """Four queries, as the ears would give them."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.processor = Remembering(folder, dtype="float32", ode_points=2)
        self.prompt, _ = queries((9, 4, 7, 5))

    def collate(self, rows: list[int]) -> DualStreamBatch:
        return DualStreamBatch(self.prompt.rows(torch.tensor(rows)), None, [toy_query(i) for i in rows])

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(QUERIES), self.collate, QUERIES, seed=0)

    def transfer_batch_to_device(self, batch, device, index):
        return batch.to(device)


class CodeShare(Reward):
    """The share of a response's codes that are below 20, half of the voice's."""

    needs_audio = False

    def __init__(self, processor: Remembering) -> None:
        self.processor = processor

    def score(self, batch, responses) -> Tensor:
        said = self.processor.last
        spoken = said.actions[:, AUDIO]
        return ((said.tokens[:, AUDIO] < 20) & spoken).sum(1) / spoken.sum(1)


class Brevity(Reward):
    """Seconds of the waveform, negative. (A random vocoder is as loud whatever the codes.)"""

    def score(self, batch, responses) -> Tensor:
        return -torch.tensor([r.audio.seconds for r in responses])


# of each, a group's size and the rate: waveforms take longest to make
REWARDS = {
    "text": (lambda processor: TokenCountReward(103), 8, 1e-2),
    "codes": (CodeShare, 8, 1e-2),
    "waveform": (lambda processor: Brevity(), 4, 2e-2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("release") / "omni"
    write_release(path)
    return str(path)


@torch.no_grad()
def measured(policy: QwenOmni, data: Prompts, reward: Reward, group: int) -> np.ndarray:
    """Rewards of a group's answers to each query, drawn by noise that no rollout had."""
    noise = sampling_noise(99, 0, group * QUERIES, STEPS)
    completion = policy.generate(data.prompt, SAMPLING, noise, group)
    responses = data.processor.speak(completion, reward.needs_audio)
    return reward.score(data.collate(list(range(QUERIES))), responses).numpy().astype(float)


@pytest.mark.parametrize("name", REWARDS)
def test_reward_rises(name: str, folder: str, tmp_path: Path) -> None:
    data, (make, group, lr) = Prompts(folder), REWARDS[name]
    reward = make(data.processor)
    before = measured(QwenOmni(folder), data, reward, group)
    options = {"group_size": group, "beta": 0.0, "lr": lr, "sampling": SAMPLING}
    module = GRPOModule(lambda: QwenOmni(folder), lambda: reward, **options)
    quiet_trainer(12, tmp_path).fit(module, data)
    after = measured(module.policy, data, reward, group)
    # Welch's standard error of the difference of two means; the draws are the same, which only makes it smaller
    error = np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / len(before))
    assert after.mean() - before.mean() > 4 * error, (before.mean(), after.mean(), error)
