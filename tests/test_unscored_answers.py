"""GRPO where rewards say little or nothing: equal ones, some or all of a group's missing, and no KL to hold to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import ToyData, ToyLM, quiet_trainer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import Reward, TokenCountReward, rewards_of
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Audio


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_ends_when_no_rollout_has_anything_to_learn_from():
    """All answers are worth the same, and such groups are dropped: `max_steps` would never come."""

    class Same(Reward):
        needs_audio = False

        def score(self, batch, responses) -> Tensor:
            return torch.ones(len(responses))

    module = GRPOModule(ToyLM, Same, group_size=4, drop_zero_variance=True, max_skipped=3)
    with pytest.raises(UserError, match="something to learn from; got none in 3 in a row"):
        quiet_trainer(5, Path(".")).fit(module, ToyData(labelled=False))


def test_reference_is_neither_built_nor_asked_when_beta_is_0(monkeypatch):
    def build(self) -> None:
        raise AssertionError("a reference was built")

    monkeypatch.setattr(ToyLM, "reference", build)
    options = {"sampling": Sampling(max_steps=4), "group_size": 4, "beta": 0.0, "mu": 2}
    module = GRPOModule(ToyLM, lambda: TokenCountReward(2), **options)
    trainer = quiet_trainer(2, Path("."))
    trainer.fit(module, ToyData(labelled=False))
    assert "train/reward" in trainer.callback_metrics and "train/kl" not in trainer.callback_metrics


def test_gradient_is_the_scored_answers_mean_when_some_are_unscored():
    """Two of four scored: the gradient is that of groups of these two, and not half of it (decision: unscored answers
    leave the denominator, too). With rewards 0 and 1 either group's advantages are those of its scored pair.
    """
    from lightning_paras2s.losses import group_advantages, grpo_loss, loss_denominator

    generator = torch.Generator().manual_seed(0)
    logps = torch.randn(4, 2, 3, generator=generator).requires_grad_()
    actions = torch.ones(4, 2, 3, dtype=torch.bool)
    rewards = torch.tensor([0.0, 1.0, torch.nan, torch.nan])

    def gradient(rows: slice) -> Tensor:
        scored = actions[rows] & rewards[rows].isfinite()[:, None, None]
        advantages = group_advantages(rewards[rows], len(rewards[rows]))
        old = logps[rows].detach()
        share = loss_denominator(scored)
        loss = grpo_loss(logps[rows], old, None, advantages, scored, denominator=share, beta=0.0).loss
        return torch.autograd.grad(loss, logps)[0]

    torch.testing.assert_close(gradient(slice(0, 4)), gradient(slice(0, 2)))
    assert gradient(slice(0, 2)).abs().max() > 0.01


def test_module_divides_by_the_answers_that_are_scored():
    """Of one query's four answers two are, so that the loss is divided by 2 and not by 4."""
    from lightning_paras2s.models.speech_lm import Completion, Prompt
    from lightning_paras2s.modules.objective import Experience
    from lightning_paras2s.modules.rollouts import Rollout

    prompt = Prompt(torch.zeros(1, 2, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    answers = torch.ones(4, 2, 5, dtype=torch.long)
    rollout = Rollout(prompt, Completion(answers, answers.bool(), torch.ones(4, dtype=torch.bool)), [])
    learned = Experience(rollout, torch.tensor([0.0, 1.0, torch.nan, torch.nan]), torch.zeros(4), None, None, {}, None)
    module = GRPOModule(ToyLM, lambda: TokenCountReward(2), group_size=4)
    assert float(module.denominator(learned, torch.tensor([0]))) == 2


@pytest.mark.parametrize("normalizer", ["response", "token", "constant"])
def test_denominator_is_0_when_a_rank_has_nothing(normalizer: str):
    from lightning_paras2s.losses import loss_denominator

    assert float(loss_denominator(torch.zeros(3, 2, 5, dtype=torch.bool), normalizer, 5)) == 0
    assert float(loss_denominator(torch.zeros(0, 2, 5, dtype=torch.bool), normalizer, 5)) == 0


def test_an_answer_whose_waveform_is_not_finite_is_unscored():
    """A voice that fails gives NaN; what ears make of that is no score, and nothing to learn from."""

    class Pleased(Reward):
        def score(self, batch, responses) -> Tensor:
            return torch.full((len(responses),), 5)

    bad, good = np.array([0.1, np.nan], np.float32), np.full(2, 0.1, np.float32)
    answers = [SpokenResponse(Audio(samples, 16_000), "yes", True, ()) for samples in (good, bad, good[:0])]
    found = rewards_of(Pleased(), None, answers)
    assert found[0] == 5 and found[1].isnan() and found[2] == 5
