"""The cost model against figures worked out by hand from the released shapes and data sheets (H100: 3.35 TB/s, 989
TFLOP/s).
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.bigvgan import BigVGAN, BigVGANConfig
from lightning_paras2s.models.kimi.flow_matching import FlowMatching
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Tokenizer
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures
from lightning_paras2s.models.qwen_omni.scorer import GUIDELINE
from lightning_paras2s.running.cost import (
    Efficiency,
    Shape,
    Speech,
    Work,
    decode_step,
    forward_flops,
    largest_micro_batch,
    memory_of,
    seconds_a_step,
    train_flops,
)
from lightning_paras2s.running.cost_parts import cut, hidden, rollout_seconds
from lightning_paras2s.running.gpus import GPUS
from lightning_paras2s.running.plan import make_plan, plan, read_stages, read_work

ROOT = Path(__file__).parents[1]
KIMI, SPEECH, H100, H200 = Shape(), Speech(), GPUS["h100"], GPUS["h200"]


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


def test_parts_that_run_beside_each_other_take_the_longer_of_two():
    """Three parts, sampled in 2 and followed in 3 s each: the first is drawn at 2, and scored at 5, 8 and 11 where in
    order it is 15: 4 s are hidden. Where sampling takes 3 and what follows 2: drawn at 3, 6, 9 and scored at 11. Uneven
    ones: drawn at 4, 5, 6, scored at 5, 10, 12, and the sum is 6 + 8.
    """
    assert hidden([2, 2, 2], [3, 3, 3]) == hidden([3, 3, 3], [2, 2, 2]) == 4
    assert hidden([4, 1, 1], [1, 5, 2]) == 2 and hidden([5], [7]) == 0
    assert cut(4, 3) == [1 / 2, 1 / 4, 1 / 4] and cut(2, 5) == [1 / 2, 1 / 2]
    assert rollout_seconds({"a": [1, 1], "b": [2, 1]}, {"c": 4, "d": 2}, [1 / 2, 1 / 2], True) == {
        "a": 2,
        "b": 3,
        "c": 4,
        "d": 2,
        "overlap": -2,
    }  # fmt: skip  drawn at 3, 5, scored at 6, 9 of 11
    assert rollout_seconds({"a": [1, 1]}, {"c": 4}, [1 / 2, 1 / 2], False)["overlap"] == 0


def test_a_rollout_in_parts_reads_the_weights_for_each():
    """8 H100, 4 queries of 8 rows each: two parts of 16 rows read 17.06 GB twice a step, and gather twice. Sampling
    takes as long for 16 rows as for 32 but for 16 x 228.5 x 68 KiB of cache a step, which is all that overlap gains:
    157 x 0.255 GB / 3.35 TB/s / .6 = .02 s of 12.3, and half the prefill, .01 s. Memory: half the cache, but the
    detokenizer's beside it: 16 rows x 628 frames x 16 x 2304 x 4 bytes.
    """
    whole, parts, order = Work(), Work(parts=2), Work(parts=2, overlap=False)
    one, two, ordered = (seconds_a_step(KIMI, H100, 8, work, Efficiency()) for work in (whole, parts, order))
    step = decode_step(KIMI, H100, 16, 150 + 157 / 2) * 157 / 0.6
    assert two["decode"] == pytest.approx(2 * step) and two["unshard"] == pytest.approx(2 * one["unshard"])
    assert two["overlap"] == pytest.approx(-(one["prefill"] / 2 + step + one["unshard"]))
    assert one["overlap"] == ordered["overlap"] == 0
    gain = sum(one.values()) - sum(two.values())
    cache = 157 * 16 * 228.5 * 69_632 / 3.35e12 / 0.6
    assert gain == pytest.approx(cache + one["prefill"] / 2, rel=1e-3) and gain / sum(one.values()) < 0.003
    assert sum(ordered.values()) - sum(one.values()) == pytest.approx(2 * step + one["unshard"] - one["decode"])
    before, after = (memory_of(KIMI, 8, work, 0).phases for work in (whole, parts))
    assert after["rollout"]["kv_cache"] == before["rollout"]["kv_cache"] / 2
    assert after["rollout"]["detokenizer_cache"] == 16 * 628 * 16 * 2304 * 4 == after["waveform"]["detokenizer_cache"]
    assert "detokenizer_cache" not in memory_of(KIMI, 8, order, 0).phases["rollout"] | before["rollout"]


def test_seconds_of_a_step_by_parts_are_those_of_the_page(monkeypatch):
    monkeypatch.chdir(ROOT := Path(__file__).parents[1])
    page = (ROOT / "docs/performance.md").read_text()
    rows = page.partition("| machine | 1 part | 2 parts | 4 parts |")[2].split("\n\n")[0].splitlines()[2:]
    omni = [f"configs/onegpu/{name}.yaml" for name in ("grpo", "card_24", "card_80")]
    ways = [
        {},
        {"gpu": "h200", "gpus": 1, "lora_rank": 16, "dtype": "bfloat16"},
        {"gpu": "rtx4090", "config": omni[:2]},
        {"gpu": "a100", "config": omni[::2]},
    ]
    for row, options in zip(rows, ways, strict=True):
        for cell, parts in zip(row.split("|")[2:5], (1, 2, 4), strict=True):
            made = plan(rollout_parts=parts, **options)
            step = made.get("seconds_a_step") or made["stages"][0]["seconds_a_step"]
            assert f"{step:.2f}" == cell.strip(), row


def test_speech_parts_are_counted_as_they_are_built():
    """Encoders, detokenizer and scorer on the meta device; the scorer's language model is Qwen2.5-7B: 28 layers of
    233,057,792, two matrices of 152064 x 3584, a norm.
    """
    with torch.device("meta"):
        built = {"codes": Glm4Tokenizer(), "features": WhisperFeatures(), "flow": FlowMatching(), "vocoder": BigVGAN()}
        config = Qwen2_5OmniThinkerConfig()
        tower = Qwen2_5OmniThinkerForConditionalGeneration(config).model.audio_tower
    for name, module in built.items():
        assert getattr(SPEECH, name) == sum(p.numel() for p in module.parameters()), name
    language = 28 * 233_057_792 + 2 * 152_064 * 3584 + 3584
    assert SPEECH.scorer == language + sum(p.numel() for p in tower.parameters())
    assert SPEECH.scorer_matrices == 28 * 233_057_792
    assert SPEECH.guideline == pytest.approx(len(GUIDELINE) / 4.3, rel=0.05)  # English: 4.3 characters a token


def test_seconds_of_speech_parts_are_the_hand_count():
    """Detokenizer: 50 frames x (1.4 x 29 + 1) passes x 2 x 1.546e9 = 6.43 TFLOP a second of speech. A chunk of 30 codes
    takes in 168 frames and puts out 120: 1.4. Scorer, 6 s + 12 s: 1150 + 450 tokens x 2 x 6.53e9 = 20.9 TFLOP a pair.
    256 answers of 12.56 s on 8 H100 at 45 %: 5.81 s; vocoder 0.164 TFLOP a second at 5 %: 1.33 s; 256 pairs: 1.50 s.
    """
    assert SPEECH.detokenizer_flops == pytest.approx(6.43e12, rel=2e-3)
    assert SPEECH.scorer_flops(18) == pytest.approx(20.9e12, rel=2e-3)
    seconds = seconds_a_step(KIMI, H100, 8, Work(prompt=75), Efficiency())
    assert seconds["detokenizer"] == pytest.approx(5.81 + 1.33, abs=0.02)
    assert seconds["reward_model"] == pytest.approx(256 * (1150 + 25 * 18.56) * 13.05e9 / 3.56e15, abs=0.01)
    assert seconds_a_step(KIMI, H100, 8, Work(reward_model=False), Efficiency())["reward_model"] == 0


def test_vocoder_flops_are_those_of_its_convolutions():
    """A stage of rate r and c channels: 2 r c^2 (3 + 5 + 7 + 11) for 6 convolutions of each kernel; 50 frames a
    second. The rest (first, last and up-sampling convolutions, filters) is a few per cent more.
    """
    config, rate, channels, flops = BigVGANConfig(), 50, BigVGANConfig().upsample_initial_channel, 0
    for up in config.upsample_rates:
        rate, channels = rate * up, channels // 2
        flops += 2 * rate * channels**2 * sum(config.resblock_kernel_sizes) * 6
    assert rate == 24_000 and SPEECH.vocoder_flops == pytest.approx(flops, rel=0.05)


def test_memory_of_full_fine_tuning_is_the_hand_count():
    """16 bytes a weight over 8 GPUs: 19.5 GB (10 bytes with 8-bit moments: 12.2); bf16 reference shard 2.4; whole
    rollout weights 19.5; cache of 64 x 800 tokens 3.6. Beside them encoders 4 x 0.344 + 2 x 0.637 = 2.6, detokenizer
    2 x 1.584 + 4 x 0.241 = 4.1, scorer 2 x 8.255 = 16.5. The root (1.84 G) and two layers whole in bf16: 4.6.
    """
    work = Work(queries=64, prompt=400, steps=400)
    memory = memory_of(KIMI, 8, work, rows=0).parts()
    wanted = {"trained_state": 19.5, "reference": 2.4, "rollout: weights": 19.5, "rollout: kv_cache": 3.6}
    wanted |= {"encoders": 2.6, "detokenizer": 4.1, "reward_model": 16.5, "update: gathered": 4.6}
    for name, gigabytes in wanted.items():
        assert memory[name] / 1e9 == pytest.approx(gigabytes, abs=0.06), name
    eight = memory_of(KIMI, 8, dataclasses.replace(work, state_bits=8), 0).kept["trained_state"]
    assert eight / 1e9 == pytest.approx(12.2, abs=0.06)
    assert memory_of(KIMI, 1, Work(lora_rank=16), 0).kept["trained_state"] == pytest.approx(16 * 49e6, rel=0.01)


@pytest.mark.parametrize(
    "work, gigabytes",
    [
        (Work(), (156.3, 39.1, 19.5)),
        (Work(state_bits=8), (97.7, 39.1, 19.5)),
        (Work(weight_bytes=2), (78.1, 19.5, 0)),
        (Work(weight_bytes=2, state_bits=8), (58.6, 19.5, 0)),
        (Work(lora_rank=16), (0.78, 39.1, 19.5)),
        (Work(lora_rank=16, weight_bytes=2), (0.78, 19.5, 0)),
    ],
)
def test_memory_on_one_gpu_follows_the_types(work, gigabytes):
    """9.766 G weights: weight, gradient and moments of 4 + 4 + 8, 4 + 4 + 2, 2 + 2 + 4 or 2 + 2 + 2 bytes; beside them
    a reference as whole as the policy, or under LoRA the frozen weights; a rollout casts float32 to bf16.
    """
    memory = memory_of(KIMI, 1, work, 8)
    beside = memory.kept["frozen_weights"] + memory.kept["reference"]
    found = (memory.kept["trained_state"], beside, memory.phases["rollout"]["weights"])
    assert [n / 1e9 for n in found] == pytest.approx(gigabytes, abs=0.06)


def test_gradients_of_heads_and_root_are_the_hand_count():
    """A head is 168,448 x 3,584 = 0.604 G: 4 bytes of one and 2 of both, 4.83 GB, when the backward pass begins. The
    root is three such and the adaptor, 1.842 G: 2 + 4 bytes, 11.05 GB, when it ends. Adapters have neither.
    """
    phases = memory_of(KIMI, 8, Work(), 32).phases
    assert phases["update"]["head_gradients"] / 1e9 == pytest.approx(4.83, abs=0.01)
    assert phases["sum"]["root_gradients"] / 1e9 == pytest.approx(11.05, abs=0.01)
    adapters = memory_of(KIMI, 8, Work(lora_rank=16), 32).phases
    assert adapters["update"]["head_gradients"] == adapters["sum"]["root_gradients"] == 0
    assert memory_of(KIMI, 1, Work(), 32).phases["update"]["head_gradients"] / 1e9 == pytest.approx(2.41, abs=0.01)


def test_peak_is_what_is_kept_and_the_largest_phase():
    """8 H100, paper's work: kept 19.5 + 2.4 + 2.6 + 4.1 + 16.5 = 45.2; rollout 19.5 + 0.7 = 20.2 is the largest."""
    memory = memory_of(KIMI, 8, Work(), 32)
    assert memory.peak / 1e9 == pytest.approx(45.2 + 20.2, abs=0.15)


