"""What was said: transcribers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_paras2s.audio import is_silent, resample
from lightning_paras2s.data import embedded
from lightning_paras2s.data.correct import correct
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.features import ACOUSTIC_SIZE, MELS, SAMPLE_RATE, acoustics_of
from lightning_paras2s.models.tiny_tokenizer import ResidualBlock
from lightning_paras2s.types import Audio, UserError

CHARACTERS = " abcdefghijklmnopqrstuvwxyz'"  # id = position + 1; 0 is the CTC blank


class Transcriber(ABC):
    """Speech to text."""

    name: str  # with version, recorded in every evidence

    @abstractmethod
    def transcribe(self, audios: list[Audio]) -> list[str]:
        """Lower-case words without punctuation, one string an audio; "" for silence."""


class CTCNetwork(nn.Module):
    """Acoustics [B, T, 66] at 100 Hz -> character logits [B, T / 2, 29] at 50 Hz; pitch is not used."""

    def __init__(self, width: int = 176, blocks: int = 7) -> None:
        super().__init__()
        self.settings = {"width": width, "blocks": blocks}
        self.stem = nn.Conv1d(MELS, width, 6, stride=2, padding=2)
        self.body = nn.Sequential(*[ResidualBlock(width, 11) for _ in range(blocks)])
        self.head = nn.Conv1d(width, len(CHARACTERS) + 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        # The level of a recording says nothing about its words.
        mel = frames[..., :MELS] - frames[..., :MELS].mean((1, 2), keepdim=True)
        return self.head(self.body(self.stem(mel.transpose(1, 2)))).transpose(1, 2).float()


class TinyTranscriber(Transcriber):
    """Convolutional character CTC, trained on eSpeak speech and the codec's decoded speech (`fit --config
    transcriber.yaml`).

    Args:
        path: weights (.safetensors of `CTCNetwork`).
        batch_size: recordings a forward pass.
        lexicon: replace words outside the embedded lexicon by the nearest inside.
    """

    name = "tiny-transcriber-1"

    def __init__(self, path: str, batch_size: int = 32, lexicon: bool = True) -> None:
        self.network = load_module(CTCNetwork, path).eval()
        self.batch_size, self.words = batch_size, embedded.lexicon() if lexicon else ()

    def transcribe(self, audios: list[Audio]) -> list[str]:
        order = sorted(range(len(audios)), key=lambda i: len(audios[i].samples))
        texts = [""] * len(audios)
        heard = [i for i in order if not is_silent(audios[i])]
        for start in range(0, len(heard), self.batch_size):
            index = heard[start : start + self.batch_size]
            for i, text in zip(index, self._batch([audios[i] for i in index]), strict=True):
                texts[i] = correct(text, self.words) if self.words else text
        return texts

    @torch.no_grad()
    def _batch(self, audios: list[Audio]) -> list[str]:
        frames, lengths = pad_acoustics(audios)
        ids = self.network(frames).argmax(-1)
        return [ctc_text(row[: -(-length // 2)].tolist()) for row, length in zip(ids, lengths, strict=True)]


class Whisper(Transcriber):
    """openai-whisper (paper: large-v3); needs the extra `whisper` and its weights.

    Args:
        model: a name of the openai-whisper package, or a path to its weights.
    """

    def __init__(self, model: str = "large-v3", device: str = "cuda", language: str = "en") -> None:
        try:
            import whisper
        except ImportError:
            raise UserError(
                "Whisper needs the package openai-whisper; got none; pip install 'lightning_paras2s[whisper]'"
            ) from None
        self.name = f"whisper-{Path(model).name}"
        self.model, self.language = whisper.load_model(model, device=device), language

    def transcribe(self, audios: list[Audio]) -> list[str]:
        texts = []
        for audio in audios:
            samples = resample(audio, 16_000).samples
            text = (
                self.model.transcribe(samples, language=self.language, temperature=0.0)["text"] if len(samples) else ""
            )
            texts.append(plain_words(text))
        return texts


def plain_words(text: str) -> str:
    """Lower-case words without punctuation."""
    return " ".join(embedded.words(text))


def pad_acoustics(audios: list[Audio]) -> tuple[Tensor, list[int]]:
    """Recordings of any rate -> acoustics [B, T, 66], frame counts. A row's padding repeats its mean frame, so row
    means stay."""
    rows = [acoustics_of(torch.from_numpy(resample(audio, SAMPLE_RATE).samples.copy())) for audio in audios]
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    padded = [torch.cat([row, row.mean(0, keepdim=True).expand(longest - len(row), -1)]) for row in rows]
    return torch.stack(padded), lengths


def ctc_ids(text: str) -> list[int]:
    return [CHARACTERS.index(c) + 1 for c in plain_words(text) if c in CHARACTERS]


def ctc_text(ids: list[int]) -> str:
    """Greedy CTC: merge repeats, drop blanks."""
    kept = [i for i, before in zip(ids, [0, *ids], strict=False) if i and i != before]
    return " ".join("".join(CHARACTERS[i - 1] for i in kept).split())


assert ACOUSTIC_SIZE == MELS + 2
