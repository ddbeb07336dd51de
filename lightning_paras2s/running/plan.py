"""`plan`: what GRPO of Kimi-Audio, or a stage of Qwen2.5-Omni on one card, needs before any of it is rented, by the
cost models (`cost.py`, `cost_omni.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning_paras2s.errors import UserError, check_choice, check_least
from lightning_paras2s.running.check import check
from lightning_paras2s.running.cost import (
    Efficiency,
    Memory,
    Shape,
    Work,
    largest_micro_batch,
    memory_of,
    seconds_a_step,
)
from lightning_paras2s.running.cost_judges import SCORERS, arguments, short
from lightning_paras2s.running.gpus import GPU, GPUS
from lightning_paras2s.running.plan_omni import (
    Terms,
    most_steps,
    plan_stage,
    stage_lines,
    stage_of,
    steps_of,
    summary_lines,
)
from lightning_paras2s.running.yaml_files import read_yaml

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
    config: list[str] | None = None,
    gpu: Literal["a100", "h100", "h200", "b200", "l4", "a10", "rtx3090", "rtx4090", "a6000", "l40s"] = "h100",
    gpus: int = 8,
    queries: int = 32,
    group_size: int = 8,
    prompt: int | None = None,
    steps: int = 157,
    total_steps: int = 1000,
    lora_rank: int = 0,
    dtype: Literal["float32", "bfloat16"] = "float32",
    state_bits: Literal[32, 8] = 32,
    decode_efficiency: float = 0.6,
    matmul_efficiency: float = 0.45,
    rollout_parts: int = 1,
    size: int = 1000,
    usd_per_hour: float = 0.0,
) -> dict[str, Any]:
    """Say what GRPO of Kimi-Audio, or any stage of Qwen2.5-Omni on one card, needs before it is rented: memory,
    seconds, hours, dollars, the largest micro-batch.

    All figures are arithmetic from data sheets; none was measured.

    Args:
        config: training configs such as paper/grpo.yaml; their group size, batch size, LoRA rank, type of weights, bits
            of moments, longest answer, number of steps, parts of a rollout and reward win over the options here. One
            without a model's class or a judge lies over the one before it; of Qwen2.5-Omni several stages may follow
            one another.
        gpu: which card.
        gpus: how many; Qwen2.5-Omni is planned for one.
        queries: B, of all GPUs together.
        group_size: G.
        prompt: tokens of a query with its template; null = 150 (12.5 a second) of Kimi-Audio, and of Qwen2.5-Omni 210
            (25 a second, so 6 s).
        steps: of every answer (12.5 a second).
        total_steps: GRPO steps of the run.
        lora_rank: 0 = full fine-tuning.
        dtype: of the policy's weights, float32 or bfloat16.
        state_bits: of the optimizer's moments, 32 or 8.
        decode_efficiency: share of the bandwidth bound that decoding reaches.
        matmul_efficiency: share of the peak that training reaches.
        rollout_parts: of a rollout of GRPO, each spoken and scored beside the sampling of the next (`model.overlap`).
        size: queries of the set that a stage of Qwen2.5-Omni other than GRPO goes over once.
        usd_per_hour: price of one card, in US dollars.
    """
    check_choice("gpu", gpu, GPUS)
    counts = {"gpus": gpus, "rollout_parts": rollout_parts, "size": size, "total_steps": total_steps}
    for name, value in counts.items():
        check_least(name, value, 1, "change it")
    if usd_per_hour < 0:
        raise UserError(f"usd_per_hour must not be negative; got {usd_per_hour}")
    for name, value in {"decode_efficiency": decode_efficiency, "matmul_efficiency": matmul_efficiency}.items():
        if not 0 < value <= 1:
            raise UserError(f"{name} must be above 0 and at most 1; got {value}")
    efficiency, stages = Efficiency(decode_efficiency, matmul_efficiency), read_stages(config or [])
    if any(is_omni(values) for values in stages.values()):
        terms = Terms(GPUS[gpu], size, 210 if prompt is None else prompt, total_steps, efficiency, rollout_parts)
        return plan_card(stages, terms, gpu, usd_per_hour)
    about = (queries, group_size, 150 if prompt is None else prompt, steps, lora_rank, weight_bytes_of(dtype))
    work = Work(*about, state_bits=state_bits, parts=rollout_parts)
    if len(stages) > 1:
        raise UserError(f"plan of Kimi-Audio takes one stage; got {', '.join(stages)}; give one, with its overlays")
    for name, values in stages.items():
        work, total_steps = read_work(values, name, work, total_steps, gpus)
    work.check_trained()
    made = make_plan(Shape(), GPUS[gpu], gpus, work, total_steps, efficiency)
    print("\n".join(report(made, gpu, work, total_steps)))
    return {
        "gpu": gpu,
        "gpus": gpus,
        "memory_gb": {name: value / GB for name, value in made.memory.parts().items()},
        "peak_gb": made.memory.peak / GB,
        "seconds": made.seconds,
        "seconds_a_step": sum(made.seconds.values()),
        "gpu_hours": made.gpu_hours,
        "usd": made.gpu_hours * usd_per_hour,
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
    """The largest micro-batch as `model.micro_batch_tokens` counts it: whole groups."""
    return max(1, made.largest_micro_batch // work.group_size) * work.query_tokens


def weight_bytes_of(dtype: str) -> int:
    if dtype not in (sizes := {"float32": 4, "bfloat16": 2}):
        raise UserError(f"dtype must be float32 or bfloat16; got {dtype!r}; change it")
    return sizes[dtype]


def read_stages(paths: list[str]) -> dict[str, dict[str, Any]]:
    """Name -> all that a stage's config and its overlays say together.

    Raises:
        UserError: no config, or one that its command would refuse.
    """
    stages: dict[str, list[str]] = {}
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"config must be an existing training config; got {path}; check the path")
        values = read_yaml(path)
        if not stages or "judge" in values or short(values.get("model") or {}):
            stages[path] = [path]
        else:
            stages[list(stages)[-1]].append(path)
    return {name: merged(own) for name, own in stages.items()}


def merged(paths: list[str]) -> dict[str, Any]:
    """One stage's configs, each over the one before it, as its command reads them."""
    first = read_yaml(paths[0])
    stage = stage_of(first) if "systems" in first or short(first.get("model") or {}) else ""
    command = "evaluate" if stage == "evaluate" else "fit"
    return check(command, [f"--config={path}" for path in paths], files=False)


