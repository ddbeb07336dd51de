"""`plan` of Qwen2.5-Omni on one card: sizes against transformers' own classes, bytes and dollars worked out by hand,
and the shipped overlays against the cards that they are for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from omni_release import write_release

from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.running.cost import Efficiency, Work
from lightning_paras2s.running.cost_judges import Listener, chat, whisper
from lightning_paras2s.running.cost_omni import (
    EARS,
    OMNI_3B,
    OMNI_7B,
    OmniWork,
    Voice,
    answer_seconds,
    learn_seconds,
    omni_memory,
)
from lightning_paras2s.running.gpus import GPUS
from lightning_paras2s.running.plan import plan, read_stages
from lightning_paras2s.running.plan_omni import Terms, omni_of, plan_stage
from lightning_paras2s.running.preflight import check_card

ROOT = Path(__file__).parents[1]
SMALL, LARGE = ("rtx3090", "rtx4090", "l4", "a10"), ("a100", "h100")
# The configs of each stage, with the overlays that docs/onegpu.md names, by the cards that they are for.
STAGES = {
    SMALL: ["preferences preferences_24", "sft", "reward", "grpo card_24", "evaluate"],
    ("a6000", "l40s"): ["preferences model_7b", "sft model_7b", "reward", "grpo card_48", "evaluate evaluate_7b"],
    LARGE: ["preferences model_7b", "sft model_7b", "reward", "grpo card_80", "evaluate evaluate_7b"],
}
PAIRS = [(gpu, names) for gpus, stages in STAGES.items() for gpu in gpus for names in stages]


def read(names: str) -> dict:
    ((_, values),) = read_stages([str(ROOT / f"configs/onegpu/{name}.yaml") for name in names.split()]).items()
    return values


def test_sizes_are_the_released_models():
    """The thinker's language model of 7B is Qwen2.5-7B, 7,615,616,512 weights, of 3B Qwen2.5-3B with a head of its own:
    36 layers of 77,076,992 (attention 9,440,256 with biases, MLP 67,633,152, norms 4,096) make 2,774,771,712, the norm
    2,048, both matrices 151,936 x 2,048: 622,329,856. Keys and values, 7B: 28 layers x 2 x 4 x 128 x 2 bytes.
    """
    assert OMNI_7B.words == 7_615_616_512
    assert OMNI_3B.words == 2_774_771_712 + 2_048 + 622_329_856
    assert OMNI_7B.thinker.kv_bytes == 57_344 and OMNI_3B.talker.kv_bytes == 24 * 2 * 2 * 64 * 2


@pytest.mark.parametrize("omni", [OMNI_3B, OMNI_7B])
def test_sizes_are_those_of_transformers_own_classes(omni):
    from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as configs
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    given = [dict(zip(names, vars(stack).values(), strict=False)) for stack in (omni.thinker, omni.talker)]
    talker = given[1] | {"head_dim": omni.talker.head_size, "embedding_size": omni.thinker.hidden}
    text = configs.Qwen2_5OmniTextConfig(vocab_size=omni.vocab, **given[0])
    with torch.device("meta"):
        thinker = stock.Qwen2_5OmniThinkerTextModel(text)
        spoken = stock.Qwen2_5OmniTalkerForConditionalGeneration(configs.Qwen2_5OmniTalkerConfig(**talker))
    assert omni.words == sum(p.numel() for p in thinker.parameters()) + omni.vocab * omni.thinker.hidden
    assert omni.speech == sum(p.numel() for p in spoken.parameters())


def test_ears_and_voice_are_counted_as_they_are_built():
    """Each frame of mel goes through all of flow matching but the codes' table and the embedding of time. A stage of
    the vocoder with c channels at a rate r: 2 r c^2 (3 + 7 + 11) x 6 FLOPs a second; the rest is a few per cent.
    """
    from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as configs
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

    with torch.device("meta"):
        voice = stock.Qwen2_5OmniToken2WavModel(configs.Qwen2_5OmniToken2WavConfig())
        tower = stock.Qwen2_5OmniAudioEncoder(configs.Qwen2_5OmniAudioEncoderConfig())
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in voice.named_modules()}
    assert Voice().weights == count[""] and EARS == sum(p.numel() for p in tower.parameters())
    flow = "code2wav_dit_model"
    speaker = count[f"{flow}.input_embed.spk_encoder"]  # heard once
    every = count[flow] - count[f"{flow}.text_embed"] - count[f"{flow}.time_embed"] - speaker
    assert Voice().flow == pytest.approx(every, rel=0.01)
    flops, rate, channels = 0, 100, 1536
    for up in (5, 3, 2, 2, 2, 2):
        rate, channels = rate * up, channels // 2
        flops += 2 * rate * channels**2 * (3 + 7 + 11) * 6
    assert rate == 24_000 and Voice().vocoder_flops == pytest.approx(flops, rel=0.05)
    # ten points are nine steps of four evaluations, each with and without guidance: 72 passes of 100 frames
    assert Voice().flops(10) == pytest.approx(100 * 72 * 2 * Voice().flow)


def test_a_folder_s_own_config_wins_and_adapters_are_counted_as_peft_makes_them(tmp_path):
    write_release(tmp_path / "Omni-7B")
    omni = omni_of({"init_args": {"path": str(tmp_path / "Omni-7B")}})
    policy = QwenOmni(str(tmp_path / "Omni-7B"))
    assert omni.weights == sum(p.numel() for p in policy.parameters()) and omni != OMNI_7B
    for trains in ("thinker", "talker", "both"):
        lora = QwenOmni(str(tmp_path / "Omni-7B"), lora_rank=4, trains=trains)
        assert omni.trained(trains, 4) == sum(p.numel() for p in lora.parameters() if p.requires_grad)
    with pytest.raises(UserError, match="a folder of Qwen2.5-Omni, or name 3B or 7B; got models/Other"):
        omni_of({"init_args": {"path": "models/Other"}})
    file = tmp_path / "Omni-7B" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text())["thinker_config"]))
    alone = omni_of({"init_args": {"path": str(file.parent)}})
    assert (alone.words, alone.talker) == (omni.words, OMNI_7B.talker)
    for wrong, told in (("{", "JSONDecodeError"), ('{"text_config": {"vocab_size": 9}}', "KeyError: 'hidden")):
        file.write_text(wrong)
        with pytest.raises(UserError, match=f"config.json must state the sizes of a Qwen2.5-Omni; got {told}"):
            omni_of({"init_args": {"path": str(file.parent)}})


def test_memory_is_the_hand_count():
    """GRPO of the 7B with rank 16 in bfloat16: 8.97 G weights, 17.9 GB. Adapters: 28 x 16 x (2 (3584 + 3584) +
    2 (3584 + 512) + 3 (3584 + 18944)) = 40.4 M and 24 x 16 x (2 (896 + 1536) + 2 (896 + 512) + 3 (896 + 18944)) =
    25.8 M, at 16 bytes 1.06 GB, with moments of 8 bits 10 bytes. Cache, 2 x 8 rows of 210 + 1 + 512 positions and the
    2 prompts: 18 x 723 x (57,344 + 49,152) = 1.39 GB. A float32 policy without adapters: weights, gradients and two
    moments of 8.97 G, and a reference.
    """
    work = Work(2, 8, 210, 512, 16, 2)
    memory = omni_memory(OMNI_7B, OmniWork(work), 8).parts()
    wanted = {"policy": 17.94, "trained_state": 1.06, "rollout: kv_cache": 1.39, "ears": 1.28, "voice": 1.80}
    for name, gigabytes in wanted.items():
        assert memory[name] / 1e9 == pytest.approx(gigabytes, abs=0.01), name
    eight = omni_memory(OMNI_7B, OmniWork(Work(2, 8, 210, 512, 16, 2, state_bits=8)), 8).kept["trained_state"]
    assert eight / memory["trained_state"] == pytest.approx(10 / 16)
    full = omni_memory(OMNI_7B, OmniWork(Work(2, 8, 210, 512, 0, 4)), 8).kept
    assert full["policy"] + full["trained_state"] + full["reference"] == pytest.approx(20 * OMNI_7B.weights)
    assert omni_memory(OMNI_7B, OmniWork(work, trains="talker"), 8).kept["trained_state"] / 1e9 == pytest.approx(
        16 * 25.8e-3, abs=0.01
    )


def test_seconds_are_the_hand_count():
    """On an A100 a talker's step of the 7B reads 2 x (1.31 G + 7.6 M) = 2.64 GB and 16 rows' past of 466 tokens, .37
    GB: 1.47 ms at 2.04 TB/s, 2.46 ms at .6; 24 blocks of .25 ms are 6 ms, which wins. The thinker's 15.2 - 1.1 GB:
    7.1 ms, 11.9 ms at .6, above 28 blocks' 7. Voice: 16 answers of 10.24 s, 4.74 TFLOP a second of speech at .45 of
    19.5 TFLOP/s, and .189 at .3 of it: 93.8 s.
    """
    work = OmniWork(Work(2, 8, 210, 512, 16, 2))
    seconds = answer_seconds(OMNI_7B, GPUS["a100"], work, Efficiency())
    assert seconds["talker"] == pytest.approx(512 * 24 * 2.5e-4)
    assert seconds["thinker"] == pytest.approx(52 * 11.9e-3, rel=0.02)
    assert seconds["voice"] == pytest.approx(16 * 10.24 * (4.74 / (0.45 * 19.5) + 0.189 / (0.3 * 19.5)), rel=0.01)
    # 2 FLOPs a weight and token: 16 rows of 210 + 52 tokens of 7.62 G, and of 723 of 1.35 G; .45 of 312 TFLOP/s
    learned = learn_seconds(OMNI_7B, GPUS["a100"], work, Efficiency())
    assert learned["ref_logps"] == pytest.approx(2 * 16 * (262 * 7.616e9 + 723 * 1.354e9) / (0.45 * 312e12), rel=0.01)
    assert learned["update"] == pytest.approx(3 * learned["ref_logps"]) and not learned["old_logps"]


def test_two_parts_gain_nothing_where_launches_are_waited_for():
    """The same with a query a part: the talker waits for its launches twice, 2 x 3.07 s, and one of the two is hidden
    beside the voice, so only half of the prefill and the thinker's cache of 8 rows are saved. In the cache a part has 9
    rows and the voice is beside it.
    """
    works = [OmniWork(Work(2, 8, 210, 512, 16, 2, parts=parts)) for parts in (1, 2)]
    whole, parts = (answer_seconds(OMNI_7B, GPUS["a100"], work, Efficiency()) for work in works)
    assert parts["talker"] == pytest.approx(2 * 512 * 24 * 2.5e-4) == 2 * whole["talker"]
    assert parts["overlap"] == pytest.approx(-(whole["prefill"] + parts["thinker"] + parts["talker"]) / 2)
    cache = 52 * 8 * 466 * 57_344 / 2.04e12 / 0.6  # s
    assert sum(whole.values()) - sum(parts.values()) == pytest.approx(whole["prefill"] / 2 + cache, rel=0.01)
    rollout = omni_memory(OMNI_7B, works[1], 8).phases["rollout"]
    assert rollout == {"kv_cache": 9 * 723 * 106_496.0, "activations": 0.6e9}


def test_judges_cost_what_their_sizes_and_price_lists_say():
    """GPT-4.1: 1,300 tokens at 2 dollars a million and 80 at 8, 0.324 cents an answer. A local model of 7 G weights:
    15.3 GB and the cache of a batch. Whisper base.en: 74 M weights in float32."""
    served = {"class_path": "LLMJudge", "init_args": {"llm": {"class_path": "OpenAIChat", "init_args": {}}}}
    assert chat(served).usd == pytest.approx(0.00324) and chat(served).bytes == 0
    here = {"class_path": "TransformersChat", "init_args": {"path": "models/Qwen2.5-7B-Instruct"}}
    local = chat({"class_path": "LLMJudge", "init_args": {"llm": here}})
    assert local.bytes / 1e9 == pytest.approx(15.3 + 8 * 1380 * 57_344 / 1e9, abs=0.05) and local.usd == 0
    assert chat("EmbeddedJudge") == Listener()
    assert whisper({"class_path": "Whisper", "init_args": {"model": "base.en"}}, 10).bytes == 4 * 74e6
    assert whisper({"class_path": "Whisper", "init_args": {"model": "base.en", "device": "cpu"}}, 10) == Listener()


@pytest.mark.parametrize(("gpu", "names"), PAIRS)
def test_shipped_stages_fit_the_cards_that_they_are_for(gpu, names):
    made = plan_stage(read(names), Terms(GPUS[gpu]))
    assert made.fits, f"{made.memory.peak / 1e9:.1f} GB"
    assert made.micro_batch_tokens > 0 or "grpo" not in names


@pytest.mark.parametrize("names", ["preferences", "grpo card_48", "grpo card_80", "evaluate evaluate_7b"])
def test_stages_of_larger_cards_do_not_fit_24_gb(names):
    values = read(names)
    made = plan_stage(values, Terms(GPUS["rtx4090"]))
    assert not made.fits and made.memory.peak > 24e9 * 0.9


def test_a_card_too_small_is_refused_by_the_plan_s_figure():
    """The 7B's weights alone are 17.9 GB; with ears, voice, judge, context and adapters 22.6 GB."""
    values = read("grpo card_48")
    with pytest.raises(UserError, match=r"card must hold GRPO of Qwen2.5-Omni 7B: \d+\.\d GB by `plan`, 22\.6 of them"):
        check_card(values, 16e9)
    kept = sum(plan_stage(values, Terms(GPUS["a100"])).memory.kept.values())
    assert "may be too small" in check_card(values, kept + 1e8)
    assert check_card(values, 48e9) == check_card(values, None) == ""
    assert check_card({"model": {"class_path": "GRPOModule", "init_args": {"policy": "TinySpeechLM"}}}, 1e9) == ""


