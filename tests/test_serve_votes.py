"""Blind votes: what may be voted on, by whom, when, and what `arena` then reads."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest

from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.errors import UserError
from lightning_paras2s.serving.chats import BadRequestError
from lightning_paras2s.serving.votes import OPEN, Votes, name_of
from lightning_paras2s.types import Battle, Human, append_jsonl, read_jsonl

TWO = ("x@1", "y@2")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def votes(tmp_path):
    made = Votes(tmp_path / "battles.jsonl", Clock(), Random(0))
    made.opened = lambda rater="ann", query="q", seconds=(2.0, 4.0): made.open(rater, query, TWO, seconds, ({}, {}))
    return made


def heard(votes: Votes, turn: str, *sides: int) -> None:
    for side in sides:
        votes.clock.now += 4.0
        votes.hear(turn, side)


def refuses(status: int, what: str):
    class Refusal:
        def __enter__(self):
            self.raised = pytest.raises(BadRequestError, match=what)
            self.error = self.raised.__enter__()

        def __exit__(self, *error):
            done = self.raised.__exit__(*error)
            assert self.error.value.status == status
            return done

    return Refusal()


@pytest.mark.parametrize("sides", [(), (0,), (1,), (0, 0)])
def test_nothing_is_written_before_both_answers_were_heard(votes, sides):
    turn = votes.opened()
    heard(votes, turn, *sides)
    with refuses(409, f"must be heard to their ends before a vote; got {len(set(sides))}"):
        votes.vote(turn, "a")
    assert not votes.path.exists()


def test_an_answer_is_not_heard_sooner_than_it_can_have_been_played(votes):
    """4 s at twice the speed are 2 s; the second answer counts from the end of the first."""
    turn = votes.opened()
    votes.clock.now = 1.9
    with refuses(409, r"heard to its end \(2.0 s\); got 1.9 s"):
        votes.hear(turn, 1)
    votes.clock.now = 2.0
    assert votes.hear(turn, 1) == 1
    votes.clock.now = 2.9
    with refuses(409, r"heard to its end \(1.0 s\); got 0.9 s"):
        votes.hear(turn, 0)
    assert votes.hear(turn, 1) == 1  # once more the same
    votes.clock.now = 3.0
    assert votes.hear(turn, 0) == 2


def test_a_vote_is_a_battle_that_arena_reads(votes, tmp_path):
    for number, (verdict, order) in enumerate([("a", (0, 1)), ("b", (1, 0)), ("both_bad", (0, 1))]):
        turn = votes.opened(query=f"q{number}")
        heard(votes, turn, *order)
        votes.vote(turn, verdict)
    assert read_jsonl(votes.path, Battle) == [
        Battle("q0", "x@1", "y@2", "ab", "a", "ann"),
        Battle("q1", "x@1", "y@2", "ba", "b", "ann"),  # y was heard first
        Battle("q2", "x@1", "y@2", "ab", "both_bad", "ann"),
    ]
    found = arena(str(tmp_path / "out"), str(votes.path), orders=5)
    counts = {row["system"]: (row["wins"], row["losses"], row["both_bad"]) for row in found["systems"]}
    assert counts == {"x@1": (1, 1, 1), "y@2": (1, 1, 1)}
    assert found["first_heard_wins"] is None  # no pair was heard in both orders


def test_a_listener_votes_once_on_a_recording_also_after_a_restart(votes):
    first, second = votes.opened(), votes.opened()  # two tabs
    heard(votes, first, 0, 1)
    heard(votes, second, 0, 1)
    votes.vote(first, "a")
    with refuses(410, "no such answers"):
        votes.vote(first, "b")
    with refuses(409, "the first vote stays"):
        votes.vote(second, "b")
    again = Votes(votes.path, Clock())
    for held in (votes, again):
        with refuses(409, "the first vote stays"):
            held.draw("ann", "q", ["y@2", "x@1"])
        assert set(held.draw("bob", "q", TWO)) == set(held.draw("ann", "q2", TWO)) == set(TWO)
        assert set(held.draw("ann", "q", ["x@1", "y@3"])) == {"x@1", "y@3"}  # other weights are another system
    with refuses(410, "no such answers"):  # what was open before the restart was not heard by this server
        again.vote(second, "b")
    assert len(read_jsonl(votes.path, Battle)) == 1


def test_sides_and_pairs_are_random_and_even(votes):
    """1,200 draws of three pairs on two sides: 200 expected of each, 5 standard deviations are 65."""
    drawn = Counter(votes.draw("ann", "q", ["x", "y", "z"]) for _ in range(1200))
    assert len(drawn) == 6 and all(abs(count - 200) < 65 for count in drawn.values())


@pytest.mark.parametrize("turn", [None, 3, "x", {"a": 1}])
def test_what_is_no_open_turn_is_refused(votes, turn):
    for ask in (lambda: votes.hear(turn, 0), lambda: votes.vote(turn, "a")):
        with refuses(410, "no such answers"):
            ask()


def test_other_sides_and_verdicts_are_refused(votes):
    turn = votes.opened()
    for side in (2, -1, "0", None, True):
        with refuses(400, "a side must be 0 or 1"):
            votes.hear(turn, side)
    heard(votes, turn, 0, 1)
    for verdict in ("tie", "", None, 0):
        with refuses(400, "a verdict must be one of a, b, both_good, both_bad"):
            votes.vote(turn, verdict)
    assert not votes.path.exists()


def test_the_oldest_open_turn_is_forgotten(votes):
    first = votes.opened()
    for number in range(OPEN):
        last = votes.opened(query=f"q{number}")
    assert len(votes.turns) == OPEN and last in votes.turns and first not in votes.turns


@pytest.mark.parametrize("name", [None, "", "  ", "a\nb", "a" * 81, "\ud800", 5])
def test_a_name_is_a_name(name):
    with refuses(400, "a vote must have a name"):
        name_of(name)


def test_a_name_keeps_its_letters():
    assert name_of(" Zoë <b> ") == "Zoë <b>"


def test_a_half_line_of_a_killed_server_is_dropped_and_told(tmp_path, capsys):
    path = tmp_path / "battles.jsonl"
    append_jsonl(path, [Battle("q", *TWO, "ab", "a", "ann")])
    with path.open("a") as file:
        file.write('{"query_id": "q2", "a"')
    votes = Votes(path, Clock())
    assert "that vote is dropped" in capsys.readouterr().err
    turn = votes.open("ann", "q2", TWO, (0.0, 0.0), ({}, {}))
    heard(votes, turn, 0, 1)
    votes.vote(turn, "b")
    assert [battle.verdict for battle in read_jsonl(path, Battle)] == ["a", "b"]


def test_a_file_that_holds_something_else_is_one_line(tmp_path):
    ratings = tmp_path / "human.jsonl"
    append_jsonl(ratings, [Human("x/q/0", "ann", 3.0)])
    (tmp_path / "text.jsonl").write_text("no JSON\n")
    for place, what in (("human.jsonl", "a battle must have"), ("text.jsonl", "must be one JSON object")):
        with pytest.raises(UserError, match=what):
            Votes(tmp_path / place)
    for place in (tmp_path, tmp_path / "battles.json"):
        with pytest.raises(UserError, match="must be a file of JSON lines"):
            Votes(place)
    assert json.loads(ratings.read_text())["annotator"] == "ann"
