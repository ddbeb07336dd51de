"""A tiny random Qwen2.5-Omni, whole (thinker, talker, token2wav, speakers), in a folder laid out as the release: five
shards of the names of 2025, `spk_dict.pt`, a byte-level tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny_models import SPECIAL, byte_tokenizer, renamed, write_shards

EXTRA = ("<tts_pad>", "<tts_start>", "<tts_end>", "<tts_start_2>")  # what the talker reads in place of words
CODES = 40  # of the voice; then, as released, ids of marks
MARKS = {"tts_codec_pad_token_id": 42, "tts_codec_start_token_id": 43, "tts_codec_end_token_id": 44}
MARKS |= {"tts_codec_mask_token_id": 46}
VOCABULARY = 48
GAIN = 0.5
MOVES = {"thinker.model.language_model.": "thinker.model.", "thinker.model.audio_tower.": "thinker.audio_tower."}
MOVES |= {"thinker.model.visual.": "thinker.visual."}
ROPE = {"rope_theta": 1e6, "rope_scaling": {"mrope_section": [2, 1, 1], "rope_type": "default", "type": "default"}}


def omni_tokenizer():
    return byte_tokenizer(SPECIAL + EXTRA)


def omni_config(tokenizer, context: int = 512) -> dict:
    """Values as in the released config.json, small."""
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL + EXTRA}
    shared = {"audio_token_index": ids["<|AUDIO|>"], "audio_start_token_id": ids["<|audio_bos|>"]}
    shared |= {"audio_end_token_id": ids["<|audio_eos|>"], "image_token_index": ids["<|IMAGE|>"]}
    shared |= {"video_token_index": ids["<|VIDEO|>"], "vision_start_token_id": ids["<|IMAGE|>"]}
    shared |= {"vision_end_token_id": ids["<|VIDEO|>"], "initializer_range": 0.4}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4}
    layers |= {"intermediate_size": 32, "max_position_embeddings": context}
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 16}
    text = layers | ROPE | {"vocab_size": 276, "hidden_size": 16, "model_type": "qwen2_5_omni_text"}
    text |= {"tie_word_embeddings": False}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    thinker = shared | {"audio_config": audio, "text_config": text, "vision_config": vision}
    thinker |= {"model_type": "qwen2_5_omni_thinker", "bos_token_id": ids["<|im_start|>"]}
    thinker |= {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    talker = shared | layers | ROPE | MARKS | {"vocab_size": VOCABULARY, "embedding_size": 16, "hidden_size": 24}
    talker |= {"head_dim": 8, "tts_text_start_token_id": ids["<tts_start>"], "tts_text_end_token_id": ids["<tts_end>"]}
    talker |= {"tts_text_pad_token_id": ids["<tts_pad>"], "model_type": "qwen2_5_omni_talker"}
    talker |= {"num_attention_heads": 3}
    encoder = {"enc_emb_dim": 12, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24], "enc_attention_channels": 4}
    encoder |= {"enc_res2net_scale": 2, "enc_se_channels": 4}
    dit = encoder | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "emb_dim": 8, "head_dim": 8}
    dit |= {"num_embeds": CODES + 1, "look_ahead_layers": [1], "look_backward_layers": [0], "dropout": 0.0}
    gan = {"upsample_initial_channel": 64, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    voice = {"dit_config": dit, "bigvgan_config": gan, "model_type": "qwen2_5_omni_token2wav"}
    config = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": True}
    config |= {"thinker_config": thinker, "talker_config": talker, "token2wav_config": voice}
    return config | {"torch_dtype": "float32"}


def write_release(path: Path, seed: int = 0, context: int = 512, dtype: torch.dtype = torch.float32):
    """Write the folder; the model that it holds, in transformers' own class."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

    tokenizer = omni_tokenizer()
    values = omni_config(tokenizer, context)
    torch.manual_seed(seed)
    config = Qwen2_5OmniConfig(**values)
    model = Qwen2_5OmniForConditionalGeneration(config).eval()
    with torch.no_grad():
        # an end that is often the likeliest token, so that texts end before their speech
        model.thinker.lm_head.weight[values["thinker_config"]["eos_token_id"]] *= 2.3
        # as initialized, the vocoder whispers at 1e-9
        for weight in model.token2wav.code2wav_bigvgan_model.parameters():
            weight.normal_(std=GAIN * (weight.numel() / len(weight)) ** -0.5)
    path.mkdir(parents=True, exist_ok=True)
    write_shards(path, {renamed(k, MOVES): v.to(dtype) for k, v in model.state_dict().items()}, 5)
    (path / "config.json").write_text(json.dumps(values))
    (path / "generation_config.json").write_text("{}")
    tokenizer.save_pretrained(path)
    generator = torch.Generator().manual_seed(seed)
    speakers = {}
    for name, mark in (("Ethan", "<tts_pad>"), ("Chelsie", "<tts_start_2>")):
        token = tokenizer.convert_tokens_to_ids(mark)
        cond, mel = torch.randn(1, 12, generator=generator), torch.randn(1, 30, 80, generator=generator)
        speakers[name] = {"bos_token": token, "cond": cond, "ref_mel": mel}
    torch.save(speakers, path / "spk_dict.pt")
    model.load_speakers(path / "spk_dict.pt")
    model.thinker.generation_config.eos_token_id = values["thinker_config"]["eos_token_id"]
    return model
