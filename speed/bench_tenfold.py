"""Do ten times the items cost ten times the time, and no more memory?

`evaluate` runs on N and on 10 N contrast pairs a factor, each time in a process of its own on one thread; CPU time and
peak memory are the system's own counts. What a start costs (imports, weights) is measured by `--check`, which builds
everything and answers nothing, and is taken off.

    python -m lightning_paras2s synthesize --out runs/bench/tenfold --split test --limit 40
    python speed/bench_tenfold.py runs/bench/tenfold/queries.jsonl [--pairs 4] [--config evaluate.yaml] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Of one process."""

    answers: int
    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--config", default="evaluate.yaml")
    parser.add_argument("--pairs", type=int, default=4, help="contrast pairs a factor of the smaller run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        start = evaluate(options, Path(folder) / "none", 1, "--check")
        runs = [evaluate(options, Path(folder) / str(n), n) for n in (options.pairs, 10 * options.pairs)]
    result = compare(start, *runs)
    print(json.dumps(result) if options.json else table(result))
    return result


def evaluate(options: argparse.Namespace, output: Path, pairs: int, *more: str) -> Cost:
    """Run `evaluate` to its end and count.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "lightning_paras2s", "evaluate", "--config", options.config, *more]
    command += ["--manifest", options.manifest, "--output", str(output), "--limit", str(pairs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"`{' '.join(command)}` must end well; got {os.waitstatus_to_exitcode(status)}")
    answers = output / "responses.jsonl"
    count = len(answers.read_text().splitlines()) if answers.is_file() else 0
    seconds = time.perf_counter() - began, used.ru_utime + used.ru_stime
    return Cost(count, *(round(s, 2) for s in seconds), round(used.ru_maxrss / 1024, 1))  # Linux counts in kB


def compare(start: Cost, small: Cost, large: Cost) -> dict:
    """Ratios of the larger run to the smaller, the start taken off the time."""
    work = [run.cpu_seconds - start.cpu_seconds for run in (small, large)]
    return {
        "start": start._asdict(),
        "small": small._asdict(),
        "large": large._asdict(),
        "items_ratio": round(large.answers / small.answers, 2),
        "time_ratio": round(work[1] / work[0], 2),
        "memory_ratio": round(large.peak_megabytes / small.peak_megabytes, 3),
        "answers_per_cpu_second": round(large.answers / work[1], 2),
    }


def table(result: dict) -> str:
    rows = [
        f"| {r['answers']} | {r['wall_seconds']:.1f} | {r['cpu_seconds']:.1f} "
        f"| {r['cpu_seconds'] - result['start']['cpu_seconds']:.1f} | {r['peak_megabytes']:.0f} |"
        for r in (result["small"], result["large"])
    ]
    return "\n".join(
        [
            "| answers | seconds | CPU s | CPU s without the start | peak memory, MB |",
            "|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"{result['items_ratio']:g} x the items: {result['time_ratio']:g} x the time, "
            f"{result['memory_ratio']:g} x the memory.",
        ]
    )


if __name__ == "__main__":
    main()
