"""Votes on battles: each counts once, none is compared with itself, and listeners' agreement is told."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.pairs.meetings import VERDICTS, between_judges
from lightning_paras2s.errors import UserError
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Battle, Human, append_jsonl

GAMES = [Battle(f"q{i}", "A", "B", "ab", VERDICTS[i % 3], "j") for i in range(40)]


def ranked(folder: Path, games: list[Battle], listeners: list[Battle] | None = None) -> dict:
    names = [str(folder / f"{len(list(folder.iterdir()))}-{name}.jsonl") for name in ("battles", "listeners")]
    append_jsonl(names[0], games)
    append_jsonl(names[1], listeners or [])
    return arena(str(folder / "out"), names[0], listeners=names[1] if listeners else None, orders=0)


def turned(game: Battle) -> Battle:
    """The same game, the other system named first."""
    verdict = {"a": "b", "b": "a"}.get(game.verdict, game.verdict)
    return Battle(game.query_id, game.b, game.a, "ba" if game.order == "ab" else "ab", verdict, game.judge)


def test_a_game_that_a_judge_decided_once_counts_once(tmp_path, capsys):
    """A file put together twice had 80 games of 40: twice the wins, and both orders as if each had been heard."""
    alone = ranked(tmp_path, GAMES)
    assert ranked(tmp_path, GAMES + GAMES) == alone == ranked(tmp_path, [*GAMES, *map(turned, GAMES)])
    assert "40 battles are there more than once and count once" in capsys.readouterr().err
    other = [replace(game, order="ba") for game in GAMES], [replace(game, judge="k") for game in GAMES]
    assert [ranked(tmp_path, GAMES + more)["games"] for more in other] == [80, 80]


def test_two_verdicts_of_one_judge_on_one_game_are_refused(tmp_path):
    games = [*GAMES, turned(replace(GAMES[0], verdict="both_bad"))]
    with pytest.raises(UserError, match="'j' must have decided A against B at 'q0', A heard first, once; got A and bo"):
        ranked(tmp_path, games)


def test_votes_are_not_compared_with_themselves(tmp_path, capsys):
    """The same votes as --battles and --listeners agreed by 1.000, kappa 1.000."""
    for listeners in (GAMES, [turned(game) for game in GAMES[:30]]):
        with pytest.raises(UserError, match="listeners must be other votes than those that they are compared with"):
            ranked(tmp_path, GAMES, listeners)
    with pytest.raises(UserError, match="listeners must be other votes"):
        ranked(tmp_path, GAMES[:30], GAMES)
    again = [replace(game, verdict="both_bad") if i < 4 else game for i, game in enumerate(GAMES)]  # heard once more
    assert ranked(tmp_path, GAMES, again)["listeners"]["agreement"] == pytest.approx(0.9)
    assert "36 of 40 votes are among the battles, too" in capsys.readouterr().err


def test_traces_labels_of_one_pair_are_several_listeners(tmp_path):
    """34 of the 280 pairs of s2sarena.json have two labels, known by `index`, of listeners without names."""
    label = dict.fromkeys(("content", "voice_quality", "paralinguistics"), "1")
    row = {"instruction_path": "input/sing/audio_0.wav", "model_a": "x", "model_b": "y"}
    rows = [row | {"index": i, "label": label | {"overall": name}} for i, name in enumerate(("1", "1", "both_bad"))]
    (tmp_path / "s2sarena.json").write_text(json.dumps(rows))
    made = arena(str(tmp_path / "out"), str(tmp_path / "s2sarena.json"), orders=0)
    assert made["games"] == 3 and made["between_judges"] is None


def test_alpha_of_listeners_on_the_published_example(tmp_path, capsys):
    """Krippendorff (2011), example A, binary data of two observers, Meg and Owen: 14 zeros and 6 ones, 4 of 10 units
    apart: alpha = 1 - 19 * 4 / (14 * 6) = .095."""
    meg, owen = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    votes = [Human(f"x/q{i}/0 | y/q{i}/0", "Meg", verdict="ab"[one]) for i, one in enumerate(meg)]
    votes += [Human(f"y/q{i}/0 | x/q{i}/0", "Owen", verdict="ba"[one]) for i, one in enumerate(owen)]  # turned round
    votes += [Human("x/q11/0 | y/q11/0", "Owen", verdict="a")]  # by one alone: it says nothing
    append_jsonl(tmp_path / "v.jsonl", votes)
    made = arena(str(tmp_path / "out"), str(tmp_path / "v.jsonl"), orders=0)
    found = made["between_judges"]
    assert found["alpha"] == pytest.approx(1 - 19 * 4 / 84, abs=1e-4)
    assert {name: found[name] for name in ("judges", "n", "n_votes", "alpha_ci95")} == {
        "judges": 2, "n": 10, "n_votes": 20, "alpha_ci95": [None, None]}  # fmt: skip
    show("arena", made, {"out": "x"}, "P", False)
    assert "Krippendorff's alpha of 2 judges: 0.095, n 10, 20 votes" in capsys.readouterr().out
    games = [Battle(f"q{i}", "x", "y", "ab", "ab"[(i + 1) % 2], "judge") for i in range(10)]
    append_jsonl(tmp_path / "b.jsonl", games)
    made = arena(str(tmp_path / "out"), str(tmp_path / "b.jsonl"), listeners=str(tmp_path / "v.jsonl"), orders=0)
    assert made["between_judges"] is None and made["listeners"]["between_judges"] == found


def test_alpha_of_three_listeners_is_one_less_observed_over_expected_disagreement():
    """By its definition, pair by pair: D_o over pairs of votes within a meeting, each weighed by 1 / (m - 1), D_e over
    all pairs of votes that met another; some meetings were judged by two of three, and some by one."""
    random = np.random.default_rng(5)
    games, truth = [], random.integers(0, 4, 120)
    for i, true in enumerate(truth):
        for judge in "xyz"[: random.integers(1, 4)]:
            said = VERDICTS[true if random.random() < 0.6 else random.integers(4)]
            game = Battle(f"q{i}", "A", "B", "ab", said, judge)
            games.append(turned(game) if random.random() < 0.5 else game)
    units: dict[str, list[str]] = {}
    for game in games:
        units.setdefault(game.query_id, []).append((turned(game) if game.a == "B" else game).verdict)
    met = [votes for votes in units.values() if len(votes) > 1]
    flat = [vote for votes in met for vote in votes]
    observed = sum(sum(a != b for a, b in permutations(votes, 2)) / (len(votes) - 1) for votes in met) / len(flat)
    expected = sum(a != b for a, b in permutations(flat, 2)) / (len(flat) * (len(flat) - 1))
    found = between_judges(games)
    assert found["alpha"] == pytest.approx(1 - observed / expected, abs=1e-4)
    assert (found["n"], found["n_votes"]) == (len(met), len(flat))
    assert found["alpha_ci95"][0] < found["alpha"] < found["alpha_ci95"][1]
    both = [replace(game, order="ba" if game.order == "ab" else "ab") for game in games]
    assert between_judges(games + both)["n"] == 2 * len(met)  # one unit an order: nobody meets himself
    assert between_judges(games + both)["alpha"] == pytest.approx(found["alpha"], abs=2e-3)  # n in n - 1 doubles
