"""BigVGAN v2's generator (arXiv 2206.04658) in plain torch: mel [B, 80, T] -> waveform [B, 1, 480 T] at 24 kHz.

Its block: periodic "snake" activations at twice the rate, so that the harmonics that they make do not alias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.signal import kaiser_beta
from torch import Tensor, nn

TAPS = 12


@dataclass(frozen=True)
class BigVGANConfig:
    """Names as in the released config.json, values as far as they are known (file size: four block kernels); the two
    `final` ones are what the original takes where a config does not say.

    Args:
        num_mels: mel bands that come in.
        upsample_rates: how many times longer each block makes its input; their product is the hop in samples.
        upsample_kernel_sizes: of each of those blocks, in frames.
        upsample_initial_channel: channels before the first block; each block halves them.
        resblock_kernel_sizes: of the residual blocks behind each upsampling, in frames.
        resblock_dilation_sizes: of each residual block's convolutions, in frames.
        use_bias_at_final: whether the last convolution has a bias.
        use_tanh_at_final: whether the wave is bounded by tanh; otherwise it is clipped to -1..1.
    """

    num_mels: int = 80
    upsample_rates: tuple[int, ...] = (5, 2, 2, 2, 2, 3, 2)
    upsample_kernel_sizes: tuple[int, ...] = (9, 4, 4, 4, 4, 5, 4)
    upsample_initial_channel: int = 2048
    resblock_kernel_sizes: tuple[int, ...] = (3, 5, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 4
    use_bias_at_final: bool = True
    use_tanh_at_final: bool = True

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.upsample_rates)


class WeightNorm(nn.Module):
    """A convolution's weight as direction and length, w = g v / |v|, norm over all dimensions but the first."""

    def __init__(self, shape: tuple[int, int, int], biases: int | None) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.randn(shape) * 0.01)
        self.bias = None if biases is None else nn.Parameter(torch.zeros(biases))

    @property
    def weight(self) -> Tensor:
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(1, 2), keepdim=True)


class Conv(WeightNorm):
    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = True) -> None:
        super().__init__((outputs, inputs, kernel), outputs if bias else None)
        self.dilation, self.padding = dilation, dilation * (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, padding=self.padding, dilation=self.dilation)


class Upsampling(WeightNorm):
    """Transposed convolution; its first weight dimension is the input channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__((inputs, outputs, kernel), outputs)
        self.rate, self.padding = rate, (kernel - rate) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.weight, self.bias, self.rate, self.padding)


class Snake(nn.Module):
    """x + sin^2(e^alpha x) / e^beta, per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + torch.sin(x * alpha).square() / (beta + 1e-9)


class Resampler(nn.Module):
    """Holds the low-pass filter under the name that the release's state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", lowpass())


class Activation(nn.Module):
    """Twice the rate up, snake, down again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act, self.upsample = Snake(channels), Resampler()
        self.downsample = nn.ModuleDict({"lowpass": Resampler()})

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        up = self.upsample.filter.expand(channels, -1, -1)
        x = 2 * F.conv_transpose1d(F.pad(x, (5, 5), mode="replicate"), up, stride=2, groups=channels)[..., 15:-15]
        down = self.downsample["lowpass"].filter.expand(channels, -1, -1)
        return F.conv1d(F.pad(self.act(x), (5, 6), mode="replicate"), down, stride=2, groups=channels)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Conv(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(Conv(channels, channels, kernel) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for i, (first, second) in enumerate(zip(self.convs1, self.convs2)):
            x = x + second(self.activations[2 * i + 1](first(self.activations[2 * i](x))))
        return x


class BigVGAN(nn.Module):
    """Module names are the release's.

    Args:
        config: shapes.
    """

    def __init__(self, config: BigVGANConfig = BigVGANConfig()) -> None:
        super().__init__()
        self.config, channels = config, config.upsample_initial_channel
        self.conv_pre = Conv(config.num_mels, channels, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes):
            self.ups.append(nn.ModuleList([Upsampling(channels, channels // 2, kernel, rate)]))
            channels //= 2
            shapes = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes)
            self.resblocks.extend(ResidualBlock(channels, size, tuple(dilations)) for size, dilations in shapes)
        self.activation_post = Activation(channels)
        self.conv_post = Conv(channels, 1, 7, bias=config.use_bias_at_final)

    def forward(self, mel: Tensor) -> Tensor:
        x, kinds = self.conv_pre(mel), len(self.config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up[0](x)
            x = sum(block(x) for block in self.resblocks[i * kinds : (i + 1) * kinds]) / kinds
        x = self.conv_post(self.activation_post(x))
        return torch.tanh(x) if self.config.use_tanh_at_final else x.clamp(-1, 1)


def lowpass() -> Tensor:
    """[1, 1, 12]: Kaiser-windowed sinc at half the band (cutoff 0.25, half-width 0.3), taps at half-integers, sum 1."""
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * 0.3 + 7.95
    window = torch.kaiser_window(TAPS, periodic=False, beta=kaiser_beta(attenuation))
    taps = window * torch.sinc(0.5 * (torch.arange(-TAPS // 2, TAPS // 2) + 0.5))
    return (taps / taps.sum())[None, None]
