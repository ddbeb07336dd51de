"""Two processes on the CPU (gloo, FSDP2) against one, on the same global batch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow


def start(folder: Path, processes: int, *more: str) -> subprocess.CompletedProcess:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = os.environ | {
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, *launch, str(TESTS / "fsdp_worker.py"), str(folder), str(processes), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    for processes in (1, 2):
        done = start(folder, processes)
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


def test_two_ranks_end_with_the_weights_and_loss_of_one_process(runs):
    one, first, second = runs
    assert first["sharded"] == len(first["weights"]) == 83 and one["sharded"] == 0
    for name, weight in one["weights"].items():
        assert (first["weights"][name] - weight).abs().max() < 1e-5, name
        assert torch.equal(first["weights"][name], second["weights"][name])


def test_ranks_report_their_halves_of_the_loss_and_one_gradient_norm(runs):
    one, *ranks = ({k.removeprefix("train/"): v for k, v in r["metrics"].items()} for r in runs)
    for name in ("loss", "kl", "reward"):
        assert sum(r[name] for r in ranks) / 2 == pytest.approx(one[name], abs=1e-5), name
    assert all(r["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5) for r in ranks)


def test_ranks_sample_differently_and_together_as_one_process(runs):
    one, first, second = runs
    width = min(r["tokens"].shape[-1] for r in runs)
    assert not torch.equal(first["tokens"][..., :width], second["tokens"][..., :width])
    both = torch.cat([first["tokens"][..., :width], second["tokens"][..., :width]])
    assert torch.equal(both, one["tokens"][..., :width])


def test_a_rank_that_raises_ends_the_job_with_its_message(tmp_path):
    started = time.monotonic()
    done = start(tmp_path, 2, "1")
    assert done.returncode != 0 and "the reward broke down on purpose" in done.stderr
    assert time.monotonic() - started < 120  # 60 s beyond the start of two processes
