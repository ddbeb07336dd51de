"""Demonstrations about other subjects: which nouns and replies fit, and how much sense they make (data/fitting.py)."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from lightning_paras2s.data.embedded import frames, text_queries
from lightning_paras2s.data.fitting import about_fitting, fitting_frames, fitting_reply, lenders, slots
from lightning_paras2s.data.sources import Demonstrations
from lightning_paras2s.errors import UserError

ROOT = Path(__file__).parents[1]
TRAIN = text_queries("train")
VOTES = [json.loads(line) for line in (ROOT / "results/fitting_votes.jsonl").read_text().splitlines()]
# Of the texts, by the code that drew any subject before one could be asked to fit (seed 210, as sft_fifth.yaml).
BEFORE = "c5172f944259fb98c841466b622f1c75ece168be49eb1e7b34c753c7618bd8e9"


def test_every_training_subject_has_a_class_and_a_number():
    assert [(s.id, s.subject) for s in slots().values()] == [(q.id, q.subject) for q in TRAIN]
    for slot in slots().values():
        assert re.fullmatch(r"[a-z]+(\.[a-z-]+)?", slot.cls) and slot.number in ("singular", "plural", "mass"), slot
        assert slot.kept or len(lenders(slot.cls, slot.number)) > 1, slot


def test_subject_keeps_its_class_number_and_article_when_exchanged():
    random = np.random.default_rng(0)
    classes = {}
    for slot in slots().values():
        classes.setdefault(slot.subject, set()).add((slot.cls, slot.number))
    changed = 0
    for query in [q for q in TRAIN for _ in range(5)]:
        slot, other = slots()[query.id], about_fitting(query, random)
        assert (slot.cls, slot.number) in classes[other.subject]
        assert other.text == re.sub(rf"\b{query.subject}\b", other.subject, query.text)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", other.text, re.I) or re.search(
            r"\ba [aeiou]|\ban [^aeiou]", query.text, re.I
        ), other.text
        assert not slot.kept or other == query
        changed += other != query
    assert changed > 0.8 * 5 * sum(not slot.kept for slot in slots().values())


def test_every_subject_has_a_reply_in_each_style():
    for query in TRAIN:
        for style in (*query.styles, "generic"):
            assert len(fitting_frames(query, style)) >= 5, (query, style)


def test_frames_that_name_classes_are_used_with_them_alone():
    known = {s.cls for s in slots().values()} | {s.cls.split(".")[0] for s in slots().values()}
    fits = {(r["factor"], r["style"], r["frame"]): r["fits"] for r in frames() if "fits" in r}
    assert {name for names in fits.values() for name in names} <= known
    assert all(r["split"] == "train" for r in frames() if "fits" in r)
    used = set()
    for query in TRAIN:
        cls = slots()[query.id].cls
        for style in query.styles:
            for frame in fitting_frames(query, style):
                names = fits.get((query.factor, style, frame))
                assert names is None or {cls, cls.split(".")[0]} & set(names), (query, frame)
                used.add((query.factor, style, frame))
    assert fits.keys() <= used  # none is named that nothing fits


@pytest.mark.parametrize(
    "text, subject, wrong, right",
    [
        (
            "We gave the boots away.",
            "boots",
            "That {subject} must make you happy.",
            "I am so happy about the {subject}.",
        ),
        (
            "We like the restaurant.",
            "restaurant",
            "I smile with joy over your {subject}.",
            "I am so glad about the {subject}.",
        ),
        (
            "We have a new puppy.",
            "puppy",
            "Enjoy all of the {subject} my friend.",
            "Have fun with your {subject} my friend.",
        ),
    ],
)
def test_replies_agree_with_the_number_owner_and_class_of_a_subject(text, subject, wrong, right):
    """No "that boots", no "your restaurant" of one who has none, and no pet enjoyed as food is."""
    query = next(
        q for q in TRAIN if q.subject == subject and not re.search(rf"\b(my|our) (\w+ )?{subject}", q.text, re.I)
    )
    found = fitting_frames(replace(query, factor="emotion", text=text), "happy")
    assert right in found and wrong not in found


def test_own_restaurant_is_yours_when_the_speaker_says_so():
    query = next(q for q in TRAIN if q.text == "We open our own restaurant tomorrow.")
    assert "I smile with joy over your {subject}." in fitting_frames(query, "happy")


def test_shown_queries_and_replies_fit_when_subjects_do():
    replies = {
        q.id: {
            f.format(subject=s)
            for style in q.styles
            for f in fitting_frames(q, style)
            for s in lenders(slots()[q.id].cls, slots()[q.id].number)
        }
        for q in TRAIN[:40:2]
    }
    shown = Demonstrations(renditions=3).lines("train")[: 20 * 2 * 3]
    for index, (user, agent) in enumerate(shown):
        query = TRAIN[index // 6 * 2]
        assert agent.text in replies[query.id], (user, agent)


def test_reply_is_about_the_exchanged_subject():
    random = np.random.default_rng(1)
    for query in TRAIN[:200]:
        other = about_fitting(query, random)
        assert re.search(rf"\b{other.subject}\b", fitting_reply(other, query.styles[0], random))


def test_any_subject_is_drawn_as_before_when_asked_for():
    lines = Demonstrations(share=0.2, renditions=14, seed=210, subjects="any").lines("train")
    told = "\n".join(f"{u.text}|{u.voice}|{u.seed}|{a.text}|{a.style.tone}" for u, a in lines[:400])
    assert hashlib.sha256(told.encode()).hexdigest() == BEFORE


@pytest.mark.parametrize("config", ["sft.yaml", "sft_fifth.yaml"])
def test_configs_of_the_shipped_weights_draw_any_subject(config):
    assert "subjects: any," in (ROOT / "configs" / config).read_text()


def test_subjects_fail_when_they_are_unknown():
    with pytest.raises(UserError, match="subjects must be fitting or any; got 'some'"):
        Demonstrations(subjects="some")


@cache
def drawn(count: int = 100, seed: int = 19) -> list[dict]:
    """`count` demonstrations with an exchanged subject of each way, shuffled: what was judged."""
    authored, random, rows = {q.text for q in TRAIN}, np.random.default_rng(seed), []
    for way in ("any", "fitting"):
        lines = [x for x in Demonstrations(renditions=5, subjects=way).lines("train") if x[0].text not in authored]
        chosen = [lines[i] for i in random.choice(len(lines), count, replace=False)]
        rows += [{"way": way, "query": user.text, "reply": agent.text} for user, agent in chosen]
    return [rows[i] for i in random.permutation(len(rows))]


def test_votes_are_on_the_demonstrations_drawn():
    assert [{k: vote[k] for k in ("way", "query", "reply")} for vote in VOTES] == drawn()
    assert all(v["reason"] and v["sensible"] == (v["query_sensible"] and v["reply_sensible"]) for v in VOTES)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson (1927): the shares whose score test does not reject the one seen."""
    z = NormalDist().inv_cdf(0.975)
    middle, half = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@pytest.mark.parametrize("way", ["any", "fitting"])
@pytest.mark.parametrize("kind", ["query_sensible", "sensible"])
def test_card_tells_how_many_make_sense(way, kind):
    votes = [vote[kind] for vote in VOTES if vote["way"] == way]
    low, high = wilson(sum(votes) / len(votes), len(votes))
    card = (ROOT / "docs/data_card.md").read_text()
    assert f"{sum(votes)} of {len(votes)} ({sum(votes) / len(votes):.2f} [{low:.2f}, {high:.2f}])" in card
