"""`TinyTokenizer`: a neural codec with one stream of codes at 25 Hz (finite scalar quantisation, arXiv 2309.15505).

Speech is heard as log-mel, pitch and voicing (`features.py`), compressed by strided convolutions to four numbers of
eight levels a frame, expanded again and vocoded. As in Kimi-Audio, the way out knows one voice (the agent's), so a code
need not carry the speaker; and as in its GLM-4 tokenizer, a transcription loss on the quantised frames keeps the words.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.tiny.features import ACOUSTIC_SIZE, HOP, MELS, SAMPLE_RATE, acoustics_of, vocode
from lightning_paras2s.models.tokenizer import SpeechTokenizer

STRIDE = 4  # acoustic frames a code
TAIL = (
    10  # codes of silence put after speech before encoding, so that its last codes do not depend on a batch's padding
)


class ResidualBlock(nn.Module):
    """Depthwise convolution, then a pointwise MLP (ConvNeXt): [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int = 7, dilation: int = 1) -> None:
        super().__init__()
        self.mix = nn.Conv1d(
            channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels
        )
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 3 * channels)
        self.down = nn.Linear(3 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x).transpose(1, 2))
        return x + self.down(F.gelu(self.up(y))).transpose(1, 2)


class FSQ(nn.Module):
    """Finite scalar quantisation: each dimension is bounded and rounded to its levels; code = mixed radix, first
    dimension fastest."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.register_buffer("reach", (torch.tensor(levels) - 1) / 2, persistent=False)
        radix = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("radix", radix, persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] -> quantised in [-1, 1] with straight-through gradient [..., D], codes [...]."""
        bounded = torch.tanh(z) * self.reach
        index = (bounded + self.reach).round()
        quantised = (bounded + (index - self.reach - bounded).detach()) / self.reach
        return quantised, (index.long() * self.radix).sum(-1)

    def values(self, codes: Tensor) -> Tensor:
        """codes [...] -> quantised [..., D]."""
        levels = torch.tensor(self.levels, device=codes.device)
        return ((codes.unsqueeze(-1) // self.radix) % levels - self.reach) / self.reach


class TinyTokenizer(SpeechTokenizer):
    """See the module's docstring.

    Args:
        levels: FSQ levels; their product is the number of codes.
        width: channels at 25 Hz; half of it at 100 Hz.
    """

    sample_rate = SAMPLE_RATE
    frame_rate = SAMPLE_RATE / (HOP * STRIDE)
    feature_size = STRIDE * ACOUSTIC_SIZE

    def __init__(self, levels: tuple[int, ...] = (8, 8, 8, 8), width: int = 224) -> None:
        super().__init__()
        self.settings = {"levels": list(levels), "width": width}
        self.quantizer = FSQ(tuple(levels))
        self.vocab_size = math.prod(levels)
        half = width // 2
        self.encoder = nn.Sequential(
            nn.Conv1d(ACOUSTIC_SIZE, half, 5, padding=2),
            ResidualBlock(half),
            nn.Conv1d(half, width, STRIDE, stride=STRIDE),
            ResidualBlock(width, 5),
            ResidualBlock(width, 5),
            ResidualBlock(width, 3),
            nn.Conv1d(width, len(levels), 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(len(levels), width, 3, padding=1),
            *[ResidualBlock(width, 7) for _ in range(4)],
            nn.ConvTranspose1d(width, half, STRIDE, stride=STRIDE),
            ResidualBlock(half),
            ResidualBlock(half),
            ResidualBlock(half),
            nn.Conv1d(half, ACOUSTIC_SIZE, 5, padding=2),
        )

    @classmethod
    def load(cls, path: str | Path) -> TinyTokenizer:
        return load_module(cls, path).eval()

    def save(self, path: str | Path) -> None:
        save_module(self, path)

    def quantise(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """acoustics [B, T, 66], T a multiple of 4 -> quantised [B, D, T / 4], codes [B, T / 4]."""
        quantised, codes = self.quantizer(self.encoder(frames.transpose(1, 2)).float().transpose(1, 2))
        return quantised.transpose(1, 2), codes

    def expand(self, quantised: Tensor, lengths: Tensor | None = None) -> Tensor:
        """quantised [B, D, T / 4] -> acoustics [B, T, 66]; the last channel is the voicing's logit.

        Args:
            lengths: codes of each row [B], which is then expanded as if alone; None = all.
        """
        x, width = quantised, quantised.shape[-1]
        for layer in self.decoder:
            if lengths is not None:  # what a convolution finds behind a row's end is nothing
                ends = lengths * (x.shape[-1] // width)
                x = x * (torch.arange(x.shape[-1], device=x.device) < ends[:, None]).unsqueeze(1)
            x = layer(x)
        return x.transpose(1, 2).float()

    def reconstruct(self, codes: Tensor, lengths: Tensor | None = None) -> Tensor:
        """codes [B, T], of `lengths` [B] -> acoustics [B, 4 T, 66] with voicing as 0 or 1 and pitch 0 where
        unvoiced."""
        frames = self.expand(self.quantizer.values(codes).transpose(1, 2), lengths)
        voiced = (frames[..., MELS + 1 :] > 0).float()
        return torch.cat([frames[..., :MELS], frames[..., MELS : MELS + 1].clamp(-1, 2.5) * voiced, voiced], -1)

    def _hear(self, wav: Tensor) -> Tensor:
        return torch.stack([acoustics_of(row) for row in wav])

    @torch.no_grad()
    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames, counts = self._hear(wav), -(-lengths // (HOP * STRIDE))
        # Windows behind a row's end still reach into its speech; alone, the row would be followed by silence.
        inside = torch.arange(frames.shape[1]) < (counts * STRIDE)[:, None]
        frames = torch.where(inside.unsqueeze(-1), frames, silence()[0])
        frames = torch.cat([frames, silence().expand(len(frames), -1, -1)], 1)
        return self.quantise(frames)[1][:, :-TAIL], counts

    @torch.no_grad()
    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return stack_frames(self._hear(wav))

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As each row alone, whatever lies behind its end."""
        frames, ends = self.reconstruct(codes, lengths), lengths * STRIDE
        return vocode(frames, ends), ends * HOP


def silence() -> Tensor:
    """Acoustics of digital silence, [4 TAIL, 66]."""
    return acoustics_of(torch.zeros(TAIL * STRIDE * HOP))


def stack_frames(frames: Tensor) -> Tensor:
    """acoustics [B, T, 66] -> query features [B, T / 4, 264]."""
    return frames.reshape(*frames.shape[:-2], frames.shape[-2] // STRIDE, STRIDE * frames.shape[-1])
