"""The arena's pairwise judge: its strict parser, both orders, resuming, failures apart; TRACE's labels."""

from __future__ import annotations

import base64
import json
from collections import Counter

import numpy as np
import pytest
import torch
from loopback import Loopback, Sent, audio_chat, completion
from sounds import hum

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.corpora.trace import read_trace
from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.pairs.play import draw
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.pair_judges import (
    FORMAT,
    PROMPT,
    AudioPairJudge,
    Heard,
    Outcome,
    PairJudge,
    ScorerPairJudge,
    parse_pair_verdict,
)
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.servers.chat import AUDIO_TOKENS_A_SECOND, CHARACTERS_A_TOKEN
from lightning_paras2s.servers.spending import VERDICT_TOKENS
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Battle, Human, Query, Response, append_jsonl, read_jsonl, to_json


@pytest.mark.parametrize(
    ("text", "verdict", "status"),
    [
        ("Reason: warmer.\nVerdict: response 1", "first", "ok"),
        ("**Reason:** flat.\n**Verdict:** Response 2.", "second", "ok"),
        ("Verdict: both_good", "both_good", "ok"),
        ("Reason: silent.\nVerdict: Both bad", "both_bad", "ok"),
        ("Response 1 is better.", None, "no_verdict"),
        ("", None, "no_verdict"),
        ("Verdict: response 1\nVerdict: response 2", None, "several_verdicts"),
        ("Verdict: response 1 or response 2", None, "unparsed"),
        ("Verdict: tie", None, "unparsed"),  # good or bad? not guessed
        ("Verdict: response 3", None, "unparsed"),
    ],
)
def test_a_pair_verdict_is_read_only_when_there_is_one(text, verdict, status):
    assert (parse_pair_verdict(text)[0], parse_pair_verdict(text)[2]) == (verdict, status)


@pytest.fixture
def study(tmp_path):
    """Three queries; the system "loud" answers loudly, "quiet" quietly."""
    queries = [Query(f"q{i}", "p", "age", "test", "Hi.", {"age": "child"}, "T", f"q{i}.wav") for i in range(3)]
    (tmp_path / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    for q in queries:
        write_audio(tmp_path / q.audio, hum(0.05 + 0.01 * int(q.id[1])))
    for name, level in (("quiet", 0.1), ("loud", 0.6)):
        rows = [Response(q.id, name, audio=f"{name}-{q.id}.wav") for q in queries]
        for row in rows:
            write_audio(tmp_path / "run" / row.audio, hum(level))
        append_jsonl(tmp_path / "run/responses.jsonl", rows)
    return tmp_path


def levels(body: bytes) -> list[float]:
    """How loud each recording of a request is, in the order heard."""
    parts = [p for p in json.loads(body)["messages"][0]["content"] if p["type"] == "input_audio"]
    data = [base64.b64decode(p["input_audio"]["data"])[44:] for p in parts]
    return [float(np.abs(np.frombuffer(d, np.int16)).max()) / 32767 for d in data]


def test_each_pair_is_heard_in_both_orders_and_the_winner_is_the_system_not_the_place(study):
    def answer(path, body, times):
        _, first, second = levels(body)
        return Sent(200, completion(f"Reason: louder.\nVerdict: response {1 if first > second else 2}"))

    with Loopback(answer) as server:
        made = arena(
            str(study / "out"),
            runs=[str(study / "run")],
            judge=AudioPairJudge(audio_chat(server.url, study)),
            manifest=str(study / "queries.jsonl"),
            orders=5,
        )
        assert len(server.requests) == 6
    battles = read_jsonl(study / "out/battles.jsonl", Battle)
    assert Counter(b.order for b in battles) == {"ab": 3, "ba": 3}
    assert {(b.a, b.b, b.verdict) for b in battles} == {("loud", "quiet", "a")}
    assert made["order_consistency"] == 1 and made["first_heard_wins"] == 0.5
    assert made["systems"][0]["system"] == "loud" and made["systems"][0]["wins"] == 6
    assert made["judging"]["usd"] == pytest.approx(6 * (10 * 2.5 + 5 * 10) / 1e6)


def test_a_price_is_told_before_a_judge_is_asked_and_a_cap_holds(study, capsys):
    """The judge that hears is the dearest of all, and its price stood in no dry run."""
    asked = {"out": str(study / "out"), "runs": [str(study / "run")], "manifest": str(study / "queries.jsonl")}
    with Loopback(lambda path, body, times: Sent(200, completion("Verdict: both good"))) as server:
        judge = AudioPairJudge(audio_chat(server.url, study))
        told = arena(**asked, judge=judge, dry_run=True)
        assert not server.requests and not (study / "out").exists()
        heard = 6 * 0.6 * AUDIO_TOKENS_A_SECOND  # each query with two answers, in both orders
        text = 6 * len(PROMPT + FORMAT) / CHARACTERS_A_TOKEN
        usd = judge.llm.cost(text + heard, 6 * VERDICT_TOKENS, heard)
        assert told == {"dry_run": True, "pairs": 3, "judgements": 6, "judge": judge.name, "usd": round(usd, 2)}
        show("arena", told, asked, "P", False)
        assert "US dollars" in capsys.readouterr().out
        with pytest.raises(UserError, match="must reach a verdict in some game; got .*max_usd"):
            arena(**asked, judge=judge, max_usd=1e-9)
        assert not server.requests
    with pytest.raises(UserError, match="a price and a cap are of a judge"):
        arena(**asked, dry_run=True)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["a"] * 6, "must be one of first, second, both_good, both_bad .*got 'a'"),  # won in either place
        (["tie"] * 6, "got 'tie'"),
        (["first"] * 5, "must give an outcome a game; got 5 for 6"),
    ],
)
def test_an_own_judge_names_places_and_each_game(study, said, why):
    class Own(PairJudge):
        name = "own-1"

        def compare(self, games):
            return [Outcome(verdict) for verdict in said]

    given = {"runs": [str(study / "run")], "judge": Own(), "manifest": str(study / "queries.jsonl")}
    with pytest.raises(UserError, match=f"Own.*{why}"):
        arena(str(study / "out"), **given)
    assert not (study / "out/battles.jsonl").exists()


