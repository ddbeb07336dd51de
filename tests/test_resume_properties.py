"""Killed at any point under any of the trainer's flags, a run goes on bit for bit, or is refused in one line; and what
checkpoints there are hold finite numbers.

Runs are in this process, on toys; `test_runs.py` has real `kill -9`s of whole processes.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_runs import toy_config
from torch import Tensor

from lightning_paras2s.cli import main
from lightning_paras2s.running.checkpoints import checkpoints

WEIGHTS = {"sft": "policy.safetensors", "reward": "scorer.safetensors", "grpo": "policy.safetensors"}


class Killed(BaseException):
    """Nothing of the run may notice it."""


class End(L.Callback):
    """Ends a run in the middle of a training batch: at once, or by SIGTERM, which lets the batch end."""

    def __init__(self, batch: int, term: bool) -> None:
        self.batch, self.term = batch, term

    def on_before_optimizer_step(self, trainer: L.Trainer, *args) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx >= self.batch:
            if not self.term:
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)


def fit(stage: str, version: str, *options: str) -> None:
    """In the working directory."""
    Path("toy.yaml").write_text(toy_config(stage))
    main(["fit", "--config", "toy.yaml", "--trainer.logger.version", version, *options])


def end(batch: int, term: bool) -> tuple[str, ...]:
    name = f"{__name__}.End"
    return (f"--trainer.callbacks+={name}", f"--trainer.callbacks.batch={batch}", f"--trainer.callbacks.term={term}")


def weights(stage: str, version: str) -> dict[str, Tensor]:
    return load_file(Path("runs", stage, version, WEIGHTS[stage]))


def logged(stage: str, version: str) -> list[tuple[int, float]]:
    """Step and loss of every line of training, in the order of the file."""
    lines = map(json.loads, Path("runs", stage, version, "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


def validated(stage: str, version: str) -> list[tuple]:
    """Step and values of every line of validation, in the order of the file."""
    lines = map(json.loads, Path("runs", stage, version, "metrics.jsonl").read_text().splitlines())
    found = [(line["step"], [(k, v) for k, v in line.items() if k.startswith("val/")]) for line in lines]
    return [(step, values) for step, values in found if values]


def tensors_of(state: object) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for value in state.values() for t in tensors_of(value)]
    if isinstance(state, (list, tuple)):
        return [t for value in state for t in tensors_of(value)]
    return [state] if isinstance(state, Tensor) and state.is_floating_point() else []


@st.composite
def flags(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """A stage and options of its run."""
    stage = draw(st.sampled_from(sorted(WEIGHTS)))
    options = [f"--data.batch_size={draw(st.sampled_from([3, 4, 5]))}"]
    options.append(f"--checkpoint.every_n_batches={draw(st.integers(0, 4))}")
    options.append(f"--checkpoint.keep={draw(st.sampled_from([-1, 1, 2]))}")
    if (limit := draw(st.sampled_from([None, 1, 2, 0.6]))) is not None:
        options.append(f"--trainer.limit_train_batches={limit}")
    if stage != "grpo":
        options.append(f"--trainer.accumulate_grad_batches={draw(st.sampled_from([1, 2, 3]))}")
    if draw(st.booleans()):
        options.append("--trainer.limit_val_batches=1")
        options.append(f"--trainer.val_check_interval={draw(st.sampled_from([1.0, 0.5]))}")
    else:
        options.append("--trainer.limit_val_batches=0")
    if draw(st.booleans()):
        options += ["--trainer.max_steps=-1", f"--trainer.max_epochs={draw(st.integers(2, 3))}"]
    elif stage != "grpo":
        options.append("--trainer.max_steps=5")
    return stage, tuple(options)


# a failing case is told as it is: each costs a second, and shrinking asks for hundreds
QUICK = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)


# SIGTERM in an epoch's last batch, with and without accumulation
LAST = ("--data.batch_size=5", "--checkpoint.every_n_batches=2", "--trainer.accumulate_grad_batches=2")
LAST += ("--trainer.limit_val_batches=0", "--trainer.max_steps=5")
# a kill in an epoch that ends before its data
SHORT = ("--data.batch_size=4", "--checkpoint.every_n_batches=1", "--trainer.limit_train_batches=2")
SHORT += ("--trainer.limit_val_batches=0", "--trainer.max_steps=6")


@QUICK
@example(run=("sft", LAST), batch=2, term=True)
@example(run=("sft", SHORT), batch=3, term=False)
@example(run=("sft", SHORT), batch=4, term=False)
@example(run=("sft", (*LAST, "--trainer.accumulate_grad_batches=1")), batch=2, term=True)
@given(run=flags(), batch=st.integers(0, 9), term=st.booleans())
def test_run_ends_the_same_when_it_was_ended_before(run, batch, term, tmp_path_factory):
    stage, options = run
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        fit(stage, "whole", *options)
        try:
            fit(stage, "cut", *options, *end(batch, term))
        except Killed:
            pass
        except SystemExit as stop:
            assert stop.code == 143
        fit(stage, "cut", *options)
        expected, got = weights(stage, "whole"), weights(stage, "cut")
        assert expected.keys() == got.keys()
        apart = {name: float((expected[name] - got[name]).abs().max()) for name in expected}
        assert not any(apart.values()), (apart, logged(stage, "whole"), logged(stage, "cut"))
        assert logged(stage, "cut") == logged(stage, "whole")
        assert validated(stage, "cut") == validated(stage, "whole")
        kept = checkpoints(Path("runs", stage, "cut"))
        assert kept
        for path in kept:
            assert all(bool(t.isfinite().all()) for t in tensors_of(torch.load(path, weights_only=False)))
