"""Near-duplicate texts: the stated method behind the text set, `mine` and `filter`.

Two texts are alike when they share at least 60 % of their words (Jaccard index of the sets of lower-case words; of a
script without spaces each character is a word), or are equal but for one word in one place. Where texts have been
embedded (meaning.py), near in meaning counts, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_array

from lightning_paras2s.hearing.words import plain_units

MIN_OVERLAP = 0.6
CHUNK = 1000  # texts compared with all others at a time


def alike(first: str, second: str) -> bool:
    """Whether two texts are near duplicates."""
    a, b = plain_units(first), plain_units(second)
    union = set(a) | set(b)
    overlap = len(set(a) & set(b)) / len(union) if union else 1.0
    one_word = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) <= 1
    return overlap >= MIN_OVERLAP or one_word


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Indices (i, j), i < j, of all texts that are alike; texts without a common word are not compared."""
    index: dict[str, int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        for word in set(plain_units(text)):
            rows.append(row)
            columns.append(index.setdefault(word, len(index)))
    bags = csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(texts), max(1, len(index))))
    sizes = np.asarray(bags.sum(1))
    found = []
    for start in range(0, len(texts), CHUNK):
        common = (bags[start : start + CHUNK] @ bags.T).tocoo()
        i, j = common.row + start, common.col
        # One word in another place changes each bag by at most one, so alike texts share all but one word or 60 %.
        enough = np.minimum(np.minimum(sizes[i], sizes[j]) - 1, MIN_OVERLAP * sizes[i])
        chosen = (i < j) & (common.data >= np.maximum(enough, 1))
        pairs = zip(i[chosen].tolist(), j[chosen].tolist(), strict=True)
        found += [(i, j) for i, j in pairs if alike(texts[i], texts[j])]
    return sorted(found)


def near_in_meaning(vectors: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Indices (i, j), i < j, of all texts whose embeddings have a cosine of at least `least`.

    Args:
        vectors: [N, D], rows of length 1.
    """
    found = []
    for start in range(0, len(vectors), CHUNK):
        rows, columns = np.nonzero(vectors[start : start + CHUNK] @ vectors.T >= least)
        found += [(i, j) for i, j in zip((rows + start).tolist(), columns.tolist(), strict=True) if i < j]
    return found


def first_of_each(texts: Sequence[str], more: Iterable[tuple[int, int]] = ()) -> list[int | None]:
    """For each text None if it is kept, else the index of the kept text that it repeats (earlier texts win).

    Args:
        more: pairs (i, j), i < j, that repeat each other for another reason than their words.
    """
    repeats: list[int | None] = [None] * len(texts)
    for i, j in sorted({*near_duplicates(texts), *more}):
        if repeats[i] is None and repeats[j] is None:
            repeats[j] = i
    return repeats
