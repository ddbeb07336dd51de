"""`headline` on evaluations that are written by hand: eight queries in four contrast pairs, two seeds."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import read_audio, write_audio
from lightning_paras2s.bench.headline import distinct_share, headline, repetition
from lightning_paras2s.bench.items import figures, read_items
from lightning_paras2s.bench.verdicts import verdicts_sha
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.outside import Outside, digest
from lightning_paras2s.running.origins import inputs_of, queries_sha
from lightning_paras2s.types import (
    Audio,
    Evidence,
    Query,
    Response,
    Verdict,
    append_jsonl,
    read_jsonl,
    response_id,
    to_json,
)

PAIRS = {
    "age": (("p1", "adult", "child"), ("p2", "adult", "child")),
    "gender": (("p3", "male", "female"), ("p4", "male", "female")),
}
QUERIES = [
    Query(f"{pair}-{style}", pair, factor, "test", "Where is the oil?", {factor: style}, "oil", f"{pair}-{style}.wav")
    for factor, pairs in PAIRS.items()
    for pair, *styles in pairs
    for style in styles
]
GRPO = (5, 4, 2, 1, 3, 3, 1, 1)
TONE = Audio((0.3 * np.sin(np.arange(6400) / 3)).astype(np.float32), 16_000)
NAMES = {"judge": "hand", "rubric_sha": "0", "label_source": "gold"}
EARS = {"transcriber": "ears-1", "recognizer": "tones-1"}
OUTSIDE = {"transcriber": "audit-1", "recognizer": "tones-2"}


def write_run(folder: Path, scores: dict[str, tuple], wer: dict[str, float], audit: dict[str, float]) -> str:
    """What `evaluate` leaves: each system's scores a query; swapped labels always score 1."""
    for query in QUERIES:
        write_audio(folder.parent / query.audio, TONE)
    (folder.parent / "queries.jsonl").write_text("")
    append_jsonl(folder.parent / "queries.jsonl", QUERIES)
    for system, given in scores.items():
        write_audio(folder / f"{system}.wav", TONE)
        for query, score in zip(QUERIES, given, strict=True):
            latency = {"total_seconds": 0.1 + zlib.crc32(folder.name.encode()) / 2**32}
            response = Response(query.id, system, 0, f"{system}.wav", "", "the oil", 0.4, latency, config_sha="c")
            append_jsonl(folder / "responses.jsonl", [response])
            append_jsonl(folder / "evidence.jsonl", [Evidence(response.id, "the oil", wer[system], "calm")])
            for name, value in (("verdicts", score), ("swaps", 1), ("audit/verdicts", audit[system])):
                append_jsonl(folder / f"{name}.jsonl", [Verdict(response.id, "hand", float(value), rubric_sha="0")])
    summary = {"systems": {}, "manifest": str(folder.parent / "queries.jsonl"), "samples": 1, "providers": EARS}
    for system, given in scores.items():
        cell = dict.fromkeys(("mean", "ci95", "label_swap_gain", "pair_accuracy", "wer"), 0)
        summary["systems"][system] = {"overall": cell | {"n": len(given), "n_failed": 0}}
    summary |= {**NAMES, "queries_sha": queries_sha(QUERIES, {q.id: inputs_of(q, folder.parent) for q in QUERIES})}
    heard = {"audit": {**NAMES, "systems": summary["systems"], "providers": OUTSIDE}}
    (folder / "summary.json").write_text(json.dumps(summary | heard | {"seconds": {"respond": 2.0, "hear": 1.0}}))
    return str(folder)


def mend(run: str, **fields: object) -> None:
    """Change a run's summary; None takes a field away."""
    path = Path(run) / "summary.json"
    summary = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in summary.items() if value is not None}))


