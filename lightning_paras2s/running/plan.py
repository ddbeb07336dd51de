"""`plan`: what GRPO on Kimi-Audio needs before any of it is rented, by the cost model (`cost.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.cost import (
    GPU,
    GPUS,
    Efficiency,
    Memory,
    Shape,
    Work,
    largest_micro_batch,
    memory_of,
    seconds_a_step,
)

GB, HOURS = 1e9, 3600.0


@dataclass(frozen=True)
class Plan:
    """Memory of a GPU and seconds a step, by part; `largest_micro_batch` in responses with their prompts."""

    gpus: int
    memory: Memory
    seconds: dict[str, float]
    largest_micro_batch: int
    gpu_hours: float

    @property
    def fits(self) -> bool:
        return self.largest_micro_batch > 0


def plan(
    config: str | None = None,
    gpu: Literal["a100", "h100", "h200", "b200"] = "h100",
    gpus: int = 8,
    queries: int = 32,
    group_size: int = 8,
    prompt: int = 150,
    steps: int = 157,
    total_steps: int = 1000,
    lora_rank: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    state_bits: Literal[32, 8] = 32,
    decode_efficiency: float = 0.6,
    matmul_efficiency: float = 0.45,
) -> dict[str, Any]:
    """Say what GRPO on Kimi-Audio needs before any of it is rented: memory, seconds, GPU-hours, the largest
    micro-batch.

    All figures are arithmetic from data sheets; none was measured.

    Args:
        config: a training config such as paper/grpo.yaml; its group size, batch size, LoRA rank, type of weights,
            bits of moments, longest answer, number of steps and reward win over the options here.
        gpu: a100, h100, h200 or b200.
        gpus: how many.
        queries: B, of all GPUs together.
        group_size: G.
        prompt: tokens of a query with its template (12.5 a second).
        steps: of every answer (12.5 a second).
        total_steps: GRPO steps of the run.
        lora_rank: 0 = full fine-tuning.
        dtype: of the policy's weights, float32 or bfloat16.
        state_bits: of the optimizer's moments, 32 or 8.
        decode_efficiency: share of the bandwidth bound that decoding reaches.
        matmul_efficiency: share of the peak that training reaches.
    """
    if gpu not in GPUS:
        raise UserError(f"gpu must be one of {', '.join(GPUS)}; got {gpu!r}")
    counts = {"gpus": gpus, "queries": queries, "group_size": group_size, "prompt": prompt, "steps": steps}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {value}")
    for name, value in {"decode_efficiency": decode_efficiency, "matmul_efficiency": matmul_efficiency}.items():
        if not 0 < value <= 1:
            raise UserError(f"{name} must be above 0 and at most 1; got {value}")
    work = Work(queries, group_size, prompt, steps, lora_rank, weight_bytes_of(dtype), state_bits=state_bits)
    if config is not None:
        work, total_steps = read_work(Path(config), work, total_steps, gpus)
    made = make_plan(Shape(), GPUS[gpu], gpus, work, total_steps, Efficiency(decode_efficiency, matmul_efficiency))
    print("\n".join(report(made, gpu, work, total_steps)))
    return {
        "gpu": gpu,
        "gpus": gpus,
        "memory_gb": {name: value / GB for name, value in made.memory.parts().items()},
        "peak_gb": made.memory.peak / GB,
        "seconds": made.seconds,
        "seconds_a_step": sum(made.seconds.values()),
        "gpu_hours": made.gpu_hours,
        "largest_micro_batch": made.largest_micro_batch,
        "micro_batch_tokens": micro_batch_tokens(made, work),
        "fits": made.fits,
        "measured": False,
    }


def make_plan(
    shape: Shape, gpu: GPU, gpus: int, work: Work, total_steps: int, efficiency: Efficiency = Efficiency()
) -> Plan:
    largest = largest_micro_batch(shape, gpu, gpus, work)
    seconds = seconds_a_step(shape, gpu, gpus, work, efficiency)
    hours = sum(seconds.values()) * total_steps * gpus / HOURS
    return Plan(gpus, memory_of(shape, gpus, work, max(1, largest)), seconds, largest, hours)


def micro_batch_tokens(made: Plan, work: Work) -> int:
    """The largest micro-batch as `model.micro_batch_tokens` counts it: whole groups, the prompt once a group."""
    groups = max(1, made.largest_micro_batch // work.group_size)
    return groups * (work.prompt + work.group_size * work.steps)


def weight_bytes_of(dtype: str) -> int:
    if dtype not in (sizes := {"float32": 4, "bfloat16": 2}):
        raise UserError(f"dtype must be float32 or bfloat16; got {dtype!r}; change it")
    return sizes[dtype]


def read_work(path: Path, work: Work, total_steps: int, gpus: int) -> tuple[Work, int]:
    """What a training config says about the work; what it leaves out stays.

    Raises:
        UserError: no config, or of another stage or policy than the cost model's.
    """
    import yaml

    if not path.is_file():
        raise UserError(f"config must be an existing training config; got {path}; check the path")
    values = yaml.safe_load(path.read_text())
    model = values.get("model", {}).get("init_args", {})
    stage, policy_class = values.get("model", {}).get("class_path", "GRPOModule"), class_of(model.get("policy", {}))
    if not stage.endswith("GRPOModule") or not (policy_class or "KimiAudio").endswith("KimiAudio"):
        raise UserError(f"plan knows GRPO of KimiAudio; got {stage} of {policy_class} in {path}; name such a config")
    policy = model.get("policy", {})
    policy = policy.get("init_args", {}) if isinstance(policy, dict) else {}
    trainer, data = values.get("trainer", {}), values.get("data", {}).get("init_args", {})
    devices = trainer.get("devices", 1)
    ranks = devices * trainer.get("num_nodes", 1) if isinstance(devices, int) and devices > 0 else gpus
    return replace(
        work,
        group_size=model.get("group_size", work.group_size),
        queries=data["batch_size"] * ranks if "batch_size" in data else work.queries,
        steps=model.get("sampling", {}).get("max_steps", work.steps),
        lora_rank=policy.get("lora_rank", work.lora_rank),
        weight_bytes=weight_bytes_of(policy["dtype"]) if "dtype" in policy else work.weight_bytes,
        recompute=policy.get("gradient_checkpointing", work.recompute),
        updates=model.get("mu", 1) * model.get("minibatches", 1),
        state_bits=model.get("state_bits", work.state_bits),
        sync_every_micro_batch=model.get("sync_every_micro_batch", work.sync_every_micro_batch),
        reward_model=(class_of(model.get("reward", {})) or "ScorerReward").endswith("ScorerReward"),
    ), trainer.get("max_steps", total_steps)


def class_of(value: str | dict[str, Any]) -> str:
    """The class that a config names, short or with `class_path`; "" where it names none."""
    return value if isinstance(value, str) else value.get("class_path", "")


def report(made: Plan, gpu: str, work: Work, total_steps: int) -> list[str]:
    tuned = f"LoRA rank {work.lora_rank}" if work.lora_rank else "full fine-tuning"
    tuned += f", {'bfloat16' if work.weight_bytes == 2 else 'float32'} weights, {work.state_bits}-bit moments"
    lines = [
        f"{made.gpus} x {gpu}, {work.queries} queries x {work.group_size}, {work.prompt} + {work.steps} tokens, {tuned}"
    ]
    lines += ["", f"{'GB a GPU':28}"]
    lines += [f"  {name:26} {value / GB:8.1f}" for name, value in made.memory.parts().items() if value]
    lines += [f"  {'peak, of the phases one':26} {made.memory.peak / GB:8.1f} of {GPUS[gpu].memory / GB:.0f}"]
    lines += ["", "seconds a step"] + [f"  {name:26} {value:8.2f}" for name, value in made.seconds.items() if value]
    lines += [f"  {'total':26} {sum(made.seconds.values()):8.2f}", ""]
    phase = max(made.memory.phases, key=lambda name: sum(made.memory.phases[name].values()))
    fits = f"does NOT fit, a tenth left to the allocator, even one response a micro-batch; the largest phase is {phase}"
    if made.fits:
        fits = f"largest micro-batch: {made.largest_micro_batch} of {math.ceil(work.rows / made.gpus)} responses a GPU"
        fits += f" (model.micro_batch_tokens {micro_batch_tokens(made, work)})"
    hours = f"{total_steps} steps: {made.gpu_hours:.0f} GPU-hours"
    return [*lines, fits, hours, "arithmetic from data sheets, every answer as long as it may be; nothing was measured"]
