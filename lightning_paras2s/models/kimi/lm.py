"""Kimi-Audio (arXiv 2504.18425) as a trainable dual-stream policy: stock Qwen2 blocks under the released state-dict
names.

22 shared layers, then two branches: 6 text layers -> norm -> lm_head (TEXT) and 6 "mimo" layers -> mimo_norm ->
mimo_output (AUDIO). A step's input is E[audio] + E[text]; where the query has Whisper features, E[audio] becomes
(E[audio] + adaptor(features)) sqrt(2).

Departures from the released code, all needed to train in batches: features are placed by mask (theirs: by scanning
ids for begin/end marks, one row only), positions count real tokens only, each stream draws from its legal ids only
(theirs: from the whole vocabulary of both), gradient checkpointing does something, and an all-zero text stream is
skipped in `logits` a row at a time and nowhere else (theirs: whenever the ids of a call sum to 0, so a single decoded
"!" loses its embedding).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.heads import HeadedLM, check_room
from lightning_paras2s.models.kimi.attention import attention_mask, positions_of, rotary_table
from lightning_paras2s.models.kimi.checkpoint import ADAPTERS, base_of, check_kimi, load_kimi, save_kimi
from lightning_paras2s.models.kimi.config import KimiConfig, read_config
from lightning_paras2s.models.kimi.decoding import KimiRollout
from lightning_paras2s.models.lora import LINEAR, add_lora, load_adapters
from lightning_paras2s.models.selective import Ranges
from lightning_paras2s.models.sharding import shard_blocks
from lightning_paras2s.models.speech_lm import (
    AUDIO,
    TEXT,
    Completion,
    Logps,
    Prompt,
    Sampling,
    Streams,
)

if TYPE_CHECKING:
    from lightning_paras2s.models.kimi.cache import KeyValueCache

LORA_TARGETS = rf"(mimo_)?{LINEAR}"


class Adaptor(nn.Module):
    """Whisper features [..., F] -> the model's width."""

    def __init__(self, config: KimiConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = nn.Sequential(
            nn.Linear(config.kimia_adaptor_input_dim, width),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Linear(width, width),
            nn.LayerNorm(width, eps=config.rms_norm_eps),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class KimiTrunk(nn.Module):
    """Embedding, shared layers and both branches; submodules carry the released names."""

    def __init__(self, config: KimiConfig, attention: str) -> None:
        from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

        super().__init__()
        self.config, self.attention, self.gradient_checkpointing = config, attention, False
        stock, trunk, width = qwen2_config(config, attention), config.num_hidden_layers, config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(Qwen2DecoderLayer(stock, i) for i in range(trunk))
        self.norm = Qwen2RMSNorm(width, eps=config.rms_norm_eps)
        self.mimo_layers = nn.ModuleList(Qwen2DecoderLayer(stock, trunk + i) for i in range(config.kimia_mimo_layers))
        self.mimo_norm = Qwen2RMSNorm(width, eps=config.rms_norm_eps)
        self.vq_adaptor = Adaptor(config)

    def embed(self, tokens: Tensor, features: Tensor | None = None, where: Tensor | None = None) -> Tensor:
        """tokens [B, 2, L], features [B, L, F] counting at `where` [B, L] -> [B, L, h]."""
        audio, text = self.embed_tokens(tokens[:, AUDIO]), self.embed_tokens(tokens[:, TEXT])
        if features is not None:
            placed = torch.zeros_like(audio)
            # under autocast the adaptor gives another type than the embedding's
            placed[where] = self.vq_adaptor(features[where].to(audio.dtype)).to(audio.dtype)
            # sqrt(2) is rounded to the activations' type, as upstream does
            audio = torch.where(where[..., None], (audio + placed) * audio.new_tensor(2.0).sqrt(), audio)
        return audio + text

    def forward(
        self, x: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, L, h] after `cache.length` earlier positions, mask [B, all positions] -> normed text, audio states
        [B, L, h]. Once the cache is fixed, `mask` is additive, [B, 1, 1, capacity].
        """
        fixed = cache is not None and cache.place is not None  # then the mask is ready-made
        allowed = mask if fixed else attention_mask(mask, x.shape[1], x.dtype, self.attention)
        rotary = rotary_table(positions, self.config.head_size, self.config.rope_theta, x.dtype)
        fork = self.config.kimia_mimo_transformer_from_layer_index
        for layer in self.layers[: fork + 1]:
            x = self.run(layer, x, allowed, rotary, cache)
        text = audio = x
        for layer in self.layers[fork + 1 :]:
            text = self.run(layer, text, allowed, rotary, cache)
        for layer in self.mimo_layers:
            audio = self.run(layer, audio, allowed, rotary, cache)
        return self.norm(text), self.mimo_norm(audio)

    def run(
        self, layer: nn.Module, x: Tensor, allowed: Tensor | None, rotary: tuple, cache: KeyValueCache | None
    ) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled() and cache is None:
            return checkpoint(layer, x, attention_mask=allowed, position_embeddings=rotary, use_reentrant=False)
        if cache is None:
            return layer(x, attention_mask=allowed, position_embeddings=rotary)
        from lightning_paras2s.models.kimi.cache import cache_argument

        return layer(x, attention_mask=allowed, position_embeddings=rotary, **{cache_argument(type(layer)): cache})


class KimiAudio(HeadedLM):
    """The paper's policy. Both heads span the whole vocabulary in the checkpoint; only legal rows are ever used.

    Args:
        path: folder of a released (or saved) checkpoint; None builds random weights of `config`. Adapters that lie in
            it are then part of the base, float32 as they trained, and of the reference.
        config: shapes and special ids; None reads the folder's config.json, or without a folder takes the release's
            values.
        lora_rank: 0 trains every weight; r > 0 freezes them and trains rank-r adapters on all linear layers of all
            blocks.
        lora_alpha: scale of the adapters' output: alpha / r.
        attention: `sdpa` or `eager`.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        dtype: of the weights: float32, or bfloat16 as the release has them.
        gather: type in which sharded weights are gathered and computed with; alone or unsharded it plays no part.
    """

    rollout = KimiRollout

    def __init__(
        self,
        path: InputPath | None = None,
        config: KimiConfig | None = None,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        attention: Literal["sdpa", "eager"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        gather: str = "bfloat16",
    ) -> None:
        super().__init__()
        if attention not in ("sdpa", "eager"):
            raise UserError(f"attention must be sdpa or eager; got {attention!r}; change it")
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype must be float32 or bfloat16; got {dtype!r}; change it")
        if config is None:
            config = KimiConfig() if path is None else read_config(path)
        self.config, self.path, self.lora_rank, self.gather = config, path, lora_rank, gather
        self.base = None if path is None else base_of(path)
        blank = config.blank
        self.streams = Streams(blank, config.text_eos, blank, config.msg_end, config.kimia_mimo_audiodelaytokens)
        with torch.device("meta") if path is not None else contextlib.nullcontext():
            self.model = KimiTrunk(config, attention)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            self.mimo_output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.to(getattr(torch, dtype))
        self.model.gradient_checkpointing = gradient_checkpointing
        if path is not None and self.base != str(path):
            load_adapters(self, Path(path) / ADAPTERS)
        if lora_rank:
            add_lora(self, self.model, LORA_TARGETS, lora_rank, lora_alpha)
        if path is not None and not dist.is_initialized():  # else `shard` reads, each rank its own part
            self.materialize()

    def materialize(self, device: torch.device | str = "cpu") -> None:
        """Give a meta-device model storage on `device` and its weights from its base; after sharding, each rank reads
        its own rows.
        """
        if self.lm_head.weight.is_meta and self.base is not None:
            check_kimi(self, self.base)
            adapters = dict(self.named_buffers())  # of an earlier training: they were read
            self.to_empty(device=device)
            load_kimi(self, self.base)
            for name, buffer in self.named_buffers():
                buffer.copy_(adapters[name])

    def shard(self, mesh: DeviceMesh) -> None:
        """Split weights, gradients and optimizer state over the ranks of `mesh` (FSDP2), a block at a time."""
        blocks = (*self.model.layers, *self.model.mimo_layers)
        shard_blocks(self, blocks, mesh, getattr(torch, self.gather), ("logps", "generate"))
        self.materialize(mesh.device_type)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint as the release is laid out, adapters merged, to the folder `path` without its suffix."""
        save_kimi(self, Path(path).with_suffix(""), str(self.lm_head.weight.dtype).removeprefix("torch."))

    def head(self, stream: int) -> tuple[Tensor, Ranges]:
        """The stream's output matrix [V, h] and the ids that it may draw."""
        if stream == TEXT:
            return self.lm_head.weight, self.config.text_ids
        return self.mimo_output.weight, self.config.audio_ids

    def logits(
        self, tokens: Tensor, mask: Tensor | None = None, features: Tensor | None = None, where: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The released model's own call: text and audio logits [B, L, V] of every position, over the whole vocabulary.

        Args as in `Prompt`. A row whose text ids are all 0 has no text stream.
        """
        mask = torch.ones_like(tokens[:, 0], dtype=torch.bool) if mask is None else mask
        x = self.model.embed(tokens, features, where)
        silent = (tokens[:, TEXT] == 0).all(1)[:, None, None]
        x = x - silent * self.model.embed_tokens(tokens[:, TEXT])
        text, audio = self.model(x, mask, positions_of(mask))
        return self.lm_head(text), self.mimo_output(audio)

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """As `SpeechLM.forward`; ids that a stream can't draw have logit -inf. For inspection: training uses `logps`,
        which makes no [B, T, V] tensor.
        """
        outputs = []
        for stream, hidden in enumerate(self.response_states(prompt, completion)):
            weight, ranges = self.head(stream)
            logits = hidden.new_full((*hidden.shape[:2], ranges[-1][1]), -torch.inf, dtype=torch.float32)
            for start, end in ranges:
                logits[..., start:end] = hidden.float() @ weight[start:end].float().T
            outputs.append(logits)
        return outputs[TEXT], outputs[AUDIO]

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        sampling.check_scorable()
        self.check_actions(completion)
        return self.score(self.response_states(prompt, completion), completion, sampling)

    def response_states(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the states from which each response step is predicted, text and audio, [B*G, T, h]."""
        steps, group_size = completion.tokens.shape[2], len(completion) // len(prompt)
        self.check_prompt(prompt, steps)
        before = self.model.embed(prompt.tokens, prompt.features, prompt.features_mask).repeat_interleave(group_size, 0)
        x = torch.cat([before, self.model.embed(completion.tokens[..., :-1])], 1)
        mask = prompt.mask.repeat_interleave(group_size, 0)
        # right padding needs no mask: nothing real comes after it
        mask = torch.cat([mask, mask.new_ones(len(mask), steps - 1)], 1)
        text, audio = self.model(x, mask, positions_of(mask))
        return text[:, -steps:], audio[:, -steps:]

    def check_prompt(self, prompt: Prompt, steps: int) -> None:
        """Context, ids and features are this model's, or one line says what is not."""
        length, room = prompt.tokens.shape[2] + steps, self.config.max_position_embeddings
        check_room(length, room)
        if (highest := int(prompt.tokens.max())) >= self.config.vocab_size:
            raise UserError(
                f"prompts must hold ids below {self.config.vocab_size}; got {highest}; use this model's tokenizer"
            )
        wanted = self.config.kimia_adaptor_input_dim
        if prompt.features is not None and prompt.features.shape[-1] != wanted:
            raise UserError(
                f"features must have {wanted} numbers a position; got {prompt.features.shape[-1]}; "
                "use this model's tokenizer"
            )


def qwen2_config(config: KimiConfig, attention: str):
    """The stock config that makes Qwen2 blocks of this shape; mimo layers are numbered after the trunk's."""
    from transformers import Qwen2Config

    layers = config.num_hidden_layers + config.kimia_mimo_layers
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        layer_types=["full_attention"] * layers,
        attn_implementation=attention,
        pad_token_id=config.pad_token_id,
    )
