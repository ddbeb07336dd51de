"""Several answers a query and several verdicts an answer: rows, report and page show their mean, as `evaluate` does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.leaderboard_page import answer_html, service
from lightning_paras2s.bench.listening import Listening
from lightning_paras2s.bench.summary import judged, summarise_system
from lightning_paras2s.bench.verdicts import own_scores, own_verdicts
from lightning_paras2s.running.logs import Log, verdicts_of
from lightning_paras2s.sweeping.rows import by_pair
from lightning_paras2s.types import Audio, Query, Response, Verdict, append_jsonl

SUMMARY = {"systems": {"grpo": {}}, "judge": "hand", "rubric_sha": "0", "label_source": "gold", "samples": 2}
STYLES = ("adult", "child")
QUERIES = [Query(f"q{i}", "p0", "age", "test", "Where?", {"age": s}, "oil", "q.wav") for i, s in enumerate(STYLES)]
PAIRS = {"q0": ("age/p0", "adult"), "q1": ("age/p0", "child")}


def verdict(answer: str, score: float | None, sample: int = 0, **other: str) -> Verdict:
    about = {"judge": "hand", "rubric_sha": "0", "reason": f"why {score}"} | other
    status = "no_score" if score is None else "ok"
    return Verdict(f"grpo/{answer}", score=score, sample=sample, status=status, **about)


@pytest.fixture
def run(tmp_path) -> Path:
    """Two answers a query and one more of an earlier run with three samples; the judge was asked up to three times."""
    write_audio(tmp_path / "q.wav", Audio((0.3 * np.sin(np.arange(3200) / 3)).astype(np.float32), 16_000))
    append_jsonl(tmp_path / "queries.jsonl", QUERIES)
    answers = [Response(f"q{i}", "grpo", s, text="x", cost_usd=1.0 + s) for i in (0, 1) for s in (0, 1, 2)]
    append_jsonl(tmp_path / "responses.jsonl", answers)
    made = [verdict("q0/0", score, i) for i, score in enumerate((1.0, 1.0, 5.0))]
    made += [verdict("q0/1", None), verdict("q1/0", 5.0), verdict("q1/1", 2.0), verdict("q1/2", 1.0)]
    others = ({"judge": "another"}, {"rubric_sha": "9"}, {"label_source": "predicted"})
    made += [verdict("q1/0", 3.0, **other) for other in others]
    append_jsonl(tmp_path / "verdicts.jsonl", made)
    append_jsonl(tmp_path / "swaps.jsonl", [verdict("q0/0", 2.0), verdict("q0/1", 1.0)])
    return tmp_path


def test_rows_of_a_sweep_hold_the_mean_of_the_judges_verdicts(run):
    """They held the last verdict, whoever's it was."""
    scores = own_scores(Log(run), "verdicts", SUMMARY)
    found = by_pair(scores, "grpo", PAIRS, 2)
    # q0: 1, 1 and 5, and no score of the second answer; q1: 5 and 2
    assert found == {"age/p0": [pytest.approx(7 / 3), 3.5]}
    assert by_pair(scores, "grpo", PAIRS, 1) == {"age/p0": [pytest.approx(7 / 3), 5.0]}
    assert by_pair({}, "grpo", PAIRS, 2) == {"age/p0": [None, None]}
    json.dumps(found, allow_nan=False)


def test_report_and_page_show_the_mean_of_the_judges_verdicts(run):
    heard = Listening(run, SUMMARY, run / "queries.jsonl", "mp3")
    first, second = (heard.answer(heard.responses[q, "grpo"], False) for q in ("q0", "q1"))
    assert (first["score"], first["verdicts"], first["status"]) == (2.33, 3, "ok")
    assert (second["score"], second["verdicts"], second["swap"], first["swap"]) == (3.5, 2, None, 1.5)
    assert "score 2.33, mean of 3 verdicts" in answer_html(heard, heard.responses["q0", "grpo"], "adult")
    # every verdict that was given: 1, 1, 5 and none; 5 and 2
    assert heard.score_counts(["grpo"]) == {"grpo": {"1": 2, "5": 2, "-": 1, "2": 1}}
    # four answers, of 1 and 2 dollars
    assert service({"r": heard}, {("r", "grpo"): "grpo"})["USD an answer"] == {"grpo": "1.5000 (6.00 in all)"}


def test_the_worst_case_counts_each_sample_without_a_score(run):
    """Of two answers to a query one had no score; as the other had, the worst case was the mean: 2.92."""
    scores = own_scores(Log(run), "verdicts", SUMMARY)
    items = [judged(q, [f"grpo/{q.id}/0", f"grpo/{q.id}/1"], {}, scores, {}) for q in QUERIES]
    # q0: 1, 1, 5 and none, 8 / 4; q1: 5 and 2
    assert summarise_system(items)["overall"]["mean_worst_case"] == (2 + 3.5) / 2
    nobody = judged(QUERIES[0], ["grpo/q9/0"], {}, scores, {})
    assert (nobody.worst, np.isnan(nobody.score)) == (1.0, True)


def test_answers_that_a_summary_does_not_count_are_not_shown(run):
    """After `evaluate --limit`, bars, prices and lists were of all that the folder and the manifest hold."""
    others = [replace(q, id=f"later{q.id}", pair_id="p1") for q in QUERIES]
    append_jsonl(run / "queries.jsonl", others)
    append_jsonl(run / "responses.jsonl", [Response(q.id, "grpo", text="x", cost_usd=9.0) for q in others])
    counted = SUMMARY | {"systems": {"grpo": {"overall": {"n": 2, "n_failed": 0}}}}
    heard = Listening(run, counted, run / "queries.jsonl", "mp3")
    assert heard.score_counts(["grpo"]) == {"grpo": {"1": 2, "5": 2, "-": 1, "2": 1}}
    assert service({"r": heard}, {("r", "grpo"): "grpo"})["USD an answer"] == {"grpo": "1.5000 (6.00 in all)"}
    assert [[q.id for q in halves] for halves in heard.pairs(9)[0]] == [["q0", "q1"]]


def test_an_answer_that_nobody_scored_tells_why(run):
    (run / "verdicts.jsonl").write_text("")
    append_jsonl(run / "verdicts.jsonl", [verdict("q0/0", None), verdict("q0/1", None)])
    heard = Listening(run, SUMMARY, run / "queries.jsonl", "mp3")
    found = [heard.answer(heard.responses[q, "grpo"], False) for q in ("q0", "q1")]
    assert [(a["score"], a["verdicts"], a["status"]) for a in found] == [(None, 0, "no_score"), (None, 0, "ok")]
    assert heard.score_counts(["grpo"]) == {"grpo": {"-": 4}}


def test_verdicts_that_a_summary_does_not_count_are_left_out(run):
    assert len(own_verdicts(Log(run), "verdicts", SUMMARY)) == 7
    assert len(own_verdicts(Log(run), "verdicts", SUMMARY | {"judge": "another"})) == 1


def test_what_a_judge_was_asked_more_often_before_is_not_counted(run):
    """The folder holds three verdicts of q0's first answer; the last `evaluate` drew one."""
    drawn = SUMMARY | {"judge_samples": 1}
    assert own_scores(Log(run), "verdicts", drawn)["grpo/q0/0"] == [1.0]
    (run / "summary.json").write_text(json.dumps(drawn))
    assert [v.score for v in verdicts_of(run)[1] if v.response_id == "grpo/q0/0"] == [1.0]
