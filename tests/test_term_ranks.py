"""SIGTERM to one of two processes ends both behind the same batch, and they go on from there, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fsdp_worker import command, said, start
from safetensors.torch import load_file
from test_runs import toy_config

from lightning_paras2s.running import preflight
from lightning_paras2s.running.checkpoints import checkpoints

DDP = ["--trainer.devices=2", "--trainer.strategy=ddp", "--checkpoint.every_n_batches=0"]


def two_on_a_core(argv: list[str], folder: Path, rank: int, world_size: int) -> None:
    """They are refused where a machine has one core alone; toys need no more."""
    preflight.cores = lambda: 2
    command(argv, folder, rank, world_size)


def fit(folder: Path, stage: str, version: str, *options: str) -> list[int]:
    (folder / "toy.yaml").write_text(toy_config(stage, steps=6))
    argv = ["fit", "--config", "toy.yaml", f"--trainer.logger.version={version}", *DDP, *options]
    return start(two_on_a_core, (argv, folder), folder, 2, limit_seconds=60.0)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "batch", "rank"), [("sft", 1, 0), ("sft", 3, 1), ("grpo", 1, 1)])
def test_run_goes_on_when_one_of_its_processes_was_terminated(tmp_path, stage, batch, rank):
    """In a batch within an epoch, and in its last (of four), before a validation."""
    assert fit(tmp_path, stage, "whole") == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    term = [
        "--trainer.callbacks+=toys.TermRank",
        f"--trainer.callbacks.rank={rank}",
        f"--trainer.callbacks.batch={batch}",
    ]
    assert fit(tmp_path, stage, "cut", *term) == [143, 143], said(tmp_path, 0) + said(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path / "runs" / stage / "cut")] == [f"step-{batch + 1:08d}.ckpt"]
    assert fit(tmp_path, stage, "cut") == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    whole, cut = (load_file(tmp_path / "runs" / stage / v / "policy.safetensors") for v in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
