"""Two processes on the CPU (gloo, FSDP2) against one on the same global batch; ranks that are killed, and that fail."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fsdp_worker import Scene, command, first_adapters, said, start, train, validate, weights_differ
from test_kimi_audio import mixed_prompt, tiny_kimi
from test_runs import toy_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lightning_paras2s.models.kimi.checkpoint import save_kimi
from lightning_paras2s.models.speech_lm import Sampling, sampling_noise
from lightning_paras2s.running.checkpoints import checkpoints

# 112 tokens are one query of up to 4 * (12 + 8) tokens, or two of 4 * (6 + 8): in the second batch, rank 0 (prompts of
# 8 and 7 tokens) needs two micro-batches, rank 1 (6 and 5) one; in the first, rank 1 has nothing to learn from at all.
UNEVEN = (("micro_batch_tokens", 112), ("mu", 2))


def run(folder: Path, scene: Scene, processes: int) -> list[dict]:
    codes = start(train, (scene, folder), folder, processes)
    assert codes == [0] * processes, said(folder, 0) + said(folder, processes - 1)
    return [torch.load(folder / f"{scene.name}-{processes}-{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[dict]:
    """One process, then both of two."""
    folder = tmp_path_factory.mktemp("fsdp")
    return run(folder, Scene("one", options=UNEVEN), 1) + run(folder, Scene("two", options=UNEVEN), 2)


def test_two_ranks_end_with_the_weights_and_loss_of_one_process(runs):
    one, first, second = runs
    assert first["sharded"] == len(first["weights"]) == 83 and one["sharded"] == 0
    assert weights_differ(one["weights"], first["weights"]) < 1e-5
    assert weights_differ(first["weights"], second["weights"]) == 0


def test_ranks_report_the_metrics_of_the_global_batch(runs):
    one, *ranks = (r["metrics"] for r in runs)
    for name in ("loss", "kl", "reward", "reward_std", "grad_norm", "length/audio", "unscored"):
        assert [r[f"train/{name}"] for r in ranks] == pytest.approx([one[f"train/{name}"]] * 2, abs=1e-5), name


def test_ranks_sample_differently_and_together_as_one_process(runs):
    """Fails if ranks fall for Lightning's equal seeds: both would draw rank 0's noise."""
    one, first, second = (r["tokens"] for r in runs)
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat([first, second]), one)


def test_weights_are_gathered_once_a_rollout_and_gradients_summed_once_a_step(runs):
    """Eight decode steps and up to two micro-batches; two rollouts of two updates (mu)."""
    for rank in runs[1:]:
        assert rank["counts"] == {"rollout": [rank["parts"]] * 2, "update": [rank["parts"]] * 4}


def test_ranks_meet_in_one_thread_alone_while_another_scores(runs, tmp_path):
    """A query a part: blocks are gathered for each part, the root stays whole until the backward pass, and no
    collective is the scoring thread's.
    """
    options = (*UNEVEN, ("rollout_parts", 2), ("overlap", "always"))
    (first, second) = run(tmp_path, Scene("parts", options=options), 2)
    assert weights_differ(runs[0]["weights"], first["weights"]) < 1e-5
    for rank, whole in ((first, runs[1]), (second, runs[2])):
        assert torch.equal(rank["tokens"], whole["tokens"])
        assert rank["counts"]["rollout"] == [2 * rank["parts"] - 1] * 2
        assert rank["threads"] == {"collectives": ["MainThread"], "scores": 2}


def test_run_when_killed_while_saving_and_resumed_is_bit_identical(tmp_path):
    """Rank 1 dies at its second checkpoint (after the last of four batches), its own part being written; the first is
    from the middle of the second epoch.

    The loader's noise comes from each rank's own generator, which must be resumed as AdamW's moments must.
    """
    (whole, _) = run(tmp_path, Scene("whole", epochs=2, noisy=True), 2)
    killed = start(train, (Scene("cut", epochs=2, noisy=True, killed_rank=1), tmp_path), tmp_path, 2)
    assert killed[1] == -9 and killed[0] > 0
    folder = tmp_path / "run" / "cut"
    assert [path.name for path in checkpoints(folder)] == ["step-00000003.ckpt"]
    assert (folder / "checkpoints" / ".step-00000004.ckpt.part").is_dir()
    (resumed, _) = run(tmp_path, Scene("cut", epochs=2, noisy=True), 2)
    assert weights_differ(whole["weights"], resumed["weights"]) == 0
    assert torch.equal(whole["tokens"], resumed["tokens"])
    assert not list((folder / "checkpoints").glob(".*"))
    lines = [(tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert steps(lines[0]) == steps(lines[1]) == list(range(4))


def steps(lines: list[str]) -> list[int]:
    return [record["step"] for record in map(json.loads, lines) if "train/loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_run_when_a_rank_is_killed_and_resumed_is_bit_identical(rank, tmp_path):
    """In the fifth batch, two after the checkpoint; with adapters, whose reference is the policy itself."""
    shape = {"epochs": 3, "noisy": True, "lora_rank": 2}
    (whole, _) = run(tmp_path, Scene("whole", **shape), 2)
    killed = start(train, (Scene("cut", **shape, killed_rank=rank, killed_at=4), tmp_path), tmp_path, 2)
    assert killed[rank] == -9 and killed[1 - rank] > 0
    (resumed, _) = run(tmp_path, Scene("cut", **shape), 2)
    assert weights_differ(whole["weights"], resumed["weights"]) == 0
    policy = tmp_path / "run" / "cut" / "policy" / "config.json"
    ended = policy.stat().st_mtime_ns
    run(tmp_path, Scene("cut", **{**shape, "epochs": 4}), 2)  # what has ended can go on, and is exported again
    assert policy.stat().st_mtime_ns > ended


@pytest.mark.slow
def test_a_rank_that_raises_ends_the_job_with_its_message(tmp_path):
    """Its peer waits for it in a collective, and ends without a word of its own."""
    started = time.monotonic()
    codes = start(train, (Scene("fails", failing_rank=1), tmp_path), tmp_path, 2)
    assert codes == [1, 1] and time.monotonic() - started < 60
    assert "rank 1 of 2 failed" in said(tmp_path, 1) and "the reward broke down on purpose" in said(tmp_path, 1)
    assert "Traceback" not in said(tmp_path, 0) and "error" not in said(tmp_path, 0).lower()


def test_adapters_of_two_ranks_begin_as_those_of_one_process(tmp_path):
    """Of full rank, too: with shards that each rank draws from the same numbers, half of the rows would be the other
    half again (of 16 on eight ranks two would be left).
    """
    save_kimi(tiny_kimi(), tmp_path / "base", "float32")
    for processes in (1, 2):
        codes = start(first_adapters, (str(tmp_path / "base"), tmp_path), tmp_path, processes)
        assert codes == [0] * processes, said(tmp_path, 0)
    one, *ranks = (torch.load(tmp_path / f"adapters-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert len(one) == 84
    downs = [tensor for name, tensor in one.items() if ".lora_A." in name]
    assert all(torch.linalg.matrix_rank(down) == 8 for down in downs)
    assert all(weights_differ(one, rank) == 0 for rank in ranks)


def test_ranks_share_what_is_scored_in_validation(tmp_path):
    """A judge is paid by the answer: of seven answers each is scored once, by some rank, and the means are one's."""
    for processes in (1, 2):
        codes = start(validate, (Scene("held"), tmp_path), tmp_path, processes)
        assert codes == [0] * processes, said(tmp_path, 0)
    (one, asked), *ranks = (torch.load(tmp_path / f"validated-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert asked == [4, 3] and [there for _, there in ranks] == [[2, 2], [2, 1]]
    assert 0 < one["val/unscored"] < 1
    for found, _ in ranks:
        assert found == pytest.approx(one)


@pytest.mark.parametrize("target, late", [pytest.param(train, 1, marks=pytest.mark.slow), (validate, 0)])
def test_ranks_wait_for_a_judge_that_one_of_them_asks_for_long(target, late, tmp_path):
    """20 seconds, in a process group that waits for eight: half an hour of a group is less than an outage that a
    judge's retries (seven times 120 s a request, and waits) last through, and the job died of "Timed out waiting".
    """
    scene = Scene("late", options=(*UNEVEN, ("rollout_parts", 2)), late_rank=late, late_seconds=20, timeout_seconds=8)
    assert start(target, (scene, tmp_path), tmp_path, 2) == [0, 0], said(tmp_path, 0) + said(tmp_path, 1)


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_whole_behind_a_pass(frozen, tmp_path):
    """Of a reference nothing: it would hold the root (at Kimi-Audio's size 3.7 GB a GPU) for the rest of the run. What
    trains keeps its root for the backward pass.
    """
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, prompt, sampling = tiny_kimi(gather="float32").eval(), mixed_prompt(2), Sampling(6)
        model = model.reference() if frozen else model
        model.shard(init_device_mesh("cpu", (1,)))
        completion = model.generate(prompt, sampling, sampling_noise(0, 0, 2, 6))
        for _ in range(2):
            with torch.no_grad():
                model.logps(prompt, completion, sampling)
            assert isinstance(model.lm_head.weight, DTensor) == frozen
            assert all(isinstance(p, DTensor) for p in model.model.layers.parameters())
            model.generate(prompt, sampling, sampling_noise(0, 0, 2, 6))
            assert not frozen or all(isinstance(p, DTensor) for p in model.parameters())
    finally:
        dist.destroy_process_group()


def test_run_is_refused_on_lightnings_default_mesh(tmp_path):
    """It is one of tensor parallelism: each rank would hold all weights and learn from its own half alone."""
    codes = start(train, (Scene("trap", default_mesh=True), tmp_path), tmp_path, 2)
    assert codes == [1, 2]
    assert "must be sharded over all 2 processes; got a mesh of 1" in said(tmp_path, 0)
    assert "must be sharded" not in said(tmp_path, 1)  # all fail alike: rank 0 alone tells


@pytest.mark.slow
@pytest.mark.parametrize("option, must", [("group_size=1", "got 1"), ("init_from=none.safetensors", "got none.safet")])
def test_a_users_mistake_is_one_line_from_rank_0(option, must, tmp_path):
    """Noticed before the ranks meet (a constructor's argument) and after (a file that the model reads)."""
    (tmp_path / "toy.yaml").write_text(toy_config("grpo"))
    argv = ["fit", "--config", "toy.yaml", "--trainer.devices=2", "--trainer.strategy=ddp", f"--model.{option}"]
    assert start(command, (argv, tmp_path), tmp_path, 2) == [2, 2], said(tmp_path, 0)
    lines = [[line for line in said(tmp_path, rank).splitlines() if "rror" in line] for rank in range(2)]
    assert len(lines[0]) == 1 and lines[0][0].startswith("error: ") and must in lines[0][0] and lines[1] == []
