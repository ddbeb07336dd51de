"""The cost model against figures worked out by hand from the released shapes and data sheets (H100: 3.35 TB/s, 989
TFLOP/s).
"""

import dataclasses
import json

import pytest

from lightning_paras2s.cli import main
from lightning_paras2s.plan import (
    GPUS,
    Efficiency,
    Shape,
    Work,
    decode_step,
    forward_flops,
    largest_micro_batch,
    make_plan,
    memory_of,
    plan,
    seconds_a_step,
    train_flops,
)
from lightning_paras2s.types import UserError

KIMI, H100, H200 = Shape(), GPUS["h100"], GPUS["h200"]


def test_weights_are_the_released_models():
    """233,057,792 a layer; 9,766,334,464 in all; 9.13 G read a decode step; 49 M in rank-16 adapters; 68 KiB of cache
    a token.
    """
    assert KIMI.layer == 233_057_792
    assert KIMI.parameters == 9_766_334_464
    assert KIMI.adaptor == 31_209_472
    assert KIMI.decoded == pytest.approx(9.13e9, rel=1e-3)
    assert KIMI.lora(16) == pytest.approx(49e6, rel=0.01)
    assert KIMI.kv_bytes == 69_632 == 68 * 1024


def test_decode_bounds_are_those_of_the_data_sheet():
    """18.26 GB / 3.35 TB/s = 5.45 ms; heads cut to legal ids: 17.06 GB = 5.09 ms; 64 and 256 rows at 225 tokens: 5.75
    and 6.65 ms.
    """
    empty = dict(rows=1, context=0)
    assert decode_step(KIMI, H100, **empty, sliced=False) == pytest.approx(5.45e-3, abs=5e-6)
    assert decode_step(KIMI, H100, **empty) == pytest.approx(5.09e-3, abs=8e-6)
    assert decode_step(KIMI, H100, 64, 225, sliced=False) == pytest.approx(5.75e-3, abs=1e-5)
    assert decode_step(KIMI, H100, 256, 225, sliced=False) == pytest.approx(6.65e-3, abs=1e-5)
    assert decode_step(KIMI, H200, 64, 225, sliced=False) == pytest.approx(4.01e-3, abs=1e-5)


def test_many_rows_are_bound_by_compute():
    """On an H200 256 rows cost 2 x 9.13e9 x 256 / 989e12 = 4.73 ms, more than their 4.64 ms of memory traffic."""
    assert decode_step(KIMI, H200, 256, 225, sliced=False) == pytest.approx(4.73e-3, abs=1e-5)


def test_training_flops_are_the_hand_count():
    """18.3 GFLOP a token forward, 54.8 for training; 204,800 tokens on 8 H100 at 45 %: 3.15 s, 4.20 s recomputed,
    1.05 s a pass.
    """
    assert forward_flops(KIMI, 1) == pytest.approx(18.3e9, rel=3e-3)
    assert train_flops(KIMI, 1, False, False) == pytest.approx(54.8e9, rel=1e-3)
    assert forward_flops(KIMI, 1, 1) - forward_flops(KIMI, 1) == pytest.approx(0.49e6, rel=0.01)
    rate = 8 * 989e12 * 0.45
    assert train_flops(KIMI, 204_800, False, False) / rate == pytest.approx(3.15, abs=0.01)
    assert train_flops(KIMI, 204_800, False, True) / rate == pytest.approx(4.20, abs=0.01)
    assert forward_flops(KIMI, 204_800) / rate == pytest.approx(1.05, abs=0.005)
    assert train_flops(KIMI, 1, True, False) == pytest.approx(2 / 3 * train_flops(KIMI, 1, False, False))


