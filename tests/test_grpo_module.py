"""`GRPOModule`: the reward provably rises, NaN and group order change nothing, micro-batches do not matter."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor
from toys import ToyData, ToyLM, quiet_trainer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import Reward, TokenCountReward
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.grpo import GRPOModule


class Unscored(Reward):
    """NaN for a share of the responses, else the count of token 2."""

    needs_audio = False

    def __init__(self, every: int) -> None:
        self.every, self.count = every, TokenCountReward(2)

    def score(self, batch, responses) -> Tensor:
        rewards = self.count.score(batch, responses)
        rewards[:: self.every] = float("nan")
        return rewards


def train(reward, steps: int, folder: Path, **options) -> GRPOModule:
    options = {"sampling": Sampling(max_steps=6), "group_size": 4, "weight_decay": 0.0} | options
    module = GRPOModule(ToyLM, reward, **options)
    trainer = quiet_trainer(steps, folder)
    trainer.fit(module, ToyData(batch_size=8, labelled=False, size=64))
    return module


def weights(module: GRPOModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.policy.parameters()])


def test_reward_when_it_counts_one_token(tmp_path: Path) -> None:
    """The ladder's first rung: the share of text steps with token 2 reaches 95 % of its maximum, 1."""
    module = train(lambda: TokenCountReward(2), 120, tmp_path, lr=3e-2, beta=0.0, group_size=8)
    assert module.trainer.callback_metrics["train/reward"] >= 0.95


def test_policy_when_exactly_on_policy(tmp_path: Path) -> None:
    """mu = 1: the first update's ratio is 1, nothing is clipped, decoding and training agree, the KL to itself is 0."""
    metrics = train(lambda: TokenCountReward(2), 1, tmp_path).trainer.callback_metrics
    assert metrics["train/ratio"] == 1
    assert metrics["train/clip_fraction/low"] == metrics["train/clip_fraction/high"] == 0
    assert max(metrics["train/logp_gap_max/text"], metrics["train/logp_gap_max/audio"]) < 1e-4
    assert metrics["train/kl"] < 1e-6


@pytest.mark.parametrize(("decay", "last"), [(False, 1e-2), (True, 1.27e-3)])
def test_learning_rate_at_the_end(tmp_path: Path, decay: bool, last: float) -> None:
    """Update 10 of 10, one of them warm-up: .1 + .9 * (1 + cos(8 pi / 9)) / 2 of the rate is left, or all of it."""
    module = train(lambda: TokenCountReward(2), 10, tmp_path, lr=1e-2, warmup_steps=1, lr_decay=decay)
    assert float(module.trainer.callback_metrics["train/lr"]) == pytest.approx(last, rel=0.01)


def test_weights_when_nothing_is_scored(tmp_path: Path) -> None:
    before = weights(train(lambda: Unscored(1), 0, tmp_path, max_unscored=1.0))
    module = GRPOModule(ToyLM, lambda: Unscored(1), group_size=4, max_unscored=1.0,
                        sampling=Sampling(max_steps=6), weight_decay=0.1)  # fmt: skip
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=2, limit_val_batches=0, logger=False,
                        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(module, ToyData(labelled=False))
    assert torch.equal(weights(module), before)


def test_run_when_too_much_is_unscored(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 50%"):
        train(lambda: Unscored(2), 1, tmp_path, max_unscored=0.4)


def test_weights_when_split_in_micro_batches(tmp_path: Path) -> None:
    """One query is 1 + 4 * 6 = 25 tokens at most, so 50 gives two queries or more a forward pass, not eight."""
    whole = train(lambda: TokenCountReward(2), 2, tmp_path, lr=1e-2)
    split = train(lambda: TokenCountReward(2), 2, tmp_path, lr=1e-2, micro_batch_tokens=50)
    torch.testing.assert_close(weights(whole), weights(split), atol=1e-5, rtol=0)


def test_checkpoint_when_the_reference_is_kept_out(tmp_path: Path) -> None:
    module = train(lambda: TokenCountReward(2), 1, tmp_path)
    assert all(name.startswith("policy.") for name in module.state_dict())
    fresh = GRPOModule(ToyLM, lambda: TokenCountReward(2))
    fresh.configure_model()
    rebuilt, kept = fresh.reference.state_dict(), module.reference.state_dict()
    assert all(torch.equal(rebuilt[name], kept[name]) for name in kept)


def test_reward_is_placed_when_validated_alone(tmp_path: Path, monkeypatch) -> None:
    placed = []
    monkeypatch.setattr(Unscored, "to", lambda self, device: placed.append(device.type))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    (found,) = trainer.validate(GRPOModule(ToyLM, lambda: Unscored(2), sampling=Sampling(6)), ToyData(labelled=False))
    assert placed == ["cpu"] and found["val/unscored"] == 0.5


def test_error_when_the_group_is_one() -> None:
    with pytest.raises(UserError, match="group_size must be at least 2"):
        GRPOModule(ToyLM, lambda: TokenCountReward(2), group_size=1)
