"""`TinyScorer`: the embedded distilled reward model (paper, section 4.2): query and response speech in, five score
classes out.

As Qwen2.5-Omni brings pre-trained ears to the paper's reward model, this one hears through the frozen trunks of the
embedded transcriber
and style recogniser; a small transformer over both recordings learns the judge's scores. No text and no label goes in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_paras2s.asr import CTCNetwork, pad_acoustics
from lightning_paras2s.data.phones import SYMBOLS
from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.scorer import ResponseScorer
from lightning_paras2s.style import HEADS, StyleNetwork
from lightning_paras2s.types import Audio

POOL = 2  # 25 Hz -> 12.5 Hz


class Ears(nn.Module):
    """Acoustics [B, T, 66] -> what is heard at 12.5 Hz [B, T / 8, E], and over the whole recording [B, W]; frozen."""

    def __init__(self, transcriber: CTCNetwork, style: StyleNetwork) -> None:
        super().__init__()
        self.transcriber, self.style = transcriber.eval(), style.eval()
        self.frame_size = 2 * POOL * SYMBOLS + style.settings["width"]
        self.whole_size = sum(len(values) for values in HEADS.values())
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Ears:
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = frames[:, : frames.shape[1] // 8 * 8]
        phones = self.transcriber(frames).softmax(-1)  # [B, T / 2, symbols]
        manner = self.style.body(self.style.stem(frames.transpose(1, 2))).transpose(1, 2)  # [B, T / 4, W]
        count = frames.shape[1] // 8
        phones = phones.reshape(len(frames), count, -1)
        manner = manner.reshape(len(frames), count, POOL, -1).mean(2)
        whole = self.style(frames, lengths.clamp(max=frames.shape[1]))
        return torch.cat([phones, manner], -1), torch.cat([whole[name].softmax(-1) for name in HEADS], -1)


class TinyScorer(ResponseScorer):
    """See the module's docstring.

    Args:
        transcriber, style: weights of the ears; looked for beside the scorer's own file when it is loaded.
    """

    def __init__(self, transcriber: str, style: str, width: int = 128, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.settings = {"width": width, "layers": layers, "heads": heads}
        self.settings |= {"transcriber": Path(transcriber).name, "style": Path(style).name}
        self.ears = Ears(load_module(CTCNetwork, transcriber), load_module(StyleNetwork, style))
        self.body = ScorerBody(self.ears.frame_size, self.ears.whole_size, width, layers, heads)

    def save(self, path: str | Path) -> None:
        self.body.settings |= {name: self.settings[name] for name in ("transcriber", "style")}
        save_module(self.body, path)

    def score_logits(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        heard = [
            self.ears(frames, torch.tensor(lengths)) + (torch.tensor(lengths),)
            for frames, lengths in map(_frames, (queries, responses))
        ]
        logits = self.body(*heard)
        silent = torch.tensor([not len(r.samples) for r in responses])
        return logits.masked_fill(silent[:, None], float("nan"))


class TrainedScorer(TinyScorer):
    """A `TinyScorer` with the weights of a file, for configs; its ears are looked for beside it."""

    def __init__(self, path: str) -> None:
        body = load_module(ScorerBody, path)
        sizes = {name: body.settings[name] for name in ("width", "layers", "heads")}
        super().__init__(*(str(Path(path).parent / body.settings[name]) for name in ("transcriber", "style")), **sizes)
        self.body = body


class ScorerBody(nn.Module):
    """Transformer encoder over [summary, query frames, response frames] -> 5 logits."""

    def __init__(
        self,
        frame_size: int,
        whole_size: int,
        width: int,
        layers: int,
        heads: int,
        transcriber: str = "transcriber.safetensors",
        style: str = "style.safetensors",
    ) -> None:
        super().__init__()
        self.settings = {
            "frame_size": frame_size,
            "whole_size": whole_size,
            "width": width,
            "layers": layers,
            "heads": heads,
        }
        self.settings |= {"transcriber": transcriber, "style": style}
        self.frames = nn.Linear(frame_size, width)
        self.whole = nn.Linear(2 * whole_size, width)
        self.who = nn.Parameter(0.02 * torch.randn(3, width))
        self.place = nn.Conv1d(width, width, 5, padding=2, groups=width)
        layer = nn.TransformerEncoderLayer(width, heads, 3 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)

    def forward(self, query: tuple[Tensor, Tensor, Tensor], response: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Each: frames [B, T, E], whole [B, W], lengths [B] in acoustic frames -> [B, 5]."""
        parts = [(self.whole(torch.cat([query[1], response[1]], -1)) + self.who[0]).unsqueeze(1)]
        masks = [torch.ones(len(query[1]), 1, dtype=torch.bool)]
        for index, (frames, _, lengths) in enumerate((query, response), 1):
            hidden = self.frames(frames)
            hidden = hidden + self.place(hidden.transpose(1, 2)).transpose(1, 2)
            parts.append(hidden + self.who[index])
            masks.append(torch.arange(frames.shape[1]) < (lengths // 8).clamp(min=1)[:, None])
        hidden = self.body(torch.cat(parts, 1), src_key_padding_mask=~torch.cat(masks, 1))
        return self.head(self.norm(hidden[:, 0])).float()


def _frames(audios: list[Audio]) -> tuple[Tensor, list[int]]:
    """Acoustics of recordings; one too short to hear counts as a tenth of a second of silence."""
    tenth = np.zeros(1600, np.float32)
    return pad_acoustics([a if a.seconds >= 0.1 else Audio(tenth, 16_000) for a in audios])
