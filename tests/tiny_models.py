"""Tiny random instances of the paper's models, in folders laid out as the releases: what `models/` holds in a lab."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from test_kimi_audio import tiny_kimi
from test_kimi_detokenizer import FLOW, tiny_flow, tiny_gan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lightning_paras2s.models.kimi.checkpoint import save_kimi
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Config, Glm4Tokenizer
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures


def write_models(root: Path) -> None:
    """Kimi-Audio (and a copy as if it were fine-tuned), GLM-4's tokenizer and Qwen2.5-Omni under `root`."""
    torch.manual_seed(0)
    kimi = root / "Kimi-Audio-7B-Instruct"
    for folder in (kimi, root / "Kimi-Audio-7B-SFT"):
        save_kimi(tiny_kimi(), folder)
        write_text_tokenizer(folder)
    write_encoders(kimi, root / "glm-4-voice-tokenizer")
    write_detokenizer(kimi)
    write_omni(root / "Qwen2.5-Omni-7B")


def write_text_tokenizer(folder: Path) -> None:
    """The first 200 bytes, as the special ids of the tiny model begin at 200."""
    words = [base64.b64encode(bytes([i])).decode() + f" {i}\n" for i in range(200)]
    (folder / "tiktoken.model").write_text("".join(words))


def write_encoders(kimi: Path, glm4: Path) -> None:
    glm4.mkdir()
    shapes = Glm4Config(
        d_model=16, encoder_attention_heads=2, encoder_ffn_dim=32, quantize_vocab_size=64, quantize_position=1
    )
    (glm4 / "config.json").write_text(json.dumps(dataclasses.asdict(shapes)))
    save_file(Glm4Tokenizer(shapes).state_dict() | {"ema_count": torch.ones(64)}, glm4 / "model.safetensors")
    whisper = {"d_model": 10, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    folder = kimi / "whisper-large-v3"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(whisper | {"architectures": ["WhisperForConditionalGeneration"]}))
    state = {f"model.encoder.{k}": v for k, v in WhisperFeatures(**whisper).encoder.state_dict().items()}
    save_file(state | {"model.decoder.layer_norm.bias": torch.ones(10)}, folder / "model.safetensors")


def write_detokenizer(kimi: Path) -> None:
    flow, vocoder = kimi / "audio_detokenizer", kimi / "vocoder"
    flow.mkdir()
    shapes = dataclasses.asdict(tiny_flow(ode_points=3).config)
    norm = {name: shapes.pop(name) for name in ("mel_mean", "mel_std")}
    (flow / "config.yaml").write_text(yaml.safe_dump({"model": {"dit": shapes}, "normalize_mel": True} | norm))
    torch.save({"state_dict": {f"speech_model.{k}": v for k, v in FLOW["state_dict"].items()}}, flow / "model.pt")
    vocoder.mkdir()
    (vocoder / "config.json").write_text(json.dumps(dataclasses.asdict(tiny_gan().config)))
    torch.save({"generator": tiny_gan().state_dict()}, vocoder / "model.pt")


SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
)


def write_omni(path: Path) -> None:
    """A tiny thinker and a byte-level tokenizer."""
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
    )

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    audio |= {"output_dim": 32, "initializer_range": 0.2}
    text = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192}
    text |= {"initializer_range": 0.3}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    marks = {"audio_token_index": ids["<|AUDIO|>"], "audio_start_token_id": ids["<|audio_bos|>"]}
    marks |= {"audio_end_token_id": ids["<|audio_eos|>"], "image_token_index": ids["<|IMAGE|>"]}
    marks |= {"video_token_index": ids["<|VIDEO|>"], "initializer_range": 0.3}
    marks |= {"vision_start_token_id": ids["<|IMAGE|>"], "vision_end_token_id": ids["<|VIDEO|>"]}  # as released
    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig(audio_config=audio, text_config=text, vision_config=vision, **marks)
    Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
