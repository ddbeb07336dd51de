"""What a training step costs: memory a GPU, seconds a part, GPU-hours, from sizes and peak rates alone
(docs/performance.md).

Arithmetic, not measurement: bounds by memory traffic and FLOPs, divided by stated efficiencies. Every figure follows
from the shapes of the policy and these rules:

- a decode step reads all weights but the embedding once, and every row's keys and values: max(bytes / bandwidth,
FLOPs / peak); - a forward pass costs 2 FLOPs a weight and token, a backward pass twice that, recomputation one
forward more; - full fine-tuning keeps 16 bytes a weight (float32 weights, gradient, two Adam moments), sharded; LoRA
keeps 2, and 16 an adapter's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_paras2s.types import UserError

GB, HOURS = 1e9, 3600.0


@dataclass(frozen=True)
class GPU:
    """Bytes, bytes/s, bf16 FLOP/s without sparsity, bytes/s to its neighbours; data sheet values."""

    memory: float
    bandwidth: float
    flops: float
    link: float


GPUS = {
    "a100": GPU(80e9, 2.04e12, 312e12, 250e9),
    "h100": GPU(80e9, 3.35e12, 989e12, 350e9),
    "h200": GPU(141e9, 4.8e12, 989e12, 350e9),
    "b200": GPU(192e9, 8.0e12, 2250e12, 700e9),
}


@dataclass(frozen=True)
class Shape:
    """Of a policy with a shared trunk and a text and an audio branch; defaults are Kimi-Audio's."""

    hidden: int = 3584
    inner: int = 18944
    layers: int = 34
    heads: int = 28
    kv_heads: int = 4
    vocab: int = 168448
    adaptor_input: int = 5120
    text_ids: int = 152064
    audio_ids: int = 16386

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def layer(self) -> int:
        """Weights of a layer: attention with biases on q, k, v; three MLP matrices; two norms."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden**2 + 2 * self.hidden * kv + self.hidden + 2 * kv
        return attention + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def adaptor(self) -> int:
        return self.adaptor_input * self.hidden + self.hidden**2 + 4 * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + 3 * self.vocab * self.hidden + self.adaptor + 2 * self.hidden

    @property
    def decoded(self) -> int:
        """Weights that a decode step multiplies by when both heads are whole."""
        return self.layers * self.layer + 2 * self.vocab * self.hidden

    @property
    def sampled(self) -> int:
        """The same with the heads cut to the ids that each stream may draw, as `KimiAudio` decodes."""
        return self.layers * self.layer + (self.text_ids + self.audio_ids) * self.hidden

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in bf16."""
        return 2 * self.layers * self.kv_heads * self.head_size * 2

    def lora(self, rank: int) -> int:
        """Weights of rank-r adapters on the seven linear layers of every block."""
        kv = self.kv_heads * self.head_size
        sides = 4 * self.hidden + 2 * (self.hidden + kv) + 3 * (self.hidden + self.inner)
        return self.layers * rank * sides