def test_gradients_are_whole_when_they_are_summed_at_the_last_micro_batch():
    """4 bytes a weight: 39.1 GB on every GPU; none of it with one micro-batch, or when each is summed at once."""
    assert memory_of(KIMI, 8, Work(), 16).phases["update"]["gradients"] / 1e9 == pytest.approx(39.07, abs=0.01)
    assert memory_of(KIMI, 8, Work(), 32).phases["update"]["gradients"] == 0
    assert memory_of(KIMI, 8, Work(sync_every_micro_batch=True), 16).phases["update"]["gradients"] == 0


def test_what_fits_follows_the_memory():
    """Full fine-tuning holds 156 GB of state: never on one GPU of 80 GB; with LoRA the weights are 19.5 GB and it
    fits.
    """
    assert largest_micro_batch(KIMI, H100, 1, Work()) == 0
    assert largest_micro_batch(KIMI, H200, 1, Work()) == 0
    assert largest_micro_batch(KIMI, H200, 1, Work(lora_rank=16, weight_bytes=2)) > 0
    assert largest_micro_batch(KIMI, H100, 8, Work()) == 32
    longer, room = Work(steps=1500, sync_every_micro_batch=True), 0.9 * H100.memory
    many = largest_micro_batch(KIMI, H100, 8, longer)
    assert 0 < many < 32
    assert memory_of(KIMI, 8, longer, many).peak <= room < memory_of(KIMI, 8, longer, many + 1).peak


