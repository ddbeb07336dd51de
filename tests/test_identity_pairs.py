"""People and pairs are about what was heard: one rating each, no system against itself, no other queries in a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_identity import PitchEar, manifest, run

from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.pairs.arena import arena, rank
from lightning_paras2s.bench.pairs.battles import from_listeners
from lightning_paras2s.bench.pairs.play import draw
from lightning_paras2s.bench.people import annotate
from lightning_paras2s.bench.people.agreement import agreement
from lightning_paras2s.bench.people.annotate import SCORES, folders_of, keep, load_items, remaining
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Battle, Human, Response, Verdict, append_jsonl, read_jsonl


@pytest.fixture
def study(tmp_path):
    path = manifest(tmp_path)
    for name in ("x", "y"):
        rows = [Response(f"q{i}", name, s, audio=f"{name}{i}-{s}.flac") for i in range(4) for s in range(2)]
        append_jsonl(tmp_path / name / "responses.jsonl", rows)
    return path, [str(tmp_path / "x"), str(tmp_path / "y")], str(tmp_path / "human.jsonl")


def test_a_rating_is_of_what_was_heard_in_two_tabs_and_after_a_name_was_corrected(study, monkeypatch):
    path, runs, out = study
    monkeypatch.setattr(annotate, "seconds_needed", lambda item: 1.0)  # of recordings that are not there
    items = load_items(path, runs, False, None, 0)
    first, second = remaining(items, out, "ann")[:2]
    ended = {item.id: (item.id,) * len(item.sounds) for item in (first, second)}
    assert keep(items, out, "ann", first.id, SCORES[4], 99.0, ended[first.id]) == ""  # one tab
    assert "already" in keep(items, out, "ann", first.id, SCORES[0], 99.0, ended[first.id])  # the other shows the same
    assert keep(items, out, "bob", second.id, SCORES[1], 99.0, ended[second.id]) == ""  # heard, then the name corrected
    rows = read_jsonl(out, Human)
    assert [(h.item_id, h.annotator, h.score) for h in rows] == [(first.id, "ann", 5.0), (second.id, "bob", 2.0)]
    assert keep(items, out, "ann", "nothing", SCORES[0], 99.0, ()) == "Nothing was heard yet."


def test_a_system_never_meets_itself_when_it_answered_twice(study):
    path, runs, _ = study
    items = [item for seed in range(20) for item in load_items(path, runs, True, None, seed)]
    pairs = [[half.split("/")[0] for half in item.id.split(" | ")] for item in items]
    assert len(pairs) == 80 and all(sorted(pair) == ["x", "y"] for pair in pairs)


def test_recordings_are_served_from_wherever_they_lie(study, tmp_path):
    path, runs, _ = study
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    rows[0]["audio"] = "/corpus/speech/a.wav"
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = folders_of(load_items(path, runs, False, None, 0))
    assert set(found) == {"/corpus/speech", str(tmp_path.resolve()), *(str(Path(r).resolve()) for r in runs)}


def test_a_leaderboard_refuses_other_queries_and_other_ears(tmp_path):
    path = manifest(tmp_path)
    run(tmp_path / "a", path)
    run(tmp_path / "b", path, limit=1)
    other = PitchEar([])
    other.name = "other-ear"
    run(tmp_path / "c", path, transcriber=other)
    runs = {name: str(tmp_path / name / "run") for name in "abc"}
    shutil.copytree(runs["a"], tmp_path / "d")
    assert len(leaderboard([runs["a"], str(tmp_path / "d")], "json")["rows"]) == 2
    with pytest.raises(UserError, match="all runs of a table must have the same queries; .* differ"):
        leaderboard([runs["a"], runs["b"]])
    with pytest.raises(UserError, match="all runs of a table must have the same ears; .* differ"):
        leaderboard([runs["a"], runs["c"]])


def test_two_runs_of_one_system_name_stay_apart_in_the_arena(tmp_path):
    path = manifest(tmp_path)
    run(tmp_path / "a", path)
    run(tmp_path / "b", path)
    runs = [str(tmp_path / name / "run") for name in "ab"]
    result = arena(str(tmp_path / "out"), runs=runs, orders=5)
    assert {row["system"] for row in result["systems"]} == {f"parrot ({name})" for name in runs}
    assert {game.a for game in draw(runs, None, 0)} == {f"parrot ({runs[0]})"}


def test_the_arena_refuses_answers_to_other_recordings_under_one_id(tmp_path):
    run(tmp_path / "a", manifest(tmp_path))
    run(tmp_path / "b", manifest(tmp_path, pitch=200))
    with pytest.raises(UserError, match="must answer the same queries to be compared; 'q0' is another"):
        arena(str(tmp_path / "out"), runs=[str(tmp_path / name / "run") for name in "ab"])


def test_systems_that_never_met_are_ranked_apart(capsys):
    """A beats B 3:1 and C beats D 3:1: no game says whether A is above C."""
    games = [Battle(f"q{i}", *pair, "ab", "b" if i % 4 == 0 else "a", "j") for pair in ("AB", "CD") for i in range(40)]
    result = rank(games, 5)
    assert result["groups"] == [["A", "B"], ["C", "D"]]
    assert [(row["system"], row["group"]) for row in result["systems"]] == [("A", 1), ("B", 1), ("C", 2), ("D", 2)]
    gaps = [result["systems"][i]["strength"] - result["systems"][i + 1]["strength"] for i in (0, 2)]
    assert gaps == pytest.approx([400 * np.log10(3)] * 2, abs=0.01)
    assert "2 groups of systems never met and have no common scale" in capsys.readouterr().err
    linked = rank([*games, Battle("q", "A", "C", "ab", "both_bad", "j")], 5)
    assert linked["groups"] == [["A", "B", "C", "D"]]


def test_one_battle_has_no_interval():
    rows = rank([Battle("q", "A", "B", "ab", "a", "j")], 5)["systems"]
    assert [(row["ci95"], row["bounded"]) for row in rows] == [([None, None], False)] * 2


def test_choices_are_read_whatever_the_names_hold(tmp_path):
    a, b = (Response("q|1/x", name, 0).id for name in ("org/model | 2", "50%"))
    append_jsonl(tmp_path / "h.jsonl", [Human(f"{a} | {b}", "ann", verdict="a")])
    game = from_listeners(str(tmp_path / "h.jsonl"))[0]
    assert (game.query_id, game.a, game.b) == ("q|1/x", "org/model | 2", "50%")


def test_a_listening_test_refuses_two_runs_that_hold_answers_of_one_id(study, tmp_path):
    """Ratings name an answer by its id: of two recordings under one, nobody could tell which was heard."""
    path, runs, _ = study
    append_jsonl(tmp_path / "z/responses.jsonl", [Response("q3", "x", 1, status="timeout"), Response("q3", "z")])
    for pairwise in (False, True):
        with pytest.raises(UserError, match=r"must hold answers of ids of their own; got 'x/q3/1' in .*/x and in .*/z"):
            load_items(path, [*runs, str(tmp_path / "z")], pairwise, None, 0)


def test_agreement_refuses_two_runs_that_hold_verdicts_of_one_id_in_either_order(tmp_path):
    """The last run's verdict won, so that the order of --runs decided the figure."""
    path = manifest(tmp_path)
    for name, score in (("a", 1.0), ("b", 5.0)):
        rows = [Verdict("x/q0/0", "j", score), Verdict(f"{name}/q1/0", "j", 2.0)]
        append_jsonl(tmp_path / name / "verdicts.jsonl", rows)
    append_jsonl(tmp_path / "human.jsonl", [Human("a/q1/0", "ann", 2.0)])
    runs = [str(tmp_path / name) for name in "ab"]
    for order in (runs, runs[::-1]):
        with pytest.raises(UserError, match=r"ids of their own; got 'x/q0/0' in .* and in .*; evaluate"):
            agreement(str(tmp_path / "human.jsonl"), order, path)


def test_one_folder_is_refused_as_two_runs_whatever_it_is_called(study, tmp_path):
    path, (x, y), out = study
    (tmp_path / "link").symlink_to(x)
    for same in (x, f"{x}/", f"{y}/../x", str(tmp_path / "link")):
        for refused in (
            lambda same=same: load_items(path, [x, same], False, None, 0),
            lambda same=same: agreement(out, [x, same], path),
            lambda same=same: arena(str(tmp_path / "out"), runs=[x, same]),
        ):
            with pytest.raises(UserError, match="runs must be different folders; got .* name it once"):
                refused()
