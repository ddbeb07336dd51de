"""Which arithmetic a run gets when it asks for `auto`: bfloat16 where the CPU has instructions for it and they are
faster here, else float32.

A CPU without them emulates bfloat16 at a tenth of float32's rate, and one that has them (AVX512-BF16) need not be
faster by them: so both are asked, the flags first and then a small product.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from lightning_paras2s.running.machine import cpu_flags

FULL, MIXED = "32-true", "bf16-mixed"
BFLOAT16 = ("bf16-mixed", "bf16-true", "bf16")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
NATIVE = ("avx512_bf16", "amx_bf16")
# The highest of FEATURES that oneDNN uses under each value of ONEDNN_MAX_CPU_ISA; it uses all under any other value.
CAPS = {"SSE41": 0, "AVX": 0, "AVX2": 1, "AVX2_VNNI": 1, "AVX2_VNNI_2": 1, "AVX512_CORE": 2, "AVX512_CORE_VNNI": 2}
CAPS |= {"AVX512_CORE_BF16": 3, "AVX512_CORE_FP16": 3}
# Variables that tell a speech recogniser's libraries (CTranslate2, MKL, oneDNN) which instructions to use.
HIDING = ("CT2_FORCE_CPU_ISA", "CT2_USE_MKL", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
PRODUCT = (512, 192, 384)  # of the embedded policy's size
WORTH = 1.2  # bfloat16 must be so much faster: it costs accuracy


class Choice(NamedTuple):
    """A trainer's precision, and why."""

    precision: str
    reason: str


def cpu_features(environment: Mapping[str, str] = os.environ, cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Of FEATURES, those that this CPU has and that torch and oneDNN may use: their variables can hide some."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    flags = next((line.split(":")[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    most = CAPS.get(environment.get("ONEDNN_MAX_CPU_ISA", "").upper(), len(FEATURES))
    if environment.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
        most = min(most, 1)
    return [name for name in FEATURES[:most] if name in flags]


def cpu_kind(environment: Mapping[str, str] = os.environ, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """In words, what an ear's transcripts depend on: `cpu_features`, the instructions for 8-bit integers (VNNI, without
    which sums of their products are cut off at 16 bits), MKL on Intel's CPUs (CTranslate2 has oneDNN on all others),
    and the variables that choose among them."""
    features = cpu_features(environment, cpuinfo) or [platform.machine()]
    flags = cpu_flags(cpuinfo.parent)
    features += [name for name in ("avx_vnni", "avx512_vnni") if name in flags]
    features += ["MKL"] if cpuinfo.is_file() and "GenuineIntel" in cpuinfo.read_text() else []
    return ", ".join(features + [f"{name}={environment[name]}" for name in HIDING if environment.get(name)])


def rates(seconds: float = 0.1) -> tuple[float, float]:
    """GFLOP/s in float32 and in bfloat16 of a product of PRODUCT's size, on one thread: the best of many in turn, since
    other programs only slow it.
    """
    rows, inner, columns = PRODUCT
    pairs = [
        (torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    best, threads = [float("inf")] * 2, torch.get_num_threads()
    torch.set_num_threads(1)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or best[1] == float("inf"):
        for i, (a, b) in enumerate(pairs):
            start = time.perf_counter()
            a @ b
            best[i] = min(best[i], time.perf_counter() - start)
    torch.set_num_threads(threads)
    full, half = (2 * rows * inner * columns / took / 1e9 for took in best)
    return full, half


def best_precision(features: list[str]) -> Choice:
    """For this CPU."""
    named = ", ".join(features) or platform.machine()
    if not set(features) & set(NATIVE):
        return Choice(FULL, f"this CPU has no bfloat16 arithmetic ({named})")
    full, half = rates()
    measured = f"a thread makes {half:.0f} GFLOP/s in bfloat16, {full:.0f} in float32 ({named})"
    return Choice(MIXED, measured) if half > WORTH * full else Choice(FULL, measured)


def settle(asked: Any, accelerator: str, earlier: str | None) -> tuple[Any, str]:
    """The precision that a trainer gets for the one that was asked for, and a line to say ("" = nothing to say).

    Args:
        earlier: the precision of the run that goes on; `auto` keeps it.
    """
    if accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.cuda.is_available()):
        return (MIXED if asked == "auto" else asked), ""
    features = cpu_features()
    if asked != "auto":
        slow = asked in BFLOAT16 and not set(features) & set(NATIVE)
        named = ", ".join(features) or platform.machine()
        return asked, (
            f"warning: precision {asked} is emulated on this CPU ({named}), about ten times slower than 32-true; set "
            "--trainer.precision auto"
            if slow
            else ""
        )
    choice = best_precision(features) if earlier is None else Choice(earlier, "as this run began")
    return choice.precision, f"precision: {choice.precision}, {choice.reason}"


def precision_of_run(folder: Path) -> str | None:
    """Of the run that lies in a folder; None where there is none."""
    if not (folder / "config.yaml").is_file():
        return None
    found = (yaml.safe_load((folder / "config.yaml").read_text()) or {}).get("trainer", {}).get("precision")
    return None if found in (None, "auto") else str(found)


def machine(precision: str = "float32") -> dict[str, Any]:
    """What a result's row says about the arithmetic that made it."""
    return {"precision": precision, "cpu": cpu_features() or [platform.machine()], "torch": torch.__version__}


def mixed(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A line about summaries (by name) that were made in different precision, "" if there are none such."""
    rows = {name: summary["machine"]["precision"] for name, summary in found.items() if "machine" in summary}
    if len(set(rows.values())) < 2:
        return ""
    return "note: rows differ in precision: " + ", ".join(f"{name} {value}" for name, value in rows.items())
