"""Pages that open from disk: the packaged templates, which share a head, and their marks."""

from __future__ import annotations

import re
from importlib.resources import files


def template(name: str, width: int) -> str:
    """A page as it is packaged, its marks unfilled.

    Args:
        name: of its file, whose first lines follow the head that all pages share.
        width: of the page at most, in pixels.
    """
    folder = files("lightning_paras2s") / "bench"
    head, page = ((folder / one).read_text(encoding="utf-8") for one in ("head.html", name))
    return head.replace("__WIDTH__", str(width)) + page


def filled(page: str, fill: dict[str, str]) -> str:
    """A page with its marks filled in, in one pass: what is filled in may look like a mark."""
    return re.sub("|".join(map(re.escape, fill)), lambda mark: fill[mark[0]], page)
