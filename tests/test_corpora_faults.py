"""Corpora that are not as they should be: one clear line or a count, and never a traceback."""

from __future__ import annotations

import json
import re

import pytest
from test_corpora import heard, imported, lines, on_hub, outside

from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.errors import UserError


def test_broken_tables_are_one_clear_line(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "vb/bbh").mkdir(parents=True)
    (tmp_path / "vb/bbh/test-00000-of-00001.parquet").write_bytes(pointer)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/data-00000-of-00001.arrow").write_bytes(b"\x00" * 64)
    (tmp_path / "mmsu.json").write_text('[{"id": 1}]')
    (tmp_path / "asqa.json").write_text('[{"instruction": "x"')
    for corpus, root, told in (
        ("voicebench", "vb", "Git LFS pointer"),
        ("cpqa", "cut", "must be a whole table"),
        ("mmsu", "mmsu.json", "row 1: must have audio_path"),
        ("open_asqa", "asqa.json", "must be JSON in UTF-8"),
        ("televal", "nothing", "root must hold TELEVAL"),
        ("sd_eval", "nothing", "root must hold data/test-emo.json"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            import_speech(corpus, str(tmp_path / root), str(outside(tmp_path)))
    assert not (outside(tmp_path)).exists()


def test_a_manifest_in_the_corpus_is_refused_as_it_would_be_read_as_part_of_it(tmp_path):
    with pytest.raises(UserError, match="out must lie outside of root"):
        import_speech("televal", str(tmp_path), str(tmp_path / "sets/q.jsonl"))


def test_a_recording_that_cannot_be_heard_is_left_out(tmp_path):
    on_hub(
        tmp_path / "in/alpacaeval/test-00000-of-00001.parquet",
        [
            {"prompt": "Good.", "audio": heard()},
            {"prompt": "Broken.", "audio": {"bytes": b"RIFF broken", "path": "b.wav"}},
            {"prompt": "Empty.", "audio": {"bytes": None, "path": "c.wav"}},
        ],
    )
    table, queries, _ = imported("voicebench", tmp_path / "in", outside(tmp_path))
    assert table["counts"] == {"kept": 1, "unheard": 1, "no_audio": 1} and queries[0].text == "Good."


GOOD = {
    "sd_eval": ("data/test-emo.json", {"utt_id": "1", "wav_path": "a.wav", "transcript": "x", "info": "sad",
                                       "target": [{"reply": "r", "reply_emotion": "joy"}]}),
    "mmsu": ("mmsu.json", {"id": "1", "audio_path": "a.wav", "question": "q", "choice_a": "x", "choice_b": "y",
                           "answer_gt": "x", "category": "c"}),
    "open_asqa": ("a.json", {"instruction": "q", "input": "x", "audio_id": "d/a.wav", "output": "o"}),
    "uro_bench": ("basic/Repeat/test.jsonl", {"source_wav": "a.wav", "source_text": "x", "target_text": "x", "id": 1,
                                              "dialogue": [{"source_wav": "a.wav", "source_text": "x"}]}),
    "open_s2s": ("a.jsonl", {"messages": [{"role": "user", "content": [{"audio": "a.wav"}]}]}),
    "echat": ("a.list", {"key": "k", "wav": "a.wav", "txt": "x", "extra": {"question": "q"}}),
    "televal": ("s/s.jsonl", {"key": "k", "audio": "a.wav", "query": "x", "answer": "y", "query_emo": "sad"}),
}  # fmt: skip


@pytest.mark.parametrize("corpus", GOOD)
def test_a_field_of_another_type_is_counted_or_told_and_never_a_traceback(corpus, tmp_path):
    place, good = GOOD[corpus]
    for field in good:
        for wrong in (None, 3, "", [], {}, [None], [3], {"x": None}, "\ud7ff<>"):
            path = tmp_path / place
            row = {**good, field: wrong}
            lines(path, [row]) if path.suffix != ".json" else path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                path.write_text(json.dumps([row]))
            try:
                counts = import_speech(corpus, str(tmp_path), str(outside(tmp_path)))["counts"]
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert sum(counts.values()) == 1 and "kept" not in counts, (field, wrong)  # no recording is there
