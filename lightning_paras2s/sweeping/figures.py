"""What the notebooks draw of a sweep's rows: the paper's words beside our points, tables, and verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lightning_paras2s
from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.sweeping.points import Difference, Row, difference, points_of, read_rows, score

if TYPE_CHECKING:
    from pandas import DataFrame

Point = dict[str, Any]


class Figures:
    """Figures of the rows of the folder that one works in; without rows there, of the shipped ones.

    Args:
        here: that folder.
    """

    def __init__(self, here: Path) -> None:
        places = [here, here.parent, Path(lightning_paras2s.__file__).parents[1]]
        found = (p / "results" for p in places if any(p.glob("results/sweep_*.jsonl")))
        self.results = next(found, here / "results")
        self.runs = next((p / "runs" for p in places[:2] if (p / "runs").is_dir()), None)
        self.start = {row["point"]["policy"]: [row] for row in read_rows(self.results / "sweep_start.jsonl")}

    def points(self, name: str) -> list[tuple[Point, list[Row]]]:
        return points_of(read_rows(self.results / f"{name}.jsonl"))

    def table(self, name: str) -> DataFrame:
        """A line a point and system."""
        from pandas import DataFrame

        lines = []
        for point, rows in self.points(name):
            for system, cells in rows[0]["systems"].items():
                judged, heard = (interval(score(rows, system, metric)) for metric in ("pairs", "audit_pairs"))
                line = {"point": text(point), "system": system, "seeds": len(rows), "n": cells["n"],
                        "score [95 %]": judged, "audit [95 %]": heard}  # fmt: skip
                line |= {key: mean(rows, "columns", key) for key in rows[0].get("columns", {})}
                tail = {"reward, last quarter": "reward", "KL": "kl"}
                line |= {title: mean(rows, "last_quarter", key) for title, key in tail.items()}
                line["equal groups"] = mean(rows, "zero_variance_share")
                line |= {key: rows[0].get(key) for key in ("steps", "responses", "precision", "cpu")}
                lines.append(line)
        return DataFrame(lines)

    def draw(self, name: str, of: Callable[[Point], Any], said: Sequence[str], axis_name: str) -> None:
        """Left: what the paper says. Right: our scores over `of(point)`, or that there are none, and how to make them.

        Args:
            said: lines, word for word where short.
        """
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), constrained_layout=True)
        left.set(title="the paper", xticks=[], yticks=[])
        left.text(0.02, 0.97, "\n".join(textwrap.fill(line, 62) for line in said), va="top", fontsize=9)
        made = self.points(name)
        right.set(title=f"ours ({name})", xlabel=axis_name, ylabel="score (1..5), 95 %")
        for system in made[0][1][0]["systems"] if made else []:
            for metric, style in (("pairs", "o"), ("audit_pairs", "x")):
                scores = [score(rows, system, metric) for _, rows in made]
                bars = np.abs(np.array([[s.low, s.high] for s in scores]).T - [s.value for s in scores])
                heard = "judge" if metric == "pairs" else "audit"
                right.errorbar(range(len(made)), [s.value for s in scores], np.nan_to_num(bars), fmt=style, capsize=3,
                               label=f"{system}, {heard}")  # fmt: skip
        if made and "sft_fifth" in self.start and comparable(made[0][1], self.start["sft_fifth"]):
            start = score(self.start["sft_fifth"], "sft_fifth").value
            right.axhline(start, color="grey", ls=":", label="sft_fifth, judge")
        if made:
            right.set_xticks(range(len(made)), [f"{of(point)}\n{len(rows)} seed(s)" for point, rows in made])
            right.legend(fontsize="small")
        else:
            config = name.removeprefix("sweep_")
            right.text(0.02, 0.5, f"open: no rows yet\npython -m lightning_paras2s sweep --config sweeps/{config}.yaml")
        plt.show()

    def compare(
        self,
        name: str,
        of: Callable[[Point], Any],
        first: Any,
        then: Any,
        systems: tuple[str, str] = ("grpo", "grpo"),
        part: Callable[[Sequence[Row]], list[Row]] = list,
    ) -> None:
        """What the rows say of two points; a claim is neither confirmed nor refuted by an interval that holds 0.

        Args:
            part: takes a part of a point's rows (`points.part_of`).
        """
        found = {of(point): rows for point, rows in self.points(name)}
        if first not in found or then not in found:
            print(f"{first} against {then}: open, not run")
            return
        for metric, heard in (("pairs", "judge"), ("audit_pairs", "audit")):
            d = difference(part(found[first]), part(found[then]), systems, metric)
            print(f"{heard}: {first} - {then} = {told(d)}; {d.seeds} seeds, {d.pairs} pairs, "
                  f"detectable from {d.detectable:.2f}")  # fmt: skip

    def between(self, name: str, of: Callable[[Point], Any], systems: tuple[str, str]) -> None:
        """The first system less the other, at each point."""
        for point, rows in self.points(name):
            print(f"{of(point)}: {systems[0]} - {systems[1]} = {told(difference(rows, rows, systems))}")

    def against_start(self, name: str) -> None:
        """Each point against the policy that it started from."""
        for point, rows in self.points(name) if "sft_fifth" in self.start else []:
            d = difference(rows, self.start["sft_fifth"], ("grpo", "sft_fifth"))
            print(f"{text(point)} - sft_fifth = {told(d)}; {d.seeds} seeds")


def comparable(rows: Iterable[Row], others: Iterable[Row]) -> bool:
    """Whether all answered the same queries."""
    return len({row["queries_sha"] for row in (*rows, *others)}) == 1


def told(d: Difference) -> str:
    return f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {d.verdict}"


def text(point: Point) -> str:
    return ", ".join(f"{k} {v.get('class_path', v) if isinstance(v, dict) else v}" for k, v in point.items())


def interval(estimate: Estimate) -> str:
    ends = "" if not np.isfinite(estimate.low) else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{estimate.value:.2f}{ends}"


def mean(rows: Sequence[Row], *keys: str) -> float:
    """Over seeds, of what lies under the keys; NaN where no row has it."""
    found: list[Any] = list(rows)
    for key in keys:
        found = [row.get(key) for row in found if row]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else np.nan
