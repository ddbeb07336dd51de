"""What commands print for a person: the result, 80 columns wide; the next command; exit code 1 if nothing came out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.pairs.arena import rank
from lightning_paras2s.bench.summary import Judged, summarise_system
from lightning_paras2s.cli import main
from lightning_paras2s.running.options import COMMANDS, options_of
from lightning_paras2s.shown.screen import cell, with_ends
from lightning_paras2s.shown.show import SHOWN, show
from lightning_paras2s.types import Audio, Battle


def run(capsys, *argv: str) -> tuple[str, str]:
    main(list(argv))
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines()), default=0) <= 80
    return printed.out, printed.err


def test_price_is_shown_when_nothing_is_asked(tmp_path, capsys):
    # 4 factors of 3 splits; the scripted model asks for one list a topic, so more than 12 requests, and costs nothing
    out, err = run(capsys, "mine", "--out", str(tmp_path / "mined"), "--dry_run")
    assert "requests" in out and "price in US dollars, at most" in out and "0.00" in out
    assert err.startswith("next: python -m lightning_paras2s mine") and not (tmp_path / "mined").exists()


def test_speech_is_counted_and_the_next_command_reads_it(tmp_path, capsys):
    folder = tmp_path / "queries"
    out, err = run(capsys, "synthesize", "--out", str(folder), "--limit", "1", "--factors", "[age]")
    assert "age" in out and "total" in out and f"--manifest {folder}/queries.jsonl" in err
    out, err = run(capsys, "filter", "--manifest", f"{folder}/queries.jsonl", "--out", f"{folder}/kept.jsonl")
    assert "kept 2 of 2 queries" in out and f"evaluate --config evaluate.yaml --manifest {folder}/kept.jsonl" in err


def test_exit_code_is_1_when_no_recording_is_kept(tmp_path, capsys):
    write_audio(tmp_path / "a.wav", Audio(np.full(1600, 0.1, np.float32), 16_000))
    (tmp_path / "metadata.csv").write_text("file,text,emotion\na.wav,too short,happy\n")  # two words; five are needed
    arguments = ("import_speech", "--corpus", "folder", "--root", str(tmp_path), "--out", str(tmp_path / "q.jsonl"))
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert printed.err.splitlines()[-1] == "error: nothing came out: no recording was kept: few_words 1"
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--json"])
    assert stop.value.code == 1 and json.loads(capsys.readouterr().out.splitlines()[-1])["counts"] == {"few_words": 1}


def test_the_next_command_of_a_corpus_without_all_labels_is_one_that_is_not_refused(capsys):
    """`evaluate` takes gold labels unless told otherwise, and refuses a query that has none."""
    result = {"counts": {"kept": 3}, "manifest": "q.jsonl", "by_style": {"sad": 1, "no style of ours": 2}}
    show("import_speech", result, {}, "program", False)
    next_command = "evaluate --config evaluate.yaml --manifest q.jsonl"
    assert capsys.readouterr().err.rstrip().endswith(f"{next_command} --label_source predicted")
    show("import_speech", result | {"by_style": {"sad": 3}}, {}, "program", False)
    assert capsys.readouterr().err.rstrip().endswith(next_command)


def judged(score: float) -> list[Judged]:
    return [Judged(f"q{i}{s}", f"q{i}", "age", s, score + (s == "child"), 1.0, "words", "calm", 0.0, True)
            for i in range(3) for s in ("adult", "child")]  # fmt: skip


def summary(**systems: float) -> dict:
    statuses = {name: {"ok": 6} if score == score else {"refused": 6} for name, score in systems.items()}
    found = {name: summarise_system(judged(score)) for name, score in systems.items()}
    return {"systems": found, "response_statuses": statuses}


def test_evaluation_shows_scores_and_who_failed(capsys):
    missing = show("evaluate", summary(ours=3.0, theirs=float("nan")), {"output": "runs/x"}, "P", False)
    printed = capsys.readouterr()
    # scores 3 and 4 alternate: mean 3.5; three pairs are too few for an interval
    assert missing == "" and "3.500  6" in printed.out and "theirs (refused 6)" in printed.out
    assert printed.err == "next: P report --run runs/x --output runs/x/report.html\n"
    nothing = show("evaluate", summary(theirs=float("nan")), {"output": "runs/x"}, "P", False)
    assert nothing == "no response was scored: theirs (refused 6)"


def test_battles_are_shown_with_intervals(capsys):
    games = [Battle(f"q{i}", "a", "b", "ab", "a" if i < 3 else "both_bad", "j") for i in range(4)]
    assert show("arena", rank(games, orders=20), {"out": "runs/arena"}, "P", False) == ""
    out = capsys.readouterr().out
    assert "4 games over 4 queries; verdicts: a 3, both_bad 1" in out and max(map(len, out.splitlines())) <= 80


def test_every_command_that_returns_something_is_shown():
    assert set(COMMANDS) - SHOWN.keys() == {"annotate", "doctor"}  # a page; a screen of its own


def test_every_command_has_a_table_instead_of_json_by_choice():
    assert all("json" in {o.name for o in options_of(command)} for command in COMMANDS)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.5, "0.5"), (0.0, "0"), (0.00012, "1.2e-04"), ("x", "x"), (7, "7")]
)
def test_cells_read_as_numbers(value, text):
    assert cell(value) == text
    assert with_ends(3.2149, (3.05, 3.371)) == "3.215 [3.050, 3.371]" and with_ends(None, None) == "-"
