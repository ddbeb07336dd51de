"""Concordance of two raters on a scale, or of a model's arousal, valence and dominance with listeners' (Lin, Biometrics
45, 1989; MERaLiON-SER trains on it)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lightning_paras2s.errors import UserError


def concordance(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Lin's coefficient: 2 cov(x, y) / (var x + var y + (mean x - mean y)^2), moments over n.

    1 only where all values are equal: unlike Pearson's r, a shift or another spread costs. A constant rater agrees with
    nobody (0), unless both are the same constant (NaN: nothing to agree on). Values that either side lacks (NaN) are
    left out.

    Args:
        predicted: [N].
        reference: [N].

    Raises:
        UserError: of another shape.
    """
    x, y = np.asarray(predicted, float), np.asarray(reference, float)
    if x.shape != y.shape or x.ndim != 1:
        raise UserError(f"concordance needs two lists of one length; got {x.shape} and {y.shape}")
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
    if not len(x):
        return float("nan")
    spread = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.mean((x - x.mean()) * (y - y.mean())) / spread) if spread else float("nan")
