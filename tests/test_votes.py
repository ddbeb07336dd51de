"""People's votes as files really are: twice, half filled in, saved by a spreadsheet, of answers that are gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.people.agreement import agreement
from lightning_paras2s.bench.people.annotate import SCORES, Item, judgement, remaining
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Battle, Human, Query, Response, Verdict, append_jsonl, to_json

ANN = {f"s/q{i}/0": float(1 + i % 4) for i in range(8)}
BJÖRN = {name: min(score + 1, 5.0) if name < "s/q4" else score for name, score in ANN.items()}
ROWS = [Human(item, who, score) for who, rated in (("Ann", ANN), ("Björn", BJÖRN)) for item, score in rated.items()]
CHOICES = [Human(f"x/q{i}/0 | y/q{i}/0", "Björn", verdict="ab"[i % 3 == 0]) for i in range(6)]


@pytest.fixture
def rate(tmp_path):
    """-> `agreement` of a file's text, or of records; the judge says what Ann says."""
    queries = [Query(f"q{i}", f"p{i // 2}", "age", "test", "Hi.", {"age": "child"}, "T", "a.flac") for i in range(9)]
    (tmp_path / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    append_jsonl(tmp_path / "run/verdicts.jsonl", [Verdict(name, "j", score) for name, score in ANN.items()])

    def found(votes: str | bytes | list[Human], name: str = "votes.jsonl"):
        write(tmp_path / name, votes)
        return agreement(str(tmp_path / name), [str(tmp_path / "run")], str(tmp_path / "queries.jsonl"))

    return found


def write(path, votes):
    text = "".join(to_json(h) + "\n" for h in votes) if isinstance(votes, list) else votes
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def sheet(rows: list[Human], between: str, end: str = "\r\n") -> str:
    """As a spreadsheet saves it: an empty cell for what is missing, and where ; parts cells a comma in numbers."""
    lines = [between.join(("item_id", "annotator", "score", "verdict"))]
    for row in rows:
        score = "" if row.score is None else f"{row.score:.1f}".replace(".", "," if between == ";" else ".")
        lines.append(between.join((row.item_id, row.annotator, score, row.verdict or "")))
    return end.join([*lines, ""])


def test_a_rating_that_one_listener_gave_twice_and_otherwise_is_refused(rate):
    """The last one won: Ann's second pass, all 1, took alpha from .77 to below 0, with exit code 0."""
    with pytest.raises(UserError, match=r"votes.jsonl: 'Ann' must have judged 's/q1/0' once; got 2\.0 and 1\.0"):
        rate([*ROWS, Human("s/q1/0", "Ann", 1.0)])


def test_lines_that_two_files_had_in_common_count_once(rate, capsys):
    alone = rate(ROWS)
    assert rate([*ROWS, *ROWS[:3], replace(ROWS[4], seconds=9.0)]) == alone
    assert "4 votes" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["Ann ", "ann", " ANN", "\u00a0Ann"])
def test_one_listeners_name_is_one_listener_however_it_is_typed(rate, other):
    rows = [replace(h, annotator=other) if h.annotator == "Ann" and h.item_id > "s/q5" else h for h in ROWS]
    assert rate(rows) == rate(ROWS)


def test_a_composed_and_a_decomposed_letter_are_one(rate):
    rows = [replace(h, annotator="Bjo\u0308rn") if h.annotator == "Björn" and h.item_id > "s/q3" else h for h in ROWS]
    assert rate(rows)["annotators"] == 2


def test_a_vote_for_an_answer_that_no_run_holds_is_refused(rate):
    """It was counted with those that the judge left without a score, and moved alpha."""
    with pytest.raises(UserError, match=r"runs must hold the answers that were rated; got none of 's/q8/0'"):
        rate([*ROWS, Human("s/q8/0", "Ann", 3.0)])


@pytest.mark.parametrize(("between", "mark"), [(",", ""), (";", "\ufeff"), ("\t", "\ufeff")])
def test_a_table_that_a_spreadsheet_saved_is_read_as_the_lines_are(rate, between, mark):
    blank = [Human("s/q7/0", "Zoë")]  # half-finished: a row without a score
    assert rate(mark + sheet([*ROWS, *blank], between), "votes.csv") == rate(ROWS)


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        (sheet(ROWS, ";").encode("latin1"), "must be UTF-8"),
        (sheet(ROWS, ",").replace("annotator", "name", 1), "must have the column annotator"),
        (sheet(ROWS, ",").replace("1.0", "good", 1), r":2: a score must be a number, or empty; got 'good'"),
        ("", "must hold ratings with a score; got none"),
    ],
)
def test_a_table_that_is_none_is_one_line(rate, votes, said):
    with pytest.raises(UserError, match=said):
        rate(votes, "votes.csv")


def test_choices_in_a_table_and_behind_a_blank_line_are_battles(tmp_path):
    lines = "".join(to_json(h) + "\n" for h in CHOICES)
    for name, votes in (("a.jsonl", "\n" + lines), ("b.jsonl", "\ufeff" + lines), ("c.csv", sheet(CHOICES, ";"))):
        write(tmp_path / name, votes)
        made = arena(str(tmp_path / "out"), battles=str(tmp_path / name), orders=2)
        assert (made["games"], made["verdicts"]) == (6, {"b": 2, "a": 4})