def is_omni(values: dict[str, Any]) -> bool:
    """Is it a stage of Qwen2.5-Omni, or of its scorer, or an evaluation?"""
    model = arguments(values.get("model") or {})
    names = {short(model.get("policy", "")), short(model.get("scorer", ""))}
    return "systems" in values or bool(names & {"QwenOmni", "QwenOmniScorer"})


def plan_card(stages: dict[str, dict[str, Any]], terms: Terms, card: str, usd_per_hour: float) -> dict[str, Any]:
    """Every stage in turn, and all in one table."""
    made = [plan_stage(values, terms) for values in stages.values()]
    for stage in made:
        print("\n".join(stage_lines(stage, card, usd_per_hour)))
    print("\n".join(summary_lines(made, usd_per_hour)))
    about = f"{terms.size} queries a set, {terms.prompt} tokens a query, every answer as long as it may be"
    print(f"\n{about}\narithmetic from data sheets; nothing was measured")
    rows = [
        {
            "stage": s.stage,
            "config": path,
            "model": s.model,
            "memory_gb": {name: value / GB for name, value in s.memory.parts().items()},
            "peak_gb": s.memory.peak / GB,
            "seconds": s.seconds,
            "seconds_a_step": sum(s.seconds.values()),
            "steps": s.steps,
            "hours": s.hours,
            "card_usd": s.hours * usd_per_hour,
            "judge_usd": s.judge_usd,
            "micro_batch_tokens": s.micro_batch_tokens,
            "fits": s.fits,
        }
        for path, s in zip(stages, made, strict=True)
    ]
    usd = sum(row["card_usd"] + row["judge_usd"] for row in rows)
    return {"gpu": card, "gpus": 1, "stages": rows, "hours": sum(s.hours for s in made), "usd": usd,
            "fits": all(s.fits for s in made), "measured": False}  # fmt: skip


def read_work(values: dict[str, Any], name: str, work: Work, total_steps: int, gpus: int) -> tuple[Work, int]:
    """What a training config says about the work; what it leaves out stays.

    Raises:
        UserError: another stage or policy than the cost model's.
    """
    model, stage = arguments(values.get("model") or {}), short(values.get("model") or {}) or "GRPOModule"
    policy, policy_class = arguments(model.get("policy", {})), short(model.get("policy", {})) or "KimiAudio"
    if (stage, policy_class) != ("GRPOModule", "KimiAudio"):
        raise UserError(f"plan knows GRPO of KimiAudio; got {stage} of {policy_class} in {name}; name such a config")
    trainer, data = values.get("trainer") or {}, arguments(values.get("data") or {})
    devices = trainer.get("devices", 1)
    ranks = devices * trainer.get("num_nodes", 1) if isinstance(devices, int) and devices > 0 else gpus
    return replace(
        work,
        group_size=model.get("group_size", work.group_size),
        queries=data["batch_size"] * ranks if "batch_size" in data else work.queries,
        steps=most_steps(model, work.steps),
        lora_rank=policy.get("lora_rank", work.lora_rank),
        weight_bytes=weight_bytes_of(policy["dtype"]) if "dtype" in policy else work.weight_bytes,
        recompute=policy.get("gradient_checkpointing", work.recompute),
        updates=model.get("mu", 1) * model.get("minibatches", 1),
        state_bits=model.get("state_bits", work.state_bits),
        sync_every_micro_batch=model.get("sync_every_micro_batch", work.sync_every_micro_batch),
        reward_model=short(model.get("reward", {})) in ("", *SCORERS),
        parts=model.get("rollout_parts", work.parts),
        overlap=model.get("overlap", "auto") != "never",
    ), steps_of(values, total_steps)


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
