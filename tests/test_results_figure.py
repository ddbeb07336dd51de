"""The README's figure: the shipped rows are drawn, in their order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "figures"))
import results  # noqa: E402


def test_shipped_rows_are_drawn(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (ROOT / "results/embedded.jsonl").read_text().splitlines()]
    axes = results.draw(rows, tmp_path / "figure.png").axes
    assert (tmp_path / "figure.png").stat().st_size > 5000
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert [name.split()[0] for name in names] == [row["system"] for row in rows]
    assert [name.endswith("(3 seeds)") for name in names] == [isinstance(row["seed"], list) for row in rows]
