"""Kimi-Audio's mel decoder: codes -> mel by a flow-matching diffusion transformer (DiT), whole or chunk by chunk with
look-ahead.

dx/dt = v(x, t, codes), integrated from noise at t = 0 by plain Euler steps on linspace(0, 1, 30). Chunk by chunk,
each call sees the keys and values that earlier frames had at time 999, and 12 codes of the future, which it computes
and throws away.

Departures from the original: any number of rows of any lengths (padding is masked in attention), and seeded noise: a
function of the seed and the call alone, the same for every row, so a row's speech does not depend on the batch that
it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.errors import UserError

REFRESH_TIME = 999  # the time at which a finished chunk's keys and values are taken


@dataclass(frozen=True)
class FlowConfig:
    """Shapes of the released model; `mel_mean`, `mel_std` and the rope base must come from its config.yaml.

    `semantic_vocab_size` counts rows: the codes, and one for guidance, which the release's config.yaml leaves out.

    Args:
        semantic_vocab_size: codes, and one for padding.
        hidden_size: width of every layer.
        depth: number of layers.
        num_heads: attention heads a layer.
        mlp_ratio: width of a layer's MLP, as a multiple of `hidden_size`.
        rope_base: base of the rotary positions.
        mel_mean: mean that normalised the mel in training.
        mel_std: deviation that normalised it.
        ode_points: points of the ODE's grid: one more than its steps.
        chunk_codes: codes a call.
        look_ahead_codes: codes after the chunk that a call sees, and whose mel it drops.
        max_kv_frames: mel frames before the chunk that attention sees.
        max_positions: frames that have a rotary position.
        upsample_factor: mel frames a code.
        mels: mel bands.
    """

    semantic_vocab_size: int = 16385
    hidden_size: int = 2304
    depth: int = 16
    num_heads: int = 18
    mlp_ratio: float = 4.0
    rope_base: float = 10000.0
    mel_mean: float = 0.0
    mel_std: float = 1.0
    ode_points: int = 30
    chunk_codes: int = 30
    look_ahead_codes: int = 12
    max_kv_frames: int = 900
    max_positions: int = 4096
    upsample_factor: int = 4
    mels: int = 80

    def __post_init__(self) -> None:
        if self.chunk_codes <= self.look_ahead_codes:
            raise UserError(
                f"chunk_codes must be above the look-ahead of {self.look_ahead_codes}, which each call throws away; "
                f"got {self.chunk_codes}; raise it"
            )
        if self.ode_points < 2:
            raise UserError(f"ode_points must be at least 2, one step; got {self.ode_points}; raise it")


class TimeEmbedder(nn.Module):
    """An integer time 0..999 -> [1, h]: 128 cosines, then 128 sines, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: int) -> Tensor:
        weight = self.mlp[0].weight
        angles = time * 10000.0 ** -(torch.arange(128, device=weight.device) / 128)
        return self.mlp(torch.cat([angles.cos(), angles.sin()])[None].to(weight))


class Attention(nn.Module):
    """Full attention over cached and new frames; rotary on adjacent pairs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, rotary: Tensor, past: tuple[Tensor, Tensor] | None, keys: Tensor | None) -> tuple:
        """x [B, T, h], past keys and values [B, H, C, d], keys [B, 1, 1, C + T] = real -> [B, T, h], new keys and
        values.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary), rotate(k, rotary)
        every = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        out = F.scaled_dot_product_attention(q, *every, attn_mask=keys)
        return self.proj(out.transpose(1, 2).flatten(2)), (k, v)


class Block(nn.Module):
    """Transformer block whose norms and gates follow the condition, frame by frame (adaLN)."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, rotary: Tensor, past: tuple | None, keys: Tensor | None) -> tuple:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(condition).chunk(6, -1)
        out, memory = self.attn(normalize(x) * (1 + scale_a) + shift_a, rotary, past, keys)
        x = x + gate_a * out
        inner = F.gelu(self.mlp["fc1"](normalize(x) * (1 + scale_m) + shift_m), approximate="tanh")
        return x + gate_m * self.mlp["fc2"](inner), memory


class FinalLayer(nn.Module):
    def __init__(self, width: int, mels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, mels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, -1)
        return self.linear(normalize(x) * (1 + scale) + shift)


Noise = Callable[[int, int], Tensor]  # (call, frames) -> [frames, mels] or [B, frames, mels]


class FlowMatching(nn.Module):
    """Module names are the release's, without its prefix `speech_model.`.

    Args:
        config: shapes.
    """

    def __init__(self, config: FlowConfig = FlowConfig()) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.t_embedder = TimeEmbedder(width)
        self.semantic_token_embedding = nn.Embedding(config.semantic_vocab_size, width)
        self.input_linear = nn.Linear(config.mels, width)
        inner = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, config.num_heads, inner) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, config.mels)

    def forward(
        self, x: Tensor, time: int, codes: Tensor, start: int = 0, past: list | None = None, keys: Tensor | None = None
    ) -> tuple[Tensor, list]:
        """Velocity at an integer time 0..999.

        Args:
            x: [B, T, mels]; codes: [B, T] at 50 Hz, `start` the position of the first.
            past: keys and values of earlier frames, a pair a block; keys: [B, 1, 1, C + T], True = real, None = all.

        Returns:
            [B, T, mels], and the new frames' keys and values, a pair a block.
        """
        size = self.config.hidden_size // self.config.num_heads
        rotary = rotary_table(start, x.shape[1], size, self.config.rope_base, x.device)
        condition = self.t_embedder(time) + self.semantic_token_embedding(codes)
        h, memory = self.input_linear(x), []
        for i, block in enumerate(self.blocks):
            h, new = block(h, condition, rotary, past[i] if past else None, keys)
            memory.append(new)
        return self.final_layer(h, condition), memory

    def integrate(self, x: Tensor, codes: Tensor, start: int, past: list | None, keys: Tensor | None) -> Tensor:
        """Euler from noise to the normalised mel, [B, T, mels]."""
        t = torch.linspace(0, 1, self.config.ode_points)
        for now, time, later in zip(t[:-1], euler_times(self.config.ode_points), t[1:]):
            x = x + (later - now) * self(x, time, codes, start, past, keys)[0]
        return x

    def mel(self, x: Tensor) -> Tensor:
        return x * self.config.mel_std + self.config.mel_mean

    def repeat(self, codes: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Rows of codes -> codes at 50 Hz, padded, [B, T], and which are real [B, 1, 1, T] (None = all)."""
        padded = nn.utils.rnn.pad_sequence(codes, batch_first=True).repeat_interleave(self.config.upsample_factor, 1)
        lengths = torch.tensor([len(c) * self.config.upsample_factor for c in codes], device=padded.device)
        real = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        return padded, None if bool(real.all()) else real[:, None, None]


