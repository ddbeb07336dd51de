"""A validation that was due where a run was ended is made when it goes on, once, and whoever listens for it hears it.
In this process, on toys.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume_properties import Killed, end, fit, logged, validated, weights

from lightning_paras2s.running.checkpoints import checkpoints


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


class EndValidation(L.Callback):
    """Ends a run in the second batch of the validation behind a training batch."""

    def __init__(self, batch: int, term: bool) -> None:
        self.batch, self.term = batch, term

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module, batch, batch_idx: int, *_) -> None:
        if batch_idx == 1 and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            if not self.term:
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)


def cut(stage: str, batch: int, term: bool, *options: str) -> None:
    name, given = f"{__name__}.EndValidation", (f"callbacks.batch={batch}", f"callbacks.term={term}")
    with pytest.raises(SystemExit if term else Killed):
        fit(stage, "cut", *options, f"--trainer.callbacks+={name}", *(f"--trainer.{option}" for option in given))


# stage, options, the batch behind which the validation is cut (of ten; four an epoch), by SIGTERM or at once
MOMENTS = {
    "an epoch's end": ("sft", ("--checkpoint.every_n_batches=4",), 3, False),
    "within an epoch": ("sft", ("--checkpoint.every_n_batches=2", "--trainer.val_check_interval=2"), 5, True),
    "the run's last": ("sft", ("--checkpoint.every_n_batches=4", "--trainer.max_steps=8"), 7, True),
    "the last of its epochs": ("reward", ("--trainer.max_steps=-1", "--trainer.max_epochs=2"), 7, True),
    "an epoch's end in RL": ("grpo", ("--checkpoint.every_n_batches=4",), 3, False),
    "by the run's batches": (
        "reward",
        ("--checkpoint.every_n_batches=3", "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"),
        5,
        False,
    ),
    "accumulated gradients": (
        "sft",
        ("--checkpoint.every_n_batches=2", "--trainer.val_check_interval=1", "--trainer.accumulate_grad_batches=2"),
        3,
        True,
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_rows_of_validation_when_it_was_cut(moment: str):
    """All of them, in their order, with the values of a run that nobody ended; so are the weights."""
    stage, options, batch, term = MOMENTS[moment]
    fit(stage, "whole", *options)
    cut(stage, batch, term, *options)
    fit(stage, "cut", *options)
    assert validated(stage, "cut") == validated(stage, "whole")
    assert logged(stage, "cut") == logged(stage, "whole")
    one, other = weights(stage, "whole"), weights(stage, "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    done = len(validated(stage, "cut"))
    fit(stage, "cut", *options)  # it has ended: nothing is owed
    assert len(validated(stage, "cut")) == done


def test_rows_of_validation_when_it_had_been_made():
    """Killed in batch 5, the run goes on from batch 4, validates again, and has each step once in both logs."""
    options = ("--checkpoint.every_n_batches=4",)
    fit("sft", "whole", *options)
    with pytest.raises(Killed):
        fit("sft", "cut", *options, *end(5, False))
    assert [step for step, _ in validated("sft", "cut")] == [3]
    fit("sft", "cut", *options)
    assert validated("sft", "cut") == validated("sft", "whole")
    events = EventAccumulator("runs/sft/cut", {"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [3, 7]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(10))


@pytest.mark.parametrize("ended", ["killed", "terminated", "killed behind it"])
def test_early_stopping_counts_a_validation_once_however_a_run_was_ended(ended: str):
    """It stops behind the third, the second that is not better by 2: after twelve batches."""
    options = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    options += ["--trainer.callbacks.patience=2", "--trainer.callbacks.min_delta=2", "--trainer.max_steps=20"]
    options += ["--checkpoint.every_n_batches=4"]
    fit("sft", "whole", *options)
    if ended == "killed behind it":
        with pytest.raises(Killed):
            fit("sft", "cut", *options, *end(9, False))
    else:
        cut("sft", 7, ended == "terminated", *options)
    fit("sft", "cut", *options)
    assert len(logged("sft", "whole")) == 12
    assert logged("sft", "cut") == logged("sft", "whole") and validated("sft", "cut") == validated("sft", "whole")


def test_run_goes_on_when_validation_is_off_or_other_now():
    """What was due is made if there is validation at all, and the training is the same."""
    options = ("--checkpoint.every_n_batches=4",)
    fit("sft", "whole", *options)
    for other, steps in (("limit_val_batches=0", []), ("val_check_interval=3", [3, 6])):
        cut("sft", 3, False, *options)
        fit("sft", "cut", *options, f"--trainer.{other}")
        assert [step for step, _ in validated("sft", "cut")] == steps
        assert logged("sft", "cut") == logged("sft", "whole")
        Path("runs/sft/cut").rename(f"runs/sft/{steps}")


def test_validation_when_the_batch_size_is_another_where_it_is_due():
    cut("sft", 3, True, "--trainer.max_epochs=2")
    assert [path.name for path in checkpoints(Path("runs/sft/cut"))][-1] == "step-00000004.ckpt"
    fit("sft", "cut", "--trainer.max_epochs=2", "--trainer.max_steps=-1", "--data.batch_size=2")
    assert [step for step, _ in validated("sft", "cut")] == [3, 3 + 8]
