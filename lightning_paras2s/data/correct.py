"""A recogniser's lexicon: words that it does not know are replaced by the nearest word that it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein


def correct(text: str, lexicon: Sequence[str], cutoff: float = 0.5) -> str:
    """Each word of `text` that is not in `lexicon` becomes the nearest one there, if their similarity (1 - edits /
    length) is `cutoff` or more."""
    known = _as_set(tuple(lexicon))
    return " ".join(word if word in known else _nearest(word, tuple(lexicon), cutoff) for word in text.split())


@lru_cache
def _as_set(lexicon: tuple[str, ...]) -> frozenset[str]:
    return frozenset(lexicon)


@lru_cache(maxsize=100_000)
def _nearest(word: str, lexicon: tuple[str, ...], cutoff: float) -> str:
    found = process.extractOne(word, lexicon, scorer=Levenshtein.normalized_similarity, score_cutoff=cutoff)
    return found[0] if found else word
