"""PolyTone: one analyser of the user's style a factor, trained on one text spoken in different styles (ParaS2S v2).

An analyser that can hear words may name the style that they suggest. Where each text is spoken in several styles, its
words tell nothing of the label, and only the voice is left to learn from. The paper (v2, known to us from digests; it
prints no architecture) fine-tunes an audio model a factor on 10k prompts. Here the embedded analyser is a small network
over acoustics *and* the words that the embedded transcriber hears, because one that is deaf to words could not leak;
`hearing/encoder_recognizer.py` has analysers on pre-trained encoders. The control has the same network, texts, and
number of utterances, but each text in one style only, the one that its words suggest.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_paras2s.audio import resample
from lightning_paras2s.data import spoken
from lightning_paras2s.data.suggestive import LABELS
from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.hearing.recognizers import StyleRecognizer, StyleTrunk
from lightning_paras2s.hearing.transcribers import TinyTranscriber
from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.tiny.features import ACOUSTIC_SIZE, SAMPLE_RATE, stack_acoustics
from lightning_paras2s.types import FACTORS, Audio, Style


class Heard(NamedTuple):
    """What an analyser is given of a recording; what it has no use for may be empty.

    Attributes:
        acoustics: [T, 66] float16, 100 Hz, T a multiple of 4.
        words: as the embedded transcriber heard them.
        samples: float32 at 16 kHz, [N].
    """

    acoustics: np.ndarray
    words: str
    samples: np.ndarray


NOTHING = Heard(np.zeros((0, ACOUSTIC_SIZE), np.float16), "", np.zeros(0, np.float32))


class Analyser(nn.Module, ABC):
    """Speech to the styles of one factor."""

    factor: str

    @abstractmethod
    def forward(self, heard: list[Heard]) -> Tensor:
        """[B, K], logits of `LABELS[factor]`."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write what was trained, whole or not at all."""


class WordAnalyser(Analyser):
    """The embedded analyser: logits of the voice (a convolutional trunk on acoustics) plus logits of the heard words.

    An encoder that was pre-trained on transcripts has its words ready-made, while how they are said must be learnt. So
    the words' weights start from 0 and are scaled by `word_gain`, by which they are learnt faster than the trunk.

    Args:
        factor: that it names.
        width: channels of the trunk.
        blocks: convolutional blocks of the trunk.
        buckets: words are hashed into so many rows of weights (0: deaf to words).
        word_gain: scale of the words' weights, see above.
    """

    def __init__(
        self, factor: str, width: int = 24, blocks: int = 2, buckets: int = 1024, word_gain: float = 8.0
    ) -> None:
        super().__init__()
        check_factor(factor)
        self.factor, self.buckets, self.word_gain = factor, buckets, word_gain
        self.settings = {"factor": factor, "width": width, "blocks": blocks, "buckets": buckets}
        self.settings |= {"word_gain": word_gain}
        self.trunk = StyleTrunk(width, blocks)
        self.voice = nn.Linear(2 * width, len(LABELS[factor]))
        self.words = nn.EmbeddingBag(max(1, buckets), len(LABELS[factor]), mode="sum")
        nn.init.zeros_(self.words.weight)

    def forward(self, heard: list[Heard]) -> Tensor:
        frames, lengths = pad_frames([h.acoustics for h in heard])
        return (self.voice(self.trunk.pool(frames, lengths)) + self.read([h.words for h in heard])).float()

    def read(self, texts: list[str]) -> Tensor:
        """What the words alone say: [B, K], the sum of their weights over the root of their number."""
        bags = [[word_bucket(w, self.buckets) for w in text.split()] if self.buckets else [] for text in texts]
        starts = np.cumsum([0, *[len(bag) for bag in bags[:-1]]])
        said = self.words(torch.tensor([b for bag in bags for b in bag], dtype=torch.long), torch.from_numpy(starts))
        return self.word_gain * said / torch.tensor([max(1, len(bag)) for bag in bags]).sqrt().unsqueeze(-1)

    def save(self, path: str | Path) -> None:
        save_module(self, path)


class WordEar:
    """What the embedded analysers hear: acoustics, and words by the embedded transcriber.

    Args:
        transcriber: weights of `TinyTranscriber`.
    """

    def __init__(self, transcriber: str) -> None:
        self.transcriber = TinyTranscriber(transcriber, batch_size=1)  # words then depend on no batch

    def listen(self, audio: Audio) -> Heard:
        words = self.transcriber.transcribe([audio])[0]
        return NOTHING._replace(acoustics=spoken.hear(resample(audio, SAMPLE_RATE)), words=words)


class AnalyserRecognizer(StyleRecognizer):
    """Labels of a query by analysers, one a factor; the tone of a response by another recogniser.

    Give it to `evaluate` with `label_source: predicted`.

    Args:
        name: recorded in every evidence, with the tone recogniser's.
        tone: hears the agent's tone; without one, responses can't be recognised.
    """

    def __init__(self, name: str, analysers: dict[str, Analyser], tone: StyleRecognizer | None) -> None:
        self.analysers, self.tone = {f: a.eval() for f, a in analysers.items()}, tone
        self.name = name if tone is None else f"{name}+{tone.name}"

    @abstractmethod
    def listen(self, audio: Audio) -> Heard: ...

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        if role == "query":
            return self.label([self.listen(audio) for audio in audios])
        if self.tone is None:
            raise UserError(f"{self.name} labels queries only; got a response; give it a tone recogniser (`tone`)")
        return self.tone.recognize(audios, role)

    @torch.no_grad()
    def label(self, heard: list[Heard]) -> list[Style]:
        """One recording a pass, so that a label depends on no batch."""
        found = []
        for one in heard:
            best = {f: LABELS[f][int(analyser([one]).argmax(-1))] for f, analyser in self.analysers.items()}
            found.append(Style(**best))
        return found


class PolyToneRecognizer(AnalyserRecognizer):
    """The embedded analysers (`fit --config polytone.yaml`).

    Args:
        prefix: weights are `<prefix>-<factor>.safetensors`, for each of `factors`.
        transcriber: weights of the ear for words.
        tone: hears a response's tone, which the analysers don't name; without one it has none.
        factors: which of emotion, sarcasm, age and gender.
    """

    def __init__(
        self,
        prefix: str = "checkpoints/embedded/polytone",
        transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
        tone: StyleRecognizer | None = None,
        factors: tuple[str, ...] = FACTORS,
    ) -> None:
        analysers = {f: load_module(WordAnalyser, analyser_path(prefix, f)) for f in factors}
        super().__init__(f"polytone-1/{Path(prefix).name}", analysers, tone)
        self.ear = WordEar(transcriber)

    def listen(self, audio: Audio) -> Heard:
        return self.ear.listen(audio)


def analyser_path(prefix: str | Path, factor: str) -> Path:
    """Where the weights of a factor's analyser are."""
    return Path(f"{prefix}-{factor}.safetensors")


def check_factor(factor: str) -> None:
    check_choice("an analyser's factor", factor, LABELS)


def word_bucket(word: str, buckets: int) -> int:
    """A word's embedding: a hash that is the same in every process."""
    return zlib.crc32(word.encode()) % buckets


def pad_frames(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Acoustics [T, 66] of several lengths -> [B, T, 66] and lengths [B]; padding repeats a row's mean frame."""
    tensors = [torch.from_numpy(np.asarray(row)).float() for row in rows]
    return stack_acoustics(tensors), torch.tensor([len(row) for row in tensors])
