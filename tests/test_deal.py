"""`deal`: queries dealt to parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from test_demonstrate import query, write_manifest

from lightning_paras2s.bench.queries.deal import deal
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Query, read_jsonl


def test_deal_gives_each_part_its_share_and_no_two_a_text(tmp_path):
    """Two factors of 20 texts, each text in both styles and one of them in two pairs."""
    queries = []
    for factor, (a, b) in {"emotion": ("happy", "sad"), "age": ("adult", "child")}.items():
        for i in range(21):
            text = f"{factor} text number {min(i, 19)}"
            queries += [
                replace(query(f"{factor}-{i}-{s}", pair=f"{factor}-{i}", text=text), factor=factor, styles={factor: s})
                for s in (a, b)
            ]
    manifest = write_manifest(tmp_path / "in", queries)
    shares = {"prompts": 0.25, "preferences": 0.25, "queries": 0.4}
    table = deal([manifest], str(tmp_path / "out"), shares)
    parts = {part: read_jsonl(tmp_path / "out" / part / "train.jsonl", Query) for part in shares}
    for factor in ("emotion", "age"):
        texts = {part: {q.text for q in rows if q.factor == factor} for part, rows in parts.items()}
        assert {part: len(found) for part, found in texts.items()} == {"prompts": 5, "preferences": 5, "queries": 8}
        assert len(set.union(*texts.values())) == 18
    for part, rows in parts.items():
        assert Counter(Counter(q.pair_id for q in rows).values()).keys() == {2}
        assert all((tmp_path / "out" / part / q.audio).is_file() for q in rows)
        assert table["parts"][f"{part} train"]["queries"] == len(rows)
    before = {part: [q.id for q in rows] for part, rows in parts.items()}
    deal([manifest], str(tmp_path / "out"), shares)
    assert before == {p: [q.id for q in read_jsonl(tmp_path / "out" / p / "train.jsonl", Query)] for p in shares}
    with pytest.raises(UserError, match="together at most 1"):
        deal([manifest], str(tmp_path / "out"), {"a": 0.7, "b": 0.4})