def runs(folder: Path, grpo: tuple[tuple, tuple], audit_grpo: float = 3.0) -> list[str]:
    wer, audit = {"base": 0.1, "sft_fifth": 0.1, "grpo": 0.12}, {"base": 1.0, "sft_fifth": 2.0, "grpo": audit_grpo}
    return [
        write_run(folder / f"seed{i}", {"base": (1,) * 8, "sft_fifth": (2,) * 8, "grpo": scores}, wer, audit)
        for i, scores in enumerate(grpo)
    ]


def test_figures_of_four_pairs_worked_out_by_hand(tmp_path):
    """GRPO's factor means are 3 and 2, so 2.5 against 2. One pair of four has both halves at 4 or more."""
    found = headline(runs(tmp_path, (GRPO, GRPO)))
    assert found["gain"]["ratio"] == 1.25 and found["gain"]["p"] is None and not found["gain"]["holds"]
    assert found["gain"]["ci95"] == [None, None]  # four pairs say too little of their spread
    assert (found["seeds"], found["n"], found["pairs"]) == (2, 8, 4)
    grpo = found["systems"]["grpo"]
    assert grpo["score"]["value"] == 2.5 and grpo["by_seed"] == [2.5, 2.5] and (grpo["n"], grpo["n_failed"]) == (16, 0)
    assert grpo["label_swap_gain"]["value"] == 1.5 and grpo["pair_accuracy"]["value"] == 0.25
    assert found["pair_accuracy"]["value"] == 0.25 and found["label_swap_gain"]["value"] == 0.5
    assert found["wer"] == {"value": 0.02, "ci95": [None, None], "p": None, "holds": True}
    order = found["audit_order"]
    assert (order["systems"], order["means"]) == (["base", "sft_fifth", "grpo"], [1.0, 2.0, 3.0])
    assert order["holds"] and not order["each_step_sure"]
    assert found["seconds"]["value"] == found["silence"]["value"] == found["repetition"]["value"] == 0
    assert (grpo["distinct"], grpo["length_deviation"]) == (0.125, 0)  # one answer to eight queries, one length


def test_p_of_a_difference_counts_seeds(tmp_path, monkeypatch):
    """Forty pairs, all alike; GRPO scores 2 and 4 in its two seeds, SFT 2. The difference's mean is 1, its error over
    the seeds 1, with one degree of freedom: p = .5. A permutation of the pairs alone said .0001."""
    queries = [replace(q, id=f"{i}-{q.id}", pair_id=f"{i}-{q.pair_id}") for i in range(10) for q in QUERIES]
    monkeypatch.setattr(sys.modules[__name__], "QUERIES", queries)
    wer, audit = dict.fromkeys(("sft_fifth", "grpo"), 0.1), dict.fromkeys(("sft_fifth", "grpo"), 3.0)
    made = [
        write_run(tmp_path / f"seed{i}", {"sft_fifth": (2,) * 80, "grpo": (score,) * 80}, wer, audit)
        for i, score in enumerate((2, 4))
    ]
    gain = headline(made)["gain"]
    assert gain["ratio"] == 1.5 and gain["p"] == 0.5 and not gain["holds"]
    # The ratio is 1.5 +- .5 t; t of one degree of freedom is 12.7.
    assert gain["ci95"] == pytest.approx([1.5 - 0.5 * 12.7062, 1.5 + 0.5 * 12.7062], abs=1e-3)


def test_seeds_are_averaged_over_factors_as_the_mean_is(tmp_path):
    """The mean of `by_seed` was another number than the mean, where factors have unlike numbers of queries."""
    given = (4, 4, 4, 4, 1, 1, np.nan, np.nan)  # age 4 on four queries, gender 1 on two
    grpo = headline(runs(tmp_path, (given, given)))["systems"]["grpo"]
    assert grpo["score"]["value"] == 2.5 and grpo["by_seed"] == [2.5, 2.5]


