"""Plots as inline SVG, without a plotting library: means with intervals, and how the scores are spread."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

COLOURS = ("#3b6fb6", "#c8553d", "#4f9d69", "#8b5fbf", "#b08d2f", "#3a9ca6", "#c2527f", "#6b7280")
LONGEST = 30  # letters of a name beside a plot
SCORE_COLOURS = ("#d9695c", "#e8a878", "#d9c27a", "#8fbf85", "#3f8f5b")


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def interval_plot(systems: dict[str, dict[str, Any]], columns: list[str], width: int = 440) -> str:
    """Mean and 95 % interval of each system, a panel a column, on the scale 1..5."""
    left, row, head = margin(systems), 17, 23
    height = len(columns) * (head + row * len(systems)) + 30
    scale = lambda v: left + (v - 1) / 4 * (width - left - 16)  # noqa: E731
    parts = [_svg(width, height, "Mean score and 95 % interval of each system")]
    parts += [
        f'<line class="grid" x1="{scale(v):.1f}" x2="{scale(v):.1f}" y1="0" y2="{height - 24}"/>' for v in range(1, 6)
    ]
    parts += [
        f'<text class="tick" x="{scale(v):.1f}" y="{height - 8}" text-anchor="middle">{v}</text>' for v in range(1, 6)
    ]
    y = 0
    for column in columns:
        parts.append(f'<text class="panel" x="0" y="{y + 15}">{escape(column)}</text>')
        y += head
        for index, (name, cells) in enumerate(systems.items()):
            cell, middle = cells.get(column, {}), y + row / 2
            parts.append(
                f'<text class="name" x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(short(name))}</text>'
            )
            if cell.get("mean") is not None:
                low, high = (cell["mean"] if v is None else v for v in cell["ci95"])
                ends = "no interval" if None in cell["ci95"] else f"[{low:.2f}, {high:.2f}]"
                about = escape(f"{name}, {column}: {cell['mean']:.2f} {ends}, n {cell['n']}")
                parts.append(
                    f'<g stroke="{colour(index)}" fill="{colour(index)}"><title>{about}</title>'
                    f'<line stroke-width="3" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{middle}" y2="{middle}"/>'
                    f'<circle r="5" cx="{scale(cell["mean"]):.1f}" cy="{middle}"/></g>'
                )
            y += row
    return "".join(parts) + "</svg>"


def score_bars(counts: dict[str, dict[str, int]], width: int = 440) -> str:
    """How often each score was given: one stacked bar a system; grey is unscored.

    Args:
        counts: system -> score ("1".."5", "-") -> number.
    """
    left, row = margin(counts), 30
    height = row * len(counts) + 8
    parts = [_svg(width, height, "Share of each score by system")]
    for index, (name, found) in enumerate(counts.items()):
        total, x, y = sum(found.values()) or 1, float(left), index * row + 4
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(short(name))}</text>')
        for score in ("1", "2", "3", "4", "5", "-"):
            share = found.get(score, 0) / total
            size = share * (width - left - 16)
            fill = "#9ca3af" if score == "-" else SCORE_COLOURS[int(score) - 1]
            about = f"{name}: {found.get(score, 0)} of {total} {'unscored' if score == '-' else 'scored ' + score}"
            if share:
                parts.append(
                    f"<g><title>{escape(about)}</title>"
                    f'<rect x="{x:.1f}" y="{y}" width="{size:.1f}" height="22" fill="{fill}"/>'
                )
                label = f'<text class="bar" x="{x + size / 2:.1f}" y="{y + 15}" text-anchor="middle">{score}</text>'
                parts.append((label if size > 16 else "") + "</g>")
            x += size
    return "".join(parts) + "</svg>"


def margin(names: Iterable[str]) -> int:
    """Room for the longest name left of a plot, at 8 units a letter."""
    return max([96, *(8 * len(short(name)) + 12 for name in names)])


def short(name: str) -> str:
    """A name that leaves room for its plot; what a pointer rests on tells the whole."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _svg(width: int, height: float, title: str) -> str:
    name = escape(title)
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{name}"><title>{name}</title>'
