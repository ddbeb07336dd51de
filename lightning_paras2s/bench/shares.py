"""95 % intervals of shares: of one, of the difference of two on the same items, and of means of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

MIN_SHARED, MIN_SHARED_EACH = 40, 10  # for a share, and in each column: 0 of 5 and 1 of 5 are far apart
# For a difference of shares, and of its items those that differ. With fewer items an interval covers up to .99 where
# few differ, and to ask for more that do makes it worse: those that do by luck pass, and .7 to .9 of them cover.
MIN_COMPARED, MIN_DIFFERING = 100, 3
Z = float(stats.norm.ppf(0.975))
Share = tuple[float, float, float]  # value, low, high


def wilson(successes: float, n: int) -> Share:
    """Of a share (Wilson 1927)."""
    share = successes / n
    middle, half = (share + Z**2 / (2 * n)), Z * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return share, (middle - half) / (1 + Z**2 / n), (middle + half) / (1 + Z**2 / n)


def tango(better: int, worse: int, n: int) -> Share:
    """Of the difference of two shares of the same n items, of which the first is right on `better` and the second on
    `worse` alone: the differences that a score test does not refuse (Tango, Statistics in Medicine 17, 1998, p. 891).
    """

    def score(difference: float) -> float:
        # The likeliest chance of `worse` under this difference: the root of 2 n q^2 + b q - c.
        b = (2 * n - better + worse) * difference - better - worse
        c = worse * difference * (1 - difference)
        q = (np.sqrt(b**2 + 8 * n * c) - b) / (4 * n)
        return (better - worse - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference)))

    def end(z: float) -> float:
        return float(optimize.brentq(lambda difference: score(difference) - z, 1e-9 - 1, 1 - 1e-9))

    return (better - worse) / n, -1.0 if worse == n else end(Z), 1.0 if better == n else end(-Z)


def mean_of(shares: Sequence[Share]) -> Share:
    """Of the mean of independent ones (Zou and Donner, Statistics in Medicine 27, 2008, p. 1693)."""
    value = float(np.mean([share for share, *_ in shares]))
    below, above = (np.sqrt(sum((p - end[i]) ** 2 for p, *end in shares)) / len(shares) for i in (0, 1))
    return value, float(value - below), float(value + above)
