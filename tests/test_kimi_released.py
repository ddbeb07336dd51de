"""The files beside Kimi-Audio's language model, as upstream writes them and as it does not."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_kimi_detokenizer import FLOW, GAN
from tiny_models import write_models, write_shards

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.bigvgan import BigVGANConfig
from lightning_paras2s.models.kimi.config import read_config
from lightning_paras2s.models.kimi.processor import KimiProcessor
from lightning_paras2s.models.kimi.released import (
    flow_config,
    load_codes,
    load_detokenizer,
    load_features,
    vocoder_config,
)


@pytest.fixture
def root(tmp_path):
    write_models(tmp_path)
    return tmp_path


@pytest.fixture
def kimi(root):
    return root / "Kimi-Audio-7B-Instruct"


def change(path, parts=(), drop=(), **values):
    """Edit a config: `parts` lead to the map that gets `values` and loses `drop`."""
    read, write = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    whole = here = read(path.read_text())
    for part in parts:
        here = here[part]
    here |= values
    for name in drop:
        del here[name]
    path.write_text(write(whole))


def test_the_embedding_has_a_row_more_than_the_config_says(kimi):
    """Upstream: `DiTPrefix(semantic_vocab_size=config["model"]["dit"]["semantic_vocab_size"] + 1)`."""
    path = kimi / "audio_detokenizer" / "config.yaml"
    assert yaml.safe_load(path.read_text())["model"]["dit"]["semantic_vocab_size"] == 64
    flow = load_detokenizer(kimi, torch.float32, {}).flow
    assert torch.equal(flow.semantic_token_embedding.weight, FLOW["state_dict"]["semantic_token_embedding.weight"])
    assert flow.semantic_token_embedding.weight.shape == (65, 48)


def test_only_the_map_model_dit_gives_shapes(kimi):
    """The yaml has `hidden_size`, `depth` and `mel_mean` elsewhere too."""
    config = flow_config(kimi / "audio_detokenizer" / "config.yaml")
    assert (config.hidden_size, config.depth, config.num_heads, config.mels) == (48, 3, 3, 80)
    assert (config.mel_mean, config.mel_std, config.rope_base) == (-4.0, 2.5, 10000)
    assert (config.ode_points, config.chunk_codes, config.look_ahead_codes) == (30, 30, 12)  # code, not config
    change(kimi / "audio_detokenizer" / "config.yaml", normalize_mel=False)
    config = flow_config(kimi / "audio_detokenizer" / "config.yaml")
    assert (config.mel_mean, config.mel_std) == (0.0, 1.0)


def test_a_vocoder_config_that_says_nothing_has_bias_and_tanh(kimi):
    """Upstream: `h.get("use_bias_at_final", True)`, `h.get("use_tanh_at_final", True)`."""
    path = kimi / "vocoder" / "config.json"
    assert not vocoder_config(path).use_tanh_at_final
    change(path, drop=("use_bias_at_final", "use_tanh_at_final"))
    config = vocoder_config(path)
    assert config.use_bias_at_final and config.use_tanh_at_final
    assert BigVGANConfig().use_bias_at_final and BigVGANConfig().use_tanh_at_final
    torch.save({"generator": GAN["state_dict"]}, kimi / "vocoder" / "model.pt")
    with pytest.raises(UserError, match="must hold conv_post.bias"):
        load_detokenizer(kimi, torch.float32, {})


FLOW_YAML, VOCODER = ("audio_detokenizer", "config.yaml"), ("vocoder", "config.json")
GLM4_JSON, WHISPER_JSON = ("..", "glm-4-voice-tokenizer", "config.json"), ("whisper-large-v3", "config.json")
DIT = ("model", "dit")
WRONG = [
    (FLOW_YAML, DIT, {"use_rope": False}, "use_rope in .* must be True; got False"),
    (FLOW_YAML, DIT, {"drop": ("use_rope",)}, "use_rope in .* must be True; got False"),  # upstream's default
    (FLOW_YAML, DIT, {"ffn_type": "conv1d_conv1d"}, "ffn_type in .* must be 'vanilla_mlp'; got 'conv1d_conv1d'"),
    (FLOW_YAML, DIT, {"drop": ("ffn_type",)}, "ffn_type in .* must be 'vanilla_mlp'; got 'conv1d_conv1d'"),
    (FLOW_YAML, DIT, {"position_embedding_type": "sincos"}, "must be 'skip'; got 'sincos'"),
    (FLOW_YAML, (*DIT, "rope_params"), {"rope_interpolation_factor": 2}, "must be 1; got 2"),
    (FLOW_YAML, DIT, {"drop": ("depth",)}, "config.yaml must give depth; it does not"),
    (FLOW_YAML, (), {"drop": ("mel_std",)}, "config.yaml must give mel_std; it does not"),
    (FLOW_YAML, (), {"drop": ("normalize_mel",)}, "config.yaml must give normalize_mel; it does not"),
    (FLOW_YAML, (), {"drop": ("model",)}, "must hold a map model.dit"),
    (FLOW_YAML, DIT, {"input_size": 100}, "num_mels in .* must be flow matching's 100; got 80"),
    (FLOW_YAML, DIT, {"semantic_vocab_size": 65}, r"must have shape \(66, 48\); got \(65, 48\)"),
    (VOCODER, (), {"activation": "snake"}, "activation in .* must be 'snakebeta'; got 'snake'"),
    (VOCODER, (), {"snake_logscale": False}, "snake_logscale in .* must be True; got False"),
    (VOCODER, (), {"resblock": "2"}, "resblock in .* must be '1'; got '2'"),
    (VOCODER, (), {"drop": ("activation",)}, "activation in .* must be 'snakebeta'; got None"),
    (VOCODER, (), {"upsample_rates": [5, 4, 4, 4]}, "must multiply to 480 samples a frame; got 320"),
    (VOCODER, (), {"drop": ("upsample_rates",)}, "must give upsample_rates"),
    (GLM4_JSON, (), {"pooling_type": "max"}, "pooling_type in .* must be 'avg'; got 'max'"),
    (GLM4_JSON, (), {"drop": ("pooling_type",)}, "pooling_type in .* must be 'avg'; got 'max'"),
    (GLM4_JSON, (), {"encoder_causal_convolution": False}, "encoder_causal_convolution in .* must be True"),
    (GLM4_JSON, (), {"pooling_position": 0}, "pooling_position in .* must be 1; got 0"),
    (GLM4_JSON, (), {"drop": ("quantize_causal_block_size",)}, "must give quantize_causal_block_size"),
    (WHISPER_JSON, (), {"num_mel_bins": 80}, "num_mel_bins in .* must be 128; got 80"),
    (WHISPER_JSON, (), {"activation_function": "relu"}, "activation_function in .* must be 'gelu'; got 'relu'"),
    (("config.json",), (), {"hidden_act": "gelu"}, "hidden_act in .* must be 'silu'; got 'gelu'"),
    (("config.json",), (), {"tie_word_embeddings": True}, "tie_word_embeddings in .* must be False; got True"),
    (("config.json",), (), {"rope_scaling": {"type": "yarn"}}, "rope_scaling in .* must be None"),
    (("config.json",), (), {"kimia_media_end": 7}, "kimia_media_end in .* must be 220; got 7"),
    (("config.json",), (), {"drop": ("rope_theta",)}, "config.json must give rope_theta; it does not"),
]


@pytest.mark.parametrize(("file", "where", "values", "message"), WRONG)
def test_what_is_not_supported_is_one_line(root, kimi, file, where, values, message):
    change(kimi.joinpath(*file), where, **values)
    processor = KimiProcessor(str(kimi), str(root / "glm-4-voice-tokenizer"), "float32")
    with pytest.raises(UserError, match=message) as error:
        assert processor.ears and processor.voice
    assert "\n" not in str(error.value)


def test_rope_theta_is_read_where_transformers_5_writes_it(kimi):
    change(kimi / "config.json", drop=("rope_theta",), rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert read_config(kimi).rope_theta == 5e5


def test_whisper_loads_as_each_of_its_classes_writes_it(kimi):
    """`WhisperForConditionalGeneration` writes `model.encoder.`, `WhisperModel` (upstream's export) `encoder.`, both in
    one file or, of 5 GB and more, in shards.
    """
    folder = kimi / "whisper-large-v3"
    file, wanted = folder / "model.safetensors", load_features(folder).encoder.state_dict()
    state = load_file(file)
    assert {t.dtype for t in state.values()} == {torch.float16} and any("decoder" in name for name in state)
    short = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    save_file(short, file)
    assert all(torch.equal(t, wanted[n]) for n, t in load_features(folder).encoder.state_dict().items())
    file.unlink()
    write_shards(folder, short, 3)
    assert all(torch.equal(t, wanted[n]) for n, t in load_features(folder).encoder.state_dict().items())
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors; it is missing"):
        load_features(folder)


def test_codes_load_beside_the_buffers_of_training(root):
    glm4 = load_codes(root / "glm-4-voice-tokenizer")
    assert glm4.codebook.weight.shape == (64, 16) and glm4.config.quantize_position == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_codes": 12}, "chunk_codes must be above the look-ahead of 12, .*; got 12"),
        ({"chunk_codes": 0}, "chunk_codes must be above the look-ahead of 12, .*; got 0"),
        ({"ode_points": 1}, "ode_points must be at least 2, one step; got 1"),
    ],
)
def test_chunks_and_points_too_few_are_one_line(kimi, changes, message):
    with pytest.raises(UserError, match=message):
        load_detokenizer(kimi, torch.float32, changes)
    assert load_detokenizer(kimi, torch.float32, {"chunk_codes": 13, "ode_points": 2})
