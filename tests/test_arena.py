"""The arena: Davidson on a published worked example, Elo's invariants, typed ties, orders."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from lightning_paras2s.bench.pairs.arena import arena, davidson, elo, first_heard_wins, order_consistency, rank
from lightning_paras2s.bench.pairs.battles import compare
from lightning_paras2s.bench.pairs.strength import half_widths
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Battle, Verdict, to_json

# Agresti, Categorical Data Analysis (2002), table 10.10: American League 1987, and its Bradley-Terry estimates
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
ESTIMATES = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]


def test_davidson_gives_the_published_estimates_when_there_are_no_ties():
    strength, tie = davidson(BASEBALL, np.zeros_like(BASEBALL))
    assert tie == 0.0
    assert strength - strength[-1] == pytest.approx(ESTIMATES, abs=1e-3)  # printed with three decimals


def test_davidson_solves_two_systems_in_closed_form_when_there_are_ties():
    """With two systems the model is saturated: s_a / s_b = wins_a / wins_b, v = ties / sqrt(wins_a wins_b)."""
    strength, tie = davidson(np.array([[0, 18], [8, 0]]), np.array([[0, 6], [6, 0]]))
    assert strength[0] - strength[1] == pytest.approx(np.log(18 / 8), abs=1e-4)
    assert tie == pytest.approx(6 / np.sqrt(18 * 8), abs=1e-4)


def battle(a: str, b: str, verdict: str, query: str = "q", order: str = "ab") -> Battle:
    return Battle(query, a, b, order, verdict, "j")


def random_games(count: int, systems: int = 10, seed: int = 0) -> list[Battle]:
    random = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(systems)]
    pairs = list(combinations(names, 2))
    verdicts = ("a", "b", "both_good", "both_bad")
    return [battle(*pairs[random.integers(len(pairs))], verdicts[random.integers(4)], f"q{i}") for i in range(count)]


def test_elo_conserves_the_sum_when_1001_games_are_played():
    games = random_games(1001)
    assert elo(games, [f"s{i}" for i in range(10)]).sum() == pytest.approx(10_000)


def test_elo_moves_half_of_k_when_equals_meet():
    assert elo([battle("x", "y", "a")], ["x", "y"]).tolist() == [1016, 984]
    assert elo([battle("x", "y", "both_bad")], ["x", "y"]).tolist() == [1000, 1000]


def test_strengths_are_within_their_intervals_when_the_truth_is_known():
    """90 % wins of x over y: a gap of 400 log10(9) = 381.7 on Elo's scale."""
    games = [battle("x", "y", "a" if i % 10 else "b", f"q{i}") for i in range(400)]
    rows = {row["system"]: row for row in rank(games, 50)["systems"]}
    assert rows["x"]["strength"] - rows["y"]["strength"] == pytest.approx(381.7, abs=0.5)
    # The log odds of 360 of 400 have the variance 1 / 360 + 1 / 40; a strength is half of them from 1000.
    half = stats.t.ppf(0.975, 399) * np.sqrt((1 / 360 + 1 / 40) * 400 / 399) / 2 * 400 / np.log(10)
    middle = rows["x"]["strength"]
    assert rows["x"]["ci95"] == pytest.approx([middle - half, middle + half], abs=0.01)
    assert rows["x"]["elo_spread95"][1] - rows["x"]["elo_spread95"][0] > 10  # the order alone moves it
    assert (rows["x"]["wins"], rows["x"]["losses"]) == (360, 40)


def test_typed_ties_are_kept_apart_when_both_fail():
    result = rank(
        [battle("x", "y", "both_bad", "1"), battle("x", "y", "both_good", "2"), battle("x", "y", "a", "3")], 5
    )
    assert result["verdicts"] == {"both_bad": 1, "both_good": 1, "a": 1}
    assert result["systems"][0]["both_bad"] == result["systems"][1]["both_good"] == 1


def test_position_bias_shows_when_the_first_always_wins():
    games = [battle("x", "y", "a", "1", "ab"), battle("x", "y", "b", "1", "ba"), battle("x", "y", "a", "2", "ab")]
    assert first_heard_wins(games) == 1.0 and order_consistency(games) == 0.0
    fair = [battle("x", "y", "a", "1", "ab"), battle("y", "x", "b", "1", "ab"), battle("x", "y", "both_bad", "2", "ba")]
    assert first_heard_wins(fair) == 0.5 and order_consistency(fair) == 1.0


