"""What the embedded networks hear: log-mel energies, pitch and voicing, at 100 frames a second; and the way back to a
waveform.

The vocoder is deterministic and has no weights: a band-limited pulse train (voiced) or noise (unvoiced) whose
short-time spectrum is shaped by the mel envelope.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_paras2s.models.remembered import remembered
from lightning_paras2s.models.signals import melscale_fbanks

SAMPLE_RATE, HOP, WINDOW, FFT, MELS = 16_000, 160, 400, 512, 64
# The transform need not hold all lags of a window, only those up to the lowest pitch: 640 + 16,000 / 60 < 1024.
PITCH_WINDOW, PITCH_FFT, MIN_PITCH, MAX_PITCH = 640, 1024, 60.0, 550.0
ACOUSTIC_SIZE = MELS + 2
FRAMES = 4  # acoustics come in groups of so many, a code of the codec each
REMEMBERED = 256  # recordings whose acoustics `acoustics_of` remembers: about 50 MB for three seconds each
_FLOOR = 1e-4
_GAIN = 0.5  # of a unit source whose spectrum follows the mel envelope; measured, so that `vocode` keeps the level


@remembered()
def _filters() -> Tensor:
    return melscale_fbanks(FFT // 2 + 1, 40.0, 8000.0, MELS, SAMPLE_RATE, norm="slaney", mel_scale="htk")


def _frames(wav: Tensor, size: int) -> Tensor:
    """[B, N] -> [B, N // HOP, size], frames centred on their hop."""
    pad = size - HOP
    return F.pad(wav, (pad // 2, pad - pad // 2)).unfold(-1, size, HOP)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def log_mel(wav: Tensor) -> Tensor:
    """[B, N] -> [B, N // 160, 64], log energies scaled to about -1..1; float32 whatever the trainer's precision."""
    spectrum = torch.fft.rfft(_frames(wav, WINDOW) * torch.hann_window(WINDOW), FFT)
    with torch.autocast("cpu", enabled=False):  # what is heard is remembered, and others would get the rounded
        energy = (_power(spectrum) @ _filters()) + _FLOOR**2
    return (energy.log() / 2 + 4.0) / 4.0


def pitch(wav: Tensor) -> tuple[Tensor, Tensor]:
    """[B, N] -> log2(f0 / 100 Hz) [B, T] (0 where unvoiced), voiced [B, T] float 0/1, by normalised autocorrelation."""
    window = torch.hann_window(PITCH_WINDOW)
    frames = _frames(wav, PITCH_WINDOW)
    frames = (frames - frames.mean(-1, keepdim=True)) * window
    correlation = torch.fft.irfft(_power(torch.fft.rfft(frames, PITCH_FFT)), PITCH_FFT)
    taper = torch.fft.irfft(_power(torch.fft.rfft(window, PITCH_FFT)), PITCH_FFT)
    low, high = int(SAMPLE_RATE / MAX_PITCH), int(SAMPLE_RATE / MIN_PITCH)
    energy = correlation[..., :1]
    normal = correlation[..., low:high] / (energy + 1e-6) / (taper[low:high] / taper[0])
    # A slight preference for short lags keeps octave errors away.
    weighted = normal - 0.0004 * torch.arange(high - low)
    best = weighted.argmax(-1)
    clarity = normal.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    voiced = ((clarity > 0.55) & (energy.squeeze(-1) > 1e-2)).float()
    f0 = SAMPLE_RATE / (best + low).float()
    return (f0 / 100).log2() * voiced, voiced


def acoustics(wav: Tensor) -> Tensor:
    """[B, N] -> [B, N // 160, 66]: log-mel, log2 pitch (0 where unvoiced), voicing."""
    f0, voiced = pitch(wav)
    return torch.cat([log_mel(wav), f0.unsqueeze(-1), voiced.unsqueeze(-1)], -1)


def acoustics_of(wav: Tensor) -> Tensor:
    """One recording [N] at 16 kHz -> acoustics [T, 66], T a multiple of 4, at least 4: the end is padded with silence.

    The last recordings are remembered, because the codec, the transcriber and the style recogniser hear the same ones.
    """
    return _acoustics_of(wav.float().numpy().tobytes())


@remembered(REMEMBERED)
def _acoustics_of(samples: bytes) -> Tensor:
    wav = torch.frombuffer(bytearray(samples), dtype=torch.float32) if samples else torch.zeros(0)
    size = max(1, -(-len(wav) // (FRAMES * HOP))) * FRAMES * HOP
    return acoustics(F.pad(wav, (0, size - len(wav)))[None])[0]


@remembered()
def _mel_to_linear() -> Tensor:
    """[MELS, FFT // 2 + 1], linear interpolation of the log envelope between the filters' centres."""
    filters = _filters()
    bins = torch.arange(FFT // 2 + 1).float()
    centres = (filters * bins[:, None]).sum(0) / filters.sum(0)
    right = torch.searchsorted(centres, bins).clamp(1, MELS - 1)
    weight = ((bins - centres[right - 1]) / (centres[right] - centres[right - 1])).clamp(0, 1)
    matrix = torch.zeros(MELS, len(bins))
    matrix[right - 1, torch.arange(len(bins))] += 1 - weight
    matrix[right, torch.arange(len(bins))] += weight
    return matrix


def stack_acoustics(rows: list[Tensor]) -> Tensor:
    """Acoustics [T, 66] of several lengths -> [B, T, 66]; padding repeats a row's mean frame, so row means stay."""
    longest = max(map(len, rows))
    return torch.stack([torch.cat([r, r.mean(0, keepdim=True).expand(longest - len(r), -1)]) for r in rows])


def vocode(features: Tensor, lengths: Tensor | None = None, seed: int = 0) -> Tensor:
    """[B, T, 66] as `acoustics` gives -> wav [B, T * 160], always the same for the same features, in any precision.

    Args:
        lengths: frames of each row [B], which then sounds as if alone, and behind its end not at all; None = all.
    """
    if lengths is not None:  # a row's last frame goes on, as it does at the end of the longest
        index = torch.arange(features.shape[1]).minimum((lengths[:, None] - 1).clamp(min=0))  # [B, T]
        features = features.gather(1, index.unsqueeze(-1).expand_as(features))
    mel, f0, voiced = features[..., :MELS], features[..., MELS], features[..., MELS + 1]
    batch, count = f0.shape
    length = count * HOP
    upsample = lambda x: F.interpolate(x.unsqueeze(1), scale_factor=HOP, mode="linear").squeeze(1)  # noqa: E731
    hertz = upsample(100 * 2**f0)
    mix = upsample((voiced > 0.5).float())
    phase = (2 * math.pi / SAMPLE_RATE * hertz.double()).cumsum(-1).float() % (2 * math.pi)
    harmonics = (7600 / hertz).floor()
    half = torch.sin(phase / 2)
    pulses = (
        torch.sin((harmonics + 0.5) * phase) / torch.where(half.abs() < 1e-4, torch.full_like(half, 1e-4), half) - 1
    ) / 2
    pulses = pulses.clamp(-160, 160) * (2 / harmonics).sqrt()
    noise = torch.randn(1, length, generator=torch.Generator().manual_seed(seed)).expand(batch, -1)
    source = mix * pulses + (1 - mix) * noise
    if lengths is not None:
        inside = torch.arange(length) < (lengths * HOP)[:, None]  # [B, T * 160]
        source = source * inside
    window = torch.hann_window(WINDOW)
    padded = F.pad(source, (WINDOW, WINDOW))
    stft = torch.stft(padded, FFT, HOP, WINDOW, window, center=True, pad_mode="constant", return_complex=True)
    with torch.autocast("cpu", enabled=False):
        envelope = ((mel @ _mel_to_linear()) * 4 - 4).exp() * _GAIN
    envelope = (envelope - 1.5 * _FLOOR * _GAIN).clamp(min=0)  # [B, T, bins]
    shift = WINDOW / HOP  # the padding, in frames
    index = (torch.arange(stft.shape[-1]) - shift - 0.5).clamp(0, count - 1)
    left = index.floor().long()
    right = (left + 1).clamp(max=count - 1)
    gains = torch.lerp(envelope.index_select(1, left), envelope.index_select(1, right), (index - left)[:, None])
    torch.view_as_real(stft).mul_(gains.transpose(1, 2).unsqueeze(-1))  # frame after frame in memory, both
    wav = torch.istft(stft, FFT, HOP, WINDOW, window, center=True, length=padded.shape[-1])
    wav = wav[:, WINDOW : WINDOW + length].clamp(-1, 1)
    return wav if lengths is None else wav * inside
