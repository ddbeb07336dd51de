"""Every benchmark runs at a tiny size and writes its figures; bounds and memory counts are derived by hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
import bench_parts  # noqa: E402
import bench_tenfold  # noqa: E402
import grpo_step  # noqa: E402
import logps  # noqa: E402
import measure  # noqa: E402
import memory  # noqa: E402
import overlap  # noqa: E402
import rollout  # noqa: E402
import train_step  # noqa: E402
from turns import Turns  # noqa: E402

from lightning_paras2s.running.cost import Shape  # noqa: E402

SIZES = ["--queries", "2", "--group_size", "2", "--prompt", "4", "--steps", "6", "--repeats", "1", "--threads", "1"]
SMALL = [*SIZES, "--device", "cpu", "--dtype", "float32"]


@pytest.fixture(autouse=True)
def quick_ceiling(monkeypatch):
    monkeypatch.setattr(measure.measure_ceiling, "__defaults__", (0.01,))


def check(result: dict, contenders: set[str]) -> None:
    assert set(result["contenders"]) == contenders
    assert result["machine"]["gflops"] > 0 and result["machine"]["gigabytes_per_second"] > 0
    for found in result["contenders"].values():
        assert len(found["seconds"]) == 1
        # 2 queries x 2 responses x 6 steps
        assert found["per_second"] == pytest.approx(24 / found["median_seconds"], rel=0.02)
        assert found["measured_over_bound"] > 1


def test_rollout_writes_a_line_for_all_contenders(tmp_path, capsys):
    path = tmp_path / "new" / "lines.jsonl"
    result = rollout.main([*SMALL, "--model", "tiny_test", "--stride", "3", "--json", str(path)])
    check(result, {"generate", "reforward", "transformers"})
    rollout.main([*SMALL, "--model", "kimi_test", "--peers", "none", "--json", str(path)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["settings"]["model"] for line in lines] == ["tiny_test", "kimi_test"] and lines[0] == result
    assert "| transformers |" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["tiny_test", "kimi_lora_test"])
def test_logps_and_train_step_run(model):
    check(logps.main([*SMALL, "--model", model]), {"logps", "plain"})
    check(train_step.main([*SMALL, "--model", model]), {"update", "plain"})


def test_contenders_of_logps_agree():
    """The plain way is the check of ours: what is timed must be the same numbers."""
    args = measure.parse("", [*SMALL, "--model", "tiny_test"])
    policy = logps.POLICIES[args.model](args)
    model, prompt, completion = policy.build().eval(), policy.prompt(args), logps.responses(args, policy)
    plain = logps.plain_logps(model, prompt.repeat(2), completion)
    ours = model.logps(prompt, completion, logps.Sampling(6)).values
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("model", "dtype"), [("tiny_test", "bfloat16"), ("kimi_lora_test", "float32")])
def test_grpo_step_runs_without_a_peer(model, dtype):
    result = grpo_step.main([*SIZES, "--device", "cpu", "--dtype", dtype, "--model", model, "--peers", "none"])
    check(result, {"ours"})
    assert {"ours, seconds of rollout", "ours, seconds of update"} <= set(result["notes"])


def test_overlap_times_four_ways_with_a_voice():
    result = overlap.main([*SIZES, "--device", "cpu", "--dtype", "float32", "--model", "kimi_lora_test"])
    check(result, ways := {"at once", "2 parts in order", "2 parts beside"})
    told = ("seconds of rollout", "seconds of decode", "tokens a second")
    assert all(result["notes"][f"{way}, {name}"] > 0 for way in ways for name in told)


@pytest.mark.slow
def test_grpo_step_races_trl():
    pytest.importorskip("trl")
    check(grpo_step.main([*SMALL, "--model", "tiny_test"]), {"ours", "trl"})


def test_forward_flops_of_a_hand_computed_shape():
    """Hidden 2, inner 3, 1 head, 1 layer: attention 2*4 + 2*2*2 + 2 + 4 = 22 weights, MLP 18, norms 4: 44; heads
    2 x (5 + 7). 3 prompts of 4 read once, 6 rows of 2 steps: 2*44*(12 + 12) + 2*24*12 + attention 8 FLOPs a pair,
    3*4*2 + 6*2*5 = 84 pairs."""
    args = argparse.Namespace(queries=3, group_size=2, prompt=4, steps=2, dtype="float32")
    shape = Shape(2, 3, 1, 1, 1, 12, 1, 5, 7)
    assert measure.forward_flops(shape, args) == 2 * 44 * 24 + 2 * 24 * 12 + 8 * 84
    # A slow memory: each of 2 steps reads 44 + 24 weights, 3 * 4 prompt positions, 6 * 1 own ones, 4 numbers each
    bound = measure.rollout_bound(shape, measure.Ceiling(1e30, 1.0), args)
    assert bound == pytest.approx(2 * 4 * (44 + 24 + 4 * (12 + 6)))
    # A slow processor: prefill, then 6 rows a step
    bound = measure.rollout_bound(shape, measure.Ceiling(1.0, 1e30), args)
    assert bound == pytest.approx(2 * 44 * 12 + 2 * 2 * 68 * 6)


def test_race_takes_turns_and_leaves_the_first_round_out():
    calls = []
    contenders = {name: measure.Contender(lambda name=name: calls.append(name), 1.0, 3.0) for name in "ab"}
    timings = measure.race(contenders, 2, "cpu")
    assert calls == ["a", "b"] * 3
    assert all(len(t.wall) == len(t.processor) == 2 for t in timings.values())


def peer_that_breaks(turns) -> None:
    take_turns(turns, "trl", 2, [])
    raise ValueError("peer broke")


def peer_that_dies(turns) -> None:
    os._exit(9)


def take_turns(turns, name: str, steps: int, order: list[str]) -> None:
    for _ in range(steps):
        turns.begin(name)
        order.append(name)
        turns.end(name)


def test_turns_alternate_and_a_failure_reaches_the_other():
    turns = Turns(["ours", "trl"], argparse.Namespace(threads=1, device="cpu"))
    turns.start("trl", peer_that_breaks)
    order: list[str] = []
    with pytest.raises(RuntimeError, match="trl ended:(.|\n)*peer broke"):
        take_turns(turns, "ours", 4, order)
        turns.join()
    assert 2 <= len(order) <= 3  # the peer's second turn allowed a third, and told of the failure just then
    assert len(turns.timings["ours"].wall) == len(order) - 1 and len(turns.timings["trl"].wall) == 1  # no first round


def test_a_peer_that_dies_does_not_stop_the_clock_for_ever():
    turns = Turns(["ours", "trl"], argparse.Namespace(threads=1, device="cpu"))
    turns.start("trl", peer_that_dies)
    with pytest.raises(RuntimeError, match="trl ended with exit code 9"):
        take_turns(turns, "ours", 2, [])


def test_peak_counts_live_tensors_only():
    """a + 1 and then its double: two tensors of 4,000 bytes live at once; three in a row need no more; views and
    in-place changes of the input nothing."""
    a = torch.ones(1000)

    def chain() -> None:
        b = a
        for _ in range(3):
            b = b * 2

    assert memory.peak_bytes(lambda: (a + 1) * 2, "cpu") == 8000
    assert memory.peak_bytes(chain, "cpu") == 8000
    assert memory.peak_bytes(lambda: a.view(10, 100).add_(1), "cpu") == 0


def test_memory_grows_with_the_chunk_and_not_with_the_vocabulary(tmp_path):
    """Blocks of 256 x 64 and 256 x 128 (1/16 and 1/8 MB) against 512 x V: 512 x 2,048 float32 are 4 MB."""
    figure, lines = tmp_path / "memory.png", tmp_path / "lines.jsonl"
    options = ["--tokens", "512", "--width", "4", "--chunks", "64", "128", "--vocabularies", "512", "2048"]
    result = memory.main([*options, "--device", "cpu", "--figure", str(figure), "--json", str(lines)])
    assert figure.stat().st_size > 1000 and len(lines.read_text().splitlines()) == 1
    small, large, whole = result["peak_megabytes"].values()
    for part in ("forward", "backward"):
        assert abs(small[0][part] - small[1][part]) < 1 / 16  # less than a block for four times the vocabulary
        assert 1.5 < large[1][part] / small[1][part] < 2.5
        assert whole[1][part] > 3.5 * whole[0][part] and whole[1][part] >= 8


def test_tenfold_takes_the_start_off_the_time():
    """30 s and 210 s of which 10 are the start: 20 to 200 s is 10 x; 1,100 over 1,000 MB is 1.1 x; 400 / 200 a s."""
    start, small, large = (
        bench_tenfold.Cost(*row) for row in ((0, 9, 10, 900), (40, 31, 30, 1000), (400, 220, 210, 1100))
    )
    found = bench_tenfold.compare(start, small, large)
    ratios = found["items_ratio"], found["time_ratio"], found["memory_ratio"], found["answers_per_cpu_second"]
    assert ratios == (10, 10, 1.1, 2)
    text = bench_tenfold.table(found)
    assert (
        "| 400 | 220.0 | 210.0 | 200.0 | 1100 |" in text and "10 x the items: 10 x the time, 1.1 x the memory." in text
    )


@pytest.mark.slow
def test_parts_and_tenfold_run_on_the_embedded_benchmark(tmp_path, monkeypatch):
    from lightning_paras2s.bench.queries.synthesize import synthesize

    monkeypatch.chdir(Path(__file__).parents[1])
    manifest = synthesize(str(tmp_path / "q"), limit=10, factors=["age"])["manifest"]
    rates = bench_parts.main([manifest, "--json"])
    assert len(rates) == 9 and all(rate > 0 for rate in rates.values())
    config = tmp_path / "evaluate.yaml"
    weights = "init_args: {path: checkpoints/embedded/%s.safetensors, batch_size: 1}"
    ear = f"{{class_path: TinyTranscriber, {weights % 'transcriber'}}}"
    tone = f"{{class_path: AcousticStyleRecognizer, {weights % 'style'}}}"
    systems = "{topline: {class_path: ToplineSystem, init_args: {synthesizer: EspeakSynthesizer, split: test}}}"
    config.write_text(f"systems: {systems}\njudge: EmbeddedJudge\ntranscriber: {ear}\nrecognizer: {tone}\n")
    found = bench_tenfold.main([manifest, "--pairs", "1", "--config", str(config)])
    assert found["items_ratio"] == 10 and found["small"]["answers"] == 2 and found["memory_ratio"] < 1.5