def test_seconds_of_a_step_add_up_from_their_parts():
    """32 x 8 rows of 400 + 400 tokens on 8 H100: 32 rows a GPU. Prefill of 8 prompts x 400 tokens a GPU at 45 %: 0.13
    s. Unshard: 49 ms.
    """
    work = Work(prompt=400, steps=400, recompute=False)
    seconds = seconds_a_step(KIMI, H100, 8, work, Efficiency(decode=1.0))
    assert seconds["update"] == pytest.approx(3.15, abs=0.01) and seconds["ref_logps"] == pytest.approx(1.05, abs=0.005)
    assert seconds["unshard"] == pytest.approx(49e-3, abs=1e-3)
    assert seconds["decode"] == pytest.approx(400 * decode_step(KIMI, H100, 32, 600)) and 2.0 < seconds["decode"] < 2.3
    assert seconds["old_logps"] == 0
    assert (
        seconds_a_step(KIMI, H100, 8, dataclasses.replace(work, updates=2), Efficiency())["old_logps"]
        == seconds["ref_logps"]
    )
    half = seconds_a_step(KIMI, H100, 8, dataclasses.replace(work, queries=16), Efficiency(decode=1.0))
    assert half["prefill"] == pytest.approx(seconds["prefill"] / 2)


def test_memory_of_full_fine_tuning_is_the_hand_count():
    """16 bytes a weight over 8 GPUs: 19.5 GB; bf16 reference shard 2.4; unsharded rollout weights 19.5; cache of 64 x
    800 tokens 3.6.
    """
    memory = memory_of(KIMI, 8, Work(queries=64, prompt=400, steps=400), rows=0)
    wanted = {"trained_state": 19.5, "reference": 2.4, "rollout_weights": 19.5, "kv_cache": 3.6}
    for name, gigabytes in wanted.items():
        assert memory[name] / 1e9 == pytest.approx(gigabytes, abs=0.06), name
    assert memory_of(KIMI, 1, Work(lora_rank=16), 0)["trained_state"] == pytest.approx(16 * 49e6, rel=0.01)


def test_what_fits_follows_the_memory():
    """Full fine-tuning holds 156 GB of state: never on one GPU of 80 GB; with LoRA the weights are 19.5 GB and it
    fits.
    """
    assert largest_micro_batch(KIMI, H100, 1, Work()) == 0
    assert largest_micro_batch(KIMI, H200, 1, Work()) == 0
    assert largest_micro_batch(KIMI, H200, 1, Work(lora_rank=16)) > 0
    many = largest_micro_batch(KIMI, H100, 8, Work())
    assert 0 < many <= 32
    room = 0.9 * H100.memory
    assert sum(memory_of(KIMI, 8, Work(), many).values()) <= room
    assert many == 32 or sum(memory_of(KIMI, 8, Work(), many + 1).values()) > room
    longer = Work(steps=1500)
    assert largest_micro_batch(KIMI, H100, 8, longer) < many


def test_gpu_hours_are_steps_times_seconds_times_gpus():
    made = make_plan(KIMI, H100, 8, Work(), total_steps=450)
    assert made.gpu_hours == pytest.approx(sum(made.seconds.values()) * 450 * 8 / 3600)


def test_command_reads_a_training_config(tmp_path, capsys):
    config = tmp_path / "grpo.yaml"
    config.write_text(
        "trainer: {devices: 4, max_steps: 10}\n"
        "model: {init_args: {group_size: 4, sampling: {max_steps: 300}, policy: {init_args: {lora_rank: 16}}}}\n"
        "data: {init_args: {batch_size: 2}}\n"
    )
    main(["plan", "--config", str(config), "--gpu", "h200", "--gpus", "4", "--json"])
    out = capsys.readouterr().out
    assert "4 x h200, 8 queries x 4, 150 + 300 tokens, LoRA rank 16" in out and "nothing was measured" in out
    made = json.loads(out.splitlines()[-1])
    assert (
        made["fits"]
        and made["gpus"] == 4
        and made["gpu_hours"] == pytest.approx(made["seconds_a_step"] * 10 * 4 / 3600)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gpu": "tpu"}, "gpu must be one of a100"),
        ({"gpus": 0}, "gpus must be at least 1; got 0"),
        ({"decode_efficiency": 1.5}, "decode_efficiency must be above 0"),
        ({"config": "none.yaml"}, "existing training config; got none.yaml"),
    ],
)
def test_wrong_options_are_one_clear_line(wrong, message):
    with pytest.raises(UserError, match=message):
        plan(**wrong)