def test_gpu_hours_are_steps_times_seconds_times_gpus():
    made = make_plan(KIMI, H100, 8, Work(), total_steps=450)
    assert made.gpu_hours == pytest.approx(sum(made.seconds.values()) * 450 * 8 / 3600)


def test_command_reads_a_training_config(tmp_path, capsys):
    config = tmp_path / "grpo.yaml"
    config.write_text(
        "trainer: {devices: 4, max_steps: 10}\n"
        "model: {init_args: {group_size: 4, sampling: {max_steps: 300}, state_bits: 8, policy: {class_path: KimiAudio,"
        " init_args: {lora_rank: 16, dtype: bfloat16}}, rollout_parts: 2,"
        " reward: {class_path: JudgeReward}}}\n"
        "data: {init_args: {batch_size: 2}}\n"
    )
    main(["plan", "--config", str(config), "--gpu", "h200", "--gpus", "4", "--json"])
    out = capsys.readouterr().out
    tuned = "LoRA rank 16, bfloat16 weights, 8-bit moments"
    assert f"4 x h200, 8 queries x 4, 150 + 300 tokens, {tuned}" in out and "nothing was measured" in out
    made = json.loads(out.splitlines()[-1])
    assert (
        made["fits"]
        and made["memory_gb"]["reward_model"] == 0
        and made["gpus"] == 4
        and made["seconds"]["overlap"] < 0
        and made["gpu_hours"] == pytest.approx(made["seconds_a_step"] * 10 * 4 / 3600)
    )


