"""The arena counts what is independent: contrast pairs, and meetings; and takes only what a run's summary is about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_identity import Parrot, PitchEar, Reader, StyleByPitch, manifest, run

from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.pairs.arena import arena, rank
from lightning_paras2s.bench.pairs.arena_bias import position_bias
from lightning_paras2s.bench.pairs.battles import from_runs
from lightning_paras2s.bench.pairs.meetings import agreement_of
from lightning_paras2s.bench.pairs.play import draw
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Battle, Query, append_jsonl

PAIRS = {f"q{p}{half}": f"age/p{p}" for p in range(40) for half in range(2)}


def twice(games: list[Battle]) -> list[Battle]:
    """Each game of a query once more at the other half of its pair, with the same end."""
    return [replace(game, query_id=f"{game.query_id}{half}") for game in games for half in range(2)]


def flips(count: int = 40, judge: str = "j", seed: int = 0) -> list[Battle]:
    verdicts = np.random.default_rng(seed).choice(["a", "b", "both_good"], count, p=[0.5, 0.3, 0.2])
    return [Battle(f"q{p}", "A", "B", "ab", str(verdict), judge) for p, verdict in enumerate(verdicts)]


def evaluate_all(folder: Path, path: str, systems: dict, **options) -> None:
    judge = LLMJudge(Reader(), max_wer=9.0)
    evaluate(path, dict(systems), judge, PitchEar([]), StyleByPitch(), str(folder / "run"), **options)


def test_halves_that_end_alike_say_no_more_than_one_of_them():
    """Twice the same games in as many clusters: the bread of the sandwich halves, the scores double."""
    once, both = rank(flips(), 0), rank(twice(flips()), 0, pairs=PAIRS)
    assert both["systems"][0]["ci95"] == pytest.approx(once["systems"][0]["ci95"], abs=1e-4)
    assert both["equal_p"] == pytest.approx(once["equal_p"])
    apart = rank(twice(flips()), 0)["systems"][0]["ci95"]  # nobody tells the pairs: too narrow by about sqrt(2)
    assert np.diff(apart) == pytest.approx(np.diff(once["systems"][0]["ci95"]) / np.sqrt(2), rel=0.05)


def test_intervals_cover_where_the_text_decides_both_halves():
    """Two equal systems, 40 pairs: of 300 experiments .95 cover with a standard error of .013."""
    covered = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        games = [Battle(f"q{p}", "A", "B", "ab", "ab"[random.random() < 0.5], "j") for p in range(40)]
        low, high = rank(twice(games), 0, pairs=PAIRS)["systems"][0]["ci95"]
        covered.append(low <= 1000 <= high)
    assert 0.91 <= np.mean(covered) <= 0.99  # three standard errors


def test_a_strength_needs_30_pairs_for_an_interval():
    games = twice([Battle(f"q{p}", "A", "B", "ab", "ab"[p % 3 == 0], "j") for p in range(30)])
    assert rank(games, 0, pairs=PAIRS)["systems"][0]["ci95"][0] is not None
    assert rank(games[:58], 0, pairs=PAIRS)["systems"][0]["ci95"] == [None, None]
    assert rank(games[:58], 0)["systems"][0]["ci95"][0] is not None  # 58 queries of which nothing is known


def test_position_bias_and_kappa_count_a_pair_once():
    games = [Battle(f"q{p}", "A", "B", order, order[0], "j") for p in range(12) for order in ("ab", "ba")]
    once, both = position_bias(games), position_bias(twice(games), PAIRS)
    assert both.p == once.p == pytest.approx(2 / 2**12) and both.pairs == 2 * once.pairs
    ours, theirs = flips(), flips(judge="k", seed=1)
    ends = agreement_of(ours, theirs)["kappa_ci95"]
    assert agreement_of(twice(ours), twice(theirs), PAIRS)["kappa_ci95"] == pytest.approx(ends)


def test_the_pairs_are_the_manifests_or_those_of_the_manifests_that_the_summaries_name(tmp_path, capsys):
    rows = [Query(name, pair[4:], "age", "test", "Hi.", {"age": "child"}, "", "a.wav") for name, pair in PAIRS.items()]
    append_jsonl(tmp_path / "q.jsonl", rows)
    append_jsonl(tmp_path / "b.jsonl", [*twice(flips()), Battle("other", "A", "B", "ab", "a", "j")])
    battles = str(tmp_path / "b.jsonl")
    told = arena(str(tmp_path / "told"), battles, manifest=str(tmp_path / "q.jsonl"), orders=0)
    assert told["clusters"] == {"pairs": 40, "queries": 1}
    untold = arena(str(tmp_path / "untold"), battles, orders=0)
    assert untold["clusters"] == {"pairs": 0, "queries": 81}
    for result, line in ((told, "40 contrast pairs and 1 query"), (untold, "81 queries")):
        show("arena", result, {"out": "x"}, "P", False)
        assert f"intervals are clustered by {line}" in " ".join(capsys.readouterr().out.split())
    path = manifest(tmp_path)
    for name in "ab":
        run(tmp_path / name, path)
    runs = [str(tmp_path / name / "run") for name in "ab"]
    assert arena(str(tmp_path / "out"), runs=runs, orders=0)["clusters"] == {"pairs": 2, "queries": 0}
    Path(path).rename(tmp_path / "moved.jsonl")
    assert arena(str(tmp_path / "out"), runs=runs, orders=0)["clusters"] == {"pairs": 0, "queries": 4}


def test_only_what_the_summary_is_about_is_compared(tmp_path):
    """The folder's last `evaluate` was of one pair, one sample and two of three systems; all of it is still there."""
    path, parts = manifest(tmp_path), {name: Parrot() for name in ("x", "y", "z")}
    evaluate_all(tmp_path, path, parts, samples=2)
    everything = from_runs([str(tmp_path / "run")])
    assert len(everything) == 12  # three meetings at four queries
    parts.pop("z")
    evaluate_all(tmp_path, path, parts, limit=1)
    runs = [str(tmp_path / "run")]
    games = from_runs(runs)
    assert [(g.query_id, g.a, g.b) for g in games] == [("q0", "x", "y"), ("q1", "x", "y")]
    assert {(g.query_id, g.a, g.b) for g in draw(runs, None, 0)} == {("q0", "x", "y"), ("q1", "x", "y")}
    rows = Path(path).read_text().splitlines()
    for changed in (rows[2:], None):  # of other queries, or gone: nothing else tells which two of the four
        Path(path).unlink() if changed is None else Path(path).write_text("\n".join([*changed, rows[0] + "\n"]))
        with pytest.raises(UserError, match=r"summary of .*run must tell which .* about; got 2 of 4"):
            from_runs(runs)


