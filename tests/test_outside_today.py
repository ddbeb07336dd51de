"""Figures of ears from outside stand beside the answers that they heard, and beside no others."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sounds import hum
from test_outside import Counting, run  # noqa: F401  `run` is a fixture

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.audit import audit
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.outside_table import html_table, read_outside
from lightning_paras2s.bench.standings import read_summaries, table
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Response, append_jsonl, read_jsonl

CHANGED = "left out: loud, whose answers are others than those that were heard"


def heard(folder: Path) -> dict:
    return audit(str(folder), pairs=5, transcriber=Counting(), naturalness=False, sense=False)


def without_hashes(folder: Path) -> None:
    """As outside.json was before it held which answers were heard."""
    result = json.loads((folder / "outside.json").read_text())
    kept = {name: value for name, value in result.items() if name not in ("queries", "answers_sha")}
    assert len(kept) == len(result) - 2
    (folder / "outside.json").write_text(json.dumps(kept))


def rewritten(folder: Path, change) -> None:
    rows = [change(row) for row in read_jsonl(folder / "responses.jsonl", Response)]
    (folder / "responses.jsonl").unlink()
    append_jsonl(folder / "responses.jsonl", rows)


def other_sound(folder: Path) -> None:
    write_audio(folder / "loud.flac", hum(0.2))


def other_words(folder: Path) -> None:
    rewritten(folder, lambda row: replace(row, text="goodbye") if row.system == "loud" else row)


def one_failed(folder: Path) -> None:
    rewritten(folder, lambda row: replace(row, audio="", status="timeout") if row.id == "loud/p1-child/0" else row)


def test_figures_that_are_damaged_are_one_line(run):  # noqa: F811
    (run / "outside.json").write_text('{"systems"')
    with pytest.raises(UserError, match="outside.json must be one JSON object; .*; run `audit` again"):
        leaderboard([str(run)], "csv")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("change", [other_sound, other_words, one_failed])
def test_figures_of_answers_that_were_replaced_are_left_out_and_told(run, change, old, capsys):  # noqa: F811
    heard(run)
    if old:
        without_hashes(run)
    change(run)
    leaderboard([str(run)], "csv")
    rows = {row["system"]: row["wer_outside"] for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert rows == {"loud": "", "quiet": "0.3333"}
    found = table(read_summaries([str(run)]))["outside"][str(run)]
    assert list(found["systems"]) == ["quiet"] and found["differences"] == []
    leaderboard([str(run)], "markdown")
    assert CHANGED in capsys.readouterr().out and CHANGED in html_table(run) and "<td>0.333</td>" in html_table(run)
    assert list(heard(run)["systems"]) == ["loud", "quiet"] and CHANGED not in html_table(run)


@pytest.mark.parametrize("old", [False, True])
def test_figures_of_the_same_answers_stay(run, old):  # noqa: F811
    """Others may have joined, and a recording may have been taken away."""
    found = heard(run)
    if old:
        without_hashes(run)
    append_jsonl(run / "responses.jsonl", [Response("p9-child", "loud", audio="loud.flac", text="more")])
    shown = read_outside(run)
    assert shown["systems"] == found["systems"] and shown["notes"] == []


def test_what_an_old_file_does_not_tell_is_told(run):  # noqa: F811
    """Neither a hash, nor the recordings, to see whether they are those that were heard."""
    found = heard(run)
    without_hashes(run)
    (run / "loud.flac").unlink()
    shown = read_outside(run)
    assert shown["systems"] == found["systems"]
    assert shown["notes"] == ["not known of loud whether its answers are those that were heard"]
    for path in (run / "outside.jsonl", run / "responses.jsonl"):
        path.unlink()
        assert read_outside(run)["notes"][0].startswith("not known of loud, quiet whether")


def test_a_recording_that_was_taken_away_is_known_by_its_hash(run):  # noqa: F811
    """`evaluate` writes a recording's hash into its record."""
    digests = {name: hashlib.sha256((run / f"{name}.flac").read_bytes()).hexdigest() for name in ("loud", "quiet")}
    rewritten(run, lambda row: replace(row, sha256=digests[row.system]))
    found = heard(run)
    (run / "loud.flac").unlink()
    assert read_outside(run)["systems"] == found["systems"] and read_outside(run)["notes"] == []


def test_voices_that_say_a_systems_texts_go_with_its_answers(run, monkeypatch):  # noqa: F811
    class Voice:
        name = "control: voice"

        def say(self, text, tone_):
            return hum(0.7)

        def origin(self, text):
            return ""

    monkeypatch.setattr("lightning_paras2s.bench.audit.control_voices", lambda controls, there: ([Voice()], []))
    for old in (False, True):
        options = {"transcriber": Counting(), "naturalness": False, "sense": False}
        assert list(audit(str(run), controls="loud", **options)["systems"])[-1] == "control: voice"
        if old:
            without_hashes(run)
        assert list(read_outside(run)["systems"])[-1] == "control: voice"
        rewritten(run, lambda row, old=old: replace(row, text=f"bye {old}") if row.system == "loud" else row)
        assert list(read_outside(run)["systems"]) == ["quiet"]
