"""The stages of `onegpu/` on two processes (gloo): samples as of one process, and SFT and GRPO sharded as the paper's
config has them (FSDP2), killed and resumed bit by bit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_paper_configs import ROOT
from test_qwen_family_stages import COUNTED, GRPO, HERE, PRECISE, lab, logged  # noqa: F401  a fixture

from lightning_paras2s.cli import dispatch

pytestmark = pytest.mark.slow

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
MESH = "--trainer.strategy.init_args"
SHARDED = ["--config", "trainer/fsdp2_8gpu.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]
SHARDED += [f"{MESH}.data_parallel_size=2"]
SAMPLE = ["predict", "--config", "onegpu/preferences.yaml", *HERE[:2], *PRECISE, *COUNTED, "--model.samples=3"]
SAMPLE += ["--model.sampling.max_steps=100", "--model.sampling.text_temperature=3"]


def start(*words: str) -> subprocess.CompletedProcess:
    """In processes of their own, which a kill takes together."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lightning_paras2s", *words]
    return subprocess.run(command, env=environment, capture_output=True, start_new_session=True, timeout=300)


def done(*words: str) -> None:
    ended = start(*words)
    assert ended.returncode == 0, ended.stderr.decode()[-2000:]


@pytest.fixture(scope="module")
def sampled(lab) -> Path:  # noqa: F811
    dispatch([*SAMPLE, "--model.folder=one", "--data.batch_size=2"])
    done(*SAMPLE, *TWO, "--model.folder=runs/onegpu_preferences/data", "--data.batch_size=1")
    return lab


def test_two_processes_draw_the_samples_of_one(sampled):
    for split in ("train", "val"):
        for name in (f"{split}_completions.jsonl", f"{split}.jsonl"):
            one, two = (Path(folder, name).read_text() for folder in ("one", "runs/onegpu_preferences/data"))
            assert len(one.splitlines()) >= 2
            shards = one.replace(f"{split}-1/", f"{split}-0/"), two.replace(f"{split}-1/", f"{split}-0/")
            assert shards[0] == shards[1]


# by the run's name; the last is GRPO whose voice is held by the best of the samples
STAGES = ("onegpu_sft", "onegpu_grpo", "grpo_anchor")


def stage(name: str) -> list[str]:
    if name != "onegpu_sft":
        held = ["--config", "controls/anchor_audio.yaml", "--data.floor=0"]
        held += ["--data.judged=runs/onegpu_preferences/data"]
        anchor = held if name == "grpo_anchor" else []
        return [*GRPO, *anchor, *COUNTED, *SHARDED, "--data.batch_size=1", "--model.lr=0.01"]
    fit = ["fit", "--config", "onegpu/sft.yaml", *HERE, *PRECISE, *SHARDED, "--data.floor=0", "--data.balance=0"]
    return [*fit, "--data.batch_size=1", "--trainer.max_epochs=-1", "--model.lr=0.01", "--model.warmup_steps=0"]


@pytest.mark.parametrize("name", STAGES)
def test_two_shards_killed_and_resumed_end_as_those_that_were_not(name, sampled):
    options = [*stage(name), "--trainer.max_steps=2", "--checkpoint.every_n_batches=1"]
    done(*options, "--trainer.logger.version=whole2")
    kill = ["--trainer.callbacks+=toys.KillJob", "--trainer.callbacks.batch=1", f"--trainer.callbacks.marker={name}.k"]
    killed = start(*options, "--trainer.logger.version=cut2", *kill)
    assert killed.returncode == -9 and Path(f"{name}.k").exists(), killed.stderr.decode()[-2000:]
    assert not Path(f"runs/{name}/cut2/policy").exists()
    done(*options, "--trainer.logger.version=cut2")
    runs = [f"runs/{name}/{version}" for version in ("whole2", "cut2")]
    whole, cut = (load_file(f"{run}/policy/adapter_model.safetensors") for run in runs)
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    assert all(bool(tensor.any()) for key, tensor in whole.items() if "lora_B" in key)
    losses = [logged(run, "train/loss") for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 2
