"""What the notebooks draw of a sweep's rows: the paper's words beside our points, tables, and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import lightning_paras2s
from lightning_paras2s.sweeping.claims import HEADER, AnyClaim, interval, signed
from lightning_paras2s.sweeping.differences import Difference, difference, gain, score
from lightning_paras2s.sweeping.efficiency import times_fewer
from lightning_paras2s.sweeping.panels import Printed, spread, tell, tell_open, tell_printed, tick
from lightning_paras2s.sweeping.pictures import (
    ABOVE,
    GREEN,
    GRIDS,
    LABELS,
    change,
    grid_scores,
    grid_skills,
    grid_values,
    label_curves,
    marks,
    planned_points,
)
from lightning_paras2s.sweeping.points import Results, Row, column, own_start, trained

if TYPE_CHECKING:
    from IPython.display import Markdown
    from matplotlib.axes import Axes
    from pandas import DataFrame

Point = dict[str, Any]
WHOLE: dict[str, Callable[[Sequence[Row]], list[Row]]] = {"": list}
OPEN_HEIGHT = 1.8  # inches of a figure of words alone
# What claims may come to; "Undecided": the interval holds 0, or the paper's number.
OUTCOMES = ("Agreed", "Did not agree", "Undecided", "Open", "Asked beyond the paper's words")


class Figures:
    """Figures of the rows of the folder that one works in; without rows there, of the shipped ones.

    Args:
        here: that folder.
    """

    def __init__(self, here: Path) -> None:
        self.results = Results(nearest(here, "results/sweep_*.jsonl") / "results")
        self.runs = runs_near(here)
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

    def draw(
        self,
        name: str,
        of: Callable[[Point], Any],
        said: Sequence[str],
        axis_name: str,
        printed: Printed | None = None,
        parts: Mapping[str, Callable[[Sequence[Row]], list[Row]]] = WHOLE,
    ) -> None:
        """Left: what the paper says. Right: our scores over `of(point)`, or that there are none, and how to make them;
        of the grids of Fig. 3 also what explains them.

        Args:
            said: lines, word for word where short.
            printed: numbers of the paper, drawn above its words.
            parts: a panel each: what it is called, and what it takes of a point's rows (`points.part_of`).
        """
        grid = name.removeprefix("sweep_")
        made = self.points(name)
        points = self.places(name, of)
        width = 5 if len(points) < 6 else 10 / len(parts)
        count = 0 if not made else 2 if grid in GRIDS else len(parts)
        left, *ours = panels_of([4, *[width] * count] if made else [4, 8], 4 if made or printed else OPEN_HEIGHT)
        left.figure.suptitle(f"left: the paper; right: ours ({name})", x=0, ha="left", fontsize="medium")
        tell_printed(left, said, printed) if printed else tell(left, said)
        if not made:
            tell_open(ours[0], name)
        elif grid in GRIDS:
            grid_scores(ours[0], self.results, grid)
            (grid_skills if GRIDS[grid][3] is None else grid_values)(ours[1], self.results, grid)
        else:
            for axis, (title, part) in zip(ours, parts.items(), strict=True):
                spread(axis, [(place, part(rows) if rows else []) for place, rows in points], self.started(made[0][1]))
                axis.set_xlabel(", ".join(filter(None, (axis_name, title))))
        show()

    def places(self, name: str, of: Callable[[Point], Any]) -> list[tuple[str, list[Row]]]:
        """What stands on the axis: the planned points in their order, then those of one's own; with their rows."""
        made = {of(point): rows for point, rows in self.points(name)}
        known = list(dict.fromkeys([*map(of, planned_points(name.removeprefix("sweep_"))), *made]))
        if all(isinstance(value, int | float) for value in known):
            known.sort()
        return [(f"{value:g}" if isinstance(value, float) else str(value), made.get(value, [])) for value in known]

    def started(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of `sft_fifth`, if the policies began there and it answered the same queries."""
        start = self.start.get("sft_fifth", [])
        return start if start and not own_start(rows[0]) and comparable(rows, start) else []

    def draw_labels(self, said: Sequence[str]) -> None:
        """Left: what the paper says. Right: the curves over the demonstrations, by judge and audit, and what is reached
        without any."""
        made = self.points("labels") or self.points("labels_reward")
        left, *ours = panels_of([4, 5, 5] if made else [4, 8])
        left.figure.suptitle("left: the paper; right: ours (sweep_labels)", x=0, ha="left", fontsize="medium")
        tell(left, said)
        if made:
            for axis, metric in zip(ours, ("pairs", "audit_pairs"), strict=True):
                label_curves(axis, self.results, metric)
            left.figure.legend(*ours[0].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False)
        else:
            tell_open(ours[0], "labels")
        show()

    def draw_column(
        self, name: str, of: Callable[[Point], Any], column_name: str, axis_name: str, least: float
    ) -> None:
        """A column of the rows over `of(point)`, beside the number that the paper tells of."""
        places = self.places(name, of)
        found = [column(rows, column_name) if rows else None for _, rows in places]
        if not any(found):
            print(f"{name}, {column_name}: open, not run")
            return
        (axis,) = panels_of([6])
        counts = [len(rows) for _, rows in places]
        marks(axis, range(len(places)), found, counts, f"ours ({name}), 95 % over seeds", GREEN, "o")
        axis.axhline(least, color="grey", ls=":", label=f"the paper's {least:g}")
        axis.set_xticks(range(len(places)), [tick(place, rows, len(places)) for place, rows in places])
        axis.set(xlabel=axis_name, ylabel=column_name, xlim=(-0.5, len(places) - 0.5))
        axis.legend(**ABOVE, ncols=2)
        show()

    def skills(self, name: str, key: str) -> DataFrame:
        """What is forgotten: changes of the share of ordinary tasks done right, against where RL started."""
        from pandas import DataFrame

        lines = []
        for point, rows in self.points(name):
            asked = [row for row in rows if "skills" in row]
            for skill in asked[0]["skills"] if asked else ():
                cells = [row["skills"][skill]["grpo"] for row in asked]
                lines.append({key: point[key], "skill": skill, "seeds": len(asked), "texts": cells[0]["n"],
                              "change [95 %]": interval(change(asked, skill)),
                              "by seed": ", ".join(f"{cell['change']:+.2f}" for cell in cells)})  # fmt: skip
        return DataFrame(lines)

    def verdicts(self, *claims: AnyClaim) -> Markdown:
        """What agreed with the paper and what did not, by the rows: the lines of docs/findings.md, sorted."""
        from IPython.display import Markdown

        found: dict[str, list[str]] = {}
        whole = ""
        for claim in claims:  # "... and so" goes on from the claim before, which may have come out otherwise
            whole = claim.text if not claim.text.startswith("...") else whole
            line = claim.line(self.results).replace("| ... ", f"| {whole}: ", 1)
            found.setdefault(came_out(claim.figure, line.split(" | ")[-1]), []).append(line)
        told = [f"**{title}: {len(found.get(title, []))}**" for title in OUTCOMES if title in found]
        tables = [f"**{title}**\n\n{HEADER}\n" + "\n".join(found[title]) for title in OUTCOMES if title in found]
        return Markdown("\n\n".join([", ".join(told), *tables]))

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

    def compare(self, name: str, of: Callable[[Point], Any], first: Any, then: Any) -> None:
        """What the rows say of two points; a claim is neither confirmed nor refuted by an interval that holds 0."""
        found = {of(point): rows for point, rows in self.points(name)}
        if first not in found or then not in found:
            print(f"{name}: {first} against {then}: open, not run")
            return
        for metric, heard in (("pairs", "judge"), ("audit_pairs", "audit")):
            d = difference(found[first], found[then], ("grpo", "grpo"), metric)
            own = f"{d.seeds} seed{'s' * (d.seeds > 1)}, " if trained(found[first][0]) else ""
            print(f"{name}, {heard}: {first} - {then} = {told(d, found[first])}; {own}{d.pairs} pairs, "
                  f"detectable from {d.detectable:.2f}")  # fmt: skip

    def between(
        self,
        name: str,
        of: Callable[[Point], Any],
        systems: tuple[str, str],
        part: Callable[[Sequence[Row]], list[Row]] = list,
    ) -> None:
        """The first system less the other in the same runs, at each point.

        Args:
            part: takes a part of a point's rows (`points.part_of`).
        """
        about = f"{systems[0]} - {systems[1]}"
        made = self.points(name)
        if not made:
            print(f"{name}: {about}: open, not run")
        for point, rows in made:
            judge, audit = (gain(part(rows), systems, metric) for metric in ("pairs", "audit_pairs"))
            print(f"{name}, {of(point)}: {about} = {told(judge, rows)}; by the audit {told(audit, rows)}")
        for place, rows in self.places(name, of) if made else ():
            if not rows:
                print(f"{name}, {place}: {about}: open, not run")

    def against_start(self, name: str) -> None:
        """Each point against the policy that it started from."""
        for point, rows in self.points(name) if "sft_fifth" in self.start else []:
            if own_start(rows[0]):
                print(f"{text(point)}: began at a policy of its own run, and not at sft_fifth")
                continue
            d = difference(rows, self.start["sft_fifth"], ("grpo", "sft_fifth"))._replace(seeds=len(rows))
            print(f"{text(point)} - sft_fifth = {told(d, rows)}; {d.seeds} seed{'s' * (d.seeds > 1)}")


def comparable(rows: Iterable[Row], others: Iterable[Row]) -> bool:
    """Whether all answered the same queries."""
    return len({row["queries_sha"] for row in (*rows, *others)}) == 1


def told(d: Difference, rows: Sequence[Row]) -> str:
    """With its verdict, which is open with one seed of what was trained."""
    return f"{signed(d)}, {d.told(trained(rows[0]))}"


def nearest(here: Path, files: str) -> Path:
    """The folder that holds such files: the one that one works in, that above it (a notebook's own lies in the
    checkout), or the package's checkout; where there are none, the first."""
    places = [here, here.parent, Path(lightning_paras2s.__file__).parents[1]]
    return next((place for place in places if any(place.glob(files))), here)


def runs_near(here: Path) -> Path | None:
    """Runs of one's own, in the folder that one works in or above it."""
    return next((place / "runs" for place in (here, here.parent) if (place / "runs").is_dir()), None)


def panels_of(widths: Sequence[float], height: float = 4.0) -> list[Axes]:
    """Side by side; the first is the paper's where there are several.

    Args:
        widths: of each, in inches.
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(sum(widths), height), layout="constrained")
    return list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])


def show() -> None:
    import matplotlib.pyplot as plt

    plt.show()


def came_out(paper: str, verdict: str) -> str:
    """Of `OUTCOMES`, by what the paper says of a claim and the verdict on it."""
    if verdict.startswith("open"):
        return "Open"
    if paper.startswith("not "):
        return "Asked beyond the paper's words"
    if verdict.startswith(("agrees", "fewer are enough", "lower")):  # without a side, the paper tells of no gain there
        return "Agreed"
    return "Did not agree" if verdict.startswith(("disagrees", "higher")) else "Undecided"


def text(point: Point) -> str:
    """By its plain values: a point with trees of options has a name beside them."""
    return ", ".join(f"{key} {value}" for key, value in point.items() if not isinstance(value, dict | list))


def mean(rows: Sequence[Row], *keys: str) -> float:
    """Over seeds, of what lies under the keys; NaN where no row has it."""
    found: list[Any] = list(rows)
    for key in keys:
        found = [row.get(key) for row in found if row]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else np.nan