def test_a_choice_made_twice_counts_once_or_is_refused(tmp_path):
    """Each line was a game: a file put together twice had twice the games."""
    write(tmp_path / "twice.jsonl", CHOICES + CHOICES)
    assert arena(str(tmp_path / "out"), battles=str(tmp_path / "twice.jsonl"), orders=2)["games"] == 6
    write(tmp_path / "other.jsonl", [*CHOICES, replace(CHOICES[1], verdict="both_bad")])
    with pytest.raises(UserError, match=r"'Björn' must have judged 'x/q1/0 \| y/q1/0' once; got a and both_bad"):
        arena(str(tmp_path / "out"), battles=str(tmp_path / "other.jsonl"), orders=2)


def test_choices_that_are_no_text_are_one_line(tmp_path):
    """A traceback: the first line was decoded to see what it is."""
    (tmp_path / "v.jsonl").write_bytes("{'annotator': 'Björn'}".encode("latin1"))
    with pytest.raises(UserError, match="each line must be one JSON object"):
        arena(str(tmp_path / "out"), battles=str(tmp_path / "v.jsonl"))


def test_listeners_who_met_none_of_the_games_are_told(tmp_path, capsys):
    append_jsonl(tmp_path / "b.jsonl", [Battle("q0", "X", "y", "ab", "a", "j")])
    write(tmp_path / "v.jsonl", CHOICES)
    made = arena(str(tmp_path / "o"), battles=str(tmp_path / "b.jsonl"), listeners=str(tmp_path / "v.jsonl"), orders=2)
    assert made["listeners"] == {"n": 0}
    assert "got none of the games' (X, y)" in capsys.readouterr().err


def test_each_listener_is_shown_and_one_who_gives_one_score_is_named(rate, capsys):
    """All 5s took alpha down, and nothing told who did it: there, the correlation with the others is not defined."""
    found = rate([*ROWS, *(Human(item, "Max", 5.0) for item in ANN)])
    assert found["raters"]["Max"] == {"n": 8, "mean": 5.0, "bias": found["raters"]["Max"]["bias"], "pearson": None}
    assert found["raters"]["Ann"]["mean"] == 2.5 and found["raters"]["Ann"]["pearson"] > 0.8
    # Max against the mean of Ann and Björn: means of Ann 2.5, of Björn 3.0 -> 5 - 2.75
    assert found["raters"]["Max"]["bias"] == 2.25
    assert "Max gave one score to all of 8" in capsys.readouterr().err


def test_ratings_of_recordings_that_were_replaced_since_are_left_out_and_asked_again(rate, tmp_path, capsys):
    """A rating named the answer and not its recording: after a model was trained on, the old ratings met new scores."""
    item = Item("s/q0/0", "q0.flac", "a.flac", heard="old")
    made = judgement(item, "Ann", SCORES[0], 3.0)
    assert made.heard == "old"
    append_jsonl(tmp_path / "run/responses.jsonl", [Response(f"q{i}", "s", sha256="new") for i in range(8)])
    alone = rate([h for h in ROWS if h != ROWS[0]])
    assert rate([made, *(replace(h, heard="new") for h in ROWS[1:])]) == alone
    assert "1 rating" in capsys.readouterr().err
    assert rate([made, replace(made, score=2.0, heard="new"), *ROWS[1:]])["overall"]["ratings"] == 16
    write(tmp_path / "out.jsonl", [made])
    assert remaining([item], str(tmp_path / "out.jsonl"), " ann") == []
    assert remaining([replace(item, heard="new")], str(tmp_path / "out.jsonl"), "Ann") != []


def test_choices_between_recordings_that_were_replaced_since_are_left_out_of_an_arena(tmp_path, capsys):
    """They were compared with the scores of the answers that took the old ones' place."""
    for i in range(6):
        rows = [Response(f"q{i}", name, sha256=f"{name}-new") for name in "xy"]
        append_jsonl(tmp_path / "run/responses.jsonl", rows)
        scores = [Verdict(row.id, "j", score) for row, score in zip(rows, (5.0, 1.0), strict=True)]
        append_jsonl(tmp_path / "run/verdicts.jsonl", scores)
    today = [replace(h, heard="x-new | y-new") for h in CHOICES]
    old = replace(today[1], heard="x-old | y-new")
    write(tmp_path / "v.jsonl", [old, replace(today[1], verdict="b"), *today[2:], replace(CHOICES[0], heard="")])
    found = arena(str(tmp_path / "o"), runs=[str(tmp_path / "run")], listeners=str(tmp_path / "v.jsonl"), orders=2)
    # x wins by the scores; by the listeners at q2, q4 and q5 (CHOICES), y at q0 and q3, and now at q1
    assert (found["listeners"]["n"], found["listeners"]["agreement"]) == (6, 0.5)
    assert "v.jsonl: 1 choice of answers that were replaced since they were heard" in capsys.readouterr().err
