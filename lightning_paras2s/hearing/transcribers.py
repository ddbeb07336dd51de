"""What was said: transcribers."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.audio import is_silent, resample
from lightning_paras2s.batches import by_length
from lightning_paras2s.data import embedded
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing import phones
from lightning_paras2s.hearing.phones import BLANK, SYMBOLS, Lexicon
from lightning_paras2s.hearing.words import plain_text, plain_words
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.tiny.features import MELS, SAMPLE_RATE, acoustics_of, stack_acoustics
from lightning_paras2s.models.tiny.tokenizer import ResidualBlock
from lightning_paras2s.running.origins import file_sha, sha
from lightning_paras2s.types import Audio

# Whisper's temperature: no second try at random where the first is unsure. As a real number of an ear it is part of its
# hash, so what was heard before an ear's own writing was kept is heard anew.
GREEDY = 0.0


class Transcriber(ABC):
    """Speech to text."""

    name: str  # with version, recorded in every evidence
    named_whole: bool = False  # the name tells weights and settings, too
    device: str = "cpu"
    compute_type: str = "float32"  # of the device's arithmetic

    @abstractmethod
    def write_down(self, audios: list[Audio]) -> list[str]:
        """What is heard, in the ear's own writing, with the punctuation, capitals and digits of an ear that writes
        them; one string an audio, "" for silence."""

    def transcribe(self, audios: list[Audio]) -> list[str]:
        """`write_down` as plain words, which are no more than words: of "$5.99" they keep two numbers."""
        return [plain_text(text) for text in self.write_down(audios)]

    def strange(self, audios: list[Audio]) -> list[bool]:
        """Which recordings hold speech that this ear was not made for and hears wrong; none, for an ear for any
        speech."""
        return [False] * len(audios)


class CTCNetwork(nn.Module):
    """Acoustics [B, T, 66] at 100 Hz -> logits [B, T / 2, 58] of phones (`hearing/phones.py`) at 50 Hz; pitch is
    not used."""

    def __init__(self, width: int = 176, blocks: int = 7) -> None:
        super().__init__()
        self.settings = {"width": width, "blocks": blocks}
        self.stem = nn.Conv1d(MELS, width, 6, stride=2, padding=2)
        self.body = nn.Sequential(*[ResidualBlock(width, 11) for _ in range(blocks)])
        self.head = nn.Conv1d(width, SYMBOLS, 1)

    def forward(self, frames: Tensor) -> Tensor:
        # The level of a recording says nothing about its words.
        mel = frames[..., :MELS] - frames[..., :MELS].mean((1, 2), keepdim=True)
        return self.head(self.body(self.stem(mel.transpose(1, 2)))).transpose(1, 2).float()


class TinyTranscriber(Transcriber):
    """Convolutional phone CTC, trained on eSpeak speech and the codec's decoded speech (`fit --config
    transcriber.yaml`), read with the embedded text set's words as a closed lexicon.

    Args:
        path: weights (.safetensors of `CTCNetwork`); by default those that are shipped.
        batch_size: recordings a forward pass.
        min_confidence: speech of which the network is less sure is strange to it; 1 in 100 recordings of its training
            voices falls below the default.
    """

    name = "tiny-transcriber-2"

    def __init__(
        self,
        path: InputPath = "checkpoints/embedded/transcriber.safetensors",
        batch_size: int = 8,
        min_confidence: float = 0.84,
    ) -> None:
        self.network = load_module(CTCNetwork, path).eval()
        self.batch_size, self.min_confidence = batch_size, min_confidence

    def write_down(self, audios: list[Audio]) -> list[str]:
        heard = [i for i, audio in enumerate(audios) if not is_silent(audio)]
        places, rows = [], []
        for batch in by_length([len(audios[i].samples) for i in heard], self.batch_size):
            part = [heard[place] for place in batch]
            places, rows = places + part, rows + self._batch([audios[i] for i in part])
        texts = dict(zip(places, read(rows), strict=True))
        return [texts.get(i, "") for i in range(len(audios))]

    def strange(self, audios: list[Audio]) -> list[bool]:
        """Silence is not strange: there is nothing to be heard wrong."""
        return [not is_silent(audio) and self.confidence(audio) < self.min_confidence for audio in audios]

    @torch.no_grad()
    def confidence(self, audio: Audio) -> float:
        """How sure the network is of the symbols that it writes, 0 to 1 (0: it writes none)."""
        frames, lengths = pad_acoustics([audio])
        return written_confidence(self.network(frames)[0, : -(-lengths[0] // 2)])

    @torch.no_grad()
    def _batch(self, audios: list[Audio]) -> list[np.ndarray]:
        frames, lengths = pad_acoustics(audios)
        return phone_logps(self.network(frames), lengths)


def written_confidence(logits: Tensor) -> float:
    """CTC logits [T, symbols] -> the mean probability of the likeliest symbol where that is not the blank."""
    best, symbol = logits.float().softmax(-1).max(-1)
    written = symbol != BLANK
    return float(best[written].mean()) if written.any() else 0.0


class Whisper(Transcriber):
    """openai-whisper (paper: large-v3), with its own punctuation, capitals and digits; needs the extra `whisper` and
    its weights. Silence yields no words.

    Args:
        model: a name of the openai-whisper package, or a path to its weights.
        device: where it computes: cuda, cuda:1, cpu.
        language: of the speech, as an ISO 639-1 code.
    """

    def __init__(self, model: str = "large-v3", device: str = "cuda", language: str = "en") -> None:
        try:
            import whisper
        except ImportError:
            raise UserError(
                "Whisper needs the package openai-whisper; got none; pip install 'lightning_paras2s[whisper]'"
            ) from None
        self.name = f"whisper-{Path(model).name}{spoken_in(language)}"
        self.model, self.language = whisper.load_model(model, device=device), language
        self.device, self.compute_type = device, "float32" if device == "cpu" else "float16"
        self.temperature = GREEDY

    def write_down(self, audios: list[Audio]) -> list[str]:
        return ["" if is_silent(audio) else self._hear(audio) for audio in audios]

    def _hear(self, audio: Audio) -> str:
        samples = resample(audio, 16_000).samples
        return self.model.transcribe(samples, language=self.language, temperature=self.temperature)["text"].strip()


def spoken_in(language: str) -> str:
    """What a name says of the language that is listened for: another one hears other words."""
    return "" if language == "en" else f"-{language}"


def pad_acoustics(audios: list[Audio]) -> tuple[Tensor, list[int]]:
    """Recordings of any rate -> acoustics [B, T, 66], frame counts. A row's padding repeats its mean frame, so row
    means stay."""
    rows = [acoustics_of(torch.from_numpy(resample(audio, SAMPLE_RATE).samples.copy())) for audio in audios]
    return stack_acoustics(rows), [len(row) for row in rows]


@functools.lru_cache
def embedded_lexicon() -> Lexicon:
    """The words of the embedded text set, weighed by its training texts."""
    texts = [q.text for q in embedded.text_queries("train")]
    texts += [f["frame"] for f in embedded.frames() if f["split"] == "train"]
    return Lexicon(embedded.lexicon(), [plain_words(text) for text in texts])


@functools.lru_cache
def reading_sha() -> str:
    """Short hash of what decides, beside a network, what is read: the lexicon and the source that reads by it."""
    lexicon = embedded_lexicon()
    known = [lexicon.spelt, list(lexicon.alike.values()), lexicon.counts, sorted(lexicon.pairs.items())]
    return sha(known, [file_sha(Path(source)) for source in (phones.__file__, __file__)])


def phone_logps(logits: Tensor, lengths: list[int]) -> list[np.ndarray]:
    """Logits [B, T / 2, symbols] of `CTCNetwork` and acoustic frame counts -> log-probabilities of each recording."""
    logps = F.log_softmax(logits.float(), -1).numpy()
    return [row[: -(-length // 2)] for row, length in zip(logps, lengths, strict=True)]


def read(logps: list[np.ndarray]) -> list[str]:
    """Texts of recordings, together: one alone takes four times as long."""
    return [" ".join(words) for words in embedded_lexicon().decode_all(logps)]


def read_ctc(logits: Tensor, lengths: list[int]) -> list[str]:
    """Logits [B, T / 2, symbols] of `CTCNetwork` and acoustic frame counts -> texts."""
    return read(phone_logps(logits, lengths))
