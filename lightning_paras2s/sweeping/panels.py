"""The panels of a notebook's figure: the paper's words, or the digits that it prints, and a sweep's scores beside them.

Every planned point keeps its place; a hollow mark is one seed of what was trained.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_paras2s.sweeping.differences import Metric, score
from lightning_paras2s.sweeping.pictures import ABOVE, BLUE, GREEN, GREY, RED, VIOLET, score_axis, seeds
from lightning_paras2s.sweeping.points import Row, trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Printed = Mapping[str, Mapping[str, float]]  # series -> {place: a number that the paper prints}
COLOURS = (BLUE, RED, GREEN, VIOLET, GREY)
EARS: tuple[tuple[Metric, str, str], ...] = (("pairs", "judge", "o"), ("audit_pairs", "audit", "D"))
WORDS = 44  # characters a line of the paper's panel


def tell(axis: Axes, said: Sequence[str]) -> None:
    """The paper's words alone."""
    axis.set_title("the paper", loc="left")
    axis.axis("off")
    axis.text(0, 0.97, wrapped(said), va="top", fontsize=9, transform=axis.transAxes)


def tell_printed(axis: Axes, said: Sequence[str], printed: Printed) -> None:
    """The numbers that the paper prints, which have no intervals, above its words."""
    places = list(dict.fromkeys(place for series in printed.values() for place in series))
    for i, (name, series) in enumerate(printed.items()):
        at = [places.index(place) + 0.8 * ((i + 0.5) / len(printed) - 0.5) for place in series]
        axis.plot(at, list(series.values()), "o", color=COLOURS[i], ms=5, label=name)
        for x, value in zip(at, series.values(), strict=True):
            axis.annotate(f"{value:.3f}", (x, value), (0, 5), textcoords="offset points", ha="center", fontsize=7)
    axis.set_xticks(range(len(places)), [textwrap.fill(place, 10) for place in places])
    axis.set(xlim=(-0.5, len(places) - 0.5), ylabel="score, 1 to 5, no intervals printed", ylim=(1, 5))
    axis.set_xlabel(wrapped(said), fontsize=9, loc="left")
    axis.legend(**ABOVE, ncols=2, title="the paper", alignment="left")


def tell_open(axis: Axes, name: str) -> None:
    """That there are no rows, and how to make them."""
    config = name.removeprefix("sweep_")
    axis.axis("off")
    command = f"python -m lightning_paras2s sweep --config sweeps/{config}.yaml"
    axis.text(0, 0.97, f"open: no rows yet\n{command}", va="top", fontsize=9, transform=axis.transAxes)


def spread(axis: Axes, points: Sequence[tuple[str, list[Row]]], start: list[Row]) -> None:
    """The scores of each system by judge and audit over the points, none of whose marks lies on another.

    Args:
        points: what each is called, and its rows; without rows it was not run.
        start: rows of `sft_fifth`, which lines show where the systems came from.
    """
    made = [rows for _, rows in points if rows]
    systems = list(dict.fromkeys(system for rows in made for system in rows[0]["systems"]))
    series = [(system, i, *ear) for i, system in enumerate(systems) for ear in EARS]
    for k, (system, i, metric, ear, mark) in enumerate(series):
        aside = 0.7 * ((k + 0.5) / len(series) - 0.5)
        label = f"{system}, {ear}"
        look = {"color": COLOURS[(2 * i + (metric != "pairs")) % len(COLOURS)], "ms": 5, "lw": 1.2, "capsize": 3}
        for place, (_, rows) in enumerate(points):
            if rows and system in rows[0]["systems"]:
                found = score(rows, system, metric)
                reach = np.nan_to_num([[found.value - found.low], [found.high - found.value]])
                fill = look["color"] if len(rows) > 1 or not trained(rows[0]) else "white"
                axis.errorbar(place + aside, found.value, reach, fmt=mark, mfc=fill, **look)
        axis.plot([], [], mark, color=look["color"], ms=5, label=label)
    for (metric, ear, _), colour in zip(EARS, COLOURS, strict=False) if start and "sft_fifth" not in systems else ():
        value = score(start, "sft_fifth", metric).value
        axis.axhline(value, color=colour, lw=1, ls=":", label=f"its start (sft_fifth), {ear}")
    axis.set_xticks(range(len(points)), [tick(name, rows, len(points)) for name, rows in points])
    axis.set_xlim(-0.5, len(points) - 0.5)
    score_axis(axis)
    axis.legend(**ABOVE, ncols=2)


def tick(name: str, rows: list[Row], of: int) -> str:
    """A point and its seeds, of which what was not trained has none."""
    told = textwrap.fill(name, 16 if of < 6 else 9)
    return told if rows and not trained(rows[0]) else f"{told}\n{seeds(rows)}"


def wrapped(said: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(line, WORDS) for line in said)
