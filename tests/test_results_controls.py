"""What docs/log.md says of rejection sampling, of the anchored voice and of fitting nouns comes from shipped rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.bench.seeds import design_of, estimate, macro_parts
from lightning_paras2s.bench.statistics import macro_difference
from lightning_paras2s.types import FACTORS, Query

ROOT = Path(__file__).parents[1]
LOG = (ROOT / "docs/log.md").read_text(encoding="utf-8")
SAID = re.compile(r"`(rejection|grpo_anchor|sft_fitting)`, seed (\d): (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")


def rows(name: str) -> list[dict]:
    text = gzip.decompress((ROOT / "results" / name).read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("found", SAID.findall(LOG), ids=lambda found: "-".join(found[:2]))
def test_difference_to_sft_fifth(found):
    system, seed, *figures = found
    own = {r["query_id"]: r for r in rows("controls2.jsonl.gz") if (r["system"], r["seed"]) == (system, int(seed))}
    start = {r["query_id"]: r["score"] for r in rows("rubric2.jsonl.gz") if r["system"] == "sft_fifth"}
    both = [r for name, r in own.items() if start.get(name) is not None]
    columns = {}
    for factor in FACTORS:
        part = [r for r in both if r["factor"] == factor]
        columns[factor] = (np.array([r["score"] - start[r["query_id"]] for r in part]), [r["pair_id"] for r in part])
    got = macro_difference(columns)
    assert len(both) >= 1757
    assert [float(n) for n in figures] == pytest.approx([got.value, *got.ci95], abs=0.0051)


def test_all_seven_are_told():
    assert len(SAID.findall(LOG)) == 7


@pytest.mark.parametrize("system", ["rejection", "grpo_anchor", "grpo_judge"])
def test_gain_over_seeds(system):
    start = {r["query_id"]: r for r in rows("rubric2.jsonl.gz") if r["system"] == "sft_fifth"}
    of = rows("rubric2.jsonl.gz" if system == "grpo_judge" else "controls2.jsonl.gz")
    found = {(r["seed"], r["query_id"]): r["score"] for r in of if r["system"] == system}
    held = [r for q, r in start.items() if None not in (r["score"], *(found.get((seed, q)) for seed in (1, 2, 3)))]
    design = design_of([Query(r["query_id"], r["pair_id"], r["factor"], "", "", {}, "", "") for r in held])
    gains = [[found[seed, r["query_id"]] - r["score"] for r in held] for seed in (1, 2, 3)]
    got = estimate(macro_parts(np.array(gains), design), design)
    told = re.search(rf"- `{system}`(?:, which has no anchor)?: (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", LOG)
    assert [float(n) for n in told.groups()] == pytest.approx([got.value, *got.ci95], abs=0.0051)