@pytest.mark.parametrize("stage", ["", "GRPOModule", "SFTModule"])
def test_weights_that_no_step_would_move_are_refused(stage, tmp_path):
    """Full fine-tuning in bfloat16 with moments that round to the nearest: Kimi by options, the Omni by config."""
    options = {"lora_rank": 0, "dtype": "bfloat16"}
    if stage:
        omni = {"class_path": "QwenOmni", "init_args": options | {"path": "models/Omni-3B"}}
        config = {"model": {"class_path": stage, "init_args": {"policy": omni}}, "data": {"init_args": {}}}
        (tmp_path / "full.yaml").write_text(json.dumps(config))
        options = {"config": [str(tmp_path / "full.yaml")]}
    with pytest.raises(UserError, match="got bfloat16 with 32-bit moments, where small steps are lost; set the policy"):
        plan(**options)


@pytest.mark.parametrize(
    "model, got",
    [
        ("{class_path: SFTModule, init_args: {policy: KimiAudio}}", "got SFTModule of KimiAudio"),
        ("{class_path: GRPOModule, init_args: {policy: {class_path: TinySpeechLM}}}", "got GRPOModule of TinySpeechLM"),
    ],
)
def test_another_stage_or_policy_is_refused(model, got, tmp_path):
    (tmp_path / "other.yaml").write_text(f"model: {model}\n")
    with pytest.raises(UserError, match=f"plan knows GRPO of KimiAudio; {got} in .*other.yaml"):
        plan([str(tmp_path / "other.yaml")])


