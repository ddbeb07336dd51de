"""Bugs that users of other trainers reported, tried here: docs/reliability.md lists them all, with what happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_resume_properties import fit, logged, weights
from test_training_faults import place  # noqa: F401
from torch import Tensor

from lightning_paras2s.losses import group_advantages, grpo_loss, loss_denominator, sft_loss
from lightning_paras2s.modules.optimizer import clip_gradients, warmup_cosine
from lightning_paras2s.running.checkpoints import checkpoints


def test_advantages_when_one_of_a_group_is_scored():
    """TRL #5773: the deviation of one number is NaN, and made its advantage NaN."""
    found = group_advantages(torch.tensor([0.7, torch.nan, torch.nan, torch.nan, 0.0, 1.0, torch.nan, 1.0]), 4)
    # of 0, 1, 1: mean 2/3, deviation sqrt(1/3)
    deviation = (1 / 3) ** 0.5 + 1e-4
    wanted = [0, 0, 0, 0, -2 / 3 / deviation, 1 / 3 / deviation, 0, 1 / 3 / deviation]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-6, rtol=0)


def test_losses_when_an_answer_is_empty():
    """TRL #3339: 0 of 0 tokens was NaN. Here the empty answer takes no part, and a batch of such has no gradient."""
    logps = torch.full((2, 2, 3), -1.0).requires_grad_()
    actions = torch.ones(2, 2, 3, dtype=torch.bool)
    actions[0] = False
    for chosen in (actions, torch.zeros_like(actions)):
        supervised = sft_loss(logps, chosen).loss
        share = loss_denominator(chosen).clamp(min=1)
        rl = grpo_loss(logps, logps.detach(), None, torch.ones(2), chosen, denominator=share, beta=0.0).loss
        for loss in (supervised, rl):
            (gradient,) = torch.autograd.grad(loss, logps, retain_graph=True)
            assert loss.isfinite() and gradient.isfinite().all() and not gradient[0].any()
            assert bool(gradient[1].any()) == bool(chosen.any())


def test_rate_when_all_steps_are_warm_up():
    """prime-rl #968 crashed; verl #3674 had a rate of 0, and lost its first rollout."""
    assert [warmup_cosine(step, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    fit("sft", "a", "--trainer.max_steps=4", "--model.warmup_steps=4")
    fit("sft", "b", "--trainer.max_steps=4", "--model.warmup_steps=9")
    assert any(not torch.equal(tensor, weights("sft", "b")[name]) for name, tensor in weights("sft", "a").items())


def test_newest_checkpoints_stay_when_their_numbers_grow_a_digit(tmp_path):
    """transformers #27138: `checkpoint-10000` was deleted as older than `checkpoint-9900`, by its letters."""
    fit("sft", "a", "--trainer.max_steps=11", "--checkpoint.every_n_batches=1", "--checkpoint.keep=2")
    assert [path.name for path in checkpoints(Path("runs/sft/a"))] == ["step-00000010.ckpt", "step-00000011.ckpt"]


@pytest.mark.parametrize("every", [4, 3])
def test_batches_are_taken_once_when_resumed_at_an_epochs_end(every: int):
    """verl #7401 skipped the next epoch and ended with 0; Lightning #19815 ran the last batch again. Epochs of four."""
    options = [f"--checkpoint.every_n_batches={every}", "--trainer.max_steps=-1"]
    fit("reward", "whole", *options, "--trainer.max_epochs=3")
    fit("reward", "cut", *options, "--trainer.max_epochs=1")
    fit("reward", "cut", *options, "--trainer.max_epochs=3", "--model.lr=0.01")
    assert [step for step, _ in logged("reward", "cut")] == list(range(12))


def test_gradient_is_scaled_and_its_norm_is_told_as_it_was():
    """LLaMA-Factory #3996: norms above the limit are logged, since they are those before."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert clip_gradients(model, 1.0) == 5.0
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]), atol=1e-5, rtol=0)


def test_gradient_when_a_rollout_is_cut_into_micro_batches():
    """ms-swift #10117: a loss over all tokens of the window was divided by the number of micro-batches once more."""

    def gradient(parts: list[slice]) -> Tensor:
        logps = torch.full((4, 2, 3), -1.0).requires_grad_()
        actions = torch.ones(4, 2, 3, dtype=torch.bool)
        actions[1:, :, 1:] = False
        advantages, share = torch.tensor([1.0, -1.0, 2.0, 0.5]), loss_denominator(actions, "token")
        for part in parts:
            rows = (logps[part], logps[part].detach(), None, advantages[part], actions[part])
            grpo_loss(*rows, denominator=share.clamp(min=1), beta=0.0, normalizer="token").loss.backward()
        return logps.grad

    torch.testing.assert_close(gradient([slice(0, 4)]), gradient([slice(0, 1), slice(1, 4)]), atol=1e-7, rtol=0)


def test_guide_names_its_extras_its_key_and_its_departures():
    """docs/paper.md against what the package says of itself."""
    import configparser
    import inspect

    from lightning_paras2s.judging.rewards import ScorerReward
    from lightning_paras2s.servers.chat import OpenAIChat

    root = Path(__file__).parents[1]
    guide = (root / "docs/paper.md").read_text()
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert {"openai", "whisper"} <= setup["options.extras_require"].keys()
    assert ".[openai,whisper]' funasr modelscope" in guide  # the last two for paper/filter.yaml, behind two paid stages
    key = inspect.signature(OpenAIChat).parameters["api_key_env"].default
    assert f"export {key}=" in guide and "~/.cache/whisper" in guide
    silent = next(line for line in guide.splitlines() if line.startswith("- An answer that is silent"))
    words = next(line for line in guide.splitlines() if line.startswith("- An answer whose voice says other words"))
    assert "scores 1" in silent and "scores 1" in words and "`max_wer`" in words
    assert "max_wer" in inspect.signature(ScorerReward).parameters or "above 0.5" in words
