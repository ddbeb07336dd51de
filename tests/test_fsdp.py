"""Two processes on the CPU (gloo, FSDP2) against one on the same global batch; ranks that are killed, and that fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from fsdp_worker import Scene, said, start, train, weights_differ

from lightning_paras2s.runs import checkpoints

# 78 tokens are one query of up to 12 + 4 * 8 tokens, or two of 6 + 4 * 8: in the second batch, rank 0 (prompts of 8 and
# 7 tokens) needs two micro-batches and rank 1 (6 and 5) one; in the first, rank 1 has nothing to learn from at all.
UNEVEN = (("micro_batch_tokens", 78), ("mu", 2))


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


def test_ranks_report_their_halves_of_the_loss_and_one_gradient_norm(runs):
    one, *ranks = ({k.removeprefix("train/"): v for k, v in r["metrics"].items()} for r in runs)
    for name in ("loss", "kl", "reward"):
        assert sum(r[name] for r in ranks) / 2 == pytest.approx(one[name], abs=1e-5), name
    assert all(r["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5) for r in ranks)
