"""A screen: what a command prints for a person, at most 80 columns wide, and the next command to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 80
OVERALL = "overall"
Result = dict[str, Any]


class Shown(NamedTuple):
    """Attributes:
    parts: lines and tables, in order.
    next: the command to type next, without the program's name; "" = none.
    missing: why nothing came out; "" where something did.
    """

    parts: list[RenderableType]
    next: str = ""
    missing: str = ""


def table(headings: Iterable[str], rows: Iterable[Iterable[Any]], title: str = "") -> Table:
    """Names left, numbers right."""
    made = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell(value)) for value in row))
    return made


def cell(value: Any) -> str:
    """A number as it is read; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def with_ends(value: float | None, ends: Iterable[float | None] | None, digits: int = 3) -> str:
    """ "3.210 [3.050, 3.370]"; "-" where there is no number."""
    if value is None:
        return "-"
    low, high = ends or (None, None)
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def counted(counts: Result) -> str:
    """ "kept 3, few_words 2"."""
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def quoted(paths: Iterable[str]) -> str:
    """A list of folders as one types it."""
    return shlex.quote("[" + ", ".join(paths) + "]")
