"""A folder of transformers' weights with anything missing, cut or too much is one line that names it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_omni, write_reasoner

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.audio_reasoner import AudioReasoner
from lightning_paras2s.hearing.encoder_recognizer import WhisperAnalyser
from lightning_paras2s.models.qwen_omni.scorer import QwenOmniScorer

INDEX = "model.safetensors.index.json"


def write_whole_whisper(folder):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {"d_model": 8, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    sizes |= {f"{p}_{n}": v for p in ("encoder", "decoder") for n, v in (("layers", 1), ("attention_heads", 2))}
    sizes |= {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "decoder_start_token_id": 0, "max_target_positions": 4}
    WhisperForConditionalGeneration(WhisperConfig(**sizes)).save_pretrained(folder)


MODELS = {
    "omni": (write_omni, lambda p: QwenOmniScorer(p, dtype="float32"), "thinker.model.layers.0.mlp.up_proj.weight"),
    "reasoner": (
        write_reasoner,
        lambda p: AudioReasoner(p, device="cpu", dtype="float32"),
        "language_model.model.layers.1.self_attn.q_proj.bias",
    ),
    "encoder": (write_whole_whisper, lambda p: WhisperAnalyser("age", p, 2), "model.encoder.layers.0.fc1.weight"),
}


@pytest.fixture(scope="module", params=MODELS)
def whole(request, tmp_path_factory):
    """How to load a model from a folder, a tensor of it, and its files."""
    write, load, name = MODELS[request.param]
    folder = tmp_path_factory.mktemp("whole") / request.param
    write(folder)
    load(str(folder))  # as it is, it loads
    return load, name, {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def folder(whole, tmp_path):
    for name, data in whole[2].items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def shard_of(folder, name):
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def edit(folder, name, change):
    """Change a tensor (None: take it away), in its file and in the index."""
    file = shard_of(folder, name)
    tensors = load_file(file)
    tensors |= {name: change(tensors[name])}
    save_file({k: v for k, v in tensors.items() if v is not None}, file, metadata={"format": "pt"})
    if (folder / INDEX).is_file() and tensors[name] is None:
        index = json.loads((folder / INDEX).read_text())
        del index["weight_map"][name]
        (folder / INDEX).write_text(json.dumps(index))


def add(folder, name):
    file = shard_of(folder, name)
    save_file(load_file(file) | {"stranger.weight": torch.ones(2)}, file, metadata={"format": "pt"})
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"]["stranger.weight"] = file.name
        (folder / INDEX).write_text(json.dumps(index))


def cut(folder, name):
    file = shard_of(folder, name)
    file.write_bytes(file.read_bytes()[:-100])


DAMAGE = {
    "a tensor is missing": (lambda f, n: edit(f, n, lambda t: None), "it is missing"),
    "a tensor has another shape": (lambda f, n: edit(f, n, lambda t: torch.cat([t, t])), "its shape is"),
    "a tensor too many": (add, "stranger.weight: it is not this model's"),
    "a file is cut": (cut, "must be a whole safetensors file"),
    "a file is missing": (lambda f, n: shard_of(f, n).unlink(), "(it is missing|it holds neither); fetch it"),
    "no config": (lambda f, n: (f / "config.json").unlink(), "config.json|folder of"),
    "the config is cut": (lambda f, n: (f / "config.json").write_text('{"mod'), "must be JSON|not a valid JSON"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_one_line(whole, folder, name):
    damage, message = DAMAGE[name]
    damage(folder, whole[1])
    with pytest.raises(UserError, match=message) as error:
        whole[0](str(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_an_index_that_lies_is_one_line(tmp_path):
    write_omni(tmp_path / "omni")
    name = MODELS["omni"][2]
    file = shard_of(tmp_path / "omni", name)
    save_file({k: v for k, v in load_file(file).items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"must hold {name}, as .*index.json says"):
        QwenOmniScorer(str(tmp_path / "omni"))


@pytest.mark.parametrize("kind", ["omni", "reasoner"])
def test_a_tokenizer_that_is_missing_is_one_line(kind, tmp_path):
    write, load, _ = MODELS[kind]
    write(tmp_path / kind)
    for path in (tmp_path / kind).glob("*tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match="must load with transformers|must have the token") as error:
        load(str(tmp_path / kind))
    assert "\n" not in str(error.value)


def write_csm(folder):
    from transformers import CsmConfig, CsmForConditionalGeneration, MimiConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 20, "max_position_embeddings": 64}
    depth = sizes | {"num_codebooks": 3, "backbone_hidden_size": 16}
    codec = MimiConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
                       num_key_value_heads=2, num_filters=2, upsample_groups=16, codebook_size=8, codebook_dim=8,
                       num_quantizers=3, vector_quantization_hidden_dimension=8, num_semantic_quantizers=1)  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 1, "audio_token_id": 2, "audio_eos_token_id": 3}
    ids["codebook_pad_token_id"] = 4
    config = CsmConfig(**sizes, **ids, num_codebooks=3, text_vocab_size=20, codec_config=codec.to_dict(),
                       depth_decoder_config=depth)  # fmt: skip
    CsmForConditionalGeneration(config).save_pretrained(folder)


@pytest.mark.parametrize("damage", [None, "a tensor is missing", "a tensor too many", "a file is cut"])
def test_csm_is_read_strictly_too(damage, tmp_path, monkeypatch):
    """Its processor is no part of this."""
    import transformers

    from lightning_paras2s.speaking.prompted import CsmTTS

    write_csm(tmp_path / "csm")
    (tmp_path / "voices.jsonl").write_text("")
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *args, **options: None)
    if damage is None:
        CsmTTS(str(tmp_path / "voices.jsonl"), str(tmp_path / "csm"), "cpu")
        return
    DAMAGE[damage][0](tmp_path / "csm", "lm_head.weight")
    with pytest.raises(UserError, match="lm_head.weight|stranger.weight|must load with transformers") as error:
        CsmTTS(str(tmp_path / "voices.jsonl"), str(tmp_path / "csm"), "cpu")
    assert "\n" not in str(error.value)