def test_devices_that_are_found_at_run_time_are_the_planned_ones(tmp_path):
    (tmp_path / "auto.yaml").write_text("trainer: {devices: auto}\ndata: {init_args: {batch_size: 4}}\n")
    ((name, values),) = read_stages([str(tmp_path / "auto.yaml")]).items()
    assert read_work(values, name, Work(), 1, gpus=2)[0].queries == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gpu": "tpu"}, "gpu must be one of a100"),
        ({"gpus": 0}, "gpus must be at least 1; got 0"),
        ({"rollout_parts": 0}, "rollout_parts must be at least 1; got 0"),
        ({"decode_efficiency": 1.5}, "decode_efficiency must be above 0"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16; got 'float16'"),
        ({"config": ["none.yaml"]}, "existing training config; got none.yaml"),
    ],
)
def test_wrong_options_are_one_clear_line(wrong, message):
    with pytest.raises(UserError, match=message):
        plan(**wrong)


def test_command_plans_the_papers_run(monkeypatch, capsys):
    """32 queries of 8, 256 steps, full: 19.5 GB of state a GPU, and the whole fits 8 H100."""
    monkeypatch.chdir(Path(__file__).parents[1])
    main(["plan", "--config", "paper/grpo.yaml", "--gpu", "h100", "--gpus", "8", "--json"])
    out = capsys.readouterr().out
    assert "8 x h100, 32 queries x 8, 150 + 256 tokens, full fine-tuning" in out and "GPU-hours" in out
    made = json.loads(out.splitlines()[-1])
    assert made["fits"] and made["memory_gb"]["trained_state"] == pytest.approx(19.5, abs=0.05)
    assert made["seconds_a_step"] == pytest.approx(sum(made["seconds"].values()))
    assert made["micro_batch_tokens"] == made["largest_micro_batch"] // 8 * 8 * (150 + 256)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"prompt": 0}, "", "prompt must be a whole number, at least 1; got 0"),
        ({"lora_rank": -8}, "", "lora_rank must be a whole number, at least 0; got -8"),
        ({"total_steps": -5}, "", "total_steps must be at least 1; got -5"),
        ({}, "data: {init_args: {batch_size: 0}}", "queries must be a whole number, at least 1; got 0"),
        ({}, "model: {init_args: {group_size: 0}}", "group_size must be a whole number, at least 1; got 0"),
        ({}, "model: {init_args: {policy: {init_args: {lora_rank: x}}}}", "lora_rank must be a whole .* got 'x'"),
        ({}, "trainer: {max_steps: 0}", "trainer.max_steps must be at least 1; got 0"),
        ({}, "model: {class_path: GRPOModule, init_args: {group_sise: 16}}", "has no option .*group_sise"),
    ],
)
def test_work_that_nobody_can_do_has_no_price(options, config, message, tmp_path):
    """Each was priced: as the default, as full fine-tuning, at less than nothing, or not as the config says."""
    (tmp_path / "more.yaml").write_text(config)
    with pytest.raises(UserError, match=message):
        plan([str(ROOT / "configs/paper/grpo.yaml"), str(tmp_path / "more.yaml")] if config else None, **options)


def test_a_config_with_a_list_in_a_parts_place_is_one_line(tmp_path):
    (tmp_path / "list.yaml").write_text("model: [1]\n")
    with pytest.raises(UserError, match=r"must be a class's name or a mapping of options; got \[1\]; mend it"):
        plan([str(tmp_path / "list.yaml")])


def test_a_config_without_an_end_takes_the_options_number_of_steps(tmp_path):
    """-1 is Lightning's "without end", and no number: 100 steps of any one plan take 100 times what one takes."""
    (tmp_path / "endless.yaml").write_text("trainer: {max_steps: -1}\n")
    made = plan([str(tmp_path / "endless.yaml")], total_steps=100, gpus=1)
    assert made["gpu_hours"] == pytest.approx(100 * made["seconds_a_step"] / 3600) and made["gpu_hours"] > 0
