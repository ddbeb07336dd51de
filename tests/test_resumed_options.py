"""A run that goes on with other options of its optimizer trains with those, and not with the checkpoint's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_policy import toy_stage
from torch import Tensor
from toy_runs import run
from toys import ToyData, ToyPreferences, quiet_trainer

from lightning_paras2s.errors import UserError
from lightning_paras2s.modules.optimizer import adamw
from lightning_paras2s.modules.training import StageModule
from lightning_paras2s.running.runs import StepSeed


def trained(stage: str, bits: int, steps: int, folder: Path, resume: bool = False, **options) -> StageModule:
    """A toy stage after some steps, the last of them alone where it resumes."""
    module, trainer = toy_stage(stage, bits, **options), quiet_trainer(steps, folder)
    trainer.callbacks += [StepSeed(0)]
    data = ToyPreferences() if stage == "reward" else ToyData(labelled=stage == "sft")
    trainer.fit(module, data, ckpt_path=folder / "half.ckpt" if resume else None)
    if not resume:
        trainer.save_checkpoint(folder / "half.ckpt")
    return module


def weights(module: StageModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.trained.named_parameters()}


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("stage", ["sft", "reward", "grpo"])
def test_weight_decay_is_the_asked_one_after_a_resume(stage, bits, tmp_path, monkeypatch):
    """A step's gradient is the same under any decay, and AdamW takes lr * decay of the weights as they were before it:
    two runs that go on with 0.5 and 0.1 from one checkpoint are apart by lr * 0.4 of it in matrices; vectors are equal.
    """
    if bits == 8:
        pytest.importorskip("torchao.optim")
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    before = weights(trained(stage, bits, 1, tmp_path, weight_decay=0.1, warmup_steps=0))
    same = trained(stage, bits, 2, tmp_path, True, weight_decay=0.1, warmup_steps=0)
    other = trained(stage, bits, 2, tmp_path, True, weight_decay=0.5, warmup_steps=0)
    (optimizer,) = other.trainer.optimizers
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    last = float(optimizer.param_groups[0]["lr"])  # a supervised rate falls over the run
    for name, weight in before.items():
        apart = weights(same)[name] - weights(other)[name]
        expected = last * 0.4 * weight if weight.ndim > 1 else torch.zeros_like(weight)
        torch.testing.assert_close(apart, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bits", [32, 8])
def test_betas_are_the_asked_ones_after_a_resume(bits, tmp_path, monkeypatch):
    if bits == 8:
        pytest.importorskip("torchao.optim")
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    trained("sft", bits, 1, tmp_path, betas=(0.9, 0.95))
    other = trained("sft", bits, 2, tmp_path, True, betas=(0.5, 0.6))
    assert [tuple(g["betas"]) for g in other.trainer.optimizers[0].param_groups] == [(0.5, 0.6)] * 2
    same = weights(trained("sft", bits, 2, tmp_path, True, betas=(0.9, 0.95)))
    assert all(not torch.equal(weight, same[name]) for name, weight in weights(other).items())


def test_all_options_are_the_optimizers_own_when_a_state_is_loaded():
    """Whatever a checkpoint's groups say, rate and kernel too; the moments are its own."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    was, now = (adamw([weight], lr, 0.1, (0.9, 0.95)) for lr in (0.3, 0.1))
    weight.grad = torch.ones(2, 2)
    was.step()
    saved = was.state_dict()
    saved["param_groups"][0] |= {"eps": 1.0, "amsgrad": True, "maximize": True}
    options = {name: value for name, value in now.param_groups[0].items() if name != "params"}
    now.load_state_dict(saved)
    assert {name: value for name, value in now.param_groups[0].items() if name != "params"} == options
    assert torch.equal(now.state[weight]["exp_avg"], was.state[weight]["exp_avg"])


@pytest.mark.parametrize("was, now", [(8, 32), (32, 8)])
def test_moments_of_other_bits_are_refused(was, now, tmp_path, monkeypatch):
    pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    trained("sft", was, 1, tmp_path)
    with pytest.raises(UserError, match=f"model.state_bits must be {was}, as when this run began; got {now}; "):
        trained("sft", now, 2, tmp_path, True)


def test_stage_is_told_the_decay_that_it_trains_with(tmp_path, monkeypatch, caplog):
    """From the command line on: what is announced holds in the next checkpoint."""
    monkeypatch.chdir(tmp_path)
    version = ("--trainer.logger.version=a", "--checkpoint.every_n_batches=1")
    run("sft", *version, "--trainer.max_steps=2")
    run("sft", *version, "--trainer.max_steps=3", "--model.weight_decay=0.5", "--model.betas=[0.5, 0.6]")
    assert "others when this run began: weight_decay 0.5 (was 0.01), betas [0.5, 0.6] (was [0.9, 0.95])" in caplog.text
    saved = torch.load("runs/sft/a/checkpoints/step-00000003.ckpt", weights_only=False)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [(g["weight_decay"], tuple(g["betas"])) for g in groups] == [(0.5, (0.5, 0.6)), (0.0, (0.5, 0.6))]
