"""Fewer recordings, with labels as even as they can be: the condensation of speech in the wild by pseudo labels (CPQA,
Wang et al., arXiv 2505.13338, section 2.1).

Most speech is neutral and adult: a random part of it holds hardly any fear. CPQA labels all of it by classifiers, and
keeps a part in which the labels are balanced. Whose labels these are (a recogniser's, a corpus's) is the caller's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256

from lightning_paras2s.errors import UserError


def balanced_quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of each label to keep: all of the rare ones, and of the others equally many; what the division
    leaves over goes to those that have most, one each.

    Args:
        counts: label -> how many there are.
        size: how many to keep; more than there are keeps all.

    Raises:
        UserError: a negative number.
    """
    if size < 0 or any(count < 0 for count in counts.values()):
        raise UserError(f"numbers to keep must be at least 0; got {size} of {dict(counts)}")
    left, quotas = size, {}
    for place, label in enumerate(sorted(counts, key=lambda name: (counts[name], name))):
        quotas[label] = min(counts[label], left // (len(counts) - place))
        left -= quotas[label]
    return quotas


def condense(labels: Mapping[str, str], size: int, seed: int = 0) -> list[str]:
    """The ids of a part with balanced labels, in the order in which they came.

    Which of a label are kept depends on their ids and the seed alone: not on the order, nor on how many more there are
    of other labels.

    Args:
        labels: id -> label.
        size: how many to keep.
        seed: another draw.
    """
    quotas = balanced_quotas(Counter(labels.values()), size)
    drawn = sorted(labels, key=lambda name: sha256(f"{seed}/{name}".encode()).digest())
    kept: set[str] = set()
    for name in drawn:
        if quotas[labels[name]]:
            quotas[labels[name]] -= 1
            kept.add(name)
    return [name for name in labels if name in kept]