def test_answers_are_compared_where_both_systems_are_scored(tmp_path):
    """GRPO is silent on the pairs where SFT scores 1, and worse on the others: it was told to be better."""
    sft, grpo = (1, 1, 4, 4, 1, 1, 5, 5), (np.nan, np.nan, 3, 3, np.nan, np.nan, 4, 4)
    known = dict.fromkeys(("sft_fifth", "grpo"), 0.1)
    audit = dict.fromkeys(known, 3.0)
    found = headline([write_run(tmp_path / "seed1", {"sft_fifth": sft, "grpo": grpo}, known, audit)])
    assert found["gain"]["ratio"] == round(3.5 / 4.5, 4) and not found["gain"]["holds"]  # 3 and 4, of 4 and 5
    assert found["label_swap_gain"]["value"] == -1.0 and found["systems"]["sft_fifth"]["score"]["value"] == 2.75
    silent = headline([write_run(tmp_path / "seed2", {"sft_fifth": sft, "grpo": (np.nan,) * 8}, known, audit)])
    assert silent["gain"] == {"ratio": None, "ci95": [None, None], "p": None, "holds": False}


def test_audit_that_ranks_otherwise_is_told(tmp_path):
    assert not headline(runs(tmp_path, (GRPO, GRPO), audit_grpo=1.5))["audit_order"]["holds"]


def test_command_prints_json_and_appends_rows(tmp_path, capsys):
    given = runs(tmp_path, (GRPO, GRPO))
    rows = tmp_path / "results/headline.jsonl"
    main(["headline", "--runs", json.dumps(given), "--rows", str(rows), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["gain"]["ratio"] == 1.25
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(r["seed"], r["system"]) for r in lines] == [(s, n) for s in (1, 2) for n in ("base", "sft_fifth", "grpo")]
    assert all(r["config_sha"] == "c" and r["cost_seconds"] == 3 for r in lines)
    other = json.dumps({"run": "another", "system": "grpo", "seed": 1, "mean": 4.5})
    rows.write_text(f"{other}\n{rows.read_text()}")
    before = rows.read_bytes()
    headline(given, rows=str(rows))  # once more: the same rows, and those of another run stay
    assert rows.read_bytes() == before


def test_items_hold_what_every_answer_was_worth(tmp_path):
    given = runs(tmp_path, (GRPO, GRPO))
    ids = [f"grpo/{query.id}/0" for query in QUERIES]
    path = Path(given[0]) / "responses.jsonl"
    answers = [replace(r, text="") if r.id == ids[1] else r for r in read_jsonl(path, Response)]
    path.write_text("".join(to_json(answer) + "\n" for answer in answers))
    sound = digest(read_audio(Path(given[0]) / "grpo.wav", 16_000))
    lines = [
        Outside(ids[0], sound, "the oil", wer=0.5, overall=3.0, perplexity_heard=20.0),
        Outside(ids[1], sound, "", wer=1.0, overall=3.0),
        Outside(ids[2], "0" * 64, "the oil", wer=0.9, overall=1.0),  # of an answer that was another
    ]
    append_jsonl(Path(given[0]) / "outside.jsonl", lines)
    append_jsonl(Path(given[0]) / "outside_backup.jsonl", [replace(one, wer=0.9) for one in lines])  # nobody's
    headline(given, items=str(tmp_path / "scores.jsonl.gz"))
    items = read_items(tmp_path / "scores.jsonl.gz")
    assert len(items) == 2 * 3 * 8 and {i.seed for i in items} == {1, 2}
    first = next(i for i in items if (i.system, i.seed, i.query_id) == ("grpo", 1, QUERIES[0].id))
    assert (first.score, first.swapped, first.audit, first.wer, first.topic) == (5, 1, 3, 0.12, 1)
    assert (first.outside_wer, first.naturalness, first.perplexity) == (0.5, 3, 20)
    # Of an answer without a text of its own there is no word error, though the log says 1.
    second = next(i for i in items if (i.system, i.seed, i.query_id) == ("grpo", 1, QUERIES[1].id))
    assert (second.outside_wer, second.naturalness) == (None, 3)
    third = next(i for i in items if (i.system, i.seed, i.query_id) == ("grpo", 1, QUERIES[2].id))
    assert (third.outside_wer, third.naturalness) == (None, None)
    row = figures([i for i in items if i.system == "grpo"])
    assert (row["mean"], row["by_seed"], row["n"], row["outside_wer"]) == (2.5, [2.5, 2.5], 16, 0.5)
    assert row["perplexity"] == 20


def test_runs_are_refused_when_they_cannot_be_compared(tmp_path):
    given = runs(tmp_path, (GRPO, GRPO))
    with pytest.raises(UserError, match="must hold the systems sft_tenth, grpo; got base, sft_fifth, grpo"):
        headline(given, sft="sft_tenth")
    summary = Path(given[1]) / "summary.json"
    summary.write_text(summary.read_text().replace('"rubric_sha": "0"', '"rubric_sha": "1"'))
    with pytest.raises(UserError, match="differs from .* in rubric_sha"):
        headline(given)
    with pytest.raises(UserError, match="with summary.json; got nowhere"):
        headline(["nowhere"])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"queries_sha": None}, "must have the same queries"),
        ({"providers": EARS | {"transcriber": "ears-2"}}, "must have the same ears"),
        ({"audit": {**NAMES, "providers": EARS}}, "the audits .* must have the same ears"),
        ({"audit": None}, "must all have an audit, or none; got none of .*seed1"),
    ],
)
def test_runs_of_other_queries_or_ears_are_no_seeds_of_one_thing(tmp_path, other, told):
    given = runs(tmp_path, (GRPO, GRPO))
    mend(given[1], **other)
    with pytest.raises(UserError, match=told):
        headline(given)


