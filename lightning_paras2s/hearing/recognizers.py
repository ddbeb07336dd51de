"""How it was said: style recognisers, from the waveform alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_paras2s.errors import InputPath
from lightning_paras2s.hearing.transcribers import pad_acoustics
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.tiny.features import ACOUSTIC_SIZE
from lightning_paras2s.models.tiny.tokenizer import ResidualBlock
from lightning_paras2s.types import STYLES, TONES, Audio, Style

HEADS: dict[str, tuple[str, ...]] = {**STYLES, "emotion": ("neutral", *STYLES["emotion"]), "tone": TONES}


class StyleRecognizer(ABC):
    """Speech to style."""

    name: str  # with version, recorded in every evidence

    @abstractmethod
    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        """`role` is "query" (emotion, sarcasm, age, gender are filled in) or "response" (tone is filled in)."""

    def emotions(self, audios: list[Audio]) -> list[dict[str, float]]:
        """How probable each emotion is in each voice, whoever speaks: of a recogniser that only names one, that one is
        certain; {} where it names none."""
        heard = [style.emotion for style in self.recognize(audios, "query")]
        return [{emotion: 1.0} if emotion else {} for emotion in heard]


class StyleTrunk(nn.Module):
    """Acoustics [B, T, 66] -> one vector a recording [B, 2 * width]: convolutions, then mean and
    deviation over time."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(ACOUSTIC_SIZE, width, 8, stride=4, padding=2)
        self.body = nn.Sequential(*[ResidualBlock(width, 9) for _ in range(blocks)])
        self.dropout = nn.Dropout(0.1)

    def pool(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """lengths [B], in acoustic frames."""
        hidden = self.body(self.stem(frames.transpose(1, 2)))
        mask = (torch.arange(hidden.shape[-1]) < (lengths // 4)[:, None]).unsqueeze(1).to(hidden.dtype)
        count = mask.sum(-1).clamp(min=1)
        mean = (hidden * mask).sum(-1) / count
        deviation = (((hidden - mean.unsqueeze(-1)).square() * mask).sum(-1) / count + 1e-5).sqrt()
        return self.dropout(torch.cat([mean, deviation], -1))


class StyleNetwork(StyleTrunk):
    """Acoustics [B, T, 66] -> logits of every factor and of the tone."""

    def __init__(self, width: int = 96, blocks: int = 4) -> None:
        super().__init__(width, blocks)
        self.settings = {"width": width, "blocks": blocks}
        self.heads = nn.ModuleDict({name: nn.Linear(2 * width, len(values)) for name, values in HEADS.items()})

    def forward(self, frames: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """lengths [B], in acoustic frames -> logits [B, values] a head."""
        pooled = self.pool(frames, lengths)
        return {name: head(pooled).float() for name, head in self.heads.items()}


class AcousticStyleRecognizer(StyleRecognizer):
    """A small convolutional network on mel and pitch (`fit --config style.yaml`).

    Args:
        path: weights (.safetensors of `StyleNetwork`); by default those that are shipped.
        batch_size: recordings a forward pass.
    """

    name = "acoustic-style-1"

    def __init__(self, path: InputPath = "checkpoints/embedded/style.safetensors", batch_size: int = 8) -> None:
        self.network = load_module(StyleNetwork, path).eval()
        self.batch_size = batch_size

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        wanted = ["tone"] if role == "response" else list(STYLES)
        styles: list[Style] = []
        for logits in self._logits(audios):
            best = {name: logits[name].argmax(-1).tolist() for name in wanted}
            styles += [Style(**{n: HEADS[n][best[n][i]] for n in wanted}) for i in range(len(logits["tone"]))]
        return styles

    def emotions(self, audios: list[Audio]) -> list[dict[str, float]]:
        rows = [row for logits in self._logits(audios) for row in logits["emotion"].softmax(-1).tolist()]
        return [dict(zip(HEADS["emotion"], row, strict=True)) for row in rows]

    def _logits(self, audios: list[Audio]) -> Iterator[dict[str, Tensor]]:
        """A pass at a time: logits [b, values] a head."""
        for start in range(0, len(audios), self.batch_size):
            frames, lengths = pad_acoustics(audios[start : start + self.batch_size])
            with torch.no_grad():
                yield self.network(frames, torch.tensor(lengths))