@dataclass(frozen=True)
class Work:
    """One GRPO step over all GPUs; the paper's B and G, and lengths of a short exchange (12 s of answer)."""

    queries: int = 32
    group_size: int = 8
    prompt: int = 150
    steps: int = 157
    lora_rank: int = 0
    recompute: bool = True
    updates: int = 1

    @property
    def rows(self) -> int:
        return self.queries * self.group_size

    @property
    def tokens(self) -> int:
        return self.rows * (self.prompt + self.steps)


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak that are assumed, and what the waveform parts cost in seconds a second of speech; none was
    measured.
    """

    decode: float = 0.6
    matmul: float = 0.45
    speech: float = 0.01


@dataclass(frozen=True)
class Plan:
    """Gigabytes a GPU and seconds a step, by part; `largest_micro_batch` in responses with their prompts."""

    gpus: int
    memory_gb: dict[str, float]
    seconds: dict[str, float]
    largest_micro_batch: int
    gpu_hours: float

    @property
    def fits(self) -> bool:
        return self.largest_micro_batch > 0


def decode_step(shape: Shape, gpu: GPU, rows: int, context: float, sliced: bool = True) -> float:
    """Least seconds of one step for `rows` responses on one GPU at a mean context of `context` tokens."""
    weights = shape.sampled if sliced else shape.decoded
    return max((2 * weights + rows * context * shape.kv_bytes) / gpu.bandwidth, 2 * weights * rows / gpu.flops)


def forward_flops(shape: Shape, tokens: float, context: float = 0.0) -> float:
    """Matrix products of `tokens` tokens, and attention to a mean of `context` earlier ones (4 h FLOPs a layer and
    pair).
    """
    return tokens * (2 * shape.decoded + 4 * shape.hidden * shape.layers * context)


def train_flops(shape: Shape, tokens: float, lora: bool, recompute: bool) -> float:
    """One update: 6 FLOPs a weight and token, 4 for LoRA (no weight gradients), 2 more with recomputation."""
    return forward_flops(shape, tokens) * ((2 if lora else 3) + recompute)


def seconds_a_step(shape: Shape, gpu: GPU, gpus: int, work: Work, efficiency: Efficiency) -> dict[str, float]:
    """Seconds of one GRPO step by part, work spread evenly."""
    rows = math.ceil(work.rows / gpus)
    rate = gpus * gpu.flops * efficiency.matmul
    gather = 0.0 if gpus == 1 else 2 * shape.parameters * (gpus - 1) / gpus / gpu.link
    passes = 0 if work.updates == 1 else 1
    return {
        "prefill": forward_flops(shape, work.queries * work.prompt) / rate,
        "decode": work.steps * decode_step(shape, gpu, rows, work.prompt + work.steps / 2) / efficiency.decode,
        "unshard": gather,
        "waveform_reward": work.rows * work.steps * 0.08 * efficiency.speech / gpus,
        "old_logps": passes * forward_flops(shape, work.tokens) / rate,
        "ref_logps": forward_flops(shape, work.tokens) / rate,
        "update": work.updates * train_flops(shape, work.tokens, work.lora_rank > 0, work.recompute) / rate,
    }


def memory_of(shape: Shape, gpus: int, work: Work, rows: int) -> dict[str, float]:
    """Bytes a GPU by part while a micro-batch of `rows` responses is learned from. The rollout's weights and cache
    lie beside the training state; activations are those of a bf16 block, 34 h + 2 inner values a token, or two copies
    of h a layer when recomputed.
    """
    lora = work.lora_rank > 0
    trained = shape.lora(work.lora_rank) if lora else shape.parameters
    responses = math.ceil(work.rows / gpus)
    values = 2 * shape.hidden * shape.layers + 34 * shape.hidden + 3 * shape.inner
    if not work.recompute:
        values = shape.layers * (34 * shape.hidden + 3 * shape.inner)
    return {
        "trained_state": 16 * trained / gpus,
        "frozen_weights": 2 * shape.parameters / gpus if lora else 0.0,
        "reference": 0.0 if lora else 2 * shape.parameters / gpus,
        "rollout_weights": 0.0 if gpus == 1 and lora else 2.0 * shape.parameters,
        "kv_cache": float(responses * (work.prompt + work.steps) * shape.kv_bytes),
        "activations": 2.0 * values * rows * (work.prompt + work.steps),
        "head_chunks": 4 * 3.0 * 1024 * 8192,
    }


def largest_micro_batch(shape: Shape, gpu: GPU, gpus: int, work: Work, reserve: float = 0.1) -> int:
    """Responses a GPU can learn from at once; 0 if not even one fits. `reserve` of the memory is left to the
    allocator.
    """
    room = gpu.memory * (1 - reserve)
    empty, one = (sum(memory_of(shape, gpus, work, rows).values()) for rows in (0, 1))
    return max(0, min(math.ceil(work.rows / gpus), int((room - empty) // (one - empty))))


def make_plan(
    shape: Shape, gpu: GPU, gpus: int, work: Work, total_steps: int, efficiency: Efficiency = Efficiency()
) -> Plan:
    largest = largest_micro_batch(shape, gpu, gpus, work)
    memory = memory_of(shape, gpus, work, max(1, largest))
    seconds = seconds_a_step(shape, gpu, gpus, work, efficiency)
    hours = sum(seconds.values()) * total_steps * gpus / HOURS
    return Plan(gpus, {k: v / GB for k, v in memory.items()}, seconds, largest, hours)


def plan(
    config: str | None = None,
    gpu: str = "h100",
    gpus: int = 8,
    queries: int = 32,
    group_size: int = 8,
    prompt: int = 150,
    steps: int = 157,
    total_steps: int = 1000,
    lora_rank: int = 0,
    decode_efficiency: float = 0.6,
    matmul_efficiency: float = 0.45,
) -> dict:
    """Say what GRPO on Kimi-Audio needs before any of it is rented: memory, seconds, GPU-hours, the largest
    micro-batch.

    All figures are arithmetic from data sheets; none was measured.

    Args:
        config: a training config such as paper/grpo.yaml; its group size, batch size, LoRA rank, answer length and
            number of
            steps win over the options here.
        gpu: a100, h100, h200 or b200.
        gpus: how many.
        queries: B, of all GPUs together; group_size: G.
        group_size: G.
        prompt: tokens of a query with its template (12.5 a second).
        steps: of an answer (12.5 a second).
        total_steps: GRPO steps of the run.
        lora_rank: 0 = full fine-tuning.
        decode_efficiency: share of the bandwidth bound that decoding reaches.
        matmul_efficiency: share of the peak that training reaches.
    """
    if gpu not in GPUS:
        raise UserError(f"gpu must be one of {', '.join(GPUS)}; got {gpu!r}")
    for name, value in {
        "gpus": gpus,
        "queries": queries,
        "group_size": group_size,
        "prompt": prompt,
        "steps": steps,
    }.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {value}")
    for name, value in {"decode_efficiency": decode_efficiency, "matmul_efficiency": matmul_efficiency}.items():
        if not 0 < value <= 1:
            raise UserError(f"{name} must be above 0 and at most 1; got {value}")
    work = Work(queries, group_size, prompt, steps, lora_rank)
    if config is not None:
        work, total_steps = read_work(Path(config), work, total_steps)
    efficiency = Efficiency(decode_efficiency, matmul_efficiency)
    made = make_plan(Shape(), GPUS[gpu], gpus, work, total_steps, efficiency)
    print("\n".join(report(made, gpu, work, total_steps)))
    return {
        "gpu": gpu,
        "gpus": gpus,
        "memory_gb": made.memory_gb,
        "seconds": made.seconds,
        "seconds_a_step": sum(made.seconds.values()),
        "gpu_hours": made.gpu_hours,
        "largest_micro_batch": made.largest_micro_batch,
        "fits": made.fits,
        "measured": False,
    }


def read_work(path: Path, work: Work, total_steps: int) -> tuple[Work, int]:
    """What a training config says about the work; what it leaves out stays."""
    import yaml

    if not path.is_file():
        raise UserError(f"config must be an existing training config; got {path}; check the path")
    values = yaml.safe_load(path.read_text())
    model = values.get("model", {}).get("init_args", {})
    policy = model.get("policy", {}).get("init_args", {})
    trainer, data = values.get("trainer", {}), values.get("data", {}).get("init_args", {})
    ranks = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    return replace(
        work,
        group_size=model.get("group_size", work.group_size),
        queries=data["batch_size"] * ranks if "batch_size" in data else work.queries,
        steps=model.get("sampling", {}).get("max_steps", work.steps),
        lora_rank=policy.get("lora_rank", work.lora_rank),
        recompute=policy.get("gradient_checkpointing", work.recompute),
    ), trainer.get("max_steps", total_steps)


def report(made: Plan, gpu: str, work: Work, total_steps: int) -> list[str]:
    tuned = f"LoRA rank {work.lora_rank}" if work.lora_rank else "full fine-tuning"
    lines = [
        f"{made.gpus} x {gpu}, {work.queries} queries x {work.group_size}, {work.prompt} + {work.steps} tokens, {tuned}"
    ]
    lines += ["", f"{'GB a GPU':24}"] + [f"  {name:22} {value:8.1f}" for name, value in made.memory_gb.items()]
    lines += [f"  {'total':22} {sum(made.memory_gb.values()):8.1f} of {GPUS[gpu].memory / GB:.0f}"]
    lines += ["", "seconds a step"] + [f"  {name:22} {value:8.2f}" for name, value in made.seconds.items()]
    lines += [f"  {'total':22} {sum(made.seconds.values()):8.2f}", ""]
    fits = (
        f"largest micro-batch: {made.largest_micro_batch} responses a GPU"
        if made.fits
        else "does NOT fit: not even one response"
    )
    return [
        *lines,
        fits,
        f"{total_steps} steps: {made.gpu_hours:.0f} GPU-hours",
        "arithmetic from data sheets; nothing was measured",
    ]