@dataclass
class FlowStream:
    """The state of decoding one batch chunk by chunk. All rows that are not at their end are at the same frame."""

    model: FlowMatching
    noise: Noise
    calls: int = 0
    start: int = 0
    past: list | None = None
    left: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self, codes: list[Tensor], final: bool | list[bool]) -> list[Tensor]:
        """The next codes of each row -> mel [frames_i, mels] of each row; rows that are final must not come again
        (`keep`).
        """
        config = self.model.config
        final = final if isinstance(final, list) else [final] * len(codes)
        whole = [torch.cat([old, new]) for old, new in zip(self.left or [c[:0] for c in codes], codes)]
        frames, keys = self.model.repeat(whole)
        if keys is not None and self.past is not None:
            keys = F.pad(keys, (self.past[0][0].shape[2], 0), value=True)
        x = expand(self.noise(self.calls, frames.shape[1]), frames, self.model.input_linear.weight)
        x = self.model.integrate(x, frames, self.start, self.past, keys)
        counts = [
            (len(c) - (0 if f else config.look_ahead_codes)) * config.upsample_factor for c, f in zip(whole, final)
        ]
        self.left = [c[len(c) if f else len(c) - config.look_ahead_codes :] for c, f in zip(whole, final)]
        self.calls += 1
        if not all(final):
            self.remember(x, frames, counts[final.index(False)])
        return [row[:n] for row, n in zip(self.model.mel(x), counts)]

    def remember(self, x: Tensor, frames: Tensor, count: int) -> None:
        """Keep the keys and values of the `count` frames returned, taken at REFRESH_TIME; past the last position,
        begin anew.
        """
        config = self.model.config
        new = self.model(x[:, :count], REFRESH_TIME, frames[:, :count], self.start, self.past)[1]
        past = (
            new if self.past is None else [tuple(torch.cat(p, 2) for p in zip(*pair)) for pair in zip(self.past, new)]
        )
        self.past = [tuple(t[:, :, -config.max_kv_frames :] for t in pair) for pair in past]
        self.start += count
        if self.start + 2 * count > config.max_positions:
            self.past, self.start = None, 0

    def keep(self, rows: list[int]) -> None:
        """Drop the rows that have ended."""
        self.left = [self.left[i] for i in rows]
        if self.past is not None:
            self.past = [tuple(t[rows] for t in pair) for pair in self.past]


def euler_times(points: int) -> list[int]:
    """The integer time of each Euler step: linspace(0, 1, points) in float32, times 1000, cut."""
    return (torch.linspace(0, 1, points)[:-1] * 1000).long().tolist()


def seeded_noise(seed: int, mels: int = 80) -> Noise:
    """Noise that depends on the seed, the call and the frame within it, and on nothing else."""

    def draw(call: int, frames: int) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + call) % 2**63)
        # always drawn whole: a shorter call gets the beginning of a longer one's noise
        return torch.randn(4096, mels, generator=generator)[:frames]

    return draw


def expand(noise: Tensor, frames: Tensor, like: Tensor) -> Tensor:
    """[T, mels] or [B, T, mels] -> [B, T, mels] of the type and device of `like`."""
    return noise.to(like).expand(frames.shape[0], -1, -1)


def normalize(x: Tensor) -> Tensor:
    """LayerNorm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rotary_table(start: int, count: int, size: int, base: float, device: torch.device) -> Tensor:
    """exp(i angle), [count, size / 2], complex64."""
    frequencies = base ** -(torch.arange(0, size, 2, device=device).float() / size)
    angles = torch.arange(start, start + count, device=device).float()[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of [B, H, T, d], in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)
