"""The released checkpoint layout, on a tiny look-alike and on the real shapes (meta device)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_kimi_audio import GOLDEN, fill_adapters, mixed_prompt, tiny_config, tiny_kimi

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.checkpoint import ADAPTERS, INDEX, base_parameters, save_kimi, shard_names
from lightning_paras2s.models.kimi.config import KimiConfig, read_config
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.speech_lm import Sampling, sampling_noise


@pytest.fixture
def released(tmp_path):
    """A folder as released: 4 + 2 layers, adaptor, rest = 8 shards, bfloat16, with the 6 rotary tables inside."""
    folder, config, weight_map = tmp_path / "kimi", tiny_config(), {}
    folder.mkdir()
    groups = (
        [f"model.layers.{i}." for i in range(4)] + [f"model.mimo_layers.{i}." for i in range(2)] + ["model.vq_adaptor."]
    )
    for i, prefix in enumerate([*groups, ""], 1):
        file = f"model-{i}-of-7.safetensors" if prefix else "model-8-of-8.safetensors"
        tensors = {
            k: v.bfloat16() for k, v in GOLDEN["state_dict"].items() if k.startswith(prefix) and k not in weight_map
        }
        if "layers" in prefix and "vq" not in prefix:
            tensors[f"{prefix}self_attn.rotary_emb.inv_freq"] = torch.ones(8, dtype=torch.bfloat16)
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    kimi = dict(GOLDEN["config"]) | {"architectures": ["MoonshotKimiaForCausalLM"]}
    ids = {name: getattr(config, name) for name in ("msg_end", "media_begin", "media_end", "blank", "text_eos")}
    (folder / "config.json").write_text(json.dumps(kimi | ids))
    return folder


def test_real_config_has_the_released_tensors():
    """453 = 419 + 34 tensors and 19,532,673,280 bytes in the release's index; 34 rotary tables of 64 bfloat16
    numbers.
    """
    with torch.device("meta"):
        parameters = base_parameters(KimiAudio())
    assert len(parameters) == 419
    numbers = sum(p.numel() for p in parameters.values())
    assert numbers == 9_766_334_464
    assert 2 * numbers + 34 * 64 * 2 == 19_532_673_280
    with torch.device("meta"):
        shards = shard_names(KimiAudio(config=KimiConfig()))
    assert len(shards) == 36 and sum(map(len, shards.values())) == 419
    assert list(shards)[-1] == "model-36-of-36.safetensors" and list(shards)[0] == "model-1-of-35.safetensors"
    assert sorted(shards["model-36-of-36.safetensors"]) == [
        "lm_head.weight",
        "mimo_output.weight",
        "model.embed_tokens.weight",
        "model.mimo_norm.weight",
        "model.norm.weight",
    ]
    assert parameters["mimo_output.weight"].shape == (168448, 3584)
    assert parameters["model.vq_adaptor.layers.0.weight"].shape == (3584, 5120)
    assert parameters["model.mimo_layers.5.self_attn.k_proj.bias"].shape == (512,)


@pytest.mark.parametrize("rank", [0, 4])
def test_released_layout_loads(released, rank):
    model = KimiAudio(str(released), lora_rank=rank)
    for name, parameter in base_parameters(model).items():
        assert torch.equal(parameter, GOLDEN["state_dict"][name].bfloat16().float()), name
    assert all(p.isfinite().all() for p in model.parameters())
    assert all((p == 0).all() == ("lora_B" in n) for n, p in model.named_parameters() if ".lora_" in n)


def test_config_is_read_from_the_folder(released):
    config = read_config(released)
    assert (config.hidden_size, config.num_hidden_layers, config.kimia_mimo_layers, config.msg_end) == (64, 4, 2, 202)


def test_saved_checkpoint_has_the_released_names_shapes_and_types(tmp_path):
    save_kimi(tiny_kimi(), tmp_path / "out", "bfloat16")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert set(index["weight_map"]) == set(GOLDEN["state_dict"])
    assert index["metadata"]["total_size"] == 2 * sum(t.numel() for t in GOLDEN["state_dict"].values())
    for name, file in index["weight_map"].items():
        tensor = load_file(tmp_path / "out" / file)[name]
        assert torch.equal(tensor, GOLDEN["state_dict"][name].bfloat16())


def test_round_trip_with_merged_adapters_gives_the_same_model(tmp_path):
    model, prompt, sampling = tiny_kimi(lora_rank=4), mixed_prompt(), Sampling(max_steps=8)
    fill_adapters(model)
    save_kimi(model, tmp_path / "out", "float32")
    again = KimiAudio(str(tmp_path / "out"))
    completion = model.generate(prompt, sampling, sampling_noise(1, 0, 7, 8))
    difference = again.logps(prompt, completion, sampling).values - model.logps(prompt, completion, sampling).values
    assert difference.abs().max() < 5e-5  # W + BA is rounded once more than Wx + B(Ax)


def test_saving_again_replaces_a_checkpoint_and_nothing_else(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="new folder; .*notes holds other things"):
        save_kimi(tiny_kimi(), tmp_path / "notes")
    model = tiny_kimi()
    save_kimi(model, tmp_path / "out")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    save_kimi(model, tmp_path / "out")
    assert not KimiAudio(str(tmp_path / "out")).lm_head.weight.any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "out"]


def test_saved_checkpoint_brings_what_upstream_code_needs(released, tmp_path):
    """Upstream calls `from_pretrained(folder, trust_remote_code=True)`: `auto_map`, its code, the text tokenizer."""
    config = json.loads((released / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling_moonshot_kimia.MoonshotKimiaForCausalLM"}}
    config |= {"use_cache": True, "torch_dtype": "float32"}
    (released / "config.json").write_text(json.dumps(config))
    for name in ("modeling_moonshot_kimia.py", "tokenizer_config.json", "tiktoken.model"):
        (released / name).write_text(name)
    model = KimiAudio(str(released))
    model.save(tmp_path / "policy.safetensors")
    saved = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert {k: saved[k] for k in config if k != "torch_dtype"} == {k: config[k] for k in config if k != "torch_dtype"}
    for name in ("modeling_moonshot_kimia.py", "tokenizer_config.json", "tiktoken.model"):
        assert (tmp_path / "policy" / name).read_text() == name
    names = {p.name for p in (tmp_path / "policy").glob("*.safetensors")}
    assert names == {f"model-{i}-of-7.safetensors" for i in range(1, 8)} | {"model-8-of-8.safetensors"}


def edit_shard(folder, file, change):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


NORM = "model.layers.1.input_layernorm.weight"
SHARD = "model-2-of-7.safetensors"
DAMAGE = {
    "shard missing": (lambda f: (f / SHARD).unlink(), f"shard .*{SHARD}; it is missing"),
    "shard truncated": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-100]), f"{SHARD} must be a whole"),
    "shard empty": (lambda f: (f / SHARD).write_bytes(b""), f"{SHARD} must be a whole"),
    "tensor not listed": (lambda f: edit_index(f, lambda m: m.pop(NORM)), f"must list {NORM}"),
    "tensor not in shard": (lambda f: edit_shard(f, SHARD, lambda t: t.pop(NORM)), f"{SHARD} must hold {NORM}"),
    "extra tensor": (lambda f: edit_index(f, lambda m: m.update(other=SHARD)), "got other "),
    "misshaped": (
        lambda f: edit_shard(f, SHARD, lambda t: t.update({NORM: torch.ones(63).bfloat16()})),
        f"{NORM} must have shape \\(64,\\); got \\(63,\\)",
    ),
    "wrong type": (
        lambda f: edit_shard(f, SHARD, lambda t: t.update({NORM: torch.ones(64).half()})),
        f"{NORM} .*got F16",
    ),
    "mixed types": (lambda f: edit_shard(f, SHARD, lambda t: t.update({NORM: torch.ones(64)})), "BF16 and F32"),
    "no index": (lambda f: (f / INDEX).unlink(), "index.json; it is missing"),
    "index cut": (lambda f: (f / INDEX).write_text('{"weight_map'), "must be JSON"),
    "other vocabulary": (
        lambda f: edit_shard(
            f, "model-8-of-8.safetensors", lambda t: t.update({"lm_head.weight": torch.ones(319, 64).bfloat16()})
        ),
        "lm_head.weight must have shape \\(320, 64\\); got \\(319, 64\\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoint_is_one_line_naming_the_culprit(released, name):
    damage, message = DAMAGE[name]
    config = read_config(released)
    damage(released)
    with pytest.raises(UserError, match=message) as error:
        KimiAudio(str(released), config)
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused(released):
    (released / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    with pytest.raises(
        UserError, match="must be of architecture MoonshotKimiaForCausalLM; got \\['Qwen2ForCausalLM'\\]"
    ):
        read_config(released)


def small_update(model: KimiAudio) -> KimiAudio:
    """Adapters whose products are some 1e-5: of weights of .1, bfloat16 has steps of 5e-4."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=1e-5)
    return model.eval()


