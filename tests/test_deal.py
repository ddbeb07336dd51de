"""`deal`: queries dealt to parts, of which no two share a text or a pair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_demonstrate import query, write_manifest

from lightning_paras2s.bench.queries.deal import deal, dealt
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
    with pytest.raises(UserError, match="manifests must name at least one"):
        deal([], str(tmp_path / "out"), shares)


STYLES = {"emotion": ("happy", "sad"), "sarcasm": ("sincere", "sarcastic")}


def halves(factor: str, name: str, texts: list[str], split: str = "train") -> list[Query]:
    """A pair of a factor, whose halves may say different texts."""
    pair = f"{factor}-{split}-{name}"
    made = [query(f"{pair}-{i}", split=split, pair=pair, text=text) for i, text in enumerate(texts)]
    return [replace(q, factor=factor, styles={factor: s}) for q, s in zip(made, STYLES[factor], strict=True)]


def parts_of(out, shares) -> dict[str, list[Query]]:
    return {part: [q for path in (out / part).glob("*.jsonl") for q in read_jsonl(path, Query)] for part in shares}


def test_deal_gives_a_text_of_two_factors_and_of_two_splits_to_one_part(tmp_path):
    """Of 60 texts of emotion and 45 of sarcasm 30 are the same, and emotion's val holds 20 of its train."""
    own = {"emotion": range(60), "sarcasm": [*range(30), *range(100, 115)]}
    queries = [q for f, numbers in own.items() for i in numbers for q in halves(f, str(i), [f"text {i}"] * 2)]
    queries += [q for i in range(20, 40) for q in halves("emotion", str(i), [f"Text {i}!"] * 2, "val")]
    shares = {"sft": 0.5, "rl": 0.5}
    deal([write_manifest(tmp_path / "in", queries)], str(tmp_path / "out"), shares)
    sft, rl = parts_of(tmp_path / "out", shares).values()
    assert not {q.text.lower().strip("!") for q in sft} & {q.text.lower().strip("!") for q in rl}
    assert len(sft) + len(rl) == len(queries)
    # each group's pairs by its share; of 45, and of val's 20, which are all shared, one is more than half
    counts = Counter((q.factor, q.split) for q in sft)
    assert counts["emotion", "train"] == 60 and counts["sarcasm", "train"] in (44, 46)
    assert counts["emotion", "val"] in (18, 20, 22)


def test_deal_gives_speech_without_words_by_its_pair(tmp_path):
    """A hundred recordings, and a pair that says nothing, which stays one."""
    bare = [replace(query(f"s-{i}", pair=f"s-{i}", text=""), factor="", styles={}) for i in range(100)]
    queries = bare + halves("emotion", "mute", ["", "?"])
    shares = {"sft": 0.5, "rl": 0.5}
    deal([write_manifest(tmp_path / "in", queries)], str(tmp_path / "out"), shares)
    parts = parts_of(tmp_path / "out", shares)
    assert {part: sum(not q.factor for q in rows) for part, rows in parts.items()} == {"sft": 50, "rl": 50}
    assert sorted(sum(q.factor != "" for q in rows) for rows in parts.values()) == [0, 2]


def test_deal_keeps_a_pair_whose_halves_say_different_words(tmp_path):
    queries = [q for i in range(40) for q in halves("emotion", str(i), [f"first {i}", f"second {i}"])]
    shares = {"sft": 0.5, "rl": 0.5}
    deal([write_manifest(tmp_path / "in", queries)], str(tmp_path / "out"), shares)
    parts = parts_of(tmp_path / "out", shares)
    assert {part: len({q.pair_id for q in rows}) for part, rows in parts.items()} == {"sft": 20, "rl": 20}
    assert all(Counter(Counter(q.pair_id for q in rows).values()).keys() == {2} for rows in parts.values())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 63), min_size=40, max_size=200), st.integers(0, 3))
def test_every_group_has_its_shares_however_texts_are_shared(masks, seed):
    """A text's mask says which of six groups hold it: each part has its share of each group. A text may be all that is
    left for two groups that lack different parts, so that no bound holds in general; three texts are never reached.
    """
    groups = [(factor, split) for factor in STYLES for split in ("train", "val", "test")]
    queries = [
        query(f"{f}-{s}-{i}", split=s, pair=f"{f}-{s}-{i}", text=f"text {i}")
        for i, mask in enumerate(masks)
        for n, (f, s) in enumerate(groups)
        if mask >> n & 1
    ]
    queries = [replace(q, factor=q.pair_id.split("-")[0]) for q in queries]
    shares = {"prompts": 0.2, "preferences": 0.2, "queries": 0.5}
    parts = dealt(queries, shares, seed)
    assert all(len({p for q, p in zip(queries, parts, strict=True) if q.text == f"text {i}"}) <= 1 for i in range(200))
    for group in groups:
        found = Counter(p for q, p in zip(queries, parts, strict=True) if (q.factor, q.split) == group)
        assert all(abs(found[part] - share * found.total()) < 3 for part, share in shares.items()), (group, found)


def test_pairs_are_counted_by_factor(tmp_path):
    """One pair_id in two factors names two pairs, as everywhere."""
    queries = [replace(q, pair_id="1") for factor in STYLES for q in halves(factor, "1", [f"{factor} words"] * 2)]
    table = deal([write_manifest(tmp_path / "in", queries)], str(tmp_path / "out"), {"a": 1.0})
    assert table["parts"]["a train"]["pairs"] == 2


def test_lists_of_another_deal_are_told(tmp_path, capsys):
    """What lies in OUT and holds queries of several parts of today would share their texts."""
    queries = [q for i in range(8) for q in halves("emotion", str(i), [f"text {i}"] * 2)]
    manifest, out = write_manifest(tmp_path / "in", queries), tmp_path / "out"
    deal([manifest], str(out), {"old": 1.0})
    assert "another deal" not in capsys.readouterr().err
    deal([manifest], str(out), {"a": 0.5, "b": 0.5})
    said = capsys.readouterr().err
    assert str(out / "old/train.jsonl") in said and "another deal" in said and "remove" in said
    (out / "old/train.jsonl").unlink()
    (out / "made").mkdir()  # as `demonstrate` writes it: of one part's queries
    (out / "made/train.jsonl").write_bytes((out / "a/train.jsonl").read_bytes())
    deal([manifest], str(out), {"a": 0.5, "b": 0.5})
    assert "another deal" not in capsys.readouterr().err
