"""The style recogniser: what it fills in, that a row is its own, and the shipped one on unseen voices and tones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_paras2s.data.embedded import agent_lines, query_lines
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import HEADS, AcousticStyleRecognizer, StyleNetwork
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.types import STYLES, TONES, Audio

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded/style.safetensors"


@pytest.fixture(scope="module")
def shipped() -> AcousticStyleRecognizer:
    return AcousticStyleRecognizer(str(SHIPPED), batch_size=1)


def test_heads_are_the_documented_values():
    assert set(HEADS) == {*STYLES, "tone"} and HEADS["tone"] == TONES
    assert HEADS["emotion"] == ("neutral", *STYLES["emotion"]) and HEADS["age"] == STYLES["age"]


def test_role_says_which_labels_are_filled_in(tmp_path):
    save_module(StyleNetwork(8, 1), tmp_path / "s.safetensors")
    recognizer = AcousticStyleRecognizer(str(tmp_path / "s.safetensors"))
    sound = [Audio(0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32), 16_000)]
    asked, answered = recognizer.recognize(sound, "query")[0], recognizer.recognize(sound, "response")[0]
    assert asked.tone is None and all(getattr(asked, factor) in HEADS[factor] for factor in STYLES)
    assert answered.tone in TONES and answered.emotion is None
    assert recognizer.recognize([], "query") == []


def test_pooling_counts_only_a_rows_own_frames():
    """Frames behind the end reach in through the convolutions' edge only; here, without blocks, an 8-frame stem."""
    torch.manual_seed(0)
    network = StyleNetwork(8, 0).eval()
    frames = torch.randn(1, 80, 66)
    other = frames.clone()
    other[:, 44:] = 5.0
    lengths = torch.tensor([40])
    for a, b in zip(network(frames, lengths).values(), network(other, lengths).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_silence_and_nothing_have_some_label_and_no_error(shipped):
    assert all(
        s.tone in TONES
        for s in shipped.recognize([Audio(np.zeros(n, np.float32), 16_000) for n in (0, 100, 8000)], "response")
    )


def test_shipped_ear_tells_tones_of_unseen_sentences(shipped):
    """Chance is one in six; the figures are in checkpoints/README.md."""
    lines = agent_lines(24, 11, "val", 0.0)
    heard = shipped.recognize(corpus_audio(lines), "response")
    assert np.mean([h.tone == line.style.tone for h, line in zip(heard, lines, strict=True)]) > 0.8


def test_shipped_ear_tells_styles_of_unseen_voices(shipped):
    """Chance is about one in two for age, gender and sarcasm, one in seven for emotion."""
    lines = query_lines(48, 12, "val", 0.0)
    heard = shipped.recognize(corpus_audio(lines), "query")
    for factor, floor in (("emotion", 0.5), ("sarcasm", 0.7), ("age", 0.7), ("gender", 0.7)):
        known = [
            (getattr(h, factor), value)
            for h, line in zip(heard, lines, strict=True)
            if (value := getattr(line.style, factor))
        ]
        if factor == "emotion":
            known = [pair for pair in known if pair[1] != "neutral"]
        assert len(known) > 5 and np.mean([a == b for a, b in known]) > floor, factor


def test_recognizer_is_one_line_when_its_weights_are_another_models(tmp_path):
    save_module(torch_module := StyleNetwork(8, 1), tmp_path / "s.safetensors")
    torch_module.__class__ = type("Other", (StyleNetwork,), {})
    save_module(torch_module, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="must hold a StyleNetwork of format 1; got Other"):
        AcousticStyleRecognizer(str(tmp_path / "other.safetensors"))
