"""The tables by the mended judge on docs/results.md come from the shipped answers' rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_results_ears import numbers_of

from lightning_paras2s.bench.items import figures, read_items
from lightning_paras2s.bench.outside_numbers import measures
from lightning_paras2s.bench.outside_table import cells
from lightning_paras2s.bench.seeds import design_of, estimate, macro_parts
from lightning_paras2s.bench.statistics import macro_difference
from lightning_paras2s.types import FACTORS, Query

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = ("mean", "ci95", "audit_mean", "audit_ci95", "label_swap_gain", "label_swap_gain_ci95", "pair_accuracy")
KEYS += ("pair_accuracy_ci95", "wer")
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    text = gzip.decompress((ROOT / "results/ears_judge.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.\d+", text)]


def test_the_table_by_the_mended_judge():
    items = read_items(ROOT / "results/rubric2.jsonl.gz")
    section = PAGE.partition("## By the mended judge")[2].partition("```")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(lines) == 7 == len({i.system for i in items})
    for line in lines:
        own = [i for i in items if i.system == re.match(r"\| `(\w+)`", line)[1]]
        made = figures(own)
        values = [v for key in KEYS for v in np.atleast_1d(np.array(made[key], float)) if np.isfinite(v)]
        assert numbers(line.partition("|")[2].partition("|")[2]) == pytest.approx(values, abs=0.0051), line
        if made["system"] == "grpo_judge":
            assert numbers(PAGE.partition("`grpo_judge` score ")[2][:20]) == pytest.approx(made["by_seed"], abs=0.0051)


def test_the_gain_by_the_mended_judge_is_the_readmes():
    items = read_items(ROOT / "results/rubric2.jsonl.gz")
    scores = {(i.system, i.seed, i.query_id): i.score for i in items}
    before = [i for i in items if i.system == "sft_fifth"]
    of = [[scores["grpo_judge", seed, i.query_id] for i in before] for seed in SEEDS]
    design = design_of([Query(i.query_id, i.pair_id, i.factor, "", "", {}, "", "") for i in before])
    base = macro_parts(np.array([[i.score for i in before]] * len(SEEDS), float), design)
    gain = estimate(macro_parts(np.array(of, float), design) / base, design)
    for page in (README, PAGE):
        shown = re.search(r"\*\*(1\.\d+) times\*?\*? ?.*?\[(.+?), (.+?)\]", page)
        assert [float(n) for n in shown.groups()] == pytest.approx([gain.value, *gain.ci95], abs=0.0051)


def test_what_the_demo_gained_is_the_readmes():
    items = read_items(ROOT / "results/demo.jsonl.gz")
    before, after = ({i.query_id: i for i in items if i.system == name} for name in ("sft_fifth", "grpo"))
    columns = [[after[q].score - i.score for q, i in before.items() if i.factor == f] for f in sorted(FACTORS)]
    pairs = [[i.pair_id for i in before.values() if i.factor == f] for f in sorted(FACTORS)]
    made = macro_difference({str(n): (np.array(c), p) for n, (c, p) in enumerate(zip(columns, pairs, strict=True))})
    shown = numbers(README.partition("the judge gave ")[2][:30])[:3]
    assert len(before) == 160 and shown == pytest.approx([made.value, *made.ci95], abs=0.0051)


def test_what_whisper_hears_of_each_seed(rows):
    found: dict[str, list[dict]] = {}
    for row in rows:
        name = "sft_fifth" if row["system"] == "sft_fifth" else f"grpo_judge, seed {row['seed']}"
        found.setdefault(name, []).append(numbers_of(row))
    assert len(found) == 4
    for name, made in found.items():
        assert "| " + " | ".join(cells(name, measures(made))) + " |" in PAGE


def test_the_outside_score_of_each_seed_against_the_start(rows):
    before = {row["query_id"]: row for row in rows if row["system"] == "sft_fifth"}
    scores = {(r["seed"], r["query_id"]): r["score_outside"] for r in rows if r["system"] == "grpo_judge"}
    values = np.array([[scores[s, q] - row["score_outside"] for q, row in before.items()] for s in SEEDS], float)
    design = design_of([Query(q, r["pair_id"], r["factor"], "", "", {}, "", "") for q, r in before.items()])
    each = [estimate(macro_parts(row[None], design), design) for row in values]
    wanted = [n for one in each for n in (one.value, *one.ci95)]
    assert numbers(PAGE.partition("they differ from it by ")[2][:80])[:9] == pytest.approx(wanted, abs=0.0051)
    every = estimate(macro_parts(values, design), design)
    shown = numbers(PAGE.partition("the outside score rises by ")[2][:20])
    assert shown == pytest.approx([every.value, *every.ci95], abs=0.0051)
    assert numbers(README.partition("by what Whisper hears, ")[2][:90])[:9] == pytest.approx(wanted, abs=0.0051)
