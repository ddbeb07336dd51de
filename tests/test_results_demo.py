"""What docs/log.md says of the demo with fewer answers a query comes from shipped rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.bench.statistics import macro_difference
from lightning_paras2s.types import FACTORS

ROOT = Path(__file__).parents[1]
SAID = re.findall(r"- G (\d), seed (\d), \w+ threads? \(.*?\): (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]",
                  (ROOT / "docs/log.md").read_text(encoding="utf-8"))  # fmt: skip


@pytest.mark.parametrize("said", SAID, ids=lambda said: f"G{said[0]}-{said[1]}")
def test_gain_of_a_demo_with_smaller_groups(said):
    group, seed, *figures = said
    lines = gzip.decompress((ROOT / "results/demo_groups.jsonl.gz").read_bytes()).decode().splitlines()
    rows = [r for r in map(json.loads, lines) if (r["group_size"], r["seed"]) == (int(group), int(seed))]
    columns = {}
    for factor in FACTORS:
        part = [r for r in rows if r["factor"] == factor]
        columns[factor] = (np.array([r["after"] - r["before"] for r in part]), [r["pair_id"] for r in part])
    got = macro_difference(columns)
    assert len(rows) == 160 and [float(n) for n in figures] == pytest.approx([got.value, *got.ci95], abs=0.0051)


def test_all_four_are_told():
    assert len(SAID) == 4
