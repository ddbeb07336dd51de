"""The README's figure, from its rows: each system's score by judge and audit, and its label-swap gain.

Whiskers are 95 % intervals, clustered by contrast pair; of several seeds, over seeds too.

    python figures/results.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lightning_paras2s.bench.items import figures, read_items


def draw(rows: list[dict], path: Path) -> Figure:
    """Rows as in results/embedded.jsonl, drawn in their order from above."""
    seeds = [len(r["seed"]) if isinstance(r["seed"], list) else 1 for r in rows]
    names = [r["system"] + (f" ({n} seeds)" if n > 1 else "") for r, n in zip(rows, seeds, strict=True)]
    at = range(len(rows))[::-1]
    figure = Figure(figsize=(12.4, 4.2))
    left, right = figure.subplots(1, 2, sharey=True)
    for axis, key, bounds, colour in (
        (left, "mean", "ci95", "#3b6fb6"),
        (right, "label_swap_gain", "label_swap_gain_ci95", "#c8553d"),
    ):
        values = np.array([r[key] for r in rows])
        ends = np.array([[r[key] if end is None else end for end in r[bounds]] for r in rows]).T  # none: no whisker
        error = np.abs(ends - values)
        axis.errorbar(values, at, xerr=error, fmt="o", markersize=8, capsize=4, lw=2, color=colour, label="judge")
        axis.grid(axis="x", color="#e5e7eb")
        axis.spines[["top", "right"]].set_visible(False)
    other = {"marker": "D", "color": "#6b7280", "label": "audit (another ear for tone)"}
    left.scatter([r["audit_mean"] for r in rows], [y - 0.17 for y in at], **other)
    left.set(xlim=(1, 5), title="score, 1 to 5", yticks=list(at), yticklabels=names)
    left.legend(frameon=False, loc="upper right")
    right.set_title("label-swap gain")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    return figure


def rows_in(path: Path) -> list[dict]:
    """Rows of a table, or made from a line an answer (`headline --items`), the lowest score first."""
    if path.suffix != ".gz":
        return [json.loads(line) for line in path.read_text().splitlines()]
    items = read_items(path)
    systems = dict.fromkeys(item.system for item in items)
    return sorted((figures([i for i in items if i.system == name]) for name in systems), key=lambda row: row["mean"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("results/rubric2.jsonl.gz"))
    parser.add_argument("--figure", type=Path, default=Path("docs/results.png"))
    given = parser.parse_args()
    draw(rows_in(given.rows), given.figure)


if __name__ == "__main__":
    main()
