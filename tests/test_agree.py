"""`agreement`: judge against listeners and listeners against each other, on ratings whose figures are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_paras2s.bench.people.agreement import agreement, in_words
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Human, Query, Verdict, append_jsonl, to_json


def study(folder, scores: dict[str, float | None], ratings: dict[str, dict[str, float]]):
    """Queries q0, q1, ... in pairs (q0, q1), (q2, q3), ...; scores and ratings by response."""
    names = sorted({name.split("/")[1] for name in [*scores, *(i for r in ratings.values() for i in r)]})
    queries = [
        Query(name, f"p{int(name[1:]) // 2}", "age", "test", "Hi.", {"age": ("adult", "child")[i % 2]}, "T", "a.flac")
        for i, name in enumerate(names)
    ]
    (folder / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    rows = [Verdict(name, "j", score, status="ok" if score else "timeout") for name, score in scores.items()]
    append_jsonl(folder / "run/verdicts.jsonl", rows)
    rated = [Human(item, who, score=value) for who, items in ratings.items() for item, value in items.items()]
    append_jsonl(folder / "human.jsonl", rated)
    return str(folder / "human.jsonl"), [str(folder / "run")], str(folder / "queries.jsonl")


def test_a_judge_that_is_a_point_too_kind_correlates_fully_and_its_bias_shows(tmp_path):
    human = {f"s/q{i}/0": float(1 + i % 4) for i in range(12)}
    made = agreement(*study(tmp_path, {k: v + 1 for k, v in human.items()}, {"x": human, "y": human}))
    row = made["overall"]
    assert (row["n"], row["n_unjudged"], row["items"], row["ratings"]) == (12, 0, 12, 24)
    assert row["pearson"] == row["spearman"] == row["kendall"] == row["alpha"] == row["pearson_ceiling"] == 1
    assert row["bias"] == row["mae"] == 1
    # Every pair is one apart: observed 1. Both uniform over 4 values, one apart: E(h - j)^2 = 2 * 1.25 + 1 = 3.5.
    assert row["kappa"] == pytest.approx(1 - 1 / 3.5, abs=1e-4)
    assert row["listeners"] == "reliable" and made["age"] == row and made["systems"]["n"] == 1


def test_listeners_who_disagree_on_everything_are_said_to_say_nothing(tmp_path):
    """Krippendorff's alpha of two raters in opposition is below 0, and no item is left that the paper would keep."""
    ratings = {
        "x": {f"s/q{i}/0": 1.0 + 4 * (i % 2) for i in range(8)},
        "y": {f"s/q{i}/0": 5.0 - 4 * (i % 2) for i in range(8)},
    }
    out = tmp_path / "agreement.json"
    agreement(*study(tmp_path, dict.fromkeys(ratings["x"], 3.0), ratings), out=str(out))
    row = json.loads(out.read_text())["overall"]  # JSON without NaN
    assert row["alpha"] < 0 and row["listeners"].startswith("no agreement")
    assert row["items_without_full_disagreement"] == 0 and row["alpha_without_full_disagreement"] is None
    assert row["pearson"] is None and row["pearson_ceiling"] == -1


def test_what_was_not_judged_or_rated_is_counted_and_left_out(tmp_path):
    human = {f"s/q{i}/0": float(1 + i % 4) for i in range(8)}
    scores: dict[str, float | None] = {**human, "s/q0/0": None}
    row = agreement(*study(tmp_path, scores, {"x": human}))["overall"]
    assert (row["n"], row["n_unjudged"]) == (7, 1)
    assert row["alpha"] is None and row["listeners"].startswith("not defined")  # one listener


def test_systems_are_compared_by_their_means_when_there_are_three(tmp_path):
    human = {f"{s}/q{i}/0": float(base + i % 2) for s, base in (("a", 1), ("b", 2), ("c", 4)) for i in range(6)}
    judge = {k: 3.0 + 0.5 * (k[0] == "c") - (k[0] == "a") for k in human}
    found = agreement(*study(tmp_path, judge, {"x": human}))["systems"]
    assert (found["unit"], found["n"]) == ("system", 3)
    assert found["means"]["b"] == {"listeners": 2.5, "judge": 3.0}
    assert found["pearson"] == pytest.approx(np.corrcoef([1.5, 2.5, 4.5], [2, 3, 3.5])[0, 1], abs=1e-4)
    assert found["spearman"] == 1


@pytest.mark.parametrize(("alpha", "words"), [(0.0, "no agreement"), (0.3, "weak"), (0.7, "tentative")])
def test_an_alpha_is_said_in_words(alpha, words):
    assert in_words(alpha).startswith(words)


def test_errors_are_one_line(tmp_path):
    humans, runs, manifest = study(tmp_path, {"s/q0/0": 3.0}, {"x": {"s/q0/0": 3.0}})
    append_jsonl(humans, [Human("s/other/0", "x", score=2.0)])
    with pytest.raises(UserError, match="must hold the query of 's/other/0'"):
        agreement(humans, runs, manifest)
    append_jsonl(tmp_path / "choices.jsonl", [Human("a | b", "x", verdict="a")])
    with pytest.raises(UserError, match="ratings with a score; got none"):
        agreement(str(tmp_path / "choices.jsonl"), runs, manifest)
    append_jsonl(tmp_path / "run/verdicts.jsonl", [Verdict("s/q0/0", "other", 3.0)])
    with pytest.raises(UserError, match="verdicts of one judge; got 2"):
        agreement(humans, runs, manifest)
