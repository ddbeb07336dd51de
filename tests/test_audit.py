"""The audit: an ear without training that knows words from other words, and eGeMAPS with a linear classifier."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.embedded import agent_lines
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.audit import (
    EGemapsRecognizer,
    TemplateEar,
    cepstra,
    fit_egemaps,
    intelligibility,
    warp_distance,
)
from lightning_paras2s.hearing.recognizers import HEADS
from lightning_paras2s.types import Audio, Response, append_jsonl

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded/audit.json"


def plain_warp(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook's recursion: diagonal steps count twice, the sum is divided by both lengths."""
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = np.linalg.norm(a[i - 1] - b[j - 1])
            total[i, j] = min(total[i - 1, j] + cost, total[i, j - 1] + cost, total[i - 1, j - 1] + 2 * cost)
    return total[-1, -1] / (len(a) + len(b))


def test_warp_distance_on_a_hand_worked_example():
    """[0, 1] against [0, 0, 1] costs nothing; against [0, 2] the last step costs 1, twice on the diagonal: 2 / 4."""
    a = np.array([[0.0], [1.0]])
    assert warp_distance(a, np.array([[0.0], [0.0], [1.0]])) == 0
    assert warp_distance(a, np.array([[0.0], [2.0]])) == pytest.approx(0.5)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (7, 4), (12, 12)])
def test_warp_distance_equals_the_plain_recursion(sizes):
    random = np.random.default_rng(sum(sizes))
    a, b = (random.standard_normal((size, 3)) for size in sizes)
    assert warp_distance(a, b) == pytest.approx(plain_warp(a, b), abs=1e-9)


def test_cepstra_do_not_know_the_level():
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    loud, quiet = (cepstra(Audio(level * samples, 16_000)) for level in (1.0, 0.3))
    assert loud.shape == (50, 12)
    assert np.abs(loud - quiet).max() < 0.01 and np.allclose(
        loud.mean(0), 0, atol=1e-4
    )  # the floor of log-mel is not scaled


@pytest.fixture(scope="module")
def replies():
    lines = agent_lines(10, 21, "val", 0.0)
    return [line.text for line in lines], corpus_audio(lines)


def test_ear_understands_its_own_text_and_guesses_at_others(replies):
    """Ten candidates, the claimed text among them: a response that says another text is right one time in ten."""
    texts, audios = replies
    ear = TemplateEar([line.text for line in agent_lines(60, 22, "val", 0.0)])
    own = np.mean(ear.understood(audios, texts))
    other = np.mean(ear.understood(audios, texts[1:] + texts[:1]))
    assert own > 0.85 and other < 0.45  # 4 or fewer of 10; a fair guesser exceeds that once in 600


def test_ear_understands_nothing_when_there_is_nothing_to_hear(replies):
    texts, _ = replies
    silence = Audio(np.zeros(16_000, np.float32), 16_000)
    assert TemplateEar(texts).understood([silence, silence], [texts[0], ""]) == [False, False]


def test_ear_answers_the_same_whatever_else_it_hears(replies):
    texts, audios = replies
    assert (
        TemplateEar(texts).understood(audios[:1], texts[1:2])
        == TemplateEar(texts).understood(audios[:2], texts[1:3])[:1]
    )


def test_every_shard_of_a_run_is_listened_to(replies, tmp_path):
    """Two workers of `evaluate` left five answers each; the second system says other texts than it writes."""
    texts, audios = replies
    for i, (text, audio) in enumerate(zip(texts, audios, strict=True)):
        write_audio(tmp_path / f"{i}.flac", audio)
        said = (("clear", text), ("other", texts[i - 1]))
        rows = [Response(f"q{i}", name, 0, f"{i}.flac", text=written, status="ok") for name, written in said]
        append_jsonl(tmp_path / f"responses-{i % 2}of2.jsonl", rows)
    found = intelligibility(str(tmp_path))
    assert [(name, share["n"]) for name, share in found.items()] == [("clear", 10), ("other", 10)]
    assert found["clear"]["understood"] > 0.85 > 0.45 > found["other"]["understood"]
    assert found["clear"]["chance"] == 0.1
    with pytest.raises(UserError, match="folder of `evaluate` with spoken answers"):
        intelligibility(str(tmp_path / "none"))


def test_a_run_that_says_one_text_alone_is_told(replies, tmp_path):
    """There is nothing that it could be taken for."""
    write_audio(tmp_path / "a.flac", replies[1][0])
    rows = [Response(f"q{i}", "collapsed", 0, "a.flac", text=replies[0][0], status="ok") for i in range(3)]
    append_jsonl(tmp_path / "responses.jsonl", rows)
    with pytest.raises(UserError, match="tells texts apart; got .* alone in"):
        intelligibility(str(tmp_path))


def test_audit_is_one_line_before_it_does_anything_when_opensmile_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_paras2s.hearing.audit.find_spec", lambda name: None)
    monkeypatch.setattr("lightning_paras2s.hearing.audit.corpus_audio", lambda lines: pytest.fail("speech was made"))
    for start in (EGemapsRecognizer, fit_egemaps):
        with pytest.raises(UserError, match=r"needs the package opensmile; got none; pip install .*\[audit\]"):
            start(str(tmp_path / "audit.json"))


def test_recognizer_is_one_line_when_its_coefficients_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_paras2s.hearing.audit.find_spec", lambda name: name)
    with pytest.raises(UserError, match="must be an existing file; got"):
        EGemapsRecognizer(str(tmp_path / "none.json"))


def test_linear_classifier_takes_the_largest_score(monkeypatch, tmp_path):
    """Two values of one feature around its mean: above is class 2 of the head's values, below is class 0."""
    monkeypatch.setattr("lightning_paras2s.hearing.audit.find_spec", lambda name: name)
    head = {"mean": [10.0], "scale": [2.0], "weight": [[-1.0], [1.0]], "bias": [0.0, 0.0], "classes": [0, 2]}
    (tmp_path / "a.json").write_text(json.dumps({"response/tone": head}))
    recognizer = EGemapsRecognizer(str(tmp_path / "a.json"))
    labels = recognizer._classify(np.array([[9.0], [11.0]]), recognizer.heads["response/tone"], HEADS["tone"])
    assert labels == [HEADS["tone"][0], HEADS["tone"][2]]


def test_shipped_audit_tells_tones_of_unseen_sentences(replies):
    pytest.importorskip("opensmile")
    lines = agent_lines(10, 21, "val", 0.0)
    heard = EGemapsRecognizer(str(SHIPPED)).recognize(replies[1], "response")
    assert (
        np.mean([h.tone == line.style.tone for h, line in zip(heard, lines, strict=True)]) > 0.6
    )  # chance: one in six