def test_runs_by_a_judge_of_one_name_and_other_thresholds_are_no_seeds(tmp_path):
    given = runs(tmp_path, (GRPO, GRPO))
    assert "by name alone" in headline(given)["notes"][0]
    for run, sha in zip(given, ("a", "b"), strict=True):
        mend(run, judge_sha=sha)
    with pytest.raises(UserError, match="the same judge, with its weights and thresholds; got a in"):
        headline(given)


def test_a_run_that_is_given_twice_is_no_second_seed(tmp_path):
    (run, _) = runs(tmp_path, (GRPO, GRPO))
    (tmp_path / "link").symlink_to(run)
    for again in (run, f"{run}/", str(tmp_path / "link")):
        with pytest.raises(UserError, match=f"runs must be different folders; got one as {run} and as {again}; "):
            headline([run, again])


def test_a_copy_of_a_run_is_no_second_seed(tmp_path):
    (run, other) = runs(tmp_path, (GRPO, GRPO))
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(UserError, match=f"{tmp_path}/copy holds the responses of {run}, to the byte"):
        headline([run, other, str(tmp_path / "copy")])


def test_queries_that_were_never_asked_have_not_failed(tmp_path, monkeypatch):
    """A run of `evaluate --limit 1` answers a pair of each factor; the other halves of the manifest counted as
    failures. The folder may hold answers of an earlier run without a limit."""
    (run, *_) = runs(tmp_path, (GRPO, GRPO))
    asked = [q for q in QUERIES if q.pair_id in ("p1", "p3")]
    sha = queries_sha(asked, {q.id: inputs_of(q, tmp_path) for q in asked})
    systems = json.loads((Path(run) / "summary.json").read_text())["systems"]
    for cells in systems.values():
        cells["overall"] |= {"n": 3, "n_failed": 1}
    mend(run, queries_sha=sha, systems=systems)
    found = headline([run], items=str(tmp_path / "scores.jsonl.gz"))
    grpo = found["systems"]["grpo"]
    assert (found["n"], found["pairs"], grpo["n"], grpo["n_failed"]) == (4, 2, 4, 0)
    assert grpo["score"]["value"] == 3.75 and len(read_items(tmp_path / "scores.jsonl.gz")) == 3 * 4  # 5, 4; 3, 3


