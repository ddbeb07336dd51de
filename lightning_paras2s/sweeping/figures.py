"""What the notebooks draw of a sweep's rows: the paper's words beside our points, tables, and verdicts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lightning_paras2s
from lightning_paras2s.sweeping.claims import interval, signed
from lightning_paras2s.sweeping.differences import Difference, difference, gain, score
from lightning_paras2s.sweeping.efficiency import times_fewer
from lightning_paras2s.sweeping.pictures import LABELS, label_curves
from lightning_paras2s.sweeping.points import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Point = dict[str, Any]
BESIDE = {"loc": "outside right center", "fontsize": "small"}  # legends: off the marks


class Figures:
    """Figures of the rows of the folder that one works in; without rows there, of the shipped ones.

    Args:
        here: that folder.
    """

    def __init__(self, here: Path) -> None:
        places = [here, here.parent, Path(lightning_paras2s.__file__).parents[1]]
        found = (p / "results" for p in places if any(p.glob("results/sweep_*.jsonl")))
        self.results = Results(next(found, here / "results"))
        self.runs = next((p / "runs" for p in places[:2] if (p / "runs").is_dir()), None)
        self.start = self.results.by("start", "policy")

    def points(self, name: str) -> list[tuple[Point, list[Row]]]:
        return self.results.points(name.removeprefix("sweep_"))

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
                last = rows if rows[0].get("stage", system) == system else []  # curves are the last stage's
                tail = {"reward, last quarter": "reward", "KL": "kl"}
                line |= {title: mean(last, "last_quarter", key) for title, key in tail.items()}
                line["equal groups"] = mean(last, "zero_variance_share")
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
        tell(left, said)
        made = self.points(name)
        right.set(title=f"ours ({name})", xlabel=axis_name, ylabel="score (1..5), 95 %")
        for system in made[0][1][0]["systems"] if made else []:
            for metric, style, aside in (("pairs", "o", -0.04), ("audit_pairs", "x", 0.04)):
                scores = [score(rows, system, metric) for _, rows in made]
                bars = np.abs(np.array([[s.low, s.high] for s in scores]).T - [s.value for s in scores])
                heard = "judge" if metric == "pairs" else "audit"
                right.errorbar(np.arange(len(made)) + aside, [s.value for s in scores], np.nan_to_num(bars), fmt=style,
                               capsize=3, label=f"{system}, {heard}")  # fmt: skip
        if made and "sft_fifth" in self.start and comparable(made[0][1], self.start["sft_fifth"]):
            start = score(self.start["sft_fifth"], "sft_fifth").value
            right.axhline(start, color="grey", ls=":", label="sft_fifth, judge")
        if made:
            right.set_xticks(range(len(made)), [f"{of(point)}\n{len(rows)} seed(s)" for point, rows in made])
            figure.legend(*right.get_legend_handles_labels(), **BESIDE)
        else:
            right.text(0.02, 0.5, to_run(name))
        plt.show()

    def draw_labels(self, said: Sequence[str]) -> None:
        """Left: what the paper says. Right: the curves over the demonstrations, and what is reached without any."""
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), constrained_layout=True)
        tell(left, said)
        label_curves(right, self.results)
        if self.points("labels") or self.points("labels_reward"):
            figure.legend(*right.get_legend_handles_labels(), **BESIDE)
        else:
            right.text(0.02, 0.5, to_run("labels"), transform=right.transAxes)
        plt.show()

    def label_verdicts(self) -> None:
        """At each amount each curve against SFT, in the same runs, and how many times more demonstrations SFT needs."""
        for system, (sweep, name, *_) in LABELS.items():
            rows = self.results.by(sweep, "share")
            for share, of in rows.items() if system != "sft" else ():
                found = times_fewer(rows, share, (system, "sft"))
                times = f"SFT needs x {found.told()}" if found else "times: open, fewer than 2 seeds or amounts"
                print(f"{share:.0%}, {name} - SFT = {told(gain(of, (system, 'sft')), of)}; {times}")
            if not rows:
                print(f"{name}: open, not run")

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
            print(f"{heard}: {first} - {then} = {told(d, found[first])}; {d.seeds} seeds, {d.pairs} pairs, "
                  f"detectable from {d.detectable:.2f}")  # fmt: skip

    def between(self, name: str, of: Callable[[Point], Any], systems: tuple[str, str]) -> None:
        """The first system less the other in the same runs, at each point."""
        if not self.points(name):
            print(f"{systems[0]} - {systems[1]}: open, not run")
        for point, rows in self.points(name):
            print(f"{of(point)}: {systems[0]} - {systems[1]} = {told(gain(rows, systems), rows)}")

    def against_start(self, name: str) -> None:
        """Each point against the policy that it started from."""
        for point, rows in self.points(name) if "sft_fifth" in self.start else []:
            d = difference(rows, self.start["sft_fifth"], ("grpo", "sft_fifth"))._replace(seeds=len(rows))
            print(f"{text(point)} - sft_fifth = {told(d, rows)}; {d.seeds} seeds")


def comparable(rows: Iterable[Row], others: Iterable[Row]) -> bool:
    """Whether all answered the same queries."""
    return len({row["queries_sha"] for row in (*rows, *others)}) == 1


def told(d: Difference, rows: Sequence[Row]) -> str:
    """With its verdict, which is open with one seed of what was trained."""
    return f"{signed(d)}, {d.told(rows[0]['steps'] > 0)}"


def tell(axis: Axes, said: Sequence[str]) -> None:
    """The paper's words."""
    axis.set(title="the paper", xticks=[], yticks=[])
    axis.text(0.02, 0.97, "\n".join(textwrap.fill(line, 62) for line in said), va="top", fontsize=9)


def to_run(name: str) -> str:
    config = name.removeprefix("sweep_")
    return f"open: no rows yet\npython -m lightning_paras2s sweep --config sweeps/{config}.yaml"


def text(point: Point) -> str:
    return ", ".join(f"{k} {v.get('class_path', v) if isinstance(v, dict) else v}" for k, v in point.items())


def mean(rows: Sequence[Row], *keys: str) -> float:
    """Over seeds, of what lies under the keys; NaN where no row has it."""
    found: list[Any] = list(rows)
    for key in keys:
        found = [row.get(key) for row in found if row]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else np.nan
