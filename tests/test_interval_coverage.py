"""The shipped coverage of every interval, and that the script makes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "speed"))
import intervals as script  # noqa: E402

ROWS = [json.loads(line) for line in (ROOT / "results/coverage.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row["interval"] for row in ROWS])
def test_every_shown_interval_covers_at_the_nominal_rate(row):
    assert row["repeats"] == 1000 and list(map(int, row["pairs"])) == [2, 3, 5, 10, 20, 40]
    for pairs, cell in row["pairs"].items():
        assert cell["coverage"] is None or 0.93 <= cell["coverage"] <= 0.97, (row["interval"], pairs, cell)
    assert row["pairs"]["40"]["coverage"] is not None and row["pairs"]["3"]["coverage"] is None


def test_script_counts_what_is_shown_and_what_covers():
    intervals = iter([((0.0, 2.0), 1.0), ((0.0, 0.5), 1.0), ((np.nan, np.nan), 1.0), ((None, None), 1.0)])
    assert script.share_covered(lambda: next(intervals), 4) == {"shown": 0.5, "coverage": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("metric", list(script.METRICS))
def test_intervals_cover_again(metric):
    """As the script, other draws: 3 sd of a binomial of 1,000 are .021."""
    random = np.random.default_rng(7)
    rates = script.POPULATIONS["grpo"]
    values = {f: script.METRICS[metric](script.population(r, random)) for f, r in rates.items()}
    found = script.share_covered(lambda: script.of_factors(metric, values, 20, random), 1000)
    assert found["shown"] == 1 and abs(found["coverage"] - 0.95) <= 0.021
