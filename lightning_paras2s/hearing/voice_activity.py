"""Where somebody speaks in a recording, and the pieces of a few seconds into which its pauses cut it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Audio

SPEECH_RATE = 16_000  # Hz, of what is listened to
PAD_SECONDS = 0.15  # kept before and after speech, where a voice rises and fades
HUSH_SECONDS = 0.1  # the moment of least energy, at which speech without a pause is cut
INSTALL = "pip install 'lightning_paras2s[ears]'"


class Span(NamedTuple):
    """Samples of a recording, from `start` up to before `end`."""

    start: int
    end: int


class VoiceActivity(ABC):
    """Tells speech from silence, noise and music."""

    name: str  # with version: where it changes, recordings are imported anew

    @abstractmethod
    def find(self, audio: Audio) -> list[Span]:
        """The stretches of a recording at 16 kHz in which somebody speaks, in order, apart from each other."""


class SileroVAD(VoiceActivity):
    """Silero's network, which the package faster-whisper of the extra `ears` carries (MIT; 1.2 MB, no download).

    Singing is voice to it; music without a voice, tones and noise are none.

    Args:
        threshold: probability of speech above which somebody speaks.
        min_silence_seconds: a shorter pause belongs to the speech around it.
    """

    def __init__(self, threshold: float = 0.5, min_silence_seconds: float = 0.3) -> None:
        if find_spec("faster_whisper") is None or find_spec("onnxruntime") is None:
            raise UserError(f"SileroVAD needs the packages of the extra `ears`; got no faster-whisper; {INSTALL}")
        if not 0 < threshold < 1:
            raise UserError(f"threshold must be a probability between 0 and 1; got {threshold}; 0.5 is usual")
        self.threshold, self.min_silence_seconds = threshold, min_silence_seconds
        self.name = f"silero-vad-6/faster-whisper-{version('faster-whisper')}"

    def find(self, audio: Audio) -> list[Span]:
        from faster_whisper.vad import VadOptions, get_speech_timestamps

        settings = VadOptions(
            threshold=self.threshold,
            min_speech_duration_ms=100,
            min_silence_duration_ms=round(1000 * self.min_silence_seconds),
            speech_pad_ms=0,
        )
        found = get_speech_timestamps(audio.samples, settings, sampling_rate=SPEECH_RATE)
        return [Span(int(one["start"]), int(one["end"])) for one in found if one["end"] > one["start"]]


def pieces_of(audio: Audio, speech: Sequence[Span], max_seconds: float, pause_seconds: float) -> list[Span]:
    """Cut a recording where nobody speaks for longer than `pause_seconds`, and so that no piece lasts longer than
    `max_seconds`: at a pause if there is one, else where speech is quietest."""
    pad = int(PAD_SECONDS * audio.sample_rate)
    longest, pause = int(max_seconds * audio.sample_rate) - 2 * pad, pause_seconds * audio.sample_rate
    found: list[Span] = []
    for span in speech:
        for part in _shortened(audio, span, longest):
            if found and part.start - found[-1].end <= pause and part.end - found[-1].start <= longest:
                found[-1] = Span(found[-1].start, part.end)
            else:
                found.append(part)
    return _padded(found, pad, len(audio.samples))


def spoken_seconds(piece: Span, speech: Sequence[Span], sample_rate: int) -> float:
    """How long somebody speaks in a piece."""
    return sum(max(0, min(piece.end, s.end) - max(piece.start, s.start)) for s in speech) / sample_rate


def _shortened(audio: Audio, span: Span, longest: int) -> list[Span]:
    """Parts of at most `longest` samples, each cut in its second half at the quietest moment."""
    parts, size = [], int(HUSH_SECONDS * audio.sample_rate)
    while span.end - span.start > longest:
        low, high = span.start + longest // 2, span.start + longest
        energy = np.cumsum(np.square(audio.samples[low:high], dtype=np.float64))
        cut = low + int(np.argmin(energy[size:] - energy[:-size])) + size // 2
        parts.append(Span(span.start, cut))
        span = Span(cut, span.end)
    return [*parts, span]


def _padded(spans: list[Span], pad: int, length: int) -> list[Span]:
    """Each with `pad` samples more on either side, as far as the middle of the gap to the next."""
    middles = [(a.end + b.start) // 2 for a, b in zip(spans, spans[1:], strict=False)]
    ends = zip(spans, [0, *middles], [*middles, length], strict=False)
    return [Span(max(low, span.start - pad), min(high, span.end + pad)) for span, low, high in ends]
