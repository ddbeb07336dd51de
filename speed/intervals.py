"""Do the 95 % intervals cover the truth? Coverage of every interval that the benchmark shows, at few and many pairs.

    python speed/intervals.py --json results/coverage.jsonl
    python speed/intervals.py --points results/coverage_points.jsonl

Populations are contrast pairs as policies answer them (`POPULATIONS`: scores of the halves, and against the other
half's style, at the rates of the shipped systems' pairs); an experiment draws n pairs (of each factor for "overall"),
and the truth is the population's own value. Shown is the share of experiments in which there is an interval at all; the
rest have none, with fewer than `statistics.MIN_CLUSTERS` pairs or no spread. Figures of agreement, of recordings and of
word error rates have populations of their own (`interval_populations.py`). `--points` asks instead how many seeds the
difference of two points of a sweep needs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from interval_populations import EXPERIMENTS, Experiment, of_points

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.pairs.arena import rank
from lightning_paras2s.bench.seeds import Design, estimate, macro_parts
from lightning_paras2s.types import Battle

PAIRS = (2, 3, 5, 10, 20, 40)
MANY = (100, 200)  # for differences of shares, too, which have no interval before
FACTORS = ("age", "emotion", "gender", "sarcasm")
# What a policy that hears style does to a pair: P(both halves answered rightly), P(one), and else none; how often a
# right answer's tone or topic costs a point. Rates as of `grpo` on the test set, and of a topline.
POPULATIONS = {
    "grpo": {"age": (0.05, 0.7), "emotion": (0.25, 0.4), "gender": (0.7, 0.25), "sarcasm": (0.65, 0.3)},
    "topline": {"age": (0.85, 0.15), "emotion": (0.85, 0.15), "gender": (0.8, 0.2), "sarcasm": (0.7, 0.3)},
}
SIZE = 20_000


def population(rates: tuple[float, float], random: np.random.Generator) -> np.ndarray:
    """Pairs [SIZE, 2 halves, (score, swapped score)]."""
    both, one = rates
    drawn = random.random(SIZE)
    right = np.stack([drawn < both + one * (random.random(SIZE) < 0.5), drawn < both], 1)
    right = np.where((random.random(SIZE) < 0.5)[:, None], right, right[:, ::-1])
    shared = random.choice([0, 0, 1], SIZE)[:, None]  # the topic is missed in both halves, or neither
    own = np.where(right, random.choice([5, 5, 5, 4, 3], (SIZE, 2)), random.choice([1, 2, 3, 3], (SIZE, 2)))
    other = np.where(right, random.choice([1, 1, 2, 3], (SIZE, 2)), random.choice([1, 2, 3, 5], (SIZE, 2)))
    return np.clip(np.stack([own, other], -1) - shared[..., None], 1, 5).astype(float)


def share_covered(experiment: Callable[[], tuple[tuple[float, float], float]], repeats: int) -> dict[str, float | None]:
    """`experiment` -> an interval, and the truth."""
    met = [experiment() for _ in range(repeats)]
    shown = [(low, high, truth) for (low, high), truth in met if low is not None and np.isfinite(low)]
    covered = sum(low - 1e-9 <= truth <= high + 1e-9 for low, high, truth in shown)
    return {"shown": len(shown) / repeats, "coverage": round(covered / len(shown), 4) if shown else None}


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda p: p[..., 0].mean(-1),
    "label_swap_gain": lambda p: (p[..., 0] - p[..., 1]).mean(-1),
    "pair_accuracy": lambda p: statistics.pair_accuracy(p[..., 0]),
    "pair_min": lambda p: p[..., 0].min(-1),
}


def of_factors(metric: str, values: dict[str, np.ndarray], n: int, random: np.random.Generator):
    """One experiment: n pairs of each factor."""
    drawn = {f: v[random.integers(len(v), size=n)] for f, v in values.items()}
    columns = {f: (v, [str(i) for i in range(n)]) for f, v in drawn.items()}
    own = {"pair_accuracy": statistics.macro_share, "difference": statistics.macro_difference}
    found = own.get(metric, statistics.macro_mean)(columns)
    return found.ci95, float(np.mean([v.mean() for v in values.values()]))


def of_seeds(n: int, random: np.random.Generator):
    """Three seeds that differ, n pairs of each factor: a difference over seeds (`headline`)."""
    design = Design(np.arange(4 * n), np.repeat(FACTORS, n))
    noise = 0.07 * random.normal(size=(3, 1)) + np.clip(np.round(random.normal(0, 1.2, (3, 4 * n))), -2, 2)
    return estimate(macro_parts(0.3 + np.round(random.normal(0, 1, 4 * n)) + noise, design), design).ci95, 0.3


def of_battles(n: int, random: np.random.Generator):
    """Strengths of three systems (800, 1000, 1200 on Elo's scale) after n queries, a query of which all answer; a
    query's pull is shared by its games."""
    strength = {"x": -1.151, "y": 0.0, "z": 1.151}  # 200 ln(10) / 400
    games = []
    for query in range(n):
        for a, b in (("x", "y"), ("y", "z"), ("x", "z")):
            won = random.random() < 1 / (1 + np.exp(strength[b] - strength[a]))
            games.append(Battle(f"{query}", a, b, "ab", "a" if won else "b", "coin"))
    rows = {row["system"]: row for row in rank(games, 1)["systems"]}
    return rows["z"]["ci95"], 1200.0


def experiments_of(seed: int) -> dict[str, Callable[[int], tuple]]:
    """Name -> n -> an interval and the truth; each draws by itself."""
    random = np.random.default_rng(seed)
    made = {s: {f: population(r, random) for f, r in rates.items()} for s, rates in POPULATIONS.items()}
    found: dict[str, Experiment] = {"seeds": of_seeds}
    for name, metric in METRICS.items():
        for s, factors in made.items():
            values = {f: metric(p) for f, p in factors.items()}
            every = {"": np.concatenate(list(values.values()))}
            found[f"{name}, overall, {s}"] = lambda n, own, m=name, v=values: of_factors(m, v, n, own)
            found[f"{name}, one factor, {s}"] = lambda n, own, m=name, v=every: of_factors(m, v, n, own)
    gained = {f: METRICS["mean"](made["topline"][f]) - METRICS["mean"](made["grpo"][f]) for f in FACTORS}
    found["difference, overall"] = lambda n, own: of_factors("difference", gained, n, own)
    found["strength (Elo's scale)"] = of_battles
    found |= EXPERIMENTS
    draws = {name: np.random.default_rng([seed, *name.encode()]) for name in found}
    return {name: lambda n, e=experiment, own=draws[name]: e(n, own) for name, experiment in found.items()}


def by_seeds(repeats: int, seed: int) -> Iterator[dict]:
    """Coverage of the difference of two points with 25 pairs a factor, whose seeds deviate by so much."""
    for seeds in ((2, 2), (2, 3), (3, 3), (5, 5)):
        for spread in ((0.1, 0.1), (0.3, 0.3), (0.1, 0.3), (0.3, 0.1)):
            random = np.random.default_rng(seed)
            found = share_covered(lambda r=random, s=seeds, d=spread: of_points(25, r, s, d), repeats)
            yield {"seeds": seeds, "spread": spread, "repeats": repeats, "seed": seed} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="experiments a number of pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the populations and the draws")
    parser.add_argument("--only", default="", help="those whose names hold this")
    parser.add_argument("--json", default=None, help="write one JSON object a line to this file; with --only, replace")
    parser.add_argument("--points", default=None, help="only the difference of two points, by seeds, to this file")
    options = parser.parse_args()
    if options.points:
        rows = [json.dumps(row) + "\n" for row in by_seeds(options.repeats, options.seed)]
        Path(options.points).write_text("".join(rows))
        print("".join(rows), end="")
        return
    lines = {}
    for name, experiment in experiments_of(options.seed).items():
        if options.only not in name:
            continue
        sizes = PAIRS + (MANY if name.startswith(("change of a skill", "difference of two shares")) else ())
        row = {n: share_covered(lambda n=n, e=experiment: e(n), options.repeats) for n in sizes}
        about = {"interval": name, "repeats": options.repeats, "seed": options.seed}
        lines[name] = about | {"pairs": {str(n): cell for n, cell in row.items()}}
        cells = [f"{n}: {c['coverage']:.3f}" if c["coverage"] is not None else f"{n}: -" for n, c in row.items()]
        print(f"{name:36} " + "  ".join(cells), flush=True)
    if options.json:
        path = Path(options.json)
        kept = path.read_text().splitlines() if options.only and path.is_file() else []
        lines = {row["interval"]: row for row in map(json.loads, kept)} | lines
        path.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))


if __name__ == "__main__":
    main()
