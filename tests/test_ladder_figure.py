"""The ladder's figure: moving means and their intervals, by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "figures"))
import ladder  # noqa: E402


def test_moving_mean_when_there_is_one_run() -> None:
    """Of 1..10 and 2..11; standard deviation 3.0277 each, t(.975, 9) = 2.2622: 2.2622 * 3.0277 / sqrt(10)."""
    mean, half = ladder.moving([[float(i) for i in range(1, 12)]])
    assert mean == pytest.approx([5.5, 6.5])
    assert half == pytest.approx([2.1659, 2.1659], abs=1e-3)


def test_moving_mean_when_there_are_two_seeds() -> None:
    """Means 1 and 3: standard deviation sqrt(2), t(.975, 1) = 12.706."""
    mean, half = ladder.moving([[1.0] * 10, [3.0] * 12])
    assert mean == pytest.approx([2.0])
    assert half == pytest.approx([12.706], abs=1e-2)


def test_rewards_when_other_rows_lie_between(tmp_path: Path) -> None:
    rows = [{"step": 0, "train/reward": 2.0}, {"step": 0, "probe/judge": 5.0}, {"step": 1, "train/reward": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ladder.rewards(tmp_path) == [2.0, 3.0]
