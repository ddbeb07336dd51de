"""Kimi-Audio's continuous view of the query: frames of its fine-tuned Whisper encoder, four to a code.

The stock Hugging Face encoder is exact for it. The padding to 30 s takes part: encoding only the real frames gives
other numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.models.kimi.glm4_tokenizer import CHUNK_SAMPLES, SAMPLES_A_CODE
from lightning_paras2s.models.log_mel import log_mel

FRAMES_A_CODE = 4


class WhisperFeatures(nn.Module):
    """`encoder` is a transformers WhisperEncoder; the release keeps its weights under the same names.

    Args:
        d_model: width of every layer (Whisper large-v3's, as all here).
        encoder_layers: number of layers.
        encoder_attention_heads: attention heads a layer.
        encoder_ffn_dim: width of a layer's MLP.
    """

    def __init__(
        self,
        d_model: int = 1280,
        encoder_layers: int = 32,
        encoder_attention_heads: int = 20,
        encoder_ffn_dim: int = 5120,
    ) -> None:
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        super().__init__()
        self.encoder = WhisperEncoder(
            WhisperConfig(
                num_mel_bins=128,
                d_model=d_model,
                encoder_layers=encoder_layers,
                encoder_attention_heads=encoder_attention_heads,
                encoder_ffn_dim=encoder_ffn_dim,
                dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                attn_implementation="sdpa",
            )
        )
        self.feature_size = FRAMES_A_CODE * d_model

    @torch.no_grad()
    def forward(self, wav: Tensor, lengths: Tensor) -> list[Tensor]:
        """wav [B, N] at 16 kHz, lengths [B] in samples -> ceil(length / 1280) vectors [n, 4 d] a row; over 30 s in
        independent chunks.
        """
        rows = [[c for c in row[: int(n)].split(CHUNK_SAMPLES) if len(c)] for row, n in zip(wav, lengths)]
        weight = self.encoder.conv1.weight
        empty = weight.new_zeros(0, self.feature_size)
        chunks = [c for row in rows for c in row]
        if not chunks:
            return [empty for _ in rows]
        padded = torch.stack([F.pad(c, (0, CHUNK_SAMPLES - len(c))) for c in chunks])
        states = self.encoder(log_mel(padded).to(weight)).last_hidden_state
        counts = [-(-len(c) // SAMPLES_A_CODE) for c in chunks]
        groups = iter(s[: FRAMES_A_CODE * n].reshape(n, -1) for s, n in zip(states, counts))
        return [torch.cat([next(groups) for _ in row] or [empty]) for row in rows]
