"""The blind readers' figures on docs/open_text.md come from the shipped votes."""

import dataclasses
import gzip
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from lightning_paras2s.bench.people.reliability import krippendorff_alpha
from lightning_paras2s.data.open_text import OpenPrompt, read_open
from lightning_paras2s.types import FACTORS, SPLITS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/open_text.md").read_text(encoding="utf-8")
FIVE = ("neutral_of_its_factor", "natural", "answerable", "reasonable", "relevant")
ROWS = {"neutral:": "neutral", "neutral of its own factor": "neutral_of_its_factor"} | {f"{q}:": q for q in FIVE[1:]}
PARTS = {  # the splits that were read -> their votes, and where the page tells of them
    ("test",): ("open_votes.jsonl", "## What blind readers said of test"),
    ("train", "val"): ("open_votes_train.jsonl.gz", "## What blind readers said of train and val"),
}


def content_sha(prompt: OpenPrompt) -> str:
    """What a reader's vote is about: the text and its two styles, so that no vote outlives them."""
    return hashlib.sha256("\n".join((prompt.text, *prompt.styles)).encode()).hexdigest()[:16]


def lines_of(name: str) -> list[dict]:
    raw = (ROOT / "results" / name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module", params=PARTS, ids="-".join)
def part(request):
    """The votes by prompt, the prompts of the splits, and the page's section."""
    name, heading = PARTS[request.param]
    found = defaultdict(list)
    for row in lines_of(name):
        found[row["id"]].append(row)
    assert all(sorted(row["reader"] for row in rows) == [1, 2, 3] for rows in found.values())
    prompts = {p.id: p for factor in FACTORS for split in request.param for p in read_open(factor, split)}
    return found, prompts, PAGE.split(f"{heading}\n")[1].split("\n## ")[0]


def test_votes_are_on_the_words_of_the_set_or_on_logged_refusals(part):
    votes, prompts, _ = part
    paths = (ROOT / "results").glob("open_rejected*.jsonl")
    refused = {row.get("id") for path in paths for row in lines_of(path.name)}
    assert not refused & prompts.keys() and votes.keys() <= prompts.keys() | refused
    voted = {id: {row["content_sha"] for row in rows} for id, rows in votes.items() if id in prompts}
    assert voted == {id: {content_sha(prompts[id])} for id in voted}


def test_no_prompt_of_the_set_was_refused_by_a_reader(part):
    votes, prompts, _ = part
    assert not [row for id in prompts.keys() & votes.keys() for row in votes[id] for q in FIVE if not row[q]]


def test_every_prompt_was_accepted_by_three_readers_under_its_own_id_or_the_one_it_moved_from():
    votes = defaultdict(list)
    for row in lines_of("open_votes.jsonl") + lines_of("open_votes_train.jsonl.gz"):
        votes[row["content_sha"]].append(row)
    found = {p.id: votes[content_sha(p)] for factor in FACTORS for split in SPLITS for p in read_open(factor, split)}
    assert len(found) == 3360 and all(sorted(row["reader"] for row in rows) == [1, 2, 3] for rows in found.values())
    assert not [id for id, rows in found.items() for row in rows for question in FIVE if not row[question]]
    moved = {id: {row["id"] for row in rows} for id, rows in found.items() if {row["id"] for row in rows} != {id}}
    spares = {row["id"]: row["reason"] for row in lines_of("open_rejected_train.jsonl") if "since 1.2" in row["reason"]}
    assert {old: f"accepted by all three; in the set as {id} since 1.2" for id, (old,) in moved.items()} == spares
    assert sum("-test-" in id for id in moved) == 3 and "**test holds 3 prompts that the readers of train" in PAGE


def test_a_vote_is_bound_to_text_and_styles():
    prompt = read_open("age", "test")[0]
    other_text = dataclasses.replace(prompt, text=prompt.text + "!")
    other_styles = dataclasses.replace(prompt, styles=("adult", "elder"))
    assert len({content_sha(p) for p in (prompt, other_text, other_styles)}) == 3


@pytest.mark.parametrize("start", ROWS)
def test_shares_and_agreement_of_a_question(part, start):
    votes, _, section = part
    question = ROWS[start]
    table = [[row[question] for row in rows] for rows in votes.values()]
    flat = [vote for row in table for vote in row]
    made = [sum(flat) / len(flat), *(sum(sum(row) >= least for row in table) / len(table) for least in (3, 2))]
    made.append(krippendorff_alpha([list(column) for column in zip(*table)], "nominal"))
    line = next(line for line in section.splitlines() if line.startswith(f"| {start}"))
    shown = [float(cell) for cell in re.findall(r"\| (1?\.\d+) ", line)]
    assert shown == pytest.approx(made, abs=0.0051) and len(shown) == 4


def test_shares_that_pass_all_five_questions(part):
    votes, _, section = part
    by_two = [all(sum(row[q] for row in rows) >= 2 for q in FIVE) for rows in votes.values()]
    by_all = [all(row[q] for row in rows for q in FIVE) for rows in votes.values()]
    shown = re.search(r"questions in (\.\d+) of cases; all three do in (\.\d+)", section)
    made = [sum(v) / len(v) for v in (by_two, by_all)]
    assert [float(n) for n in shown.groups()] == pytest.approx(made, abs=0.0006)


def test_what_a_fresh_reader_says_of_eighty_prompts():
    prompts = {prompt.id: prompt for factor in FACTORS for prompt in read_open(factor, "test")}
    rows = lines_of("open_reread.jsonl")
    assert len({row["id"] for row in rows}) == 80 and all(
        row["content_sha"] == content_sha(prompts[row["id"]]) for row in rows
    )
    passed = sum(all(row[q] for q in FIVE) for row in rows)
    assert f"{passed} of 80 pass" in PAGE and passed >= 72
