"""Whisper's log-mel spectrogram, written once for both encoders of Kimi-Audio (128 bands, 100 frames a second)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_paras2s.models.remembered import remembered

SAMPLE_RATE, HOP, FFT = 16_000, 160, 400


@remembered(4)
def mel_filters(bands: int) -> Tensor:
    """Slaney filters with Slaney normalisation, 0-8000 Hz: [FFT / 2 + 1, bands]."""
    from transformers.audio_utils import mel_filter_bank

    # made in float64; torchaudio's are made in float32, which moves the log-mel by 2e-5
    filters = mel_filter_bank(FFT // 2 + 1, bands, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


def log_mel(wav: Tensor, bands: int = 128) -> Tensor:
    """wav [B, N], 16 kHz -> [B, bands, N // 160]: log10 power, floored 8 below each row's own maximum, then (x + 4) /
    4.
    """
    window = torch.hann_window(FFT, device=wav.device)
    with torch.autocast(wav.device.type, enabled=False):  # of 16 bits, the quiet bands would be noise
        spectrum = torch.stft(wav, FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
        power = spectrum[..., :-1].abs() ** 2
        mel = (mel_filters(bands).to(wav.device).T @ power).clamp(min=1e-10).log10()
    top = mel.amax((1, 2), keepdim=True)
    return (torch.maximum(mel, top - 8.0) + 4.0) / 4.0
