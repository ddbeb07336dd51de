"""GLM-4-Voice's speech tokenizer (arXiv 2412.02612): a Whisper encoder made causal in blocks, pooled and quantised to
12.5 codes a second.

log-mel (100 Hz) -> two causal convolutions (50 Hz) -> 16 block-causal layers -> mean of 4 frames -> nearest of 16384
code vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.models.log_mel import SAMPLE_RATE, log_mel

SAMPLES_A_CODE = 1280
CHUNK_SAMPLES = 30 * SAMPLE_RATE  # longer speech is encoded in chunks, each alone


@dataclass(frozen=True)
class Glm4Config:
    """Names as in the released config.json, values of the released tokenizer.

    Args:
        num_mel_bins: mel bands that come in.
        d_model: width of every layer.
        encoder_attention_heads: attention heads a layer.
        encoder_ffn_dim: width of a layer's MLP.
        max_source_positions: frames that have a position (50 a second).
        pooling_kernel_size: frames that become one code.
        quantize_vocab_size: number of codes.
        quantize_position: layers before the quantiser.
        quantize_causal_block_size: frames a block of the attention, which sees no later block.
    """

    num_mel_bins: int = 128
    d_model: int = 1280
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    max_source_positions: int = 1500
    pooling_kernel_size: int = 4
    quantize_vocab_size: int = 16384
    quantize_position: int = 16
    quantize_causal_block_size: int = 200


class Attention(nn.Module):
    """Multi-head attention; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(3))
        self.k_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x [B, S, d], allowed [B, 1, S, S] -> [B, S, d]."""
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, allowed).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm transformer layer with exact GELU."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), allowed)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class Glm4Tokenizer(nn.Module):
    """Module names are the release's.

    Args:
        config: shapes.
    """

    def __init__(self, config: Glm4Config = Glm4Config()) -> None:
        super().__init__()
        self.config, width = config, config.d_model
        self.conv1, self.conv2 = nn.Conv1d(config.num_mel_bins, width, 3), nn.Conv1d(width, width, 3, stride=2)
        self.embed_positions = nn.Embedding(config.max_source_positions, width)
        self.layers = nn.ModuleList(
            Layer(width, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(config.quantize_position)
        )
        self.codebook = nn.Embedding(config.quantize_vocab_size, width)
        # in the release, read by nobody: kept so that its state dict loads strictly
        self.embed_positions2 = nn.Embedding(-(-config.max_source_positions // config.pooling_kernel_size), width)

    def hidden(self, mel: Tensor, mask: Tensor) -> Tensor:
        """mel [B, 128, T] with T even, mask [B, T] of real frames -> [B, T / 2, d] before pooling."""
        x = F.gelu(self.conv1(F.pad(mel, (2, 0))))
        x = F.gelu(self.conv2(F.pad(x, (2, 0)))).transpose(1, 2)
        allowed = block_causal(mask[:, ::2].bool(), self.config.quantize_causal_block_size)[:, None]
        x = x + self.embed_positions.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, allowed)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """Mean of each 4 frames, [B, S, d] -> [B, ceil(S / 4), d]; zeros that fill the last group count."""
        size = self.config.pooling_kernel_size
        return F.pad(x, (0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size)).mean(2)

    def nearest(self, x: Tensor) -> Tensor:
        """Code of the nearest code vector, lowest on ties: [B, T, d] -> [B, T]."""
        table = self.codebook.weight
        distance = table.square().sum(1) + x.square().sum(-1, keepdim=True) - 2 * x @ table.T
        return distance.argmin(-1)

    @torch.no_grad()
    def forward(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, ceil(T / 8)] and which of them are real (bool)."""
        codes = self.nearest(self.pool(self.hidden(mel, mask)))
        return codes, mask[:, ::2][:, :: self.config.pooling_kernel_size].bool()

    def encode(self, wav: Tensor, lengths: Tensor) -> list[Tensor]:
        """wav [B, N] at 16 kHz, lengths [B] in samples -> ceil(length / 1280) codes a row; over 30 s in independent
        chunks.
        """
        rows = [row[: int(n)].split(CHUNK_SAMPLES) for row, n in zip(wav, lengths)]
        chunks = [c for row in rows for c in row if len(c)]
        if not chunks:
            return [torch.zeros(0, dtype=torch.long) for _ in rows]
        mel, mask = front_end(chunks)
        codes, valid = self(mel.to(self.conv1.weight), mask)
        found = iter([c[v] for c, v in zip(codes, valid)])
        return [torch.cat([next(found) for c in row if len(c)] or [codes.new_zeros(0)]) for row in rows]


def front_end(chunks: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Waveforms of up to 30 s, [N_i] each -> log-mel [B, 128, T] of the zero-padded batch, T a multiple of 8, and
    real frames [B, T].

    The floor of 8 below the maximum is each row's own; frames are real up to the last one that begins within the
    speech.
    """
    length = max(len(c) for c in chunks)
    padded = length + -length % SAMPLES_A_CODE
    wav = torch.stack([F.pad(c, (0, padded - len(c))) for c in chunks])
    starts = torch.arange(padded // 160, device=wav.device) * 160
    mask = torch.stack([starts < len(c) for c in chunks])
    return log_mel(wav), mask


def block_causal(real: Tensor, block: int) -> Tensor:
    """Query i sees key j if j <= i or both lie in one block, and j is real: [B, S] -> [B, S, S] (query, key)."""
    place = torch.arange(real.shape[1], device=real.device)
    seen = (place[None, :] <= place[:, None]) | (place[None, :] // block == place[:, None] // block)
    return seen & real[:, None, :]
