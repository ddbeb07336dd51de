"""How long do `agreement` and `arena` take on large listening studies? Each is timed as a user runs it, start included.

    python speed/listening.py [--ratings 30000] [--battles 10000] [--repeats 3]

They take turns, and the median of each is printed beside what it must stay below (`LIMITS`, for the default sizes), and
beside its processor time, which other programs don't change as much.

A study of ten listeners (each item rated by three, in two factors and three systems), its judge's scores with it, and
battles of eight systems; ratings, scores and verdicts are drawn from --seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lightning_paras2s.running.machine import cpu_name, usable_threads
from lightning_paras2s.types import Battle, Human, Query, Verdict, append_jsonl, response_id, to_json

RATERS, SYSTEMS = 3, ("base", "sft", "grpo")
LIMITS = {"agreement": 20, "arena": 5}  # seconds


def write_study(folder: Path, ratings: int, random: np.random.Generator) -> list[str]:
    """A manifest, a run's verdicts and listeners' ratings -> the arguments of `agreement`."""
    items = ratings // RATERS
    queries = [
        Query(f"q{i}", f"p{i // 2}", f, "test", "Hi.", {f: halves[i % 2]}, "T", "a.wav")
        for i in range(-(-items // len(SYSTEMS)))
        for f, halves in [(("age", ("adult", "child")), ("gender", ("male", "female")))[i // 2 % 2]]
    ]
    names = [response_id(s, q.id, 0) for q in queries for s in SYSTEMS][:items]
    quality = random.normal(3, 1, items)
    scores = np.clip(np.round(quality + random.normal(0, 1, (RATERS + 1, items))), 1, 5)
    (folder / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    append_jsonl(folder / "run/verdicts.jsonl", [Verdict(n, "j", s) for n, s in zip(names, scores[-1], strict=True)])
    listeners = [random.permutation(10)[:RATERS] for _ in names]
    rated = [Human(n, f"l{listeners[i][r]}", scores[r, i]) for i, n in enumerate(names) for r in range(RATERS)]
    append_jsonl(folder / "humans.jsonl", rated)
    return ["agreement", "--humans", f"{folder}/humans.jsonl", "--runs", json.dumps([f"{folder}/run"]),
            "--manifest", f"{folder}/queries.jsonl"]  # fmt: skip


def write_battles(folder: Path, battles: int, random: np.random.Generator) -> list[str]:
    """Eight systems of rising strength, who meet four times a query -> the arguments of `arena`."""
    games = []
    for i in range(battles):
        a, b = random.choice(8, 2, replace=False)
        won = random.random() < 1 / (1 + np.exp((b - a) / 4))
        verdict = random.choice(["both_good", "both_bad"]) if random.random() < 0.3 else "a" if won else "b"
        games.append(Battle(f"q{i // 4}", f"s{a}", f"s{b}", "ab", str(verdict), "j"))
    append_jsonl(folder / "battles.jsonl", games)
    return ["arena", "--battles", f"{folder}/battles.jsonl", "--out", f"{folder}/arena"]


def seconds(arguments: list[str]) -> tuple[float, float]:
    """On the clock, and of the processor."""
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "lightning_paras2s", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - started, os.times()
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=30_000, help="of listeners, for agreement")
    parser.add_argument("--battles", type=int, default=10_000, help="verdicts, for arena")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--seed", type=int, default=0, help="of ratings, scores and verdicts")
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    studies = {"agreement": (options.ratings, write_study), "arena": (options.battles, write_battles)}
    with tempfile.TemporaryDirectory() as folder:
        made = {what: write(Path(folder), count, random) for what, (count, write) in studies.items()}
        took = [{what: seconds(arguments) for what, arguments in made.items()} for _ in range(options.repeats)]
    print(f"{cpu_name()}, {usable_threads()[0]} cores, Python {platform.python_version()}")
    for what, (count, _) in studies.items():
        clock, processor = zip(*(turn[what] for turn in took), strict=True)
        each = ", ".join(f"{time:.1f}" for time in clock)
        print(f"{what} of {count:,}: {statistics.median(clock):.1f} s (limit {LIMITS[what]} s; each {each}), of which "
              f"{statistics.median(processor):.1f} s of the processor")  # fmt: skip


if __name__ == "__main__":
    main()
