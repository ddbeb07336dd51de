"""One bad row of somebody's real speech never costs the rest: it is counted; a table that none can read is one line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from test_identity import run, sine
from test_one_bad_item import statuses

from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.errors import UserError


def table(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([["file", "text", "emotion"], *rows])


LONG = "one two three four five"


def test_two_recordings_never_share_an_id(tmp_path):
    for name in ("a/b.wav", "a-b.wav"):
        sine(tmp_path / name, 300)
    table(tmp_path / "metadata.csv", [[n, LONG, "sad"] for n in ("a/b.wav", "a-b.wav", "a-b.wav")])
    made = import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))
    assert made["counts"] == {"kept": 2, "duplicate": 1}
    assert len({q.audio for q in read_queries(made["manifest"], None)}) == 2


def test_a_short_row_is_told_of_and_left_out(tmp_path, capsys):
    sine(tmp_path / "a.wav", 300)
    table(tmp_path / "metadata.csv", [["b.wav"], ["a.wav", LONG, "sad"]])
    assert import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))["counts"] == {"kept": 1}
    assert "metadata.csv:2: the row is too short" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_table_in_another_encoding_is_one_line(tmp_path, encoding):
    table(tmp_path / "metadata.csv", [["a.wav", "café au lait", "sad"]], encoding)
    with pytest.raises(UserError, match="metadata.csv must be UTF-8; got other bytes"):
        import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))


def test_a_field_without_end_is_one_line(tmp_path):
    (tmp_path / "metadata.csv").write_text('file,text,emotion\na.wav,"open' + "x" * 140_000)
    with pytest.raises(UserError, match="metadata.csv:2: a row must be readable as CSV; got field larger"):
        import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))


def test_a_missing_transcript_costs_its_dialogue_alone(tmp_path, capsys):
    for i in (1, 2):
        (tmp_path / f"Session{i}/dialog/EmoEvaluation").mkdir(parents=True)
    labels = tmp_path / "Session1/dialog/EmoEvaluation"
    for name in ("Ses01F_a", "Ses01F_b"):
        (labels / f"{name}.txt").write_text(f"[0.0000 - 1.0000]\t{name}_F000\tang\t[1, 1, 1]\n")
    (tmp_path / "Session1/dialog/transcriptions").mkdir()
    (tmp_path / "Session1/dialog/transcriptions/Ses01F_b.txt").write_text(f"Ses01F_b_F000 [0.0-1.0]: {LONG}\n")
    sine(tmp_path / "Session1/sentences/wav/Ses01F_b/Ses01F_b_F000.wav", 300)
    counts = import_speech("iemocap", str(tmp_path), str(tmp_path / "q.jsonl"))["counts"]
    assert counts == {"no_text": 1, "kept": 1} and "Ses01F_a.txt is missing" in capsys.readouterr().err


def test_a_clip_that_could_not_be_cut_costs_itself_alone(tmp_path):
    """MELD's dia125_utt3 can't be decoded (declare-lab/MELD issue 39), dia110_utt7 is missing (issues 22 and 27)."""
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    rows = [f"{i},{LONG},Ross,anger,negative,{d},{u},1,1,0,1" for i, (d, u) in enumerate(((125, 3), (110, 7), (1, 1)))]
    (tmp_path / "data/MELD").mkdir(parents=True)
    (tmp_path / "data/MELD/train_sent_emo.csv").write_text("\n".join([header, *rows, ""]))
    sine(tmp_path / "MELD.Raw/train_splits/dia1_utt1.wav", 800)
    (tmp_path / "MELD.Raw/train_splits/dia125_utt3.wav").touch()  # what a converter leaves of it
    made = import_speech("meld", str(tmp_path), str(tmp_path / "q.jsonl"), "train")
    assert made["counts"] == {"kept": 2, "no_audio": 1}
    cell = run(tmp_path, made["manifest"])["systems"]["parrot"]["overall"]
    assert (cell["n"], cell["n_failed"]) == (1, 1)
    assert statuses(tmp_path) == {"meld-train-dia125_utt3": "bad_query", "meld-train-dia1_utt1": "ok"}
