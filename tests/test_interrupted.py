"""Ctrl-C ends a run as SIGTERM does, and a run that goes on says which options are others. In this process, on toys."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from test_resume_properties import fit, logged, weights

from lightning_paras2s.cli import main
from lightning_paras2s.running.checkpoints import checkpoints, number_of


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a script
    yield tmp_path
    signal.signal(signal.SIGINT, before)


class Interrupt(L.Callback):
    """Ctrl-C in a batch; `twice` = and again at once. Batch -1 = before the first, while data are read."""

    def __init__(self, batch: int, twice: bool = False) -> None:
        self.batch, self.twice = batch, twice

    def setup(self, *_, **__) -> None:
        if self.batch == -1:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_start(self, trainer: L.Trainer, *_) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            for _ in range(1 + self.twice):
                os.kill(os.getpid(), signal.SIGINT)


def interrupted(version: str, *options: str) -> int:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            fit("grpo", version, f"--trainer.callbacks+={__name__}.Interrupt", *options)
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it after a second one
    return stop.value.code


def test_run_saves_and_goes_on_bit_for_bit_after_ctrl_c(caplog):
    only = "--checkpoint.every_n_batches=0"
    fit("grpo", "whole", only)
    assert interrupted("cut", "--trainer.callbacks.batch=3", only) == 130
    assert [number_of(path) for path in checkpoints(Path("runs/grpo/cut"))] == [4]
    assert "ended by Ctrl-C after 4 batches; started again it goes on" in caplog.text
    fit("grpo", "cut", only)
    one, other = weights("grpo", "whole"), weights("grpo", "cut")
    assert all(torch.equal(one[name], other[name]) for name in one) and logged("grpo", "cut") == logged("grpo", "whole")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_ends_at_once(caplog):
    assert interrupted("cut", "--trainer.callbacks.batch=3", "--trainer.callbacks.twice=true") == 130
    assert [number_of(path) for path in checkpoints(Path("runs/grpo/cut"))] == [3]  # what was saved before
    assert "ended by Ctrl-C at once" in caplog.text


def test_ctrl_c_before_the_first_batch_leaves_nothing_behind(caplog):
    assert interrupted("cut", "--trainer.callbacks.batch=-1") == 130
    assert not Path("runs").exists() and "ended by Ctrl-C at once" in caplog.text


def test_ctrl_c_elsewhere_is_one_line(monkeypatch, capsys):
    def stopped(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_paras2s.cli.dispatch", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate"])
    assert stop.value.code == 130 and capsys.readouterr().err.startswith("error: ended by Ctrl-C; ")


def test_ended_run_is_not_taken_for_one_with_other_options(capsys, caplog):
    options = ("--model.beta=0.1", "--trainer.max_steps=3")
    fit("grpo", "a", *options)
    fit("grpo", "a", *options)
    assert "others when this run began" not in caplog.text  # typed again, it is done
    with pytest.raises(SystemExit) as stop:
        fit("grpo", "a", "--model.beta=0.3", "--trainer.max_steps=3")
    told = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "a run that has ended must keep its options; got beta 0.3 (was 0.1); give" in told
    assert yaml.safe_load(Path("runs/grpo/a/config.yaml").read_text())["model"]["init_args"]["beta"] == 0.1
    fit("grpo", "a", "--model.beta={text: 0.3, audio: 0.2}", "--trainer.max_steps=8")  # trained on, and told
    assert "others when this run began: beta {'text': 0.3, 'audio': 0.2} (was 0.1)" in caplog.text
