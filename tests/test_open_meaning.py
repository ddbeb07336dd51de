"""The figures on duplicates by meaning on docs/open_text.md come from the shipped votes on pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from lightning_paras2s.bench.people.resampling import jackknife
from lightning_paras2s.data.open_text import read_open
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.types import FACTORS, SPLITS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/open_text.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Duplicates by meaning\n")[1].split("\n## ")[0]
NEAREST = {"test-test": 200, "test-train": 200, "train-train": 200, "test-val": 100, "val-train": 100, "val-val": 20}


QUESTIONS = {
    "neutral_of_its_factor": "wording's neutrality",
    "reasonable": "styles' plausibility",
    "relevant": "relevance",
    "natural": "naturalness",
    "answerable": "answerability",
    "fits": "reference answers",
}


def lines_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "results" / name).read_text(encoding="utf-8").splitlines()]


PAIRS = lines_of("open_meaning.jsonl")
GONE = {row["id"]: row for row in lines_of("open_rejected_meaning.jsonl")}
PROMPTS = {p.id: p for factor in FACTORS for split in SPLITS for p in read_open(factor, split)}


def drawn_from(row: dict) -> str:
    """The row of the page's table."""
    near = "near by MiniLM" if has(row, "minilm") else "near by the encoder"
    return near if row["drawn"] == "near" else row["drawn"]


def has(row: dict, name: str) -> bool:
    return name in row["lists"]


def test_votes_are_on_the_words_of_the_set_or_of_what_it_lost():
    texts = {id: p.text for id, p in PROMPTS.items()} | {id: row["text"] for id, row in GONE.items()}
    for row in PAIRS:
        shas = [hashlib.sha256(texts[row[side]].encode()).hexdigest()[:16] for side in ("first", "second")]
        assert row["text_shas"] == shas and row["vote"] in ("duplicate", "close", "other")
        assert row["splits"] == "-".join(row[side].split("-")[1] for side in ("first", "second"))
    assert len({(row["first"], row["second"]) for row in PAIRS}) == len(PAIRS) == 1420


@pytest.mark.parametrize("start", ["near by MiniLM", "near by the encoder", "next", "any"])
def test_what_was_read_and_found(start):
    rows = [row for row in PAIRS if drawn_from(row) == {"any": "random"}.get(start, start)]
    line = next(line for line in SECTION.splitlines() if line.startswith(f"| {start}"))
    votes = Counter(row["vote"] for row in rows)
    assert [int(cell) for cell in re.findall(r"\| (\d+) ", line)] == [len(rows), votes["duplicate"], votes["close"]]


def test_each_list_was_read_as_far_as_the_page_says():
    assert Counter(row["splits"] for row in PAIRS if has(row, "minilm")) == NEAREST
    read = Counter(row["splits"] for row in PAIRS if has(row, "use"))
    assert all(read[splits] == n for splits, n in NEAREST.items() if splits not in ("train-train", "val-val"))
    alone = [row for row in PAIRS if drawn_from(row) == "near by the encoder"]
    assert sum(row["splits"] == "train-train" for row in alone) == 40
    assert f"All {len(PROMPTS) * (len(PROMPTS) - 1) // 2:,} pairs" in SECTION


def test_duplicates_by_splits():
    found = Counter(row["splits"] for row in PAIRS if row["vote"] == "duplicate" and row["drawn"] == "near")
    sentence = SECTION.split("By splits, ")[1].split(". ")[0]
    assert {splits: int(n) for n, splits in re.findall(r"(\d+) (?:duplicates are )?(\w+-\w+)", sentence)} == found