@pytest.mark.parametrize(
    "scores, verdict", [((5, 3), "a"), ((1, 2), "b"), ((4, 4), "both_good"), ((3.5, 3.5), "both_bad")]
)
def test_scores_become_a_verdict_when_compared(scores, verdict):
    assert compare(*scores) == verdict


def test_arena_makes_battles_of_scored_responses_only_when_given_runs(tmp_path):
    verdicts = [
        Verdict("good/q1/0", "j", 5.0),
        Verdict("bad/q1/0", "j", 2.0),
        Verdict("good/q2/0", "j", 4.0),
        Verdict("bad/q2/0", "j", None, status="unparsed"),
        Verdict("bad/q3/0", "j", 3.0),
        Verdict("good/q3/0", "j", 3.0),
    ]
    (tmp_path / "verdicts.jsonl").write_text("".join(to_json(v) + "\n" for v in verdicts))
    result = arena(str(tmp_path / "out"), runs=[str(tmp_path)], orders=10)
    assert result["games"] == 2 and result["verdicts"] == {"b": 1, "both_bad": 1}
    assert json.loads((tmp_path / "out/arena.json").read_text())["systems"][0]["system"] == "good"


def test_arena_refuses_when_a_battle_makes_no_sense(tmp_path):
    path = tmp_path / "battles.jsonl"
    path.write_text(to_json(battle("x", "y", "tie")) + "\n")
    with pytest.raises(UserError, match="battle 1 must be between two systems"):
        arena(str(tmp_path / "out"), str(path))
    with pytest.raises(UserError, match="battles or runs"):
        arena(str(tmp_path / "out"))


def test_strengths_intervals_cover_the_truth_at_the_nominal_rate():
    """Three systems, 20 queries that suit each system more or less; 1,000 repeats: .93 to .97 (SE .005)."""
    true, hits = np.array([0.5, 0.0, -0.5]), []
    for repeat in range(1000):
        random = np.random.default_rng(repeat)
        wins, ties = np.zeros((20, 3, 3)), np.zeros((20, 3, 3))
        for query in range(20):
            strength = np.exp(true + random.normal(0, 0.3, 3))
            for a, b in combinations(range(3), 2):
                weights = np.array([strength[a], strength[b], 0.7 * np.sqrt(strength[a] * strength[b])])
                outcome = random.choice(3, p=weights / weights.sum())
                table, rows = (ties, [(a, b), (b, a)]) if outcome == 2 else (wins, [(a, b) if outcome == 0 else (b, a)])
                for row in rows:
                    table[(query, *row)] += 1
        estimate = davidson(wins.sum(0), ties.sum(0))
        hits.append(np.abs(estimate[0] - true) <= half_widths(wins, ties, estimate))
    assert 0.93 <= np.mean(hits) <= 0.97


def test_systems_that_ties_alone_hold_together_have_no_interval():
    """Of 40 games one was won and 39 were ties: 1940 [1762, 2118] against 60, with a p of 4e-13. Strengths d apart with
    ties as likely as exp(d / 2) fit the better the larger d is. A win of either side ends that: a ring of two wins."""
    ties = [Battle(f"{i}", "x", "y", "ab", "both_bad", "j") for i in range(39)]
    wins = [Battle(f"w{i}", "x", "y", "ab", "ab"[i], "j") for i in range(2)]
    for games in (ties, [*ties, wins[0]], [*ties, *(replace(wins[0], query_id=f"v{i}") for i in range(60))]):
        found = rank(games, 1)
        assert [(row["bounded"], row["ci95"]) for row in found["systems"]] == [(False, [None, None])] * 2
        assert found["equal_p"] is None
    found = rank([*ties, *wins], 1)
    assert all(row["bounded"] and row["ci95"][0] < 1000 < row["ci95"][1] for row in found["systems"])
    # x beats y, y beats z, and x and z tie: x is at least 2 above z, but not more than 1, if all of it is to be likely
    three = [("x", "y", "a"), ("y", "z", "a"), ("x", "z", "both_good")]
    for games, bounded in ((three, True), (three[1:], False)):
        assert {r["bounded"] for r in rank([battle(*game) for game in games], 1)["systems"]} == {bounded}


def test_strengths_have_an_interval_from_30_queries_on():
    """One battle had 1989 [1989, 1989]; with fewer queries than 30 Student's interval is too wide (.97 and more)."""
    games = [Battle(f"{i}", "x", "y", "ab", "a" if i % 3 else "b", "j") for i in range(30)]
    assert [row["ci95"] for row in rank(games[:29], 1)["systems"]] == [[None, None]] * 2
    assert all(low < row["strength"] < high for row in rank(games, 1)["systems"] for low, high in [row["ci95"]])
