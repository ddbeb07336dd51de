"""What docs/results.md says of ears from outside on the full test set comes from the shipped rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lightning_paras2s.bench.outside_numbers import differences, error_rate, measures
from lightning_paras2s.bench.outside_table import COLUMNS, cells
from lightning_paras2s.bench.statistics import clustered_mean
from lightning_paras2s.types import FACTORS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### The full test set")[2].partition("\n### ")[0]


def numbers_of(row: dict) -> dict:
    """A shipped line's numbers; word error rates are made from the transcripts again."""
    numbers = {name: row.get(name) for name in COLUMNS}
    numbers["wer_outside"] = error_rate(row["text"], row["heard_outside"])
    numbers["wer_ours"] = error_rate(row["text"], row.get("heard_ours"))
    pair = f"{row['factor']}/{row['pair_id']}"
    return numbers | {"query": SimpleNamespace(id=row["query_id"], pair=pair, factor=row["factor"])}


def by_system(lines: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in map(json.loads, lines.splitlines()):
        found.setdefault(row["system"], []).append(numbers_of(row))
    return found


@pytest.fixture(scope="module")
def heard() -> dict[str, list[dict]]:
    return by_system(gzip.decompress((ROOT / "results/ears_full.jsonl.gz").read_bytes()).decode())


def told(value: float, low: float, high: float, digits: int = 2) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def test_the_table(heard):
    assert SECTION.count("\n| ") == 1 + len(heard)  # the heading, and a line a system
    for system, rows in heard.items():
        assert "| " + " | ".join(cells(system, measures(rows))) + " |" in SECTION
    assert {len(rows) for rows in heard.values()} == {1758}


def test_the_policy_of_the_reward_model_against_its_start(heard):
    pair = {name: heard[name] for name in ("sft_fifth", "grpo_scorer")}
    of = {d["measure"]: told(d["value"], *d["ci95"]) for d in differences(pair)}
    for name, lead in {"score_outside": "differ by ", "wer_outside": "rises by ", "dnsmos": "changes by "}.items():
        assert f"{lead}{of[name]}" in SECTION, (name, of[name])
    assert f"our own ears hear {of['score_ours']}" in SECTION
    assert f"writes is {of['perplexity_written']} times" in SECTION
    value, *ends = re.findall(r"-?\d\.\d\d", of["score_outside"])
    assert re.search(rf"{value[1:]} \*less\* than the `sft_fifth` .*\[{ends[0]}, {ends[1]}\]", PAGE)


def test_each_factor(heard):
    start = {row["query"].id: row for row in heard["sft_fifth"]}
    for factor in FACTORS:
        rows = [row for row in heard["grpo_scorer"] if row["query"].factor == factor]
        apart = [row["score_outside"] - start[row["query"].id]["score_outside"] for row in rows]
        found = clustered_mean(apart, [row["query"].pair for row in rows])
        assert f"{factor} {told(found.value, *found.ci95)}" in SECTION


def test_shares_of_answers_misheard_by_more_than_half(heard):
    for system, lead in {"sft_fifth": "In ", "grpo_scorer": "and in "}.items():
        share = np.mean([row["wer_outside"] > 0.5 for row in heard[system]])
        assert f"{lead}{share:.2f} of those of `{system}`" in SECTION


def test_the_table_of_a_part_with_control_voices():
    found = by_system((ROOT / "results/ears.jsonl").read_text(encoding="utf-8"))
    assert len(found) == 7
    for system, numbers in found.items():
        assert "| " + " | ".join(cells(system, measures(numbers))) + " |" in PAGE
