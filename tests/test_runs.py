"""Runs on disk: order, resumption and checkpoints; and the promise that `kill -9` changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightning_paras2s.runs import ResumableLoader, RunLogger, checkpoints, last_checkpoint

TESTS = Path(__file__).parent
STAGES = {
    "sft": (
        "SFTModule",
        {"lr": 0.01, "warmup_steps": 2, "policy": {"class_path": "toys.ToyLM", "init_args": {"dropout": 0.1}}},
        {},
    ),
    "reward": (
        "RewardModule",
        {"lr": 0.01, "warmup_steps": 2, "scorer": {"class_path": "toys.ToyScorer"}},
        {"class_path": "toys.ToyPreferences"},
    ),
    "grpo": (
        "GRPOModule",
        {
            "policy": {"class_path": "toys.ToyLM"},
            "tokenizer": {"class_path": "toys.ToyTokenizer"},
            "vocabulary": {"class_path": "toys.ToyVocab"},
            "reward": {"class_path": "TokenCountReward", "init_args": {"token": 2}},
            "sampling": {"max_steps": 6},
            "mu": 2,
            "minibatches": 2,
        },
        {"init_args": {"labelled": False}},
    ),
}


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightning_paras2s", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def toy_config(stage: str, steps: int = 10) -> str:
    """A run of a stage on toys; JSON is YAML."""
    model, init_args, data = STAGES[stage]
    logger = {"class_path": "RunLogger", "init_args": {"name": stage}}
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": steps * (4 if stage == "grpo" else 1),
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }
    return json.dumps(
        {
            "trainer": {**trainer, "enable_model_summary": False, "logger": logger},
            "model": {"class_path": model, "init_args": init_args},
            "data": {"class_path": "toys.ToyData", **data},
            "checkpoint": {"every_n_batches": 3},
            "progress": {"refresh_rate": 0},
        }
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("batch", [pytest.param(2, marks=pytest.mark.slow), 7])
def test_final_weights_when_killed_and_resumed(stage: str, batch: int, tmp_path: Path) -> None:
    """Killed before the first checkpoint (batch 2 of every 3) or in the middle of the second epoch (of 4 batches)."""
    (tmp_path / "toy.yaml").write_text(toy_config(stage))
    run = ("fit", "--config", "toy.yaml", "--trainer.logger.version")
    kill = (
        "--trainer.callbacks+=toys.KillAt",
        f"--trainer.callbacks.batch={batch}",
        "--trainer.callbacks.marker=killed",
    )
    whole = cli(tmp_path, *run, "whole")
    assert whole.returncode == 0, whole.stderr
    assert cli(tmp_path, *run, "cut", *kill).returncode == -9
    resumed = cli(tmp_path, *run, "cut")
    assert resumed.returncode == 0, resumed.stderr
    name = "scorer.safetensors" if stage == "reward" else "policy.safetensors"
    expected, got = (load_file(tmp_path / "runs" / stage / version / name) for version in ("whole", "cut"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    lines = [
        json.loads(line) for line in (tmp_path / "runs" / stage / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in lines if "val/loss" not in line and "train/loss" in line]
    assert steps == list(range(10))


def test_order_when_resumed_in_the_middle_of_an_epoch() -> None:
    def batches(loader: ResumableLoader, epochs: int) -> list[list[int]]:
        return [batch for _ in range(epochs) for batch in loader]

    whole = batches(ResumableLoader(range(10), list, 3, seed=1), 2)
    assert len(whole) == 6 and whole[:3] != whole[3:]
    first = ResumableLoader(range(10), list, 3, seed=1)
    start = iter(first)
    head = [next(start), next(start)]
    second = ResumableLoader(range(10), list, 3, seed=1)
    second.load_state_dict(first.state_dict())
    assert head + batches(second, 2) == whole


def test_order_when_resumed_at_the_end_of_an_epoch() -> None:
    first = ResumableLoader(range(9), list, 3, seed=1)
    list(first)
    second = ResumableLoader(range(9), list, 3, seed=1)
    second.load_state_dict(first.state_dict())
    assert list(second) == list(first)


def test_ranks_when_they_share_an_epoch() -> None:
    ranks = [list(ResumableLoader(range(8), list, 2, seed=5, rank=r, world_size=2)) for r in range(2)]
    assert sorted(i for rank in ranks for batch in rank for i in batch) == list(range(8))


def test_metrics_when_rewound(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), "toy", "a")
    for step in range(4):
        logger.log_metrics({"x": float(step)}, step)
    with logger.metrics_path.open("a") as file:
        file.write('{"step": 4, "x')
    logger.rewind(2)
    assert [json.loads(line)["x"] for line in logger.metrics_path.read_text().splitlines()] == [0.0, 1.0]


def test_last_checkpoint_when_one_is_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert last_checkpoint(tmp_path) is None
    for name in ("step-00000009.ckpt", "step-00000010.ckpt", ".step-00000011.ckpt.part"):
        (folder / name).touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009.ckpt", "step-00000010.ckpt"]
