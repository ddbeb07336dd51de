"""Listening tests: items, resuming, records; the page itself where gradio is installed."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.people.annotate import (
    SCORES,
    UNHEARD,
    Item,
    annotate,
    audible,
    judgement,
    keep,
    load_items,
    remaining,
)
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rubric import PROMPT
from lightning_paras2s.types import Audio, Human, Query, Response, append_jsonl, read_jsonl, to_json


@pytest.fixture
def study(tmp_path):
    queries = [Query(f"q{i}", "p", "age", "test", "Hi.", {"age": "child"}, "T", f"q{i}.flac") for i in range(6)]
    (tmp_path / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    for folder, query in product(("", "x", "y"), queries):
        write_audio(tmp_path / folder / query.audio, Audio(np.full(1600, 0.1, np.float32), 16_000))  # 0.1 s
    for name in ("x", "y"):
        rows = [Response(q.id, name, audio=f"{q.id}.flac", status="empty" if q.id == "q5" else "ok") for q in queries]
        append_jsonl(tmp_path / name / "responses.jsonl", rows)
    return str(tmp_path / "queries.jsonl"), [str(tmp_path / "x"), str(tmp_path / "y")], str(tmp_path / "human.jsonl")


def test_items_are_the_usable_responses_when_loaded(study):
    manifest, runs, _ = study
    items = load_items(manifest, runs, False, None, 0)
    assert sorted(i.id for i in items) == sorted(f"{s}/q{i}/0" for s in "xy" for i in range(5))
    assert [i.id for i in items] == [i.id for i in load_items(manifest, runs, False, None, 0)]


def test_sides_are_drawn_when_systems_are_compared(study):
    manifest, runs, _ = study
    items = [i for seed in range(10) for i in load_items(manifest, runs, True, None, seed)]
    first = {i.id[0] for i in items}
    assert len(items) == 50 and first == {"x", "y"}
    assert all(f"/{i.id[0]}/" in i.first for i in items)


def test_an_annotator_goes_on_where_they_stopped_when_they_return(study):
    manifest, runs, out = study
    items = load_items(manifest, runs, False, None, 0)
    todo = remaining(items, out, "ann")
    append_jsonl(out, [judgement(todo[0], "ann", SCORES[3], 4.26)])
    assert remaining(items, out, "ann") == todo[1:]
    assert len(remaining(items, out, "bob")) == len(items)
    assert read_jsonl(out, Human) == [Human(todo[0].id, "ann", score=4.0, seconds=4.3)]


def test_scores_have_the_guidelines_names():
    """ "5 Points - Perfect (Enhanced):" and so on, down to "1 Point - Very Poor:" (A.11.5)."""
    named = dict(re.findall(r"^#### (\d) Points? - (.*):$", PROMPT, re.M))
    assert {told[0]: told[2:] for told in SCORES} == {score: name.lower() for score, name in named.items()}


def test_a_choice_becomes_a_verdict_when_saved():
    made = judgement(Item("a | b", "q", "1", "2"), " ann ", "Both are bad", 1.0)
    assert (made.annotator, made.score, made.verdict) == ("ann", None, "both_bad")
    with pytest.raises(UserError, match="must have a name"):
        judgement(Item("a", "q", "1"), " ", SCORES[0], 1.0)


def test_annotate_is_one_clear_line_when_gradio_is_missing(study, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="annotate needs the package gradio"):
        annotate(*study)


def test_the_page_is_built_when_gradio_is_there(study):
    gradio = pytest.importorskip("gradio")
    from lightning_paras2s.bench.people.annotate import page

    manifest, runs, out = study
    assert page(gradio, load_items(manifest, runs, True, None, 0), out, True) is not None


def test_nothing_is_stored_before_all_of_it_was_heard(study):
    """Query and two answers of 0.1 s each take 0.15 s at twice the speed."""
    manifest, runs, out = study
    items = load_items(manifest, runs, True, None, 0)
    item, other = remaining(items, out, "ann")[:2]
    for ended in [(item.id, item.id, ""), (item.id, other.id, item.id), ("", "", ""), (other.id,) * 3]:
        assert keep(items, out, "ann", item.id, "The first", 9.0, ended) == UNHEARD
    assert keep(items, out, "ann", item.id, "The first", 0.14, (item.id,) * 3) == UNHEARD
    assert not Path(out).exists()
    assert keep(items, out, "ann", item.id, "The first", 0.16, (item.id,) * 3) == ""
    assert [h.item_id for h in read_jsonl(out, Human)] == [item.id]


def test_items_that_cannot_be_heard_are_left_out_and_told(study, capsys):
    manifest, runs, _ = study
    items = load_items(manifest, runs, False, None, 0)
    gone, cut = Path(items[0].first), Path(items[1].first)
    gone.unlink()
    cut.write_bytes(b"no sound")
    assert audible(items) == items[2:]
    assert f"2 of {len(items)} items can't be heard and are left out: {items[0].id}: " in capsys.readouterr().err
    with pytest.raises(UserError, match="there must be an item that can be heard; got none"):
        audible([replace(items[0], first=str(gone))])


def test_the_page_stores_what_was_heard_in_two_tabs_and_after_a_name_was_corrected(study):
    gradio = pytest.importorskip("gradio")
    from lightning_paras2s.bench.people.annotate import page

    manifest, runs, out = study
    blocks = page(gradio, load_items(manifest, runs, False, None, 0), out, False)
    show, save, *_ = (block.fn for block in blocks.fns.values())
    (*_, started, heard), (*_, begun, same) = show("ann"), show("ann")  # two tabs
    assert heard == same
    told, *rest = save("ann", SCORES[4], started, heard, heard, "", "")
    assert told == UNHEARD and rest == [gradio.skip()] * 6  # the players stay as they are
    assert save("ann", None, started, heard, heard, heard, "")[0] == "Choose an answer first."
    time.sleep(0.11)
    *_, second = save("ann", SCORES[4], started, heard, heard, heard, "")
    told, *_ = save("ann", SCORES[0], begun, same, same, same, "")
    assert told.startswith("You have judged this one already")
    save("bob", SCORES[1], begun, second, second, second, "")
    rows = read_jsonl(out, Human)
    assert [(h.item_id, h.annotator, h.score) for h in rows] == [(heard, "ann", 5.0), (second, "bob", 2.0)]
