"""SFT and the reward model on two processes (gloo, FSDP2) against one, on the same global batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_kimi_audio import tiny_kimi
from tiny_models import write_omni

from lightning_paras2s.models.kimi.checkpoint import save_kimi
from lightning_paras2s.models.kimi.lm import KimiAudio

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    write_omni(folder / "omni")
    save_kimi(tiny_kimi(), folder / "kimi", "float32")
    environment = os.environ | {
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for processes in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launch if processes > 1 else []), str(TESTS / "fsdp_stages_worker.py")]
        done = subprocess.run(
            [*command, str(folder), str(processes)], env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder, [torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


def test_weights_are_sharded_and_the_norm_is_one(runs):
    _, (one, *ranks) = runs
    assert one["sft"]["sharded"] == one["reward"]["sharded"] == 0
    for rank in ranks:
        assert rank["sft"]["sharded"] == 83 and rank["reward"]["sharded"] > 2 * 2 * 7
        for stage in ("sft", "reward"):
            assert rank[stage]["norm"] == pytest.approx(one[stage]["norm"], rel=1e-4)


def test_ranks_report_the_metrics_of_the_global_batch(runs):
    """Of the second batch, whose loss the first step's weights have: demonstrations of very different lengths."""
    _, (one, *ranks) = runs
    for stage, count in (("sft", 5), ("reward", 1)):
        wanted = {name: value for name, value in one[stage]["metrics"].items() if "norm" not in name}
        assert len(wanted) == count + 1  # steps that were left out
        for rank in ranks:
            for name, value in wanted.items():
                assert rank[stage]["metrics"][name] == pytest.approx(value, rel=1e-4), (stage, name)


def test_sft_of_two_ranks_exports_what_one_process_does(runs):
    """Ranks hold different numbers of actions: the loss divides by the mean over ranks."""
    folder, _ = runs
    one, two = (KimiAudio(str(folder / "sft" / n / "policy")) for n in "12")
    for (name, a), b in zip(one.named_parameters(), two.parameters()):
        assert (a - b).abs().max() < 1e-5, name


def test_reward_model_of_two_ranks_exports_what_one_process_does(runs):
    folder, _ = runs
    one, two = (load_file(folder / "reward" / n / "scorer.safetensors") for n in "12")
    assert one.keys() == two.keys() and len(one) == 2 * 2 * 7
    assert all(one[name].any() for name in one)
    # Adam's first steps are signs: a gradient near 0 may step the other way by its rate
    assert max((one[n] - two[n]).abs().max() for n in one) < 1e-5
