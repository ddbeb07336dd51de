"""Runs on disk: order, resumption and checkpoints; and the promise that `kill -9` changes nothing."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omni_release import write_release
from safetensors.torch import load_file
from small_policy import small_policy
from test_kimi_audio import tiny_kimi
from toys import ToyLM

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling, sampling_noise
from lightning_paras2s.modules.rollouts import Rollout, cut
from lightning_paras2s.running.checkpoints import checkpoints, last_checkpoint, publish, remove
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.runs import RunLogger, StepSeed, generators, set_generators

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
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


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
    ends = [json.loads((tmp_path / "runs" / stage / v / "result.json").read_text()) for v in ("whole", "cut")]
    length = (40 if stage == "grpo" else 10, 10, 1)  # of GRPO's batches each serves mu * minibatches = 4 steps
    assert [(end["steps"], end["batches"], end["ranks"]) for end in ends] == [length] * 2
    lines = [
        json.loads(line) for line in (tmp_path / "runs" / stage / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in lines if "val/loss" not in line and "train/loss" in line]
    assert steps == list(range(10))


def test_nothing_is_kept_of_a_fast_dev_run(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(toy_config("sft"))
    done = cli(tmp_path, "fit", "--config", "toy.yaml", "--trainer.fast_dev_run", "1")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "runs").exists()


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


def test_ranks_when_the_last_batch_is_short() -> None:
    """Seven items in batches of 2 x 2: of the last three, rank 0 gets two; with five, rank 1 gets none of the last."""

    def share(rank: int, size: int) -> list[list[int]]:
        return list(ResumableLoader(range(size), list, 2, 0, False, False, rank=rank, world_size=2))

    assert [share(rank, 7) for rank in range(2)] == [[[0, 1], [4, 5]], [[2, 3], [6]]]
    assert [share(rank, 5) for rank in range(2)] == [[[0, 1], [4]], [[2, 3]]]


def trainer_of(rank: int = 0, world_size: int = 1, batch: int = 0) -> SimpleNamespace:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=batch))
    return SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop, training=True)


def draws() -> list[float]:
    return [float(torch.rand(())), random.random(), np.random.random()]  # noqa: NPY002


def test_draws_when_ranks_start_a_batch() -> None:
    """Fails if ranks keep Lightning's equal seeds."""
    found = []
    for rank, batch in ((0, 3), (1, 3), (0, 4), (0, 3)):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        StepSeed(0).on_train_batch_start(trainer_of(rank, 2, batch))
        found.append(draws())
    assert found[0] == found[3]
    assert all(a != b for other in found[1:3] for a, b in zip(found[0], other))


def test_draws_when_generators_are_saved_and_set_again(tmp_path: Path) -> None:
    torch.save(generators(), tmp_path / "states.pt")
    expected = draws()
    set_generators(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draws() == expected


def test_draws_when_validation_comes_between() -> None:
    callback, trainer = StepSeed(0), trainer_of()
    states = generators()
    expected = draws()
    set_generators(states)
    callback.on_validation_start(trainer, None)
    draws()
    callback.on_validation_end(trainer, None)
    assert draws() == expected


def test_error_when_resumed_by_another_number_of_processes() -> None:
    with pytest.raises(UserError, match="as many processes as saved it, 2; got 1; "):
        StepSeed(0).on_load_checkpoint(trainer_of(), None, {"generators": [generators()] * 2})


def folder_of(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "shard").write_text(content)
    return path


def test_checkpoint_when_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "checkpoints" / "step-00000001.ckpt", "old")
    publish(folder_of(tmp_path / "checkpoints" / ".part", "new"), place)
    assert checkpoints(tmp_path) == [place] and (place / "shard").read_text() == "new"
    assert len(list(place.parent.iterdir())) == 1


def test_checkpoint_when_killed_between_the_renames_of_folders(tmp_path: Path, monkeypatch) -> None:
    """The old one is still found, and the next one of that step takes its place."""
    place = folder_of(tmp_path / "checkpoints" / "step-00000001.ckpt", "old")
    part, replace = folder_of(tmp_path / "checkpoints" / ".part", "new"), Path.replace

    def die(path: Path, target: Path) -> Path:
        if path == part:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        publish(part, place)
    assert (last_checkpoint(tmp_path) / "shard").read_text() == "old"
    monkeypatch.undo()
    publish(part, place)
    assert checkpoints(tmp_path) == [place] and (place / "shard").read_text() == "new"


def test_checkpoint_when_killed_while_an_old_one_is_deleted(tmp_path: Path, monkeypatch) -> None:
    """Half a folder never stands where a whole one is looked for."""
    place = folder_of(tmp_path / "checkpoints" / "step-00000001.ckpt", "old")

    def die(*args: object, **kwargs: object) -> None:
        if not kwargs:
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        remove(place)
    assert checkpoints(tmp_path) == []


def rollout_of(queries: int, prompt: int, group_size: int, steps: int) -> Rollout:
    tokens = torch.zeros(queries, 2, prompt, dtype=torch.long)
    answers = torch.zeros(queries * group_size, 2, steps, dtype=torch.long)
    completion = Completion(answers, answers.bool(), answers[:, 0, 0].bool())
    return Rollout(Prompt(tokens, torch.ones_like(tokens[:, 0], dtype=torch.bool)), completion, [])


def omni(folder: Path) -> QwenOmni:
    write_release(folder / "omni")
    return QwenOmni(str(folder / "omni"))


POLICIES = {"tiny": lambda _: small_policy(), "kimi": lambda _: tiny_kimi(), "omni": omni}


def test_forward_passes_when_tokens_are_limited() -> None:
    """A query is 10 + 3 * 5 = 25 tokens: 50 hold two, so five queries need three passes; 24 hold none."""
    rollout, policy = rollout_of(5, 10, 3, 5), ToyLM()
    assert [rollout.parts_needed(policy, 5, most) for most in (0, 24, 25, 50, 125, 1000)] == [1, 5, 5, 3, 1, 1]
    assert rollout.parts_needed(policy, 0, 50) == 1


@pytest.mark.parametrize("family", ["tiny", "kimi", "omni"])
def test_no_forward_pass_has_more_tokens_than_it_may(family, tmp_path) -> None:
    """Five prompts of 12 with 4 answers each, in passes of at most two queries as `positions` counts them: no layer
    sees more than that (but for the Omni's mark of the speaker, one an answer), and one sees at least half as many.
    """
    policy, seen = POLICIES[family](tmp_path).eval(), []
    prompt = rollout_of(5, 12, 4, 6).prompt
    completion = policy.generate(prompt, Sampling(6), sampling_noise(0, 0, 20, 6), 4)
    rollout, budget = Rollout(prompt, completion, []), 2 * policy.positions(12, completion.tokens.shape[2], 4)
    for module in policy.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0][..., 0].numel()))
    for part in cut(torch.arange(5), rollout.parts_needed(policy, 5, budget)):
        policy.logps(*rollout.queries(part.queries)[:2], Sampling())
    assert budget / 2 < max(seen) <= budget + 2 * 4


def test_micro_batches_when_another_rank_needs_more() -> None:
    """Five queries in two are 3 + 2; one in three leaves two stand-ins, none in two leaves stand-ins alone."""

    def parts(queries: int, count: int) -> list[tuple[list[int], bool]]:
        return [(part.queries.tolist(), part.counts) for part in cut(torch.arange(queries) + 4, count)]

    assert parts(5, 2) == [([4, 5, 6], True), ([7, 8], True)]
    assert parts(1, 3) == [([4], True), ([0], False), ([0], False)]
    assert parts(0, 2) == [([0], False)] * 2
