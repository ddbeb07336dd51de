"""The ladder's first rungs on a small `TinySpeechLM`: the reward provably rises to its maximum, on text alone too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toys import WORDS, ToyData, quiet_trainer

from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rewards import Reward, TextJudgeReward, TokenCountReward
from lightning_paras2s.losses import PerStream
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.types import Evidence, Query, Style, Verdict

LEVELS = (3, 2)  # 6 codes, as many as the toy tokenizer's


class Manners(Judge):
    """5 for "yes" first to who is sincere and "no" first to who is sarcastic, 1 for the other, 2 for anything else."""

    name, rubric_sha = "manners", "0"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        first = evidence.transcript.split()[:1]
        right = {"sincere": "yes", "sarcastic": "no"}[style.sarcasm or ""]
        score = 5.0 if first == [right] else 1.0 if first in (["yes"], ["no"]) else 2.0
        return Verdict(evidence.response_id, self.name, score)


def policy() -> TinySpeechLM:
    return TinySpeechLM(len(WORDS), 1, LEVELS, width=32, heads=2, shared_layers=1, text_layers=1, audio_layers=1)


def climb(reward: Callable[[], Reward], steps: int, folder: Path, **options) -> dict[str, float]:
    """Train, and read the last step's metrics."""
    module = GRPOModule(policy, reward, sampling=Sampling(max_steps=6), group_size=8, **options)
    trainer = quiet_trainer(steps, folder)
    trainer.fit(module, ToyData(batch_size=16, labelled=False, size=64))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_trivial_reward_reaches_its_maximum(tmp_path: Path) -> None:
    """Rung 1: the share of text steps that hold token 2 is at most 1; at random it is 1 in 6."""
    first = climb(lambda: TokenCountReward(2), 1, tmp_path, lr=1e-2, beta=0.0)
    assert first["train/reward"] == pytest.approx(1 / 6, abs=0.08)  # about 400 text steps: 4 standard errors
    last = climb(lambda: TokenCountReward(2), 45, tmp_path, lr=1e-2, beta=0.0)
    assert last["train/reward"] >= 0.95


def test_text_only_reward_rises_to_its_maximum_when_the_answer_depends_on_the_query(tmp_path: Path) -> None:
    """Rung 2: no audio is decoded and none is learned from; the right word follows from the query's style."""
    options = {"lr": 1e-2, "beta": 0.0, "weights": PerStream(1.0, 0.0), "ratio": "stream"}
    last = climb(lambda: TextJudgeReward(Manners()), 80, tmp_path, **options)
    assert last["train/reward"] >= 0.95 * 5
    assert "train/silence_fraction" not in last  # nothing was decoded