def test_what_was_not_judged_is_no_battle_and_is_heard_again_when_the_judge_is_back(study):
    down = [True]

    def answer(path, body, times):
        query, first, second = levels(body)
        if query > 0.065 and down[0]:  # the third query
            return Sent(500, b"")
        if 0.055 < query < 0.065:  # the second: no verdict, ever
            return Sent(200, completion("I liked the first one."))
        return Sent(200, completion("Verdict: both bad"))

    with Loopback(answer) as server:

        def run():
            judge = AudioPairJudge(audio_chat(server.url, study))
            options = {"judge": judge, "manifest": str(study / "queries.jsonl"), "orders": 5}
            return arena(str(study / "out"), runs=[str(study / "run")], **options)

        first = run()
        assert first["judging"]["statuses"] == {"held": 0, "ok": 2, "http_500": 2, "no_verdict": 2}
        assert first["games"] == 2 and first["verdicts"] == {"both_bad": 2}
        failures = [json.loads(line) for line in (study / "out/failures.jsonl").read_text().splitlines()]
        assert Counter(row["status"] for row in failures) == {"http_500": 2, "no_verdict": 2}
        path = study / "out/battles.jsonl"
        path.write_bytes(path.read_bytes()[:-9])  # killed in the middle of a line
        down[0] = False
        server.requests.clear()
        second = run()
        assert second["judging"]["statuses"] == {"held": 1, "ok": 3, "no_verdict": 2}
        assert len(server.requests) == 2  # paid answers come from the cache; only the outage's games are asked
        assert second["games"] == 4


def test_games_are_drawn_evenly_and_again_the_same(study):
    games = draw([str(study / "run")], 2, seed=3)
    assert len(games) == 4 and games == draw([str(study / "run")], 2, seed=3)
    assert len(draw([str(study / "run")], None, seed=3)) == 6


class Loudness(ResponseScorer):
    """Scores 5 for what is louder than .5, 3 for the rest; nothing for silence."""

    def score_logits(self, queries, responses):
        rows = [[0, 0, 99.0, 0, 0] if np.abs(r.samples).max() < 0.5 else [0, 0, 0, 0, 99.0] for r in responses]
        silent = torch.tensor([[not np.abs(r.samples).max()] for r in responses])
        return torch.tensor(rows).masked_fill(silent, float("nan"))


