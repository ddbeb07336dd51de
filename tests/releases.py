"""Fake releases with the real vocabularies, special ids, file names, key names, types and off-by-ones, and tiny widths:
what `models/` holds after a download. Every file is as its writer writes it.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_kimi_detokenizer import FLOW, GAN
from tiny_models import write_flow, write_glm4, write_omni, write_reasoner, write_whisper

from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.lm import KimiAudio

WORDS, CODES, WHISPER = 151_643, 16_384, 4  # entries of tiktoken.model; of the speech codebook; width of the features
SHAPES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES |= {"kimia_adaptor_input_dim": 4 * WHISPER}


def write_releases(models: Path) -> None:
    kimi = models / "Kimi-Audio-7B-Instruct"
    kimi.mkdir(parents=True)
    write_language_model(kimi)
    write_words(kimi / "tiktoken.model")
    write_whisper(kimi / "whisper-large-v3", WHISPER)
    rows = torch.randn(CODES + 1, 48, generator=torch.Generator().manual_seed(1))
    state = FLOW["state_dict"] | {"semantic_token_embedding.weight": rows}
    write_flow(kimi / "audio_detokenizer", FLOW["config"] | {"semantic_vocab_size": CODES + 1}, state)
    (kimi / "vocoder").mkdir()
    (kimi / "vocoder" / "config.json").write_text(json.dumps(GAN["config"]))
    torch.save({"generator": GAN["state_dict"]}, kimi / "vocoder" / "model.pt")
    write_glm4(models / "glm-4-voice-tokenizer", CODES)
    write_omni(models / "Qwen2.5-Omni-7B")
    write_reasoner(models / "Audio-Reasoner")


def write_language_model(folder: Path) -> None:
    """36 bfloat16 shards: a layer each with its rotary table, the adaptor, the rest; `KimiAudioConfig.to_json_file`."""
    torch.manual_seed(0)
    model = KimiAudio(config=KimiConfig(**SHAPES))
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    groups = [f"model.layers.{i}." for i in range(28)] + [f"model.mimo_layers.{i}." for i in range(6)]
    weight_map, rest = {}, dict(state)
    for number, group in enumerate([*groups, "model.vq_adaptor.", ""], 1):
        tensors = {name: rest.pop(name) for name in list(rest) if name.startswith(group)}
        if group in groups:
            tensors[f"{group}self_attn.rotary_emb.inv_freq"] = torch.ones(2, dtype=torch.bfloat16)
        file = f"model-{number}-of-{35 if group else 36}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    assert len(weight_map) == 453  # tensors in the release's index
    total = sum(t.nbytes for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    values = {"architectures": ["MoonshotKimiaForCausalLM"], "model_type": "kimi_audio", "hidden_act": "silu"}
    values |= {"auto_map": {"AutoModelForCausalLM": "modeling_moonshot_kimia.MoonshotKimiaForCausalLM"}}
    values |= {"vocab_size": 168_448, "num_hidden_layers": 28, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6}
    values |= {"rope_theta": 1e6, "rope_scaling": None, "tie_word_embeddings": False, "use_sliding_window": False}
    values |= {"kimia_mimo_layers": 6, "kimia_mimo_transformer_from_layer_index": 21, "kimia_mimo_audiodelaytokens": 6}
    values |= {"kimia_text_output_vocab": 152_064, "kimia_audio_output_vocab": 16_896, "kimia_token_offset": 152_064}
    values |= {"num_base_tokens": WORDS, "num_audio_special_tokens": 512, "use_whisper_feature": True}
    values |= {"kimia_media_begin": 151_661, "kimia_media_end": 151_663, "bos_token_id": 151_643}
    values |= {
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.1",
    }
    (folder / "config.json").write_text(json.dumps(values | SHAPES, indent=2))
    (folder / "modeling_moonshot_kimia.py").write_text("# the release's own code\n")
    (folder / "tokenizer_config.json").write_text("{}")


def write_words(path: Path) -> None:
    """151,643 byte strings by rank, the bytes first, then every pair, then triples."""
    strings = itertools.chain.from_iterable(itertools.product(range(256), repeat=n) for n in (1, 2, 3))
    lines = (base64.b64encode(bytes(s)) + f" {i}\n".encode() for i, s in enumerate(itertools.islice(strings, WORDS)))
    path.write_bytes(b"".join(lines))