def test_a_policy_is_read_again_as_it_was_trained(tmp_path):
    """Rounded into the weights its update would be lost: evaluated, and as the reference beneath new adapters, it must
    give the trained policy's log-probabilities, bit for bit; so must new adapters on it in their turn, but for
    rounding.
    """
    base, sft, grpo = (str(tmp_path / name) for name in ("base", "sft", "grpo"))
    tiny_kimi(dtype="bfloat16").save(base)
    prompt, sampling = mixed_prompt(), Sampling(max_steps=8)
    completion = KimiAudio(base).generate(prompt, sampling, sampling_noise(1, 0, 7, 8))

    def logps(model) -> torch.Tensor:
        with torch.no_grad():
            return model.logps(prompt, completion, sampling).values

    trained = small_update(KimiAudio(base, lora_rank=4, dtype="bfloat16"))
    trained.save(sft)
    before = logps(trained)
    assert not torch.equal(before, logps(trained.reference()))
    assert torch.equal(logps(KimiAudio(sft, dtype="bfloat16").eval()), before)
    onto = KimiAudio(sft, lora_rank=2, dtype="bfloat16").eval()
    assert torch.equal(logps(onto), before) and torch.equal(logps(onto.reference()), before)
    small_update(onto).save(grpo)
    assert not torch.equal(logps(onto), before) and torch.equal(logps(onto.reference()), before)
    found = load_file(f"{grpo}/{ADAPTERS}")
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert {len(t) for name, t in found.items() if "lora_A" in name} == {4 + 2}
    again = KimiAudio(grpo).eval()  # in float32, where rounding hides nothing
    wide = KimiAudio(sft, lora_rank=2).eval()
    wide.load_state_dict(onto.state_dict())
    assert (logps(again) - logps(wide)).abs().max() < 1e-5 < (logps(again) - logps(KimiAudio(sft).eval())).abs().max()


