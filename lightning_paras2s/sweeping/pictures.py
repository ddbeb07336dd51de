"""Pictures of a figure group's rows (paper, Fig. 2a and 3), for the notebooks and for docs/findings.md.

Points of the grid without rows keep their place, no line leads over them, and every tick says how many seeds it has. A
hollow mark is one seed, whose interval says nothing of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.running.source import PACKAGE
from lightning_paras2s.sweeping.differences import Metric, score
from lightning_paras2s.sweeping.points import Results, Row, over_seeds, values_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, GREY, VIOLET = "#3b6fb6", "#c8553d", "#4a8f5b", "#6b7280", "#8e5ea2"
SKILLS = {"answer": BLUE, "repeat": RED, "name": GREEN, "read": VIOLET}
LABELS = {  # system: the sweep that has it, its name and look
    "sft": ("labels", "SFT alone", GREY, "s"),
    "grpo_constrained": ("labels_reward", "RL, reward model of as many labels", RED, "o"),
    "grpo_unconstrained": ("labels_reward", "RL, reward model of all labels", BLUE, "o"),
    "grpo": ("labels", "RL, judge in the loop", GREEN, "^"),
}
UNLABELLED = {
    "base": ("base policy, no labels", GREY, "P"),
    "rejection": ("rejection sampling, no labels", VIOLET, "D"),
    "grpo": ("", GREEN, "^"),  # the same curve's left end
}
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False, "fontsize": "small"}  # legends: off the marks
NONE = 0.02  # where the amount 0 stands on the logarithmic axis
KL = (("last_quarter", "kl"), "KL to the start, last quarter of steps, 95 %")
EQUAL = (("zero_variance_share",), "share of groups with equal rewards, 95 %")
GRIDS = {  # sweep: the grid that plans it, the key of its points, what it is, and what explains the scores
    "beta": ("beta", "beta", "beta, weight of the KL", None),
    "beta_short": ("beta", "beta", "beta, weight of the KL", None),
    "G_steps": ("G_steps", "G", "G, answers a query; equal steps", EQUAL),
    "G_rollouts": ("G_rollouts", "G", "G, answers a query; equal numbers of answers", EQUAL),
    "B_steps": ("B_steps", "B", "B, queries a step; equal steps", KL),
    "B_rollouts": ("B_rollouts", "B", "B, queries a step; equal numbers of answers", KL),
}
SOURCES = {
    "labels": ("labels", "labels_reward", "unlabelled"),
    **{sweep: (sweep, "start") for sweep in GRIDS},
}


def picture(name: str, results: Results) -> Figure:
    """Of a sweep of `SOURCES`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=name == "labels")
    if name == "labels":
        for axis, metric in zip(axes, ("pairs", "audit_pairs"), strict=True):
            label_curves(axis, results, metric)
        axes[1].set_ylabel("")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    else:
        grid_scores(axes[0], results, name)
        (grid_skills if GRIDS[name][3] is None else grid_values)(axes[1], results, name)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def label_curves(axis: Axes, results: Results, metric: Metric = "pairs") -> None:
    """Scores over the share of demonstrations, and what is reached without any (Fig. 2a)."""
    planned = sorted({*values_of("labels", "share"), *results.by("labels", "share")})
    made = {
        sweep: [results.by(sweep, "share").get(share, []) for share in planned] for sweep in ("labels", "labels_reward")
    }
    none = results.by("unlabelled", "share").get(0.0, [])
    for i, (system, (sweep, *look)) in enumerate(LABELS.items()):
        curve(axis, [share * 1.03 ** (i - 1.5) for share in planned], made[sweep], system, metric, *look)
    shown = {system: look for system, look in UNLABELLED.items() if none and system in none[0]["systems"]}
    for i, (system, look) in enumerate(shown.items()):
        curve(axis, [NONE * 1.06 ** (i - 1)], [none], system, metric, *look)
    if "rejection" in shown:
        axis.axhline(score(none, "rejection", metric).value, color=VIOLET, lw=1, ls="--")
    axis.set_xscale("log")
    ticks = [f"{share:.0%}\n{seeds(rows)}" for share, rows in zip(planned, made["labels"], strict=True)]
    if any(made["labels_reward"]):
        ticks = [f"{tick}\n{seeds(rows)}*" for tick, rows in zip(ticks, made["labels_reward"], strict=True)]
    axis.set_xticks([NONE, *planned], [f"0%\n{seeds(none)}", *ticks])
    axis.set_xticks([], minor=True)
    amounts = "share of the demonstrations" + "; *: with a reward model" * any(made["labels_reward"])
    axis.set(xlim=(NONE / 1.4, 1.4), xlabel=amounts)
    score_axis(axis)
    axis.set_title("judge" if metric == "pairs" else "audit (another ear for tone)", fontsize="medium")


