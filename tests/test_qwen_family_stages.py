"""Configs of `onegpu/` as they stand, on a folder laid out as the release with tiny random weights: GRPO of adapters
and of all weights, killed and resumed, then the benchmark. The machine, the steps and the ears are replaced.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omni_release import write_release
from safetensors.torch import load_file
from test_paper_configs import ROOT, write_queries

from lightning_paras2s.cli import dispatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.types import Response, read_jsonl

HERE = ["--trainer.accelerator=cpu", "--progress.refresh_rate=0", "--trainer.limit_val_batches=1"]
SHORT = ["--model.sampling.max_steps=8", "--model.group_size=2", "--data.batch_size=2"]
PRECISE = ["--model.policy.init_args.dtype=float32", "--data.processor.init_args.dtype=float32"]
# half of all bytes, so that groups differ
COUNTED = ["--model.reward=TokenCountReward", "--model.reward.token=103"]
HEARD = ["--model.reward.init_args.transcriber=TinyTranscriber"]
GRPO = ["fit", "--config", "onegpu/grpo.yaml", *HERE, *SHORT, *PRECISE]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    write_release(folder / "models" / "Qwen2.5-Omni-3B", context=1024)
    (folder / "models" / "Qwen2.5-Omni-7B").symlink_to("Qwen2.5-Omni-3B")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    (folder / "configs").symlink_to(ROOT / "configs")
    for part in ("queries", "preferences"):
        write_queries(folder / "data" / part, "train.jsonl", 4)
        write_queries(folder / "data" / part, "val.jsonl", 2)
    write_queries(folder / "data" / "paras2sbench", "queries.jsonl", 2, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def logged(run: str, name: str) -> list[float]:
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def trained(lab) -> str:
    dispatch([*GRPO, *HEARD, "--model.max_unscored=1.0", "--trainer.max_steps=2", "--trainer.logger.version=heard"])
    return "runs/onegpu_grpo/heard"


def test_grpo_of_adapters_hears_its_answers_and_begins_at_the_reference(trained):
    kl = logged(trained, "train/kl")
    assert len(kl) == 2 and abs(kl[0]) < 1e-6
    assert {p.name for p in Path(trained, "policy").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert logged(trained, "seconds/decode")[0] > 0
    (checkpoint,) = [torch.load(p, weights_only=False) for p in Path(trained).rglob("*.ckpt")][:1]
    assert all(".lora_" in name for name in checkpoint["state_dict"] if name.startswith("policy."))


def test_grpo_speaks_and_hears_beside_its_sampling_with_the_same_numbers(lab):
    """token2wav and the ears in a thread of their own in the second of two steps."""
    options = [*GRPO, *HEARD, "--model.max_unscored=1.0", "--trainer.max_steps=2", "--model.rollout_parts=2"]
    for overlap in ("never", "always"):
        dispatch([*options, f"--model.overlap={overlap}", f"--trainer.logger.version={overlap}"])
    runs = [f"runs/onegpu_grpo/{overlap}" for overlap in ("never", "always")]
    for name in ("train/reward", "train/loss", "train/kl", "train/silence_fraction"):
        first, then = (logged(run, name) for run in runs)
        assert len(first) == len(then) and first == pytest.approx(then, rel=0, abs=0, nan_ok=True), name
    first, then = (load_file(f"{run}/policy/adapter_model.safetensors") for run in runs)
    assert all(torch.equal(first[name], then[name]) for name in first)


@pytest.mark.parametrize("card", ["card_24", "card_48", "card_80"])
def test_every_card_takes_two_steps(card, lab):
    options = ["--config", f"onegpu/{card}.yaml", *HERE, *SHORT, *PRECISE, *COUNTED, "--model.state_bits=32"]
    run = f"runs/onegpu_grpo/{card}"
    dispatch(
        ["fit", "--config", "onegpu/grpo.yaml", *options, "--trainer.max_steps=2", f"--trainer.logger.version={card}"]
    )
    assert len(logged(run, "train/loss")) == 2 and logged(run, "train/grad_norm")[-1] > 0


def test_killed_and_resumed_it_ends_as_one_that_was_not(lab):
    options = [*GRPO, *COUNTED, "--trainer.max_steps=4", "--checkpoint.every_n_batches=1", "--model.lr=0.01"]
    dispatch([*options, "--trainer.logger.version=whole"])
    kill = ["--trainer.callbacks+=toys.KillAt", "--trainer.callbacks.batch=3", "--trainer.callbacks.marker=killed"]
    command = [sys.executable, "-m", "lightning_paras2s", *options, "--trainer.logger.version=cut", *kill]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    killed = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr.decode()[-900:]
    assert not Path("runs/onegpu_grpo/cut/policy").exists()
    dispatch([*options, "--trainer.logger.version=cut"])
    whole, cut = (load_file(f"runs/onegpu_grpo/{run}/policy/adapter_model.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    assert logged("runs/onegpu_grpo/whole", "train/reward/mean") == logged("runs/onegpu_grpo/cut", "train/reward/mean")
    moved = [bool(tensor.any()) for name, tensor in whole.items() if "lora_B" in name]
    assert all(moved)


def test_all_weights_train_and_are_written_as_the_release(lab):
    options = [
        "--model.policy.init_args.lora_rank=0",
        "--model.policy.init_args.export=merged",
        "--trainer.max_steps=2",
    ]
    dispatch([*GRPO, *COUNTED, *options, "--trainer.logger.version=full"])
    before, after = (QwenOmni(p) for p in ("models/Qwen2.5-Omni-3B", "runs/onegpu_grpo/full/policy"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_its_own_best_answers_are_learned(lab):
    """Rejection sampling by `onegpu/preferences.yaml` and `onegpu/sft.yaml`; a random model is judged for a byte's
    share, and learns those of its answers that ended in time."""
    options = [*HERE[:2], "--model.samples=6", "--data.batch_size=2", "--model.sampling.max_steps=100"]
    options += ["--model.policy.init_args.dtype=float32", "--data.processor.init_args.dtype=float32"]
    options += ["--model.sampling.text_temperature=3", *COUNTED]
    dispatch(["predict", "--config", "onegpu/preferences.yaml", *options])
    fit = [*HERE, *PRECISE, "--trainer.max_steps=8", "--trainer.max_epochs=-1", "--data.floor=0", "--model.lr=0.01"]
    fit += ["--model.warmup_steps=0", "--data.balance=0"]
    dispatch(["fit", "--config", "onegpu/sft.yaml", *fit])
    losses = logged("runs/onegpu_sft/version_0", "train/loss")
    assert len(losses) == 8 and sum(losses[-2:]) < sum(losses[:2]), losses
    # RL goes on from it: the adapters are part of the base, and of the reference
    policy = ["--model.policy.init_args.path=runs/onegpu_sft/version_0/policy"]
    dispatch([*GRPO, *COUNTED, *policy, "--trainer.max_steps=1", "--trainer.logger.version=after_sft"])
    assert abs(logged("runs/onegpu_grpo/after_sft", "train/kl")[0]) < 1e-5
    trained = QwenOmni("runs/onegpu_grpo/after_sft/policy")
    assert all(p.isfinite().all() for p in trained.parameters())


def test_benchmark_of_the_released_and_the_trained(trained):
    config = yaml.safe_load((ROOT / "configs" / "onegpu" / "evaluate.yaml").read_text())
    embedded = yaml.safe_load((ROOT / "configs" / "evaluate.yaml").read_text())
    config |= {name: embedded[name] for name in ("judge", "transcriber", "recognizer")}
    config["foreign_speech"] = "allow"  # embedded ears know other voices
    config["systems"]["grpo"]["init_args"]["policy"] = f"{trained}/policy"
    for system in config["systems"].values():
        system["init_args"]["sampling"]["max_steps"] = 12
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    dispatch(["evaluate", "--config", "tiny.yaml"])
    responses = read_jsonl("runs/onegpu_evaluate/responses.jsonl", Response)
    assert sorted(r.system for r in responses) == ["grpo", "grpo", "release", "release"]
    assert all(Path("runs/onegpu_evaluate", r.audio).is_file() for r in responses if r.audio)
    assert any(r.audio for r in responses)


def test_supervised_training_on_recorded_answers_is_refused_in_one_line(lab):
    data = ["--data.labelled=true", "--data.source.init_args.answers=data/queries/answers.jsonl"]
    rows = [
        {"query_id": q, "system": "demo", "audio": "train0.wav", "text": "oh"}
        for q in ("train0", "train1", "train2", "train3", "val0", "val1")
    ]
    Path("data/queries/answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ["--model=SFTModule", "--model.policy=QwenOmni", "--model.policy.path=models/Qwen2.5-Omni-3B"]
    base = yaml.safe_load((ROOT / "configs" / "onegpu" / "grpo.yaml").read_text())
    Path("data.yaml").write_text(yaml.safe_dump({"data": base["data"]}))
    with pytest.raises(UserError, match="recorded answers can't be demonstrations"):
        dispatch(["fit", "--config", "data.yaml", *HERE, *model, *data, "--trainer.max_steps=1"])
