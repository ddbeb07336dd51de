"""The measures that `evaluate` takes by name, one answer at a time: values worked by hand, and what has none."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import pytest

from lightning_paras2s.bench.corpora.rows import CorpusItem
from lightning_paras2s.bench.measures import named, overlap
from lightning_paras2s.bench.measures.named import MEASURES, MeasureName, Said, check_measures
from lightning_paras2s.errors import UserError


def test_words_to_be_repeated_as_worked_by_hand():
    item = CorpusItem("q", "uro_bench", "basic/Repeat", words="it is gone")
    found = [MEASURES["repeat"].score(item, said(text)) for text in ("it is gone", "it is", "it", "")]
    assert [one.value for one in found] == [1, 1, 0, 0]  # none, 1/3, 2/3 and all of the words are missing
    assert MEASURES["repeat"].pooled([one.parts for one in found]) == pytest.approx((0 + 1 / 3) / 2)
    assert math.isnan(MEASURES["repeat"].pooled([found[2].parts]))
    wrong = MEASURES["wer"].score(item, said("it was all gone"))  # "was" for "is", and "all"
    assert wrong.value == pytest.approx(2 / 3)


def said(words: str = "", text: str | None = None, emotions: dict | None = None) -> Said:
    return Said(words, text, None, emotions or {}, lambda audios: [])


def test_a_choice_that_an_ear_without_capitals_leaves_open_has_no_value():
    item = CorpusItem("q", "voicebench", "openbookqa", options=dict.fromkeys("ABCD", ""), right="A")
    score = MEASURES["choice"].score
    assert score(item, said("The answer is A because it is so.")) == (1.0, "A", {}, "ok")
    assert score(item, said("the answer is a because it is so")) == (None, "", {}, "letter_or_article")
    assert score(item, said("the answer is b because it is so")) == (0.0, "B", {}, "ok")
    assert score(item, said("it is a kind of bird")) == (0.0, "", {}, "unread")


def test_events_and_ratings_as_worked_by_hand():
    there = [{"label": "Laugh", "seconds": 1.0}, {"label": "sigh", "seconds": 3.0}]
    item = CorpusItem("q", "own", "", labels={"events": there, "rating": 4})
    score = MEASURES["event_f1"].score
    found = score(item, said(text='[{"label": "laugh", "seconds": 1.15}, {"label": "sigh", "seconds": 3.5}]'))
    assert found.value == 0.5 and found.parts == {"hits": 1, "found": 2, "there": 2}  # the sigh is half a second late
    assert score(item, said(text="a laugh")) == (0.0, "", {"hits": 0, "found": 0, "there": 2}, "unread")
    assert score(item, said("a laugh")).status == "no_text"
    assert score(replace(item, labels={}), said(text="[]")).status == "no_events"
    assert score(replace(item, labels={"events": []}), said(text="[]")).status == "nothing_there"
    rows = [found.parts, {"hits": 0, "found": 0, "there": 2}]
    assert MEASURES["event_f1"].pooled(rows) == pytest.approx(2 * 1 / (2 + 4))
    rate = MEASURES["concordance"].score
    assert rate(item, said("I would say three."))[:3] == (1.0, "3", {"said": 3, "rating": 4})
    assert rate(item, said("three or four")).status == rate(item, said("")).status == "unread"
    assert rate(item, said("nan")).status == rate(item, said("infinity")).status == "unread"  # words that float() reads
    assert rate(item, said("my nan says three")).value == 1
    for wrong in (True, math.nan, math.inf, "4", None):
        assert rate(replace(item, labels={"rating": wrong}), said("three")).status == "no_rating"
    rows = [{"said": s, "rating": r} for s, r in ((1, 2), (2, 3), (3, 4))]
    assert MEASURES["concordance"].pooled(rows) == pytest.approx(4 / 7)  # as in test_measures.py


def test_what_an_item_or_an_answer_lacks_is_a_status_and_never_0():
    bare, full = CorpusItem("q", "own", ""), CorpusItem("q", "own", "", emotions=["sad"], words="it is gone")
    for name, status in {"bleu": "no_references", "rouge_2": "no_references", "choice": "no_options",
                         "wer_emotion": "no_emotions", "allowed_emotion": "no_emotions", "bbh": "other_set",
                         "ifeval": "no_rules", "refusal": "other_set", "event_f1": "no_events",
                         "concordance": "no_rating", "attribution_pitch": "silent"}.items():  # fmt: skip
        assert MEASURES[name].score(bare, said("it is", text="it is")) == (None, "", {}, status), name
    assert MEASURES["wer_emotion"].score(replace(full, words=""), said("x", emotions={"sad": 1})).status == "no_words"
    assert MEASURES["wer_emotion"].score(full, said("it is gone")).status == "no_emotion"
    assert MEASURES["allowed_emotion"].score(full, said("it is gone")).status == "no_emotion"
    assert MEASURES["wer_emotion"].score(full, said("")).value == 0  # nothing was understood, in no voice
    half = MEASURES["wer_emotion"].score(full, said("it is gone", emotions={"sad": 0.5, "happy": 0.4}))
    assert (half.value, half.read) == (0.5, "sad")
    found = MEASURES["allowed_emotion"].score(replace(full, emotions=["sad", "happy"]),
                                              said(emotions={"neutral": 0.5, "happy": 0.3, "sad": 0.2}))  # fmt: skip
    assert found == (0.3, "neutral", {}, "ok")
    assert {MEASURES[name].score(bare, said("x")).status for name in ("wer", "repeat")} == {"no_words"}
    unjudged = replace(bare, labels={"instruction_id_list": ["language:response_language"], "kwargs": [{}]})
    assert MEASURES["ifeval"].score(unjudged, said(text="x")).status == "unjudged_rule"


def test_a_measure_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(overlap, "find_spec", lambda name: None)
    check_measures(["choice"])
    with pytest.raises(UserError, match="rouge_l needs the package rouge_score; got none"):
        check_measures(["choice", "rouge_l"])


def test_every_measure_is_a_choice_and_in_the_docs():
    assert tuple(MEASURES) == get_args(MeasureName)
    page = (Path(__file__).parents[1] / "docs/corpora.md").read_text(encoding="utf-8")
    table = page[page.index("## Measures") :]
    assert {name for name in MEASURES if f"| `{name}`" not in table} == set()
    assert asdict(CorpusItem("q", "c", "s")).keys() >= {"emotions", "words", "references", "options", "right"}
    assert named.COLLAR_SECONDS == 0.2
