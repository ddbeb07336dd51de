"""What this machine gives a process: arithmetic, threads, memory, disk; limits of containers and of affinity counted.

Importing this module must stay cheap: no torch.
"""

from __future__ import annotations

import os
import platform
from math import floor
from pathlib import Path

FEATURES = ("avx2", "avx512_bf16", "amx_bf16")  # as /proc/cpuinfo spells them
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """The instruction sets that the system says the processor has; empty where it says nothing (not Linux)."""
    for line in _lines(proc / "cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name(proc: Path = PROC) -> str:
    found = [line.partition(":")[2].strip() for line in _lines(proc / "cpuinfo") if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def usable_threads(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[int, str]:
    """How many threads this process can run at once, and what limits them.

    Args:
        proc, cgroups: where the system tells of itself.
    """
    cores = os.cpu_count() or 1
    limits = [(cores, "the machine's")]
    if hasattr(os, "sched_getaffinity"):
        limits.append((len(os.sched_getaffinity(0)), "of the affinity (taskset)"))
    for folder in _groups(proc, cgroups, "cpu"):
        quota = _quota(folder)
        if quota is not None:
            limits.append((max(1, floor(quota)), f"of the container's quota of {quota:g}"))
    return min(limits, key=lambda limit: limit[0])


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> tuple[float, float]:
    """Bytes that can be had, and of how many; a container's limit counts."""
    found = {line.split(":")[0]: float(line.split()[1]) * 1024 for line in _lines(proc / "meminfo") if ":" in line}
    total, free = found.get("MemTotal", 0.0), found.get("MemAvailable", 0.0)
    for folder in _groups(proc, cgroups, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, now = (_number(folder / name) for name in (limit, used))
            if most is not None and now is not None and most < total:
                total, free = most, min(free, max(most - now, 0.0))
    return free, total


def _groups(proc: Path, cgroups: Path, controller: str) -> list[Path]:
    """The folders of this process's control group and of those above it, in either version of Linux's control
    groups."""
    found = []
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        roots = [cgroups] if not controllers else [cgroups / controllers, cgroups / controller]
        inner = Path(path.lstrip("/"))
        found += [root / part for root in roots for part in (inner, *inner.parents)]
    return found


def _quota(folder: Path) -> float | None:
    """Processors that a control group may use, None without a limit."""
    for line in _lines(folder / "cpu.max"):
        quota, period = line.split()
        return None if quota == "max" else float(quota) / float(period)
    quota, period = (_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota is not None and period and quota > 0 else None


def _number(path: Path) -> float | None:
    lines = _lines(path)
    return float(lines[0]) if lines and lines[0].strip().lstrip("-").isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
