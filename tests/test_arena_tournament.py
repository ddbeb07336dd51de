"""An arena of five systems: its ranking is the leaderboard's; a coin and a judge with a favourite place are found out;
it can be listened to; TRACE's labels of S2S-Arena's release.

The judge is simulated on stored scores: the five embedded systems' scores, drawn about the means that
results/embedded.jsonl states, as `evaluate` writes them.
"""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_paras2s.bench.corpora.trace import read_trace
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.pairs.arena import arena, rank
from lightning_paras2s.bench.pairs.arena_bias import first_heard_wins, position_bias
from lightning_paras2s.bench.pairs.battles import from_runs
from lightning_paras2s.bench.pairs.strength import davidson, elo, equal_p
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Battle, Query, Response, Verdict, to_json

MEANS = {"base": 2.4957, "cascade": 2.8001, "sft": 3.1021, "grpo": 3.3761, "topline": 4.7231}
BATTLES = 1001
SAME = ("judge", "rubric_sha", "label_source")  # what a leaderboard wants of a summary


def scored_run(folder: Path, queries: int = 160, seed: int = 0) -> Path:
    """A run of five systems with scores 1 to 5 whose means are those above."""
    random = np.random.default_rng(seed)
    hard = random.normal(0, 0.3, queries)
    verdicts = []
    for system, mean in MEANS.items():
        wanted = np.clip(mean + hard + random.normal(0, 0.8, queries), 1, 5)
        low = np.floor(wanted)
        scores = low + (random.random(queries) < wanted - low)
        verdicts += [Verdict(f"{system}/q{i:03d}/0", "rubric", float(score)) for i, score in enumerate(scores)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verdicts.jsonl").write_text("".join(to_json(v) + "\n" for v in verdicts))
    return folder


def drawn(games: list[Battle], count: int = BATTLES, seed: int = 0) -> list[Battle]:
    chosen = np.random.default_rng(seed).permutation(len(games))[:count]
    return [games[i] for i in sorted(chosen)]


def means_of(run: Path) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for line in (run / "verdicts.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["response_id"].split("/")[0], []).append(row["score"])
    return {name: float(np.mean(scores)) for name, scores in found.items()}


def test_the_ranking_of_1001_battles_is_the_leaderboards(tmp_path):
    run = scored_run(tmp_path / "run")
    battles = drawn(from_runs([str(run)]))
    path = tmp_path / "battles.jsonl"
    path.write_text("".join(to_json(game) + "\n" for game in battles))
    result = arena(str(tmp_path / "arena"), str(path), orders=50)
    systems = {name: {"overall": {"mean": mean}} for name, mean in means_of(run).items()}
    (run / "summary.json").write_text(json.dumps({"systems": systems, **dict.fromkeys(SAME, "x")}))
    leaderboard([str(run)], "json", str(tmp_path / "board.json"))
    order = [row["system"] for row in json.loads((tmp_path / "board.json").read_text())["rows"]]
    assert result["games"] == BATTLES and [row["system"] for row in result["systems"]] == order
    assert sorted(result["systems"], key=lambda row: -row["elo"]) == result["systems"]  # online Elo agrees here
    assert sum(row["elo"] for row in result["systems"]) == pytest.approx(5 * 1000)
    assert sum(row["wins"] for row in result["systems"]) == sum(row["losses"] for row in result["systems"])
    assert result["equal_p"] < 1e-6 and result["groups"] == [sorted(MEANS)]


def test_elo_is_conserved_in_any_order_of_1001_battles(tmp_path):
    games = drawn(from_runs([str(scored_run(tmp_path / "run"))]))
    orders = np.stack([np.random.default_rng(i).permutation(BATTLES) for i in range(20)])
    assert elo(games, list(MEANS), orders).sum(1) == pytest.approx(np.full(20, 5000.0))


def coin_flips(queries: int, random: np.random.Generator, ties: float = 0.3) -> list[Battle]:
    games = []
    for i in range(queries):
        for a, b in combinations(sorted(MEANS), 2):
            verdict = random.choice(["a", "b", "both_good", "both_bad"], p=[(1 - ties) / 2] * 2 + [ties / 2] * 2)
            games.append(Battle(f"q{i:03d}", a, b, "ab", str(verdict), "coin"))
    return games


def test_a_coin_yields_no_significant_ranking():
    """1,000 battles a coin: p is below .05 in 5 % of arenas. Of 60, 9 or more has a chance of .004."""
    chances = [rank(coin_flips(100, np.random.default_rng(seed)), orders=0)["equal_p"] for seed in range(60)]
    assert sum(p < 0.05 for p in chances) <= 8
    assert 0.35 < np.mean(chances) < 0.65  # even over 0 to 1: a mean of .5 with a standard error of .037


def test_equal_strengths_are_told_from_unequal_in_closed_form():
    """Two systems, no ties, a game a query: the log odds' variance is 1 / wins + 1 / losses, times n / (n - 1)."""
    from scipy import stats

    wins = np.zeros((100, 2, 2))
    wins[:60, 0, 1], wins[60:, 1, 0] = 1, 1
    estimate = davidson(wins.sum(0), np.zeros((2, 2)))
    square = np.log(60 / 40) ** 2 / ((1 / 60 + 1 / 40) * 100 / 99)
    assert equal_p(wins, np.zeros_like(wins), estimate) == pytest.approx(stats.f.sf(square, 1, 99), abs=1e-4)


def both_orders(queries: int, prefers_first: float, seed: int = 0) -> list[Battle]:
    """A judge that says "the first" at this rate, and else who is better: the system that comes first by name."""
    random = np.random.default_rng(seed)
    games = []
    for i in range(queries):
        for order in ("ab", "ba"):
            first = "a" if order == "ab" else "b"
            verdict = first if random.random() < prefers_first else ("a" if random.random() < 0.6 else "b")
            games.append(Battle(f"q{i:03d}", "grpo", "sft", order, verdict, "judge"))
    return games


def test_a_judge_that_prefers_the_first_is_detected():
    found = position_bias(both_orders(100, prefers_first=0.5))
    assert found.pairs == 100 and found.first > found.second and found.p < 1e-4
    assert rank(both_orders(100, 0.5), orders=0)["position_bias"] == found._asdict()
    fair = [position_bias(both_orders(100, 0.0, seed)).p for seed in range(60)]
    assert sum(p < 0.05 for p in fair) <= 8  # as above; a sign test is no bolder


def test_bias_is_counted_by_hand():
    """Three pairs in both orders: first twice, second once, and one that agrees; one game without its other order."""

    def two(query: str, ab: str, ba: str) -> list[Battle]:
        return [Battle(query, "x", "y", "ab", ab, "j"), Battle(query, "x", "y", "ba", ba, "j")]

    games = [*two("1", "a", "b"), *two("2", "a", "b"), *two("3", "b", "a"), *two("4", "a", "a")]
    games += [Battle("5", "x", "y", "ab", "a", "j"), *two("6", "both_bad", "a")]
    found = position_bias(games)
    assert (found.pairs, found.first, found.second) == (5, 2, 1)
    assert found.p == pytest.approx(1.0)  # two of three signs: P(0, 1, 2 or 3 of 3) in a two-sided test
    # decided games of pairs heard both ways: 1: f f, 2: f f, 3: s s, 4: f s, 6: s ("a" in order "ba")
    assert first_heard_wins(games) == pytest.approx(5 / 9)


def test_nothing_is_said_of_order_when_nobody_was_heard_first(tmp_path):
    """Scores have no order: the first is only the one that comes first by name."""
    result = rank(from_runs([str(scored_run(tmp_path / "run"))]), orders=0)
    assert result["first_heard_wins"] is None and result["position_bias"] is None


def test_systems_that_never_met_are_said_in_one_line(capsys):
    games = [Battle(f"q{i}", a, b, "ab", "ab"[i % 2], "j") for i in range(40) for a, b in (("A", "B"), ("C", "D"))]
    result = rank(games, orders=0)
    assert result["groups"] == [["A", "B"], ["C", "D"]] and len(result["equal_p"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "A, B; C, D" in told and "never met" in told
    assert len(rank([*games, Battle("q0", "B", "C", "ab", "a", "j")], orders=0)["groups"]) == 1
    assert show("arena", result, {"out": "x"}, "P", False) == ""


def heard_runs(folder: Path) -> tuple[list[str], Path]:
    """Two runs of one system each, with recordings, and the manifest of their three queries."""
    tone = (0.1 * np.sin(np.arange(3200) / 5)).astype(np.float32)
    queries = []
    for i in range(3):
        soundfile.write(folder / f"q{i}.wav", tone, 16_000)
        queries.append(Query(f"q{i}", f"q{i}", "", "test", f"Say <b>{i}</b>.", {}, "", f"q{i}.wav", level="L2"))
    (folder / "q.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    runs = []
    for name, base in (("good", 4.0), ("bad", 2.0)):
        run = folder / name
        (run / "audio").mkdir(parents=True)
        rows = [Response(f"q{i}", name, audio=f"audio/{i}.wav") for i in range(3)]
        for i in range(3):
            soundfile.write(run / f"audio/{i}.wav", tone, 16_000)
        (run / "responses.jsonl").write_text("".join(to_json(r) + "\n" for r in rows))
        verdicts = [Verdict(f"{name}/q{i}/0", "rubric", base) for i in range(3)]
        (run / "verdicts.jsonl").write_text("".join(to_json(v) + "\n" for v in verdicts))
        runs.append(str(run))
    return runs, folder / "q.jsonl"


def test_an_arena_can_be_listened_to(tmp_path, capsys):
    runs, manifest = heard_runs(tmp_path)
    (tmp_path / "bad/audio/2.wav").write_bytes(b"no sound")
    page = tmp_path / "page.html"
    main(["arena", "--runs", json.dumps(runs), "--manifest", str(manifest), "--out", str(tmp_path / "out"),
          "--page", str(page), "--json"])  # fmt: skip
    made = json.loads(capsys.readouterr().out.splitlines()[-1])["page"]
    text = page.read_text(encoding="utf-8")
    assert (made["games"], made["clips"]) == (3, 8) and text.count("<audio") == 8  # nine, one of them broken
    assert (
        "Say &lt;b&gt;0&lt;/b&gt;." in text
        and "<span>L2</span>" in text
        and "no bound" in text
        and text.count("good won") == 3
    )
    assert "2.wav can't be heard" in text and "__" not in re.sub(r"base64,[^\"]*", "", text)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)  # it makes no request


def test_a_page_needs_what_can_be_heard(tmp_path):
    runs, manifest = heard_runs(tmp_path)
    with pytest.raises(UserError, match="a page to listen to needs runs and the manifest"):
        arena(str(tmp_path / "out"), runs=runs, page=str(tmp_path / "page.html"))
    with pytest.raises(UserError, match="page_games must be at least 1"):
        arena(str(tmp_path / "out"), runs=runs, manifest=str(manifest), page=str(tmp_path / "page.html"), page_games=0)
    for name in ("good", "bad"):
        (tmp_path / name / "responses.jsonl").write_text("")
    with pytest.raises(UserError, match="games whose queries and answers can be heard"):
        arena(str(tmp_path / "out"), runs=runs, manifest=str(manifest), page=str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


def test_traces_labels_are_of_recordings_not_of_names_that_four_share(tmp_path):
    """identity_audio_1 is four recordings in the release; the folders' names are those of the imported answers."""
    places = ("identity/age/adults", "identity/age/children", "identity/gender/men", "identity/gender/women")
    rows = [
        {"instruction_id": "identity_audio_1", "instruction_path": f"input/{place}/audio_1.mp3", "model_a": "4o",
         "model_b": "speechgpt", "audio1_path": f"output/ChatGPT-4o/{place}/audio_1/audio_1.wav",
         "audio2_path": f"output/SpeechGPT/{place}/audio_1.wav", "label": {"overall": "1"}}
        for place in places
    ]  # fmt: skip
    rows.append({"instruction_id": 67, "instruction_path": "audio_data/speakbench508_audio/0/instruction.wav",
                 "model_a": "moshi", "model_b": "diva+tts", "audio1_path": "audio_data/x/0/audio_a.wav",
                 "audio2_path": "audio_data/x/0/audio_b.wav", "label": {"overall": "both_bad"}})  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(rows))
    games = read_trace(str(tmp_path / "t.json"))
    assert len({g.query_id for g in games[:4]}) == 4
    assert games[0] == Battle("s2s_arena-identity-age-adults-audio_1", "ChatGPT-4o", "SpeechGPT", "ab", "a", "trace")
    assert (games[4].query_id, games[4].a, games[4].verdict) == ("67", "moshi", "both_bad")


def test_levels_and_domains_are_ranked_apart_when_the_queries_have_them(tmp_path):
    """x wins at L1, y at L3; a game whose query has no tag counts in the whole only."""
    queries = [Query(f"q{i}", f"q{i}", "", "test", "t", {}, ("social", "medical")[i % 2], "a.wav",
                     level="L1" if i < 6 else "L3") for i in range(10)]  # fmt: skip
    queries.append(Query("q10", "q10", "", "test", "t", {}, "", "a.wav"))
    (tmp_path / "q.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    games = [Battle(f"q{i}", "x", "y", "ab", "a" if i < 6 else "b", "j") for i in range(11)]
    (tmp_path / "b.jsonl").write_text("".join(to_json(g) + "\n" for g in games))
    result = arena(str(tmp_path / "out"), str(tmp_path / "b.jsonl"), manifest=str(tmp_path / "q.jsonl"), orders=2)
    assert {name: (part["games"], part["systems"][0]["system"]) for name, part in result["by_level"].items()} == {
        "L1": (6, "x"),
        "L3": (4, "y"),
    }
    assert {name: part["games"] for name, part in result["by_topic"].items()} == {"social": 5, "medical": 5}
    assert result["games"] == 11 and show("arena", result, {"out": "x"}, "P", False) == ""
