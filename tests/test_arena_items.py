"""Our own set for S2S-Arena's levels: 30 an L, in four domains, and recordings of it as queries."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import soundfile

from lightning_paras2s.bench.corpora.arena import arena_items
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.types import FACTORS, Query, Style, read_jsonl

ITEMS = arena_items()
LEVELS = ("L1", "L2", "L3", "L4")
DOMAINS = ("education", "entertainment", "social", "medical")


def test_there_are_thirty_items_an_l_and_seven_or_eight_of_each_domain():
    assert Counter(i["level"] for i in ITEMS) == dict.fromkeys(LEVELS, 30)
    counts = Counter((i["level"], i["domain"]) for i in ITEMS)
    assert set(counts) == {(level, domain) for level in LEVELS for domain in DOMAINS} and set(counts.values()) == {7, 8}


def test_every_item_says_what_is_said_how_and_what_a_good_answer_does():
    fields = {"id", "level", "domain", "voice", "styles", "instruction", "good"}
    assert all(set(i) == fields and all(i[f] for f in fields - {"styles"}) for i in ITEMS)
    assert len({i["id"] for i in ITEMS}) == len({(i["instruction"], i["voice"]) for i in ITEMS}) == 120
    for item in ITEMS:
        Style(**item["styles"])  # refuses what is no style
        assert set(item["styles"]) <= set(FACTORS)


def test_only_the_levels_that_ask_to_hear_the_voice_have_one():
    for item in ITEMS:
        heard = item["level"] in ("L2", "L4")
        assert (item["voice"] != "neutral") == heard and bool(item["styles"]) == heard


def test_words_said_in_two_voices_ask_for_two_answers():
    """L2 tests perception where the words alone decide nothing."""
    by_text: dict[str, list[dict]] = {}
    for item in (i for i in ITEMS if i["level"] == "L2"):
        by_text.setdefault(item["instruction"], []).append(item)
    pairs = [rows for rows in by_text.values() if len(rows) > 1]
    assert len(pairs) >= 8 and all(len({r["good"] for r in rows}) == len(rows) for rows in pairs)


def test_recordings_become_queries_with_level_and_domain(tmp_path):
    tone = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)
    for name in ("L1-01", "L2-01", "L4-30"):
        soundfile.write(tmp_path / f"{name}.wav", tone, 16_000)
    out = tmp_path.parent / f"{tmp_path.name}-out/q.jsonl"
    table = import_speech("arena", str(tmp_path), str(out))
    assert table["counts"] == {"kept": 3, "no_audio": 117}
    queries = read_jsonl(out, Query)
    assert [(q.level, q.source) for q in queries] == [
        ("L1", "arena/education"),
        ("L2", "arena/education"),
        ("L4", "arena/medical"),
    ]
    assert [q.topic for q in queries] == ["education", "education", "medical"]
    assert queries[1].styles == {"age": "child"} and queries[0].styles == {}
    rows = [json.loads(line) for line in out.with_name("q.items.jsonl").read_text().splitlines()]
    assert set(rows[0]["labels"]) == {"domain", "voice", "good"}
