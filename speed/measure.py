"""What the benchmarks share: this machine's ceilings, contenders timed in turn, a table and a JSON line of the result.

The ceilings are the best rates of a plain matrix product and of a plain copy, measured in the same run: `measured /
bound` compares a program with the machine as it is, not with a data sheet. Contenders take turns, so that a busy
machine slows all alike; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from lightning_paras2s.running.cost import Shape
from lightning_paras2s.running.precision import cpu_features

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Ceiling:
    """FLOP/s and bytes/s."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Contender:
    """`run` does a share of the work whose time `scale` extrapolates; `bound` is the least time of all of it."""

    run: Callable[[], object]
    bound: float
    scale: float = 1.0


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat: on the clock, and of processor time (which other programs lengthen less)."""

    wall: list[float]
    processor: list[float]


def parse(doc: str, argv: list[str] | None, **defaults) -> argparse.Namespace:
    """Options that all benchmarks have; a benchmark gives its defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    values = {"queries": 4, "group_size": 8, "prompt": 96, "steps": 96, "repeats": 5, "model": "tiny"} | defaults
    for name, value in values.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16" if cuda else "float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="append the result to this file, one JSON object a line")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def autocast(args: argparse.Namespace) -> AbstractContextManager:
    """What Lightning's bf16-mixed does: float32 weights, bfloat16 products, no cache of casts."""
    return torch.autocast(args.device, torch.bfloat16, args.dtype == "bfloat16", cache_enabled=False)


def measure_ceiling(args: argparse.Namespace, seconds: float = 1.0) -> Ceiling:
    """The best rate of square and flat matrix products, and of copies that no cache holds."""
    cuda, dtype = args.device == "cuda", DTYPES[args.dtype]
    sizes = ((8192,) * 3, (4096,) * 3) if cuda else ((1024,) * 3, (256, 256, 768), (512, 512, 512))
    products = []
    for rows, inner, columns in sizes:
        a, b = (torch.randn(s, device=args.device).to(dtype) for s in ((rows, inner), (inner, columns)))
        products.append((2.0 * rows * inner * columns, best(lambda a=a, b=b: a @ b, args.device, seconds / len(sizes))))
    source = torch.zeros(2**30 if cuda else 2**26, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(source)
    copy = best(lambda: target.copy_(source), args.device, seconds / 2)
    return Ceiling(max(flops / time for flops, time in products), 2 * source.numel() / copy)


def best(run: Callable[[], object], device: str, seconds: float) -> float:
    run()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(timed(run, device)[0])
    return min(times)


def timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds on the clock and of processor time of one call, the device's work included."""
    before = clocks(device)
    run()
    wall, processor = (after - then for after, then in zip(clocks(device), before, strict=True))
    return wall, processor


def clocks(device: str) -> tuple[float, float]:
    """Seconds on the clock and of processor time, once the device has nothing more to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def race(contenders: dict[str, Contender], repeats: int, device: str) -> dict[str, Timing]:
    """Each contender once untimed (first calls allocate), then `repeats` rounds in turn."""
    timings = {name: Timing([], []) for name in contenders}
    for turn in range(repeats + 1):
        for name, contender in contenders.items():
            wall, processor = (seconds * contender.scale for seconds in timed(contender.run, device))
            if turn:
                timings[name].wall.append(wall)
                timings[name].processor.append(processor)
    return timings


def forward_flops(shape: Shape, args: argparse.Namespace) -> float:
    """Of reading each prompt once and all responses: trunk, heads on the responses, causal attention."""
    prompts, rows = args.queries * args.prompt, args.queries * args.group_size
    trunk = 2 * shape.layers * shape.layer * (prompts + rows * args.steps)
    heads = 2 * (shape.text_ids + shape.audio_ids) * shape.hidden * rows * args.steps
    pairs = prompts * args.prompt / 2 + rows * args.steps * (args.prompt + args.steps / 2)
    return trunk + heads + 4 * shape.hidden * shape.layers * pairs


def rollout_bound(shape: Shape, ceiling: Ceiling, args: argparse.Namespace) -> float:
    """Least seconds of a rollout: prefill by FLOPs; each step by FLOPs, or by reading all weights, the prompts' keys
    and values once and the rows' own, whichever takes longer.
    """
    size = DTYPES[args.dtype].itemsize
    rows, kv = args.queries * args.group_size, shape.kv_bytes * size / 2
    prefill = 2 * shape.layers * shape.layer * args.queries * args.prompt
    moved = size * shape.sampled + kv * (args.queries * args.prompt + rows * args.steps / 2)
    step = max(2 * shape.sampled * rows / ceiling.flops, moved / ceiling.bandwidth)
    return prefill / ceiling.flops + args.steps * step


def finish(
    benchmark: str,
    args: argparse.Namespace,
    ceiling: Ceiling,
    contenders: dict[str, Contender],
    timings: dict[str, Timing],
    units: dict[str, float],
    notes: dict[str, float] | None = None,
) -> dict:
    """Print the table and append the JSON line; `units` = {what is counted: how many}; the first contender is ours."""
    (unit, count), ours = next(iter(units.items())), next(iter(contenders))
    medians = {name: statistics.median(t.wall) for name, t in timings.items()}
    processor = {name: statistics.median(t.processor) for name, t in timings.items()}
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
    result = {
        "benchmark": benchmark,
        "settings": settings,
        "machine": {
            "processor": platform.machine(),
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "cpu": cpu_features(),
            "torch": torch.__version__,
            "gflops": round(ceiling.flops / 1e9, 1),
            "gigabytes_per_second": round(ceiling.bandwidth / 1e9, 1),
        },
        "unit": unit,
        "contenders": {
            name: {
                "seconds": [round(s, 4) for s in timings[name].wall],
                "median_seconds": round(medians[name], 4),
                "median_processor_seconds": round(processor[name], 4),
                "per_second": round(count / medians[name], 1),
                "bound_seconds": round(c.bound, 5),
                "measured_over_bound": round(medians[name] / c.bound, 2),
                "ours_is_faster_by": round(medians[name] / medians[ours], 2),
                "ours_is_faster_by_processor_time": round(processor[name] / processor[ours], 2),
            }
            for name, c in contenders.items()
        },
        "notes": notes or {},
    }
    print(markdown(result))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a") as file:
            file.write(json.dumps(result) + "\n")
    return result


def markdown(result: dict) -> str:
    machine, s = result["machine"], result["settings"]
    lines = [
        f"### {result['benchmark']}: {s['model']}, {s['dtype']}, {s['queries']} queries x {s['group_size']}, "
        f"{s['prompt']} + {s['steps']} positions, {s['repeats']} repeats, {s['threads']} threads",
        "",
        f"Ceilings: {machine['gflops']} GFLOP/s, {machine['gigabytes_per_second']} GB/s "
        f"({machine['device']}, {machine['processor']}, {' '.join(machine['cpu'])}, torch {machine['torch']})",
        "",
        f"| | seconds, median (min - max) | {result['unit']} a second | measured / bound | ours is faster by "
        "| by processor time |",
        "|---|---|---|---|---|---|",
    ]
    for name, c in result["contenders"].items():
        spread = f"{c['median_seconds']:.3g} ({min(c['seconds']):.3g} - {max(c['seconds']):.3g})"
        lines.append(
            f"| {name} | {spread} | {c['per_second']:.0f} | {c['measured_over_bound']:.1f} "
            f"| {c['ours_is_faster_by']:.2f} x | {c['ours_is_faster_by_processor_time']:.2f} x |"
        )
    return "\n".join([*lines, *(f"\n{name}: {value}" for name, value in result["notes"].items()), ""])
