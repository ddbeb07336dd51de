"""What docs/results.md and the README say of the shipped policy comes from its answers' rows."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_results_ears import by_system

from lightning_paras2s.bench.audit import measures
from lightning_paras2s.bench.items import read_items
from lightning_paras2s.bench.outside_table import cells
from lightning_paras2s.bench.seeds import design_of, estimate, macro_parts
from lightning_paras2s.types import FACTORS, Query

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## The shipped policy\n")[2].partition("\n## ")[0]
README, LOG, CHANGELOG = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/log.md", "CHANGELOG.md")
)
BEFORE = ("sft_fifth", "grpo_scorer")  # what it started from, and what was shipped before
Scores = dict[str, dict[str, tuple[str, str, float]]]  # system -> query -> pair, factor, score


def lines(name: str) -> str:
    return gzip.decompress((ROOT / "results" / name).read_bytes()).decode()


@pytest.fixture(scope="module")
def heard() -> list[dict]:
    """The shipped policy's answers, and those of both others to the same queries; all heard on one kind of CPU."""
    own = [json.loads(line) for line in lines("ears_shipped.jsonl.gz").splitlines()]
    asked = {row["query_id"] for row in own}
    rest = [json.loads(line) for line in lines("ears_full.jsonl.gz").splitlines()]
    rows = [*(r for r in rest if r["system"] in BEFORE and r["query_id"] in asked), *own]
    assert len(asked) == 400 and len(rows) == 1200 and len({(r["cpu"], r["compute_type"]) for r in rows}) == 1
    return rows


@pytest.fixture(scope="module")
def scores(heard) -> dict[str, Scores]:
    """By the words beside which they stand in the table."""
    found: dict[str, Scores] = {"our transcriber | 1,758": {}, "our transcriber | 400": {}, "Whisper tiny.en | 400": {}}
    for item in read_items(ROOT / "results/rubric2.jsonl.gz"):
        told = (item.pair_id, item.factor, item.score)
        found["our transcriber | 1,758"].setdefault(item.system, {})[item.query_id] = told
    for row in heard:
        for name, key in (("our transcriber | 400", "score_ours"), ("Whisper tiny.en | 400", "score_outside")):
            told = (row["pair_id"], row["factor"], row[key])
            found[name].setdefault(row["system"], {})[row["query_id"]] = told
    return found


def less(of: Scores, before: str) -> list[float]:
    """`grpo` less another system, with its interval over contrast pairs; a mean of the factors' differences."""
    start = {q: row for q, row in of[before].items() if None not in (row[2], of["grpo"][q][2])}
    design = design_of([Query(q, pair, factor, "", "", {}, "", "") for q, (pair, factor, _) in start.items()])
    apart = np.array([[of["grpo"][q][2] - row[2] for q, row in start.items()]], float)
    found = estimate(macro_parts(apart, design), design)
    return [found.value, *found.ci95]


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.\d+", text)]


def test_the_differences(scores):
    for name, of in scores.items():
        (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)$", SECTION, re.MULTILINE)
        wanted = [n for before in BEFORE for n in less(of, before)]
        assert numbers(line) == pytest.approx(wanted, abs=0.0051), name


def test_the_table_of_both_ears(heard):
    made = by_system("\n".join(json.dumps(row) for row in heard))
    for system, rows in made.items():
        assert "| " + " | ".join(cells(system, measures(rows))) + " |" in SECTION


def test_the_readme_tells_the_same(scores):
    bullet = README.partition("- The shipped policy")[2].partition("\n")[0]
    wanted = [n for name in ("our transcriber | 1,758", "Whisper tiny.en | 400") for n in less(scores[name], BEFORE[0])]
    assert numbers(bullet)[:6] == pytest.approx(wanted, abs=0.0051)


def test_what_else_changed_by_our_own_ears():
    """The tone by the audit's ear, and how much better an answer fits its own style than the other of its pair."""
    items = [i for i in read_items(ROOT / "results/rubric2.jsonl.gz") if i.system in ("grpo", BEFORE[0])]
    for lead, value in {"ear for tone": lambda i: i.audit, "label-swap gain": lambda i: i.score - i.swapped}.items():
        of: Scores = {}
        for item in items:
            of.setdefault(item.system, {})[item.query_id] = (item.pair_id, item.factor, value(item))
        assert numbers(SECTION.partition(lead)[2])[:3] == pytest.approx(less(of, BEFORE[0]), abs=0.0051), lead


def test_each_factor(scores):
    """Of the judge's score by our transcriber's words, then by Whisper's."""
    for factor in FACTORS:
        wanted = []
        for name in ("our transcriber | 1,758", "Whisper tiny.en | 400"):
            of = {s: {q: row for q, row in rows.items() if row[1] == factor} for s, rows in scores[name].items()}
            wanted += less(of, BEFORE[0])
        (line,) = re.findall(rf"^\| {factor} \|(.*)$", SECTION, re.MULTILINE)
        assert numbers(line) == pytest.approx(wanted, abs=0.0051), factor


def test_what_it_still_can():
    (row,) = map(json.loads, (ROOT / "results/skills_shipped.jsonl").read_text(encoding="utf-8").splitlines())
    titles = {"answer": "plain questions", "repeat": "repeating", "name": "naming a voice", "read": "reading aloud"}
    assert row["n_texts"] == 160 and set(row["skills"]) == set(titles)
    for skill, title in titles.items():
        start, own = row["skills"][skill][BEFORE[0]], row["skills"][skill]["grpo"]
        wanted = [start["mean"], *start["ci95"], own["mean"], *own["ci95"], own["change"], *own["change_ci95"]]
        (line,) = re.findall(rf"^\| {title} \|(.*)$", SECTION, re.MULTILINE)
        assert numbers(line)[:9] == pytest.approx(wanted, abs=0.0051), skill
        assert numbers(line)[9] == pytest.approx(own["p_holm"], rel=0.02), skill


def test_the_log_tells_what_three_seeds_had_gained():
    of: Scores = {}
    for item in read_items(ROOT / "results/rubric2.jsonl.gz"):
        name = "grpo" if item.system == "grpo_judge" else item.system
        of.setdefault(f"{name}{item.seed}", {})[item.query_id] = (item.pair_id, item.factor, item.score)
    told = LOG.partition("three seeds of the recipe had gained ")[2]
    gains = [less({"grpo": of[f"grpo{seed}"], BEFORE[0]: of[f"{BEFORE[0]}1"]}, BEFORE[0])[0] for seed in (1, 2, 3)]
    assert numbers(told)[:3] == pytest.approx(gains, abs=0.0051)


def test_the_log_and_the_changelog_tell_the_same(scores):
    judge, ear = (less(scores[name], BEFORE[0]) for name in ("our transcriber | 1,758", "Whisper tiny.en | 400"))
    own = LOG.partition("## 2026-11-30: the shipped policy")[2].partition("\n## ")[0]
    assert numbers(own.partition("- The judge gives ")[2])[:3] == pytest.approx(judge, abs=0.0051)
    assert numbers(own.partition("- By what Whisper hears ")[2])[:3] == pytest.approx(ear, abs=0.0051)
    (line,) = [one for one in CHANGELOG.splitlines() if "is `grpo.yaml`'s, seed 1" in one]
    assert numbers(line.partition("400 answers")[2])[:3] == pytest.approx(ear, abs=0.0051)
