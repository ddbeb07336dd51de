"""The blind readers' figures on docs/open_text.md come from the shipped votes."""

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from lightning_paras2s.bench.people.reliability import krippendorff_alpha
from lightning_paras2s.data.open_text import content_sha, read_open
from lightning_paras2s.types import FACTORS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/open_text.md").read_text(encoding="utf-8")
FIVE = ("neutral_of_its_factor", "natural", "answerable", "reasonable", "relevant")
ROWS = {"neutral:": "neutral", "neutral of its own factor": "neutral_of_its_factor"} | {f"{q}:": q for q in FIVE[1:]}


@pytest.fixture(scope="module")
def votes() -> dict[str, list[dict]]:
    found = defaultdict(list)
    for line in (ROOT / "results/open_votes.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["id"]].append(row)
    assert all({row["reader"] for row in rows} == {1, 2, 3} for rows in found.values())
    return found


def test_votes_are_on_the_words_of_the_set_or_on_logged_refusals(votes):
    prompts = {prompt.id: prompt for factor in FACTORS for prompt in read_open(factor, "test")}
    refused = {
        json.loads(line).get("id")
        for path in (ROOT / "results").glob("open_rejected*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    assert len(prompts) == 1200 and not refused & prompts.keys() and votes.keys() <= prompts.keys() | refused
    voted = {id: {row["content_sha"] for row in rows} for id, rows in votes.items() if id in prompts}
    assert voted == {id: {content_sha(prompts[id])} for id in voted}


def test_no_prompt_of_the_set_was_refused_by_a_reader(votes):
    ids = {prompt.id for factor in FACTORS for prompt in read_open(factor, "test")}
    assert not [row for id in ids & votes.keys() for row in votes[id] for q in FIVE if not row[q]]


def test_a_vote_is_bound_to_text_and_styles():
    prompt = read_open("age", "test")[0]
    other_text = dataclasses.replace(prompt, text=prompt.text + "!")
    other_styles = dataclasses.replace(prompt, styles=("adult", "elder"))
    assert len({content_sha(p) for p in (prompt, other_text, other_styles)}) == 3


@pytest.mark.parametrize("start", ROWS)
def test_shares_and_agreement_of_a_question(votes, start):
    question = ROWS[start]
    table = [[row[question] for row in rows] for rows in votes.values()]
    flat = [vote for row in table for vote in row]
    made = [sum(flat) / len(flat), *(sum(sum(row) >= least for row in table) / len(table) for least in (3, 2))]
    made.append(krippendorff_alpha([list(column) for column in zip(*table)], "nominal"))
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {start}"))
    shown = [float(cell) for cell in re.findall(r"\| (\.\d+) ", line)]
    assert shown == pytest.approx(made, abs=0.0051) and len(shown) == 4


def test_shares_that_pass_all_five_questions(votes):
    by_two = [all(sum(row[q] for row in rows) >= 2 for q in FIVE) for rows in votes.values()]
    by_all = [all(row[q] for row in rows for q in FIVE) for rows in votes.values()]
    shown = re.search(r"questions in (\.\d+) of cases; all three do in (\.\d+)", PAGE)
    made = [sum(v) / len(v) for v in (by_two, by_all)]
    assert [float(n) for n in shown.groups()] == pytest.approx(made, abs=0.0006)


def test_what_a_fresh_reader_says_of_eighty_prompts():
    prompts = {prompt.id: prompt for factor in FACTORS for prompt in read_open(factor, "test")}
    rows = [json.loads(line) for line in (ROOT / "results/open_reread.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == 80 and all(
        row["content_sha"] == content_sha(prompts[row["id"]]) for row in rows
    )
    passed = sum(all(row[q] for q in FIVE) for row in rows)
    assert f"{passed} of 80 pass" in PAGE and passed >= 72
