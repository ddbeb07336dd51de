"""What is computed together: items of like length, because padding costs as much as they do."""

from __future__ import annotations

from collections.abc import Sequence


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places of the items in batches of at most `size`, the shortest first; of equal ones the first first."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]