def grid_scores(axis: Axes, results: Results, sweep: str) -> None:
    """Scores over a grid's points (Fig. 3), beside where RL started."""
    points = grid_points(axis, results, sweep)
    start = results.by("start", "policy").get("sft_fifth", [])
    about = {row["queries_sha"] for rows in (*points, start) for row in rows}
    heard: tuple[tuple[Metric, str, str, str], ...] = (
        ("pairs", "judge", BLUE, "o"),
        ("audit_pairs", "audit", RED, "D"),
    )
    for i, (metric, label, colour, mark) in enumerate(heard):
        curve(axis, np.arange(len(points)) + 0.12 * (i - 0.5), points, "grpo", metric, label, colour, mark)
        if start and any(points) and len(about) == 1:
            value = score(start, "sft_fifth", metric).value
            axis.axhline(value, color=colour, lw=1, ls=":", label=f"its start (sft_fifth), {label}")
    score_axis(axis)
    if any(points):
        axis.legend(**ABOVE, ncols=2)


def grid_skills(axis: Axes, results: Results, sweep: str) -> None:
    """Changes of ordinary skills over a grid's points: what is forgotten."""
    points = grid_points(axis, results, sweep)
    for i, (skill, colour) in enumerate(SKILLS.items()):
        found = [change(rows, skill) if rows and skill in rows[0].get("skills", {}) else None for rows in points]
        counts = [len(rows) for rows in points]
        marks(axis, np.arange(len(points)) + 0.08 * (i - 1.5), found, counts, skill, colour, "o")
    axis.axhline(0, color="black", lw=0.8)
    axis.set(ylabel="change of the share done right, 95 %")
    if any(points):
        axis.legend(**ABOVE, ncols=4)


def grid_values(axis: Axes, results: Results, sweep: str) -> None:
    """What explains the scores, over a grid's points: a mean over seeds of a value of each run."""
    points = grid_points(axis, results, sweep)
    path, label = GRIDS[sweep][3]
    known = [values_at(rows, path) for rows in points]
    found = [over_seeds(values) if values else None for values in known]
    marks(axis, np.arange(len(points)), found, list(map(len, known)), "", GREEN, "o")
    axis.set(ylabel=label, ylim=(0, None))


def grid_points(axis: Axes, results: Results, sweep: str) -> list[list[Row]]:
    """The rows of every planned point; the axis has them evenly spaced, with their seeds."""
    grid, key, label, _ = GRIDS[sweep]
    rows = results.by(sweep, key)
    planned = sorted({*values_of(grid, key), *rows})
    axis.set_xticks(range(len(planned)), [f"{value:g}\n{seeds(rows.get(value, []))}" for value in planned])
    axis.set(xlim=(-0.5, len(planned) - 0.5), xlabel=label)
    return [rows.get(value, []) for value in planned]


def curve(
    axis: Axes, places: Sequence[float], points: Sequence[list[Row]], system: str, metric: Metric, *look: str
) -> None:
    """A system's scores, joined by a thin line."""
    found = [score(rows, system, metric) if rows and system in rows[0]["systems"] else None for rows in points]
    marks(axis, places, found, [len(rows) for rows in points], *look)


def score_axis(axis: Axes) -> None:
    """No further than scores go: whiskers of two seeds may."""
    low, high = axis.get_ylim()
    axis.set(ylabel="score, 1 to 5, 95 %", ylim=(max(low, 1), min(high, 5)))


def marks(
    axis: Axes,
    places: Sequence[float],
    found: Sequence[Estimate | None],
    counts: Sequence[int],
    label: str,
    colour: str,
    mark: str,
) -> None:
    """Values with whiskers where there is an interval; hollow with one seed."""
    axis.plot(places, [e.value if e else np.nan for e in found], color=colour, lw=1, alpha=0.6)
    for x, e, count in zip(places, found, counts, strict=True):
        if e is not None:
            reach = np.nan_to_num(np.maximum([[e.value - e.low], [e.high - e.value]], 0.0))
            look = {"color": colour, "mfc": colour if count > 1 else "white", "ms": 5, "lw": 1.2}
            axis.errorbar(x, e.value, reach, fmt=mark, capsize=3, **look)
    if label and any(found):
        axis.plot([], [], mark, color=colour, ms=5, label=label)


def change(rows: Sequence[Row], skill: str) -> Estimate:
    """Mean over seeds of a skill's change (Student's t); with one seed the interval over its texts."""
    cells = [row["skills"][skill]["grpo"] for row in rows]
    if len(rows) > 1:
        return over_seeds([cell["change"] for cell in cells])
    return Estimate(cells[0]["change"], *cells[0]["change_ci95"], 1, cells[0]["n"])


def seeds(rows: Sequence[Row]) -> str:
    return f"{len(rows)} seed{'s' * (len(rows) > 1)}" if rows else "not run"


def values_of(config: str, key: str) -> list[float]:
    """The values of a shipped grid."""
    return [point[key] for point in planned_points(config)]


def planned_points(config: str) -> list[dict[str, Any]]:
    """The points of a shipped grid, in its order; none of a grid of one's own."""
    path = PACKAGE / f"configs/sweeps/{config}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))["points"] if path.is_file() else []
