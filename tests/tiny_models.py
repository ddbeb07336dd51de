"""Tiny random instances of the paper's models, in folders that hold what the releases' writers write: what `models/`
holds in a lab. Each writer is named, and none of our readers decides what a file looks like.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from test_kimi_audio import tiny_kimi
from test_kimi_detokenizer import FLOW, GAN
from test_kimi_encoders import GLM4
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lightning_paras2s.models.kimi.checkpoint import save_kimi
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Config, Glm4Tokenizer
from lightning_paras2s.models.kimi.released import known_fields


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
    write_glm4(glm4, codes=64)
    write_whisper(kimi / "whisper-large-v3", width=10)


def write_glm4(folder: Path, codes: int) -> None:
    """As `WhisperVQEncoder.save_pretrained` writes: no prefix, the training buffers beside the weights."""
    folder.mkdir(parents=True)
    shapes = {"d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "quantize_vocab_size": codes}
    shapes |= {"quantize_position": 1, "pooling_position": 1}
    config = GLM4["production_config"] | shapes | {"architectures": ["WhisperVQEncoder"], "model_type": "whisper"}
    (folder / "config.json").write_text(json.dumps(config | {"quantize_commit_coefficient": 0.25, "vocab_size": 51866}))
    state = Glm4Tokenizer(known_fields(Glm4Config, config)).state_dict()
    buffers = {"ema_count": torch.ones(codes), "ema_weight": state["codebook.weight"].clone()}
    save_file(state | buffers, folder / "model.safetensors", metadata={"format": "pt"})


def write_whisper(folder: Path, width: int) -> None:
    """A whole Whisper by transformers, its head tied and so not in the file; 16-bit, as its size says."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {"d_model": width, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    sizes |= {"decoder_start_token_id": 0, "max_target_positions": 8, "num_mel_bins": 128}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 16}
    WhisperForConditionalGeneration(WhisperConfig(**sizes)).half().save_pretrained(folder)


def write_detokenizer(kimi: Path) -> None:
    """The yaml and the checkpoint of a training run (other sections, the optimizer's state), whose embedding has a row
    more than the yaml says; BigVGAN's own `save_checkpoint`.
    """
    write_flow(kimi / "audio_detokenizer", FLOW["config"], FLOW["state_dict"])
    vocoder = kimi / "vocoder"
    vocoder.mkdir()
    (vocoder / "config.json").write_text(json.dumps(GAN["config"] | {"batch_size": 4, "segment_size": 65536}))
    torch.save({"generator": GAN["state_dict"]}, vocoder / "model.pt")


def write_flow(folder: Path, shapes: dict, state: dict) -> None:
    folder.mkdir()
    rows = shapes["semantic_vocab_size"]  # the golden file has the class's argument, the yaml's value plus 1
    assert len(state["semantic_token_embedding.weight"]) == rows
    dit = {k: v for k, v in shapes.items() if k != "output_size"} | {"semantic_vocab_size": rows - 1}
    other = {"optimizer": {"hidden_size": 7, "depth": 7}, "model": {"dit": dit, "depth": 99, "mel_mean": 99}}
    norm = {"normalize_mel": True, "mel_mean": FLOW["mel_norm"]["mel_mean"], "mel_std": FLOW["mel_norm"]["mel_std"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(other | norm))
    tensors = {f"speech_model.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(1)}
    torch.save(
        {"state_dict": tensors, "epoch": 3, "optimizer_states": [{"exp_avg": torch.ones(2)}]}, folder / "model.pt"
    )


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
    """A tiny Omni as released: five shards of bfloat16 under the names of 2025, with a talker and a vocoder that no
    score needs, and the thinker's config in the style of its day; a byte-level tokenizer.
    """
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    tokenizer = byte_tokenizer(SPECIAL)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    audio |= {"output_dim": 32, "initializer_range": 0.2}
    text = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 8192}
    text |= {"initializer_range": 0.3, "rope_theta": 1e6}
    text |= {"rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    thinker = {"audio_config": audio, "text_config": text, "vision_config": vision, "initializer_range": 0.3}
    thinker |= {"audio_token_index": ids["<|AUDIO|>"], "audio_start_token_id": ids["<|audio_bos|>"]}
    thinker |= {"audio_end_token_id": ids["<|audio_eos|>"], "image_token_index": ids["<|IMAGE|>"]}
    thinker |= {"video_token_index": ids["<|VIDEO|>"]}
    thinker |= {"vision_start_token_id": ids["<|IMAGE|>"], "vision_end_token_id": ids["<|VIDEO|>"]}  # as released
    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**thinker))
    # up to transformers 5.21 the tree has the released names; then all but the head lies in `model`
    moves = {"model.language_model.": "model.", "model.audio_tower.": "audio_tower.", "model.visual.": "visual."}
    state = {f"thinker.{renamed(k, moves)}": v.bfloat16() for k, v in model.state_dict().items()}
    state |= {name: torch.ones(2) for name in ("talker.codec_head.weight", "token2wav.code2wav_dit_model.proj.bias")}
    path.mkdir(parents=True, exist_ok=True)
    write_shards(path, state, 5)
    config = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": True}
    config |= {"thinker_config": thinker | {"model_type": "qwen2_5_omni_thinker"}, "torch_dtype": "bfloat16"}
    (path / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(path)


def write_reasoner(path: Path) -> None:
    """A tiny Qwen2-Audio (Audio-Reasoner's class) under the names of 2025, with its processor."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tokenizer = byte_tokenizer(names, end="<|im_end|>")
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    text = {"vocab_size": 264, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "model_type": "qwen2", "initializer_range": 0.5}
    config = {"audio_config": audio | {"model_type": "qwen2_audio_encoder", "initializer_range": 0.5}}
    config |= {"text_config": text, "audio_token_index": tokenizer.convert_tokens_to_ids("<|AUDIO|>")}
    torch.manual_seed(0)
    state = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**config)).state_dict()
    moves = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
    moves |= {f"model.{part}.": f"{part}." for part in ("audio_tower", "multi_modal_projector")}
    path.mkdir(parents=True, exist_ok=True)
    write_shards(path, {renamed(k, moves): v for k, v in state.items()}, 4)
    config |= {"architectures": ["Qwen2AudioForConditionalGeneration"], "model_type": "qwen2_audio"}
    (path / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer).save_pretrained(path)


def byte_tokenizer(special: tuple[str, ...], end: str | None = None):
    """A byte is a token, and so is each special one; the first fills."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=special[0], eos_token=end)
    tokenizer.add_special_tokens({"additional_special_tokens": [s for s in special[1:] if s != end]})
    return tokenizer


def renamed(name: str, moves: dict[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in moves.items() if name.startswith(old)), name)


def write_shards(folder: Path, state: dict, count: int) -> None:
    """`count` files and their index, as transformers writes."""
    names, weight_map = sorted(state), {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {n: state[n].contiguous().clone() for n in names[i::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
