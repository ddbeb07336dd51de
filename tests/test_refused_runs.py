"""Options with which something else than was asked for, or nothing, would run are refused; nothing is written."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from toy_runs import refused
from toys import ToyLM

from lightning_paras2s.errors import UserError
from lightning_paras2s.modules.training import initial_policy


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("stage", "options", "must"),
    [
        ("grpo", ["--trainer.precision=16-true"], "precision must be 32-true or bf16-mixed; got 16-true"),
        ("sft", ["--trainer.precision=bf16-true"], "got bf16-true"),
        ("sft", ["--trainer.precision=64"], "got 64"),
        ("grpo", ["--trainer.precision=16-mixed"], "got 16-mixed"),
        ("grpo", ["--trainer.accumulate_grad_batches=2"], "GRPOModule makes its own optimizer steps"),
        ("grpo", ["--trainer.gradient_clip_val=1.0"], "set model.max_grad_norm"),
        ("sft", ["--trainer.gradient_clip_val=1.0"], "SFTModule clips its gradients itself"),
        ("reward", ["--trainer.gradient_clip_val=1.0"], "RewardModule clips its gradients itself"),
        ("grpo", ["--trainer.enable_checkpointing=false"], "enable_checkpointing must not be false"),
        ("grpo", ["--trainer.strategy=ddp_spawn"], "must start its processes anew, as ddp does; got ddp_spawn"),
        ("grpo", ["--trainer.devices=4096"], "at most the cores of this machine"),
        ("sft", ["--trainer.overfit_batches=1"], "overfit_batches must be 0"),
        ("grpo", ["--trainer.reload_dataloaders_every_n_epochs=1"], "reload_dataloaders_every_n_epochs must be 0, for"),
        ("sft", ["--trainer.barebones=true"], "trainer.barebones must be false"),
        ("sft", ["--trainer.limit_train_batches=0"], "limit_train_batches must be above 0, or nothing runs; got 0;"),
        ("reward", ["--trainer.limit_train_batches=0.0"], "limit_train_batches must be above 0, or nothing runs; got"),
        ("sft", ["--trainer.limit_train_batches=0.1"], "limit_train_batches"),  # of four batches
        ("grpo", ["--trainer.max_epochs=0"], "trainer.max_epochs must be at least 1, or -1 for no limit; got 0"),
        ("sft", ["--trainer.max_steps=-2"], "max_steps"),
        ("sft", ["--trainer.max_time=00:00:00:00"], "trainer.max_time must be above 0, or nothing trains; got"),
        ("grpo", ["--trainer.max_time={seconds: 0}"], "trainer.max_time must be above 0, or nothing trains; got"),
        ("sft", ["--trainer.max_steps=-1", "--trainer.max_time=00:00:01:00"], "must know its length"),
        ("reward", ["--trainer.max_steps=-1", "--trainer.max_epochs=-1"], "must know its length"),
        ("grpo", ["--trainer.max_steps=-1", "--trainer.max_epochs=1", "--model.lr_decay=true"], "lr_decay falls over"),
        ("grpo", ["--data.batch_size=0"], "a batch size must be at least 1; got 0"),
        ("grpo", ["--trainer.max_steps=0"], "trainer.max_steps must be at least 1, or -1 for no limit; got 0"),
        ("sft", ["--data.batch_size=-3"], "a batch size must be at least 1; got -3"),
        ("sft", ["--data.batch_size=17"], "must hold a global batch, 17 queries; got 16; lower data.batch_size"),
        ("grpo", ["--model.sampling.max_steps=0"], "sampling.max_steps must be at least 1; got 0"),
        ("grpo", ["--model.sampling.text_temperature=0"], "text_temperature must be above 0, or all answers are one"),
        ("grpo", ["--model.sampling.audio_temperature=-1"], "audio_temperature must be above 0"),
        ("grpo", ["--model.sampling.audio_top_k=10"], "sampling.audio_top_k must be off where samples are scored"),
        ("grpo", ["--model.sampling.text_top_p=0.9"], "sampling.text_top_p must be off where samples are scored"),
        ("sft", ["--model.lr=-0.1"], "lr must be above 0, or nothing trains; got -0.1"),
        ("reward", ["--model.max_grad_norm=0"], "max_grad_norm must be above 0, or nothing trains; got 0"),
        ("grpo", ["--model.weight_decay=-1"], "weight_decay must not be negative"),
        ("grpo", ["--model.beta=-0.1"], "beta must not be negative"),
        ("grpo", ["--model.clip_low=0"], "clip_low must be above 0"),
        ("grpo", ["--model.beta.text=0.04"], "audio"),
        ("sft", ["--checkpoint.keep=0"], "keep must be at least 1, or -1 for all; got 0"),
        ("sft", ["--checkpoint.every_n_batches=-1"], "every_n_batches must be at least 0"),
    ],
)  # fmt: skip
def test_run_is_refused_when_it_would_not_be_what_was_asked(stage: str, options: list[str], must: str):
    assert must in refused(stage, *options)


def test_validation_is_refused_when_it_would_look_at_nothing():
    options = ["--trainer.limit_val_batches=0", "--trainer.limit_train_batches=0"]  # the latter is not its own
    assert "limit_val_batches must be above 0, or nothing runs; got 0" in refused("sft", *options, command="validate")


class EndsAtOnce(L.Callback):
    def on_fit_start(self, trainer: L.Trainer, *_) -> None:
        trainer.should_stop = True


def test_run_is_refused_when_it_trained_nothing():
    """Whatever the reason: it must not be told that it had ended before, and where its weights are."""
    told = refused("sft", f"--trainer.callbacks+={__name__}.EndsAtOnce")
    assert "a run must train at least one batch; got none; " in told


@pytest.mark.parametrize("command", ["test", "predict"])
def test_stage_is_refused_when_it_has_no_such_command(command: str):
    assert f"GRPOModule can fit, validate; got {command}" in refused("grpo", command=command)


def test_weights_are_refused_when_the_policys_options_would_be_overruled():
    """The toy's dropout, as TinySpeechLM's delay: the file's would win in silence."""
    ToyLM(dropout=0.1).save(Path("a.safetensors"))
    with pytest.raises(UserError, match="must fit the configured policy; got dropout 0.1 for 0.3"):
        initial_policy(lambda: ToyLM(dropout=0.3), "a.safetensors", 0)


def test_run_is_refused_when_the_demonstrations_delay_is_not_the_policys():
    """Before anything is built: no weights are read."""
    from jsonargparse import Namespace

    from lightning_paras2s.running.defaults import fill

    def config(policy: int, processor: int) -> Namespace:
        def made(**options) -> Namespace:
            return Namespace(class_path="C", init_args=Namespace(**options))

        model = made(policy=made(delay=policy), seed=None)
        trainer = Namespace(logger=None)
        return Namespace(seed_everything=1, model=model, data=made(processor=made(delay=processor)), trainer=trainer)

    fill(config(3, 3))
    with pytest.raises(UserError, match="data.processor.delay must be the policy's, 3; got 2; "):
        fill(config(3, 2))
