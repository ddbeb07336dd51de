"""`skills`: what a policy can do besides what it was aligned for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_paras2s.bench.skills import SCORES, Item, adjust, figures, score_answer, score_names, score_words
from lightning_paras2s.bench.systems.base import Answer
from lightning_paras2s.cli import main
from lightning_paras2s.data.embedded import TextQuery
from lightning_paras2s.data.sources import Dialogue
from lightning_paras2s.judging.acts import ActClassifier
from lightning_paras2s.shown.show import show
from lightning_paras2s.types import Audio

SHIPPED = "checkpoints/embedded"
SPEECH = Audio(np.full(16_000, 0.1, np.float32), 16_000)
QUERY = TextQuery("e1", "emotion", "test", "Family", "piano", "We sold the piano.", ("happy", "sad"))


@pytest.fixture(scope="module")
def classifier() -> ActClassifier:
    return ActClassifier(f"{SHIPPED}/acts.safetensors")


def item(skill: str, words: str = "") -> Item:
    return Item(skill, Dialogue("chat", None), QUERY, words)


@pytest.mark.parametrize(
    ("text", "heard", "score"),
    [
        ("I am so sorry about the piano.", "i am so sorry about the piano", 1.0),
        ("I am so happy for you and the piano!", "i am so happy for you and the piano", 1.0),
        ("I am so sorry about the river.", "i am so sorry about the river", 0.0),  # not what was asked
        ("I am so sorry about the piano.", "them all the was in", 0.0),  # the voice says something else
        ("Ask your guardian about the piano.", "your guardian can decide on the piano", 0.0),  # to a child's question
    ],
)
def test_a_plain_question_is_answered_about_its_topic_and_for_either_style(classifier, text, heard, score):
    assert score_answer(item("answer"), Answer(SPEECH, text), heard, classifier) == score


def test_an_answer_that_does_not_end_is_none(classifier):
    text = "I am so sorry about the piano."
    assert (
        score_answer(item("answer"), Answer(SPEECH, text, "truncated"), "i am so sorry about the piano", classifier)
        == 0
    )


def test_words_and_names_that_are_right_are_counted(classifier):
    words = item("repeat", "We sold the piano.")
    assert score_words(words, Answer(SPEECH), "we sold a piano", classifier) == pytest.approx(3 / 4)
    assert score_words(words, Answer(SPEECH), "", classifier) == 0
    assert score_words(words, Answer(SPEECH), "we and all of them sold them many other old things", classifier) == 0
    names = item("name", "sad adult female")
    assert score_names(names, Answer(SPEECH), "sad adult male", classifier) == pytest.approx(2 / 3)


def test_changes_are_paired_with_the_first_policy():
    before = {str(i): float(i % 2) for i in range(120)}
    found = figures({"sft": before, "same": dict(before), "worse": dict.fromkeys(before, 0.0)}, "sft")
    assert "change" not in found["sft"] and found["sft"]["mean"] == 0.5
    assert found["same"]["change"] == 0 and found["same"]["p"] == 1
    assert found["worse"]["change"] == -0.5 and found["worse"]["change_ci95"][1] < 0 and found["worse"]["p"] < 0.001


def test_changes_of_several_skills_are_adjusted_together(capsys):
    """Holm by hand: .01, .02, .04 -> 3 * .01, 2 * .02, 1 * .04; what could not be tested is no hypothesis."""
    made = {"answer": .04, "repeat": .01, "name": .02, "read": float("nan")}  # fmt: skip
    base = {"mean": 0.5, "ci95": [0.4, 0.6], "n": 40}
    found = {skill: {"sft": dict(base), "rl": base | {"change": 0.1, "change_ci95": [0, 0.2], "p": p}}
             for skill, p in made.items()}  # fmt: skip
    adjust(found)
    assert [found[skill]["rl"].get("p_holm") for skill in made] == pytest.approx([0.04, 0.03, 0.04, None])
    show("skills", {"skills": found, "split": "test", "seed": 0}, {}, "P", False)
    said = " ".join(capsys.readouterr().out.split())
    assert "p Holm" in said and "p is adjusted over all 3 changes by Holm" in said


def test_shipped_policies_are_asked_for_every_skill(capsys, tmp_path):
    policies = json.dumps({name: f"{SHIPPED}/{name}.safetensors" for name in ("sft_fifth", "grpo")})
    few = ["--n", "2", "--cache_dir", str(tmp_path), "--json"]
    main(["skills", "--config", "skills.yaml", "--policies", policies, *few])
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert tuple(found["skills"]) == tuple(SCORES)
    for skill in found["skills"].values():
        assert skill["sft_fifth"]["n"] == skill["grpo"]["n"] == 8
        assert skill["grpo"]["change"] == pytest.approx(skill["grpo"]["mean"] - skill["sft_fifth"]["mean"], abs=1e-3)


def test_a_wrong_split_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["skills", "--config", "skills.yaml", "--split", "dev"])
    assert stop.value.code == 2 and "split" in capsys.readouterr().err
