"""`fit --config paper/grpo.yaml --config trainer/fsdp2_8gpu.yaml` as torchrun and srun start it: two gloo processes and
tiny models. What a resumed run must find in its sharded checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fsdp_worker import command, said, srun, start
from test_paper_configs import ROOT, write_queries
from test_runs import toy_config
from tiny_models import write_models

TESTS = Path(__file__).parent
KIMI = "models/Kimi-Audio-7B-SFT"
FIT = ["fit", "--config", "paper/grpo.yaml", "--config", "trainer/fsdp2_8gpu.yaml"]
HERE = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy.init_args.data_parallel_size=2"]
HERE += ["--trainer.max_steps=2", "--checkpoint.every_n_batches=1", "--progress.refresh_rate=0", "--model.group_size=4"]
HERE += ["--model.sampling.max_steps=8", "--data.batch_size=2", "--trainer.limit_val_batches=0"]
HERE += ["--model.reward=fsdp_worker.Letters", "--model.reward.fails=false", f"--model.policy.init_args.path={KIMI}"]
WATCH = ["--trainer.callbacks+=toys.KeepRollouts"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    write_models(folder / "models")
    (folder / "configs").symlink_to(ROOT / "configs")
    queries = folder / "data" / "queries"
    write_queries(queries, "train.jsonl", 8)
    write_queries(queries, "val.jsonl", 2)
    # one recording for all: ranks that drew the same noise would give the same answers
    rows = [json.loads(line) | {"audio": "train7.wav"} for line in (queries / "train.jsonl").read_text().splitlines()]
    (queries / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def fit(folder: Path, version: str, *options: str, launcher=None) -> list[int]:
    argv = [*FIT, *HERE, f"--trainer.logger.version={version}", *options]
    return start(command, (argv, folder), folder, 2, *([launcher] if launcher else []))


def check_trained(folder: Path, version: str) -> None:
    """Two steps with a gradient, checkpoints and weights; each rank answered its own queries, and differently though
    all say the same.
    """
    run = folder / "runs" / "paper_grpo" / version
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in lines] == [0, 1] and all(line["train/grad_norm"] > 0 for line in lines)
    assert (run / "checkpoints" / "step-00000002.ckpt" / ".metadata").is_file()
    assert (run / "policy" / "config.json").is_file()
    first, second = (torch.load(run / f"rollouts-{rank}.pt") for rank in range(2))
    assert len(first) == len(second) == 2
    for one, other in zip(first, second):
        assert not set(one["queries"]) & set(other["queries"])
        assert torch.equal(one["prompt"], other["prompt"]) and not torch.equal(one["answers"], other["answers"])


@pytest.mark.slow
def test_it_trains_when_torchrun_starts_it(lab):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    version = "--trainer.logger.version=torchrun"
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "lightning_paras2s", *FIT, *HERE, *WATCH, version],
        cwd=lab,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_trained(lab, "torchrun")


@pytest.fixture(scope="module")
def trained(lab) -> Path:
    """The run that srun started."""
    assert fit(lab, "srun", *WATCH, launcher=srun) == [0, 0], said(lab, 0) + said(lab, 1)
    return lab / "runs" / "paper_grpo" / "srun"


def test_it_trains_when_srun_starts_it(lab, trained):
    check_trained(lab, "srun")


def test_it_trains_under_ddp_which_small_policies_use(tmp_path):
    """Both ranks get the toy's same prompts, so that equal noise would give the same answers; two passes (mu) of two
    minibatches in two micro-batches, each of which DDP sums.
    """
    (tmp_path / "toy.yaml").write_text(toy_config("grpo", steps=2))
    argv = ["fit", "--config", "toy.yaml", "--trainer.devices=2", "--trainer.strategy=ddp", *WATCH]
    argv += ["--trainer.logger.version=ddp", "--model.micro_batch_tokens=50"]
    assert start(command, (argv, tmp_path), tmp_path, 2) == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)
    run = tmp_path / "runs" / "grpo" / "ddp"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/grad_norm"] > 0 for line in lines if "train/loss" in line] == [True, True]
    for one, other in zip(*(torch.load(run / f"rollouts-{rank}.pt") for rank in range(2))):
        assert torch.equal(one["prompt"], other["prompt"]) and not torch.equal(one["answers"], other["answers"])


def test_a_run_is_refused_in_one_line_when_its_shards_are_another_models(lab, trained):
    """All ranks see it alike before any reads a weight: rank 0 tells, both end with 2, and the run stays as it was."""
    config = (trained / "config.yaml").read_bytes()
    assert fit(lab, "srun", "--model.policy.init_args.lora_rank=2") == [2, 2], said(lab, 0) + said(lab, 1)
    errors = [[line for line in said(lab, rank).splitlines() if "rror" in line] for rank in range(2)]
    assert errors[1] == [] and len(errors[0]) == 1 and "Traceback" not in said(lab, 0) + said(lab, 1)
    (line,) = errors[0]
    assert "step-00000002.ckpt must be a checkpoint of this model; got another's (policy.model." in line
    assert "set the model's options as they were, or name another version" in line
    assert (trained / "config.yaml").read_bytes() == config