def test_command_plans_all_stages_of_a_card(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = ["preferences", "preferences_24", "sft", "grpo", "card_24"]
    configs = [word for name in names for word in ("--config", f"onegpu/{name}.yaml")]
    main(["plan", *configs, "--gpu", "rtx4090", "--usd_per_hour", "0.5", "--json"])
    out = capsys.readouterr().out
    made = json.loads(out.splitlines()[-1])
    assert [s["stage"] for s in made["stages"]] == ["samples", "SFT", "GRPO"] and made["fits"]
    samples, _, grpo = made["stages"]
    # 1,000 queries with 8 answers at 0.324 cents; 250 batches of 4
    assert samples["judge_usd"] == pytest.approx(25.92) and samples["steps"] == 250
    assert grpo["hours"] == pytest.approx(500 * grpo["seconds_a_step"] / 3600)
    assert made["usd"] == pytest.approx(25.92 + 0.5 * sum(s["hours"] for s in made["stages"]))
    assert "| GRPO | 3B |" in out and "nothing was measured" in out


PAGE = (ROOT / "docs" / "onegpu.md").read_text(encoding="utf-8").partition("\n## What it costs\n")[2]
COMMANDS = re.findall(r"^python -m lightning_paras2s (plan .*)$", PAGE, re.M)
COMMANDS.append(COMMANDS[-1].replace("l40s --usd_per_hour 1 ", "a100 --usd_per_hour 1.5 ").replace("_48", "_80"))


@pytest.mark.parametrize("card", range(3))
def test_tables_of_the_page_are_what_its_commands_print(card, capsys, monkeypatch):
    """24, 48 and 80 GB; the last's command is told as the second's with another card."""
    monkeypatch.chdir(ROOT)
    main(COMMANDS[card].split())
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert table[0].startswith("| stage |") and len(table) == 6
    assert "\n".join([table[0], "|" + "---|" * table[0].count(" | ") + "---|", *table[1:]]) in PAGE


def test_another_stage_or_family_is_one_line(tmp_path):
    policy = "{class_path: QwenOmni, init_args: {path: models/Qwen2.5-Omni-3B}}"
    (tmp_path / "a.yaml").write_text(f"model: {{class_path: PolyToneModule, init_args: {{policy: {policy}}}}}\n")
    with pytest.raises(UserError, match="plan of one card knows SampleModule, .*; got PolyToneModule"):
        plan([str(tmp_path / "a.yaml")])
    with pytest.raises(UserError, match="usd_per_hour must not be negative; got -1"):
        plan(usd_per_hour=-1)
    with pytest.raises(UserError, match="size must be at least 1; got 0"):
        plan(size=0)


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ({"class_path": "LLMJudge",
          "init_args": {"llm": {"class_path": "OpenAIChat", "init_args": {"model": "my-own"}}}},
         "the price of 'my-own' is not known, its replies count as free"),
        ("AudioLLMJudge", "plan does not know what AudioLLMJudge, which hears, costs"),
    ],
)  # fmt: skip
def test_a_judge_whose_price_is_not_known_is_told(judge, told, capsys):
    """Its bill was 0.00 US dollars."""
    assert chat(judge).usd == 0 and told in capsys.readouterr().err
