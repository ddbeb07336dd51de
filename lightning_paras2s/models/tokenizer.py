"""Speech in, codes out, speech again: the seam between waveforms and the policy's audio stream."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class SpeechTokenizer(nn.Module, ABC):
    """One stream of discrete codes, plus continuous features of the query beside them (as Kimi-Audio's Whisper
    features)."""

    sample_rate: int  # Hz, of the waveforms in and out
    frame_rate: float  # Hz, codes a second
    vocab_size: int  # number of codes
    feature_size: int  # F, numbers a frame in `features`

    @abstractmethod
    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """wav [B, N] float, lengths [B] in samples -> codes [B, T] int64, code counts [B]."""

    @abstractmethod
    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        """wav [B, N] -> [B, T, F], one vector a code of `encode`."""

    @abstractmethod
    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """codes [B, T], counts [B] -> wav [B, N] float in [-1, 1], lengths [B] in samples (a count of 0 gives length
        0)."""
