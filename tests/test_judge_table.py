"""The judge table: replies whose score is known, judges that lose what they are known to lose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightning_paras2s.bench.diagnostics.constructed import KINDS, construct, reference_score
from lightning_paras2s.bench.diagnostics.judge_table import (
    JUDGES,
    Recorded,
    judge_table,
    pearson_gain,
    stage_scores,
    table,
)
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rubric import BEST_TONES, names_topic, score_act
from lightning_paras2s.types import STYLES, Audio, Evidence, Query, Style, Verdict

SILENCE = Audio(np.zeros(160, np.float32), 16_000)


def heard(texts: str = "neutral", n: int = 4) -> list[Recorded]:
    """Constructed replies, heard without a mistake."""
    rows = []
    for item in construct(texts, n, "test", 0):
        query = Audio(SILENCE.samples.copy(), 16_000)
        evidence = Evidence(f"{item.kind}/{item.query.id}/0", item.text, 0.0, item.tone, item.tone)
        rows.append(Recorded(item, query, SILENCE, evidence))
    return rows


class Knowing(Judge):
    """Scores by the rules; knows what each reply does."""

    name, rubric_sha = "knowing", ""

    def __init__(self, rows: list[Recorded]) -> None:
        self.acts = {r.evidence.response_id: r for r in rows}

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        item = self.acts[evidence.response_id].item
        own, value = item.spoken.style, getattr(style, query.factor)
        other = next(s for s in item.spoken.text.styles if s != own)
        act = {"generic": "generic", "gibberish": "gibberish", "other_style": f"{query.factor}:{other}"}
        act = act.get(item.kind, f"{query.factor}:{own}")
        if value not in BEST_TONES:
            return Verdict(evidence.response_id, self.name, None, status="no_label")
        full = reference_score(query.text, own, item.text, item.tone, act) == score_act(own, act, item.tone, True).score
        return Verdict(evidence.response_id, self.name, score_act(value, act, evidence.tone, full).score)


class Labeller(StyleRecognizer):
    """Names each query's styles rightly, wrongly, or as neutral, by turns of `plan`."""

    name = "labeller"

    def __init__(self, rows: list[Recorded], wrong: float) -> None:
        random = np.random.default_rng(0)
        queries = {id(r.query): r.item.query for r in rows}
        self.labels = {}
        for key, query in queries.items():
            value = query.styles[query.factor]
            if random.random() < wrong:
                value = str(random.choice([s for s in STYLES[query.factor] if s != value]))
            self.labels[key] = Style(**{query.factor: value})

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        return [self.labels[id(audio)] for audio in audios]


@pytest.mark.parametrize("texts", ["neutral", "suggestive"])
def test_constructed_replies_have_the_guidelines_scores(texts):
    """A.11.5: fitting 5, flat 4, a clashing tone 2 (3 where none clashes), the other style 1 or 2, generic 2 or 3, one
    point less where the query's topic is not named, gibberish 1."""
    scores = {
        "fitting": {5}, "flat": {4}, "jarring": {2, 3}, "other_style": {1, 2}, "generic": {2, 3}, "off_topic": {5},
        "gibberish": {1},
    }  # fmt: skip
    items = construct(texts, 6, "test", 0)
    assert len(items) == len(KINDS) * len({i.query.id for i in items})
    for item in items:
        less = 0 if names_topic(item.query.text, item.text) else 1
        assert item.score in {max(1, s - less) for s in scores[item.kind]}, item
    assert np.mean([not names_topic(i.query.text, i.text) for i in items if i.kind == "off_topic"]) > 0.8
    fitting = [i for i in items if i.kind == "fitting"]
    assert np.mean([i.score == 5 for i in fitting]) > 0.8
    assert all(i.tone in BEST_TONES[i.spoken.style] for i in fitting)


def test_texts_when_suggestive_are_spoken_as_suggested_and_otherwise():
    items = [i for i in construct("suggestive", 6, "test", 0) if i.kind == "fitting"]
    agree = [i.spoken.style == i.spoken.text.suggested for i in items]
    assert np.mean(agree) == 0.5 and all(i.spoken.style != "neutral" for i in items)


def test_stages_lose_what_they_are_not_told():
    rows = heard(n=6)
    labellers = {"polytone": Labeller(rows, 0.1), "control": Labeller(rows, 0.9)}
    scores = stage_scores(rows, Knowing(rows), labellers)
    reference = np.array([r.item.score for r in rows])
    assert np.array_equal(scores["gold_tone"], reference)
    kinds = np.array([r.item.kind for r in rows])
    # Told that every tone is neutral, the judge takes a fitting reply for a flat one.
    assert np.array_equal(scores["gold"][kinds == "fitting"], scores["gold"][kinds == "flat"])
    scores["end_to_end"] = np.random.default_rng(0).uniform(1, 5, len(rows))
    found = table(rows, scores)
    assert found["judges"]["gold_tone"]["pearson"] == 1 and found["judges"]["gold_tone"]["mae"] == 0
    assert found["order"][-1] == "gold_tone" and not found["papers_order"]
    assert found["gains"]["polytone - control"]["ci95"][0] > 0
    assert found["judges"]["polytone"]["pearson"] > found["judges"]["control"]["pearson"]


def test_failed_judgements_are_counted_and_left_out_for_all_judges():
    rows = heard(n=2)
    scores = {name: np.array([r.item.score for r in rows]) for name in JUDGES}
    scores["control"] = scores["control"].copy()
    scores["control"][:5] = np.nan
    found = table(rows, scores)
    assert found["judges"]["control"]["n_failed"] == 5 and found["judges"]["gold"]["n_failed"] == 0
    assert found["n_common"] == len(rows) - 5


def test_pearson_gain_when_known():
    """b is the reference's negative: r = -1, so a = reference gains 2."""
    reference = np.array([1.0, 2.0, 3.0, 5.0])
    gain = pearson_gain(reference, -reference, reference, np.array(list("abcd")))
    assert gain["value"] == 2 and gain["ci95"] == [None, None]  # it was [2, 2], of four texts


def test_equal_or_unknown_judges_are_not_in_the_papers_order():
    """Judges that score alike, and judges that never vary, were said to be in it: sorting left them as they came."""
    rows = heard(n=2)
    reference = np.array([r.item.score for r in rows])
    for scores in (reference, np.full(len(rows), 3.0)):
        found = table(rows, dict.fromkeys(JUDGES, scores))
        assert found["order"] == list(JUDGES) and not found["papers_order"]
    noise = np.random.default_rng(0).normal(size=len(rows))
    better = {name: reference + (4 - place) * noise for place, name in enumerate(JUDGES)}
    assert table(rows, better)["papers_order"]


def test_reference_when_the_topic_is_not_named():
    right = reference_score("Where is the pool?", "sad", "I am sorry about the pool.", "empathetic", "emotion:sad")
    assert right == 5
    assert reference_score("Where is the pool?", "sad", "I am sorry.", "empathetic", "emotion:sad") == right - 1


def test_error_when_options_are_off():
    with pytest.raises(UserError, match="texts must be one of neutral, suggestive; got 'both'"):
        judge_table(texts="both")
    with pytest.raises(UserError, match="two texts a factor or more.*got 1, 12"):
        judge_table(n=1)


def test_queries_are_records_that_judges_know():
    item = construct("neutral", 2, "test", 0)[0]
    assert item.query.style == Style(**item.query.styles) and item.query.pair_id == item.spoken.text.id
    assert replace(item, kind="flat").query == item.query