def test_a_sample_that_the_summary_leaves_out_is_no_score(tmp_path):
    path, parts = manifest(tmp_path), {name: Parrot() for name in ("x", "y")}
    evaluate_all(tmp_path, path, parts, samples=2)
    log = tmp_path / "run/verdicts.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    changed = [row | ({"score": 1.0} if row["response_id"].startswith("y") and row["response_id"][-1] == "1" else {})
               for row in rows]  # fmt: skip
    log.write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert {g.verdict for g in from_runs([str(tmp_path / "run")])} == {"a"}  # 5 against (5 + 1) / 2
    evaluate_all(tmp_path, path, parts, samples=1)
    assert {g.verdict for g in from_runs([str(tmp_path / "run")])} == {"both_good"}


def test_games_to_draw_are_refused_where_no_judge_hears_them(tmp_path):
    with pytest.raises(UserError, match="games must be given with a judge, which hears them; got games=5 without one"):
        arena(str(tmp_path / "out"), runs=[str(tmp_path)], games=5)


def test_a_meeting_in_both_orders_with_three_listeners_is_one_meeting(tmp_path):
    """Two verdicts and three votes are compared six times."""
    games = [Battle("q", "A", "B", order, "a", "j") for order in ("ab", "ba")]
    votes = [Battle("q", "B", "A", "ab", verdict, name) for name, verdict in zip("xyz", ("b", "b", "both_bad"))]
    found = agreement_of(games, [*votes, Battle("other", "A", "B", "ab", "a", "x")])
    assert {name: found[name] for name in ("n", "n_votes", "n_compared", "n_decided")} == {
        "n": 1, "n_votes": 3, "n_compared": 6, "n_decided": 1}  # fmt: skip
    assert found["agreement"] == pytest.approx(4 / 6) and found["decided_agreement"] == 1
    assert agreement_of(games, []) == {"n": 0}