def test_how_many_were_missed():
    """Chapman (1951): (n1 + 1)(n2 + 1) / (m + 1) - 1, with the variance of Seber (1970)."""
    rows = [r for r in PAIRS if r["vote"] == "duplicate" and r["drawn"] == "near" and r["splits"] != "train-train"]
    first, second = (sum(has(r, name) for r in rows) for name in ("minilm", "use"))
    both = sum(has(r, "minilm") and has(r, "use") for r in rows)
    assert f"MiniLM's list holds {first} duplicates, the encoder's {second}, and both {both}" in SECTION
    total = (first + 1) * (second + 1) / (both + 1) - 1
    spread = (first + 1) * (second + 1) * (first - both) * (second - both) / ((both + 1) ** 2 * (both + 2))
    low, high = total - 1.96 * sqrt(spread), total + 1.96 * sqrt(spread)
    assert f"{total:.1f} of them [{low:.1f}, {high:.1f}]" in SECTION and f"and {len(rows)} were found" in SECTION
    assert f"0 were duplicates [.000, {beta.ppf(0.975, 1, 100):.3f}]".replace("0.", ".") in SECTION  # exact


def test_no_duplicate_that_was_found_is_left_with_test_or_val():
    left = [r for r in PAIRS if r["vote"] == "duplicate" and r["first"] in PROMPTS and r["second"] in PROMPTS]
    assert [row["splits"] for row in left] == ["train-train"] * 3
    found = {(row["first"], row["second"]) for row in PAIRS if row["vote"] == "duplicate"}
    for id, row in GONE.items():
        kept = row["reason"].removeprefix("duplicate by meaning of ")
        assert ((id, kept) in found or (kept, id) in found) and kept in PROMPTS and row["replaced_by"] in PROMPTS
    assert Counter(id.split("-")[1] for id in GONE) == {"train": 17, "val": 4, "test": 3}


def test_what_fresh_readers_say_of_the_prompts_that_came():
    rows = lines_of("open_reread_meaning.jsonl")
    assert Counter(row["reader"] for row in rows) == {1: 24, 2: 24, 3: 24}
    refused = {q: [row["id"] for row in rows if not row[q]] for q in QUESTIONS}
    told = (f"{len(ids)} {'refuse ' if not i else ''}the {QUESTIONS[q]}" for i, (q, ids) in enumerate(refused.items()))
    assert all(part in SECTION for part in told)
    assert refused["answerable"] == ["sarcasm-train-0204"] * 3 and "sarcasm-train-0204" not in PROMPTS
    assert {row["id"] for row in rows} - {"sarcasm-train-0204"} < PROMPTS.keys()


@pytest.mark.parametrize("least, told", [(0.8, "3 of 4 pairs"), (0.65, "13 of 184")])
def test_what_a_least_similarity_finds(least, told):
    votes = Counter(row["vote"] for row in PAIRS if row["minilm"] >= least)
    assert f"{votes['duplicate']} of {sum(votes.values())}" in told and told in SECTION


def words_in_common(row: dict) -> float:
    first, second = (set(plain_text(row[side]).split()) for side in ("first", "second"))
    return len(first & second) / len(first | second)


MEASURES = {"MiniLM": lambda r: r["minilm"], "the other": lambda r: r["use"], "the words in common": words_in_common}


@pytest.mark.parametrize("name", MEASURES)
def test_area_under_the_curve_of_the_probe(name):
    rows = lines_of("open_meaning_probe.jsonl")
    value, paraphrase = np.array([MEASURES[name](r) for r in rows]), np.array([r["paraphrase"] for r in rows], bool)

    def area(index) -> float:
        """Share of (paraphrase, other) pairs in which the paraphrase is nearer; ties count half."""
        near, far = value[index][paraphrase[index]], value[index][~paraphrase[index]]
        return float(np.mean((near[:, None] > far) + 0.5 * (near[:, None] == far)))

    low, high, _ = jackknife(area, [row["first"] for row in rows])
    told = f"{area(np.arange(len(rows))):.2f} [{low:.2f}, {high:.2f}]".replace("0.", ".")
    sentence = next(line for line in SECTION.splitlines() if "area under the curve" in line)
    assert f"{told} for {name}" in sentence
    assert sum(paraphrase) == 20 == len({row["first"] for row in rows})
