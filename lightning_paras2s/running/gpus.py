"""GPUs that can be rented, by their data sheets."""

from __future__ import annotations

from dataclasses import dataclass

FILLED = 0.9  # of a GPU's memory; the rest is left to the allocator


@dataclass(frozen=True)
class GPU:
    """Bytes, bytes/s, bf16 FLOP/s without sparsity, bytes/s to its neighbours, float32 FLOP/s; data sheet values."""

    memory: float
    bandwidth: float
    flops: float
    link: float
    float32: float


GPUS = {
    "a100": GPU(80e9, 2.04e12, 312e12, 250e9, 19.5e12),
    "h100": GPU(80e9, 3.35e12, 989e12, 350e9, 67e12),
    "h200": GPU(141e9, 4.8e12, 989e12, 350e9, 67e12),
    "b200": GPU(192e9, 8.0e12, 2250e12, 700e9, 75e12),
    "l4": GPU(24e9, 0.3e12, 121e12, 16e9, 30.3e12),
    "a10": GPU(24e9, 0.6e12, 125e12, 16e9, 31.2e12),
    "rtx3090": GPU(24e9, 0.936e12, 71e12, 16e9, 35.6e12),
    "rtx4090": GPU(24e9, 1.008e12, 165e12, 16e9, 82.6e12),
    "a6000": GPU(48e9, 0.768e12, 155e12, 16e9, 38.7e12),
    "l40s": GPU(48e9, 0.864e12, 362e12, 16e9, 91.6e12),
}
