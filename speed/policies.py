"""The policies that are timed, with random weights, their shapes, and prompts for them.

`tiny` is the embedded policy as it ships; `kimi` has Kimi-Audio's 9.77 billion weights in bfloat16 (a GPU of 141 GB);
`tiny_test` and `kimi_test` run the same code in a moment.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.speech_lm import Prompt, SpeechLM
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.running.cost import Shape

KIMI_TEST = KimiConfig(
    vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, pad_token_id=199, kimia_token_offset=200,
    kimia_text_output_vocab=200, kimia_mimo_layers=1, kimia_mimo_transformer_from_layer_index=1,
    kimia_mimo_audiodelaytokens=2, kimia_adaptor_input_dim=16, msg_end=181, media_begin=182, media_end=183, blank=184,
    text_eos=185, user_start=186, assistant_start=187, speech_ct=188, speech_ctd=189,
)  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """`build` makes the model (always the same weights); ids below `text_ids` and `codes` may stand in prompts."""

    build: Callable[[], SpeechLM]
    shape: Shape
    text_ids: int
    codes: int
    features: int

    def prompt(self, args: argparse.Namespace) -> Prompt:
        """Random ids and features, no padding, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        size = (args.queries, args.prompt)
        text = torch.randint(2, self.text_ids, size, generator=generator)
        audio = torch.randint(0, self.codes, size, generator=generator)
        mask = torch.ones(size, dtype=torch.bool)
        features = torch.randn(*size, self.features, generator=generator) if self.features else None
        return Prompt(torch.stack([text, audio], 1), mask, features, mask if self.features else None).to(args.device)


def tiny(args: argparse.Namespace, words: int = 3552, features: int = 264, **settings) -> Policy:
    """No row ever ends, so that all contenders make equally many tokens."""

    def build() -> TinySpeechLM:
        torch.manual_seed(0)
        model = TinySpeechLM(words, features, **settings).to(args.device)
        model.streams = replace(model.streams, text_eos=-1, audio_eos=-1)
        return model

    model = build()
    width, heads = model.settings["width"], model.heads
    codes = model.codes
    shape = Shape(width, 2 * width, len(model.layers), heads, heads, words, features, words, codes + 2)
    return Policy(build, shape, words, codes, features)


def kimi(args: argparse.Namespace, config: KimiConfig = KimiConfig(), lora_rank: int = 0) -> Policy:
    """Prompts are of tokens alone: Whisper's features would add one adaptor to the prefill."""

    def build() -> SpeechLM:
        from lightning_paras2s.models.kimi.lm import KimiAudio

        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)  # 39 GB of float32 need never exist
        with torch.device(args.device):
            model = KimiAudio(
                config=config, lora_rank=lora_rank, dtype="bfloat16", gradient_checkpointing=args.device == "cuda"
            )
        torch.set_default_dtype(before)
        return model

    text, audio = (sum(end - start for start, end in ranges) for ranges in (config.text_ids, config.audio_ids))
    shape = Shape(
        config.hidden_size, config.intermediate_size, config.num_hidden_layers + config.kimia_mimo_layers,
        config.num_attention_heads, config.num_key_value_heads, config.vocab_size, config.kimia_adaptor_input_dim,
        text, audio,
    )  # fmt: skip
    return Policy(build, shape, config.msg_end, config.msg_end, 0)


POLICIES: dict[str, Callable[[argparse.Namespace], Policy]] = {
    "tiny": tiny,
    "tiny_test": lambda args: tiny(args, 40, 8, levels=(4, 4), width=24, heads=2, shared_layers=1, audio_layers=1),
    "kimi": kimi,
    "kimi_lora": lambda args: kimi(args, lora_rank=16),
    "kimi_test": lambda args: kimi(args, KIMI_TEST),
    "kimi_lora_test": lambda args: kimi(args, KIMI_TEST, lora_rank=4),
}


def text_twin(shape: Shape):
    """A Qwen2 text model with the same layers, width, heads and MLP, and as many output rows as both heads together:
    a position costs as many FLOPs as one of the policy, though it makes one token and not two.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.text_ids + shape.audio_ids,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)