def test_adapters_without_their_base_are_one_line(tmp_path):
    base, sft = tmp_path / "base", tmp_path / "sft"
    tiny_kimi().save(base)
    KimiAudio(str(base), lora_rank=4).save(sft)
    tensors = load_file(sft / ADAPTERS)
    name = sorted(tensors)[0]
    save_file({n: t for n, t in tensors.items() if n != name}, sft / ADAPTERS, metadata={"base": str(base)})
    with pytest.raises(UserError, match="must hold pairs of lora_A and lora_B; got model.layers.0"):
        KimiAudio(str(sft))
    save_file(tensors | {name: torch.ones(4, 3)}, sft / ADAPTERS, metadata={"base": str(base)})
    with pytest.raises(UserError, match=r"must fit its base; got model.layers.0.*; is it another base's"):
        KimiAudio(str(sft))
    shutil.rmtree(base)
    with pytest.raises(UserError, match="need the folder that they were trained on; got none at .*base"):
        KimiAudio(str(sft))
    (sft / ADAPTERS).unlink()
    KimiAudio(str(sft))  # the merged weights, as whoever deleted them was told


def test_a_merged_weight_is_rounded_once(tmp_path):
    """bfloat16 has steps of 2^-7 above 1. 1 + 2^-8 (1 + 2^-10) lies above the middle of one, and is 1 + 2^-7; with the
    update rounded before, 2^-8, it is the middle itself, and falls to the even neighbour, 1.
    """
    model = tiny_kimi(lora_rank=4).bfloat16()
    name = "model.layers.0.self_attn.q_proj.weight"
    layer = model.get_submodule(name.removesuffix(".weight"))
    with torch.no_grad():
        base_parameters(model)[name].fill_(1)
        layer.lora_A["default"].weight.zero_()[:2] = torch.tensor([[1.0], [2.0**-10]])
        layer.lora_B["default"].weight.fill_(2.0**-8 / layer.scaling["default"])
    save_kimi(model, tmp_path / "out", "bfloat16")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    saved = load_file(tmp_path / "out" / index["weight_map"][name])[name]
    assert saved.dtype == torch.bfloat16 and (saved.float() == 1 + 2.0**-7).all()