def test_a_scorer_judges_pairs_with_typed_ties(study):
    judge = ScorerPairJudge(Loudness, "loudness")
    quiet, loud = hum(0.1), hum(0.6)
    pairs = [(quiet, loud), (loud, quiet), (loud, loud), (quiet, quiet), (hum(0.0), loud)]
    games = [Heard(quiet, first, second) for first, second in pairs]
    assert [o.verdict for o in judge.compare(games)] == ["second", "first", "both_good", "both_bad", None]
    assert judge.compare(games)[4].status == "no_score"


def test_trace_labels_become_typed_battles(tmp_path):
    """A look-alike of TRACE's s2sarena.json with its published counts: 314 pairs, 57.6 % both bad."""
    counts = {"both_bad": 181, "1": 59, "2": 54, "both_good": 20}
    rows = [
        {
            "index": i,
            "instruction_path": f"input/emotion/{i}.wav",
            "instruction_text": "[emotion: sad]What now?",
            "model_a": "4o",
            "model_b": "speechgpt",
            "label": {"content": "2", "voice_quality": "1", "paralinguistics": "both_bad", "overall": label},
            "instruction_id": f"emotion_{i}",
        }
        for i, label in enumerate(label for label, count in counts.items() for _ in range(count))
    ]
    (tmp_path / "s2sarena.json").write_text(json.dumps(rows))
    result = arena(str(tmp_path / "out"), str(tmp_path / "s2sarena.json"), orders=2)
    assert result["verdicts"] == {"both_bad": 181, "a": 59, "b": 54, "both_good": 20} and result["games"] == 314
    assert result["verdicts"]["both_bad"] / result["games"] == pytest.approx(0.576, abs=5e-4)
    assert {b.verdict for b in read_trace(str(tmp_path / "s2sarena.json"), "content")} == {"b"}
    (tmp_path / "bad.json").write_text('[{"label": {"overall": "tie"}}]')
    with pytest.raises(UserError, match="must be TRACE's s2sarena.json"):
        arena(str(tmp_path / "out"), str(tmp_path / "bad.json"))


def test_a_judge_without_its_manifest_is_one_line(study):
    with pytest.raises(UserError, match="needs runs and the manifest"):
        arena(str(study / "out"), runs=[str(study / "run")], judge=ScorerPairJudge(Loudness, "x"))


def test_listeners_choices_are_battles_and_are_compared_with_the_judges(tmp_path):
    """Judge: x wins q0 and q1, q2 both bad. Listener: x wins q0 (heard second), y wins q1, q2 both bad.

    Two of three agree. Chance: judge (x 2/3, bad 1/3), listener (x, y, bad 1/3 each): 2/9 + 1/9 = 1/3; kappa =
    (2/3 - 1/3) / (2/3) = 1/2. Where both named a winner, one of two agrees.
    """
    games = [Battle(f"q{i}", "x", "y", "ab", verdict, "j") for i, verdict in enumerate(("a", "a", "both_bad"))]
    append_jsonl(tmp_path / "battles.jsonl", games)
    choices = [("y/q0/0 | x/q0/0", "b"), ("x/q1/0 | y/q1/0", "b"), ("x/q2/0 | y/q2/0", "both_bad")]
    append_jsonl(tmp_path / "human.jsonl", [Human(item, "ann", verdict=verdict) for item, verdict in choices])
    paths = {"battles": str(tmp_path / "battles.jsonl"), "listeners": str(tmp_path / "human.jsonl")}
    found = arena(str(tmp_path / "out"), **paths, orders=5)["listeners"]
    assert (found["n"], found["n_decided"]) == (3, 2)
    assert found["agreement"] == pytest.approx(2 / 3) and found["kappa"] == pytest.approx(1 / 2)
    assert found["decided_agreement"] == pytest.approx(1 / 2)
    own = arena(str(tmp_path / "own"), str(tmp_path / "human.jsonl"), orders=5)
    assert own["verdicts"] == {"b": 2, "both_bad": 1}
