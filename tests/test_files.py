"""Files that appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import read_audio, write_audio
from lightning_paras2s.running.files import rows_in, write_arrays, written_whole
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.types import Audio


def test_two_who_write_one_file_have_places_of_their_own(tmp_path):
    path = tmp_path / "made/manifest.jsonl"
    with written_whole(path) as one, written_whole(path) as other:
        one.write_text("whole")
        other.write_text("ha")
        assert one != other and not path.exists()
    assert path.read_text() == "whole" and [*path.parent.iterdir()] == [path]  # the outer one ends last


def test_nothing_is_left_of_what_could_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, Audio(np.full(160, 0.5, np.float32), 16000))

    def full(part: Path, body: bytes) -> None:
        with part.open("wb") as file:
            file.write(body[:4])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(Path, "write_bytes", full)
        write_audio(path, Audio(np.zeros(160, np.float32), 16000))
    assert [*tmp_path.iterdir()] == [path] and read_audio(path, 16000).samples[0] == pytest.approx(0.5)
    with pytest.raises(UnicodeEncodeError):
        replace_file(tmp_path / "b.txt", "\ud800")
    with pytest.raises(ValueError, match="inhomogeneous"):
        write_arrays(tmp_path / "c.npz", good=[1, 2], bad=[[1], [1, 2]])
    assert [*tmp_path.iterdir()] == [path]


def test_arrays_lie_under_the_name_that_was_asked_for(tmp_path):
    """NumPy by itself adds .npz where a name ends in something else."""
    write_arrays(tmp_path / "deep/kept.cache", counts=[2, 3])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["kept.cache"]
    with np.load(tmp_path / "deep/kept.cache") as kept:
        assert kept["counts"].tolist() == [2, 3]


def test_a_row_is_read_back_whatever_its_words_hold(tmp_path):
    """JSON may hold raw what ends a line in Python."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"reason": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert rows_in(path) == rows_in(path, holds="\u2028b") == [{"reason": "a\u2028b\x85c"}]
