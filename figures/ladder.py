"""The ladder's rungs 3 and 4 as a figure: does the reward of sampled answers rise on training queries?

    python figures/ladder.py --tone runs/grpo_tone/NAME --judge runs/grpo/SEED1 runs/grpo/SEED2

Each run's mean reward of a step (64 rollouts of eight queries) is averaged over the ten steps up to it. The band is a
95 % t interval of those means: over seeds where there are several, over the ten steps where there is one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.stats import t

WINDOW = 10


def rewards(run: Path) -> list[float]:
    """The mean reward of each GRPO step of a run."""
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [row["train/reward"] for row in rows if "train/reward" in row]


def moving(runs: list[list[float]]) -> tuple[NDArray, NDArray]:
    """Moving mean [steps - 9] of the runs' average, and half of its interval."""
    steps = min(len(run) for run in runs)
    windows = sliding_window_view(np.array([run[:steps] for run in runs]), WINDOW, axis=1)  # [runs, steps - 9, 10]
    samples = windows.mean(2) if len(runs) > 1 else windows[0].T  # [samples, steps - 9]
    error = samples.std(0, ddof=1) / len(samples) ** 0.5
    return windows.mean((0, 2)), t.ppf(0.975, len(samples) - 1) * error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tone", type=Path, nargs="+", required=True, help="runs of ladder/tone.yaml")
    parser.add_argument("--judge", type=Path, nargs="+", required=True, help="runs of grpo.yaml, one a seed")
    parser.add_argument("--figure", default="docs/ladder.png")
    parser.add_argument("--json", default="results/ladder.jsonl", help="where the moving means go")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2))
    lines = []
    for axis, rung, title, runs in (
        (axes[0], "tone", "rung 3: share of fitting tones", options.tone),
        (axes[1], "judge", "rung 4: the judge's score", options.judge),
    ):
        found = [rewards(run) for run in runs]
        mean, half = moving(found)
        steps = np.arange(WINDOW, WINDOW + len(mean))
        axis.plot(steps, mean, color="#3b6fb6")
        axis.fill_between(steps, mean - half, mean + half, color="#3b6fb6", alpha=0.2)
        axis.set_title(f"{title} ({len(runs)} seed{'s' * (len(runs) > 1)})", fontsize=11)
        axis.set_xlabel("GRPO steps (mean of the last ten)")
        axis.grid(alpha=0.3)
        lines += [
            {
                "rung": rung,
                "seeds": len(runs),
                "step": int(s),
                "reward": round(float(m), 4),
                "ci95_half": round(float(h), 4),
            }
            for s, m, h in zip(steps, mean, half, strict=True)
        ]
        print(f"{rung}: {mean[0]:.3f} ± {half[0]:.3f} (steps 1-10) to {mean[-1]:.3f} ± {half[-1]:.3f} (last 10)")
    figure.tight_layout()
    figure.savefig(options.figure, dpi=130)
    Path(options.json).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
