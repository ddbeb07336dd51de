"""Every number of a results table in README and docs comes from a shipped row, and every row from the answers' rows."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.bench.items import Item, figures, read_items, write_items
from lightning_paras2s.bench.summary import Judged, summarise_system

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "figures"))
import rows as rows_script  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCORES = ROOT / "results/scores.jsonl.gz"
# Heading of a column (its beginning) -> the row's values, in the order of the cell's numbers.
COLUMNS = {
    "judge": ("mean", "ci95"),
    "audit's judge": ("audit_mean", "audit_ci95"),
    "label-swap gain": ("label_swap_gain", "label_swap_gain_ci95"),
    "pairs with both halves": ("pair_accuracy", "pair_accuracy_ci95"),
    "names the topic": ("writes_topic", "names_topic"),
    "WER voice / text": ("wer",),
}


ABOUT = ("query_id", "pair_id", "factor", "style")


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "results" / name).read_text().splitlines()]


def tables(text: str) -> list[list[list[str]]]:
    """Markdown tables as cells, heading first."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    return [[[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]


def result_tables() -> list[tuple[str, list[list[str]]]]:
    found = [(page.name, table) for page in PAGES for table in tables(page.read_text(encoding="utf-8"))]
    return [(name, t) for name, t in found if t[0][0] == "system" and any(h.startswith("judge") for h in t[0])]


def numbers(cell: str) -> list[str]:
    return re.findall(r"-?\d*\.\d+|-?\d+", cell)


def expected(row: dict, keys: tuple[str, ...]) -> list[float]:
    values = [v for key in keys for v in (row[key] if isinstance(row[key], list) else [row[key]])]
    return [v for v in values if v is not None]  # no interval, no brackets


def test_tables_show_the_shipped_rows():
    rows = {row["system"]: row for row in rows_of("embedded.jsonl")}
    assert result_tables()
    for page, (headings, _, *lines) in result_tables():
        for line in lines:
            name = re.match(r"`(\w+)`", line[0])[1]
            for heading, cell in zip(headings[1:], line[1:], strict=True):
                keys = next(keys for start, keys in COLUMNS.items() if heading.startswith(start))
                shown, wanted = numbers(cell), expected(rows[name], keys)
                assert len(shown) == len(wanted), (page, name, heading, cell, wanted)
                for text, value in zip(shown, wanted, strict=True):
                    decimals = len(text.partition(".")[2])
                    assert abs(float(text) - value) <= 0.5 * 10**-decimals + 1e-9, (page, name, heading, cell, wanted)


def test_a_row_over_seeds_averages_the_rows_of_its_seeds():
    """`grpo_predicted`'s seeds averaged 3.46 where its mean was 3.33."""
    each: dict[str, list[float]] = {}
    for row in rows_of("headline.jsonl"):
        each.setdefault(row["system"], []).append(row["mean"])
    checked = 0
    for row in rows_of("embedded.jsonl"):
        if "by_seed" in row:
            checked += 1
            assert row["by_seed"] == each[row["system"]] and len(row["seed"]) == len(row["by_seed"])
            assert np.mean(row["by_seed"]) == pytest.approx(row["mean"], abs=1e-4)  # four decimals each
        assert np.mean(list(row["by_factor"].values())) == pytest.approx(row["mean"], abs=1e-4)
    assert checked


def test_shipped_rows_are_made_again_from_the_answers():
    """Of those systems and seeds whose answers' rows are shipped."""
    items = read_items(SCORES) if SCORES.is_file() else []
    for row in rows_of("embedded.jsonl"):
        assert rows_script.remade(row, items) == row, row["system"]
        for seed, mean in enumerate(row.get("by_seed", ()), 1):
            own = [i for i in items if i.system == row["system"] and i.seed == seed]
            assert not own or figures(own)["mean"] == mean, (row["system"], seed)


def test_rows_are_made_again_where_all_seeds_are_known():
    row = {"date": "d", "seed": [0, 1], "system": "grpo", "mean": 1.0}
    assert rows_script.remade(row, made_items(0)) == row
    made = rows_script.remade(row, [*made_items(0), *made_items(1)])
    assert made["date"] == "d" and made["mean"] == pytest.approx(np.mean(made["by_seed"]), abs=1e-4) != 1


def made_items(seed: int) -> list[Item]:
    random = np.random.default_rng(seed)
    return [
        Item("grpo", seed, f"{f}-{p}-{half}", f"{p}", f, half, *[float(random.integers(1, 6)) for _ in range(3)],
             float(random.random()), float(random.integers(2)), float(random.integers(2)), "calm")
        for f, n in (("age", 12), ("gender", 25)) for p in range(n) for half in "ab"
    ]  # fmt: skip


def test_figures_of_one_seed_are_those_of_evaluate(tmp_path):
    write_items(tmp_path / "scores.jsonl.gz", made_items(0))
    write_items(tmp_path / "scores.jsonl.gz", made_items(1))  # beside the others
    before = (tmp_path / "scores.jsonl.gz").read_bytes()
    write_items(tmp_path / "scores.jsonl.gz", made_items(0))  # in their place
    assert (tmp_path / "scores.jsonl.gz").read_bytes() == before
    items = [i for i in read_items(tmp_path / "scores.jsonl.gz") if i.seed == 0]
    judged = [
        Judged(*[getattr(i, n) for n in ABOUT], i.score, i.swapped, "", i.tone, i.wer, i.topic, i.topic_written)
        for i in items
    ]
    whole, made = summarise_system(judged), figures(items)
    for key in made.keys() & whole["overall"].keys() - {"seed"}:
        assert made[key] == whole["overall"][key], key
    assert made["by_factor"] == {f: whole[f]["mean"] for f in ("age", "gender")}


def test_figures_of_several_seeds_average_their_figures():
    both = figures([*made_items(0), *made_items(1)])
    each = [figures(made_items(seed)) for seed in (0, 1)]
    assert both["by_seed"] == [one["mean"] for one in each] and both["seed"] == [0, 1]
    for key in ("mean", "label_swap_gain", "pair_accuracy", "wer", "audit_mean"):
        assert both[key] == pytest.approx(np.mean([one[key] for one in each]), abs=1e-4), key