def test_a_manifest_that_holds_other_queries_today_is_refused(tmp_path):
    given = runs(tmp_path, (GRPO, GRPO))
    for run in given:
        mend(run, queries_sha="another")
    with pytest.raises(UserError, match=r"queries.jsonl must hold the queries that .*seed0 was about; got others"):
        headline(given)
    (tmp_path / "queries.jsonl").write_text("")
    append_jsonl(tmp_path / "queries.jsonl", QUERIES[:4])
    with pytest.raises(UserError, match=r"queries.jsonl must hold the queries that .*seed0 was about; got others"):
        headline(given)


def test_an_audit_or_swaps_of_earlier_answers_are_not_read(tmp_path):
    """The folder holds the verdicts of an audit, and of swapped labels, that the summary does not tell of."""
    given = runs(tmp_path, (GRPO, GRPO))
    for run in given:
        systems = json.loads((Path(run) / "summary.json").read_text())["systems"]
        for cells in systems.values():
            cells["overall"]["label_swap_gain"] = None
        mend(run, audit=None, systems=systems)
    found = headline(given, items=str(tmp_path / "scores.jsonl.gz"))
    assert found["audit_order"]["means"] == [None] * 3 and not found["audit_order"]["holds"]
    assert found["label_swap_gain"]["value"] is None and found["gain"]["ratio"] == 1.25
    assert {(i.audit, i.swapped) for i in read_items(tmp_path / "scores.jsonl.gz")} == {(None, None)}


def test_answers_in_which_nothing_was_heard_repeat_nothing_and_are_no_answer_of_their_own(tmp_path):
    """They had a repetition of 0 and were one more thing that was said, so a system that went silent seemed the better
    and the more varied one."""
    run = Path(runs(tmp_path, (GRPO, GRPO))[0])
    rows = [replace(e, transcript="oil oil oil") for e in read_jsonl(run / "evidence.jsonl", Evidence)]
    silent = {response_id("grpo", q.id, 0) for q in QUERIES[:6]}
    rows = [Evidence(e.response_id, status="silent") if e.response_id in silent else e for e in rows]
    (run / "evidence.jsonl").unlink()
    append_jsonl(run / "evidence.jsonl", rows)
    grpo = headline([str(run)])["systems"]["grpo"]
    assert grpo["repetition"]["value"] == 0.5 and grpo["distinct"] == 0.5  # of two answers, both "oil oil oil"
    assert np.isnan(distinct_share(["", "!"])) and distinct_share(["a", "b", ""]) == 1


def test_repetition_counts_word_pairs_said_before():
    assert [repetition(t) for t in ("", "oil", "the oil the house", "oil oil oil")] == [0, 0, 0, 0.5]
    assert repetition("so sorry so sorry so") == repetition("So sorry, so sorry. So!") == 0.5  # so-sorry, sorry-so


@pytest.mark.parametrize("place", ["", "audit"])
def test_verdicts_that_the_summary_does_not_count_are_refused(place, tmp_path):
    """`evaluate` was ended while it judged anew: four answers of grpo have no verdict, or none of the audit."""
    run = Path(runs(tmp_path, (GRPO, GRPO))[0])
    log, audit = (read_jsonl(run / of / "verdicts.jsonl", Verdict) for of in ("", "audit"))
    summary = json.loads((run / "summary.json").read_text())
    counted = summary["audit"] | {"verdicts_sha": verdicts_sha(audit), "samples": 1}
    mend(str(run), verdicts_sha=verdicts_sha(log), audit=counted)
    assert headline([str(run)])["gain"]["ratio"] == 1.25
    (run / place / "verdicts.jsonl").unlink()
    append_jsonl(run / place / "verdicts.jsonl", (audit if place else log)[:-4])
    with pytest.raises(UserError, match="must hold the verdicts that its summary counts; got others"):
        headline([str(run)])
