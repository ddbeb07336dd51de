"""The transcriber: what it hears when it is untrained, and the shipped ear on held-out speech."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from lightning_paras2s.audio import resample
from lightning_paras2s.data.embedded import agent_lines, query_lines
from lightning_paras2s.data.spoken import corpus_audio
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.phones import SYMBOLS
from lightning_paras2s.hearing.transcribers import CTCNetwork, TinyTranscriber, pad_acoustics
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.modules import speech
from lightning_paras2s.modules.speech import TranscriberModule
from lightning_paras2s.types import Audio

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded/transcriber.safetensors"


@pytest.fixture(scope="module")
def shipped() -> TinyTranscriber:
    return TinyTranscriber(str(SHIPPED))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("asr") / "t.safetensors"
    save_module(CTCNetwork(width=8, blocks=1), path)
    return str(path)


def test_network_gives_a_step_for_two_frames():
    assert CTCNetwork(width=8, blocks=1)(torch.zeros(2, 40, 66)).shape == (2, 20, SYMBOLS)


def test_network_does_not_hear_the_level():
    network = CTCNetwork(width=8, blocks=1).eval()
    frames = torch.randn(1, 40, 66)
    louder = frames.clone()
    louder[..., :64] += 0.3
    assert torch.allclose(network(frames), network(louder), atol=1e-5)


def test_transcriber_returns_nothing_when_there_is_nothing_to_hear(untrained):
    quiet = [Audio(np.zeros(n, np.float32), 16_000) for n in (0, 100, 16_000)]
    assert TinyTranscriber(untrained).transcribe(quiet) == ["", "", ""]
    assert TinyTranscriber(untrained).transcribe([]) == []


def test_transcripts_follow_their_recordings_when_lengths_differ(shipped):
    audios = corpus_audio(agent_lines(6, 3, "val", 0.0))
    alone = TinyTranscriber(str(SHIPPED), batch_size=1).transcribe(audios)
    assert len(set(alone)) == 6
    assert TinyTranscriber(str(SHIPPED), batch_size=1).transcribe(audios[::-1]) == alone[::-1]
    together = shipped.transcribe(audios)
    assert together == shipped.write_down(audios)  # it writes plain words
    # Padding touches the last frames of the shorter ones.
    assert jiwer.wer(alone, together) < 0.1


def test_training_on_from_weights_of_another_size_than_is_asked_for(untrained):
    assert TranscriberModule(width=8, blocks=1, init_from=untrained).network.settings == {"width": 8, "blocks": 1}
    with pytest.raises(UserError, match="must be of the size that is asked for; got .*8, .* for .*16, "):
        TranscriberModule(width=16, blocks=1, init_from=untrained)


def test_word_error_rate_of_a_validation_is_that_of_all_its_words(monkeypatch):
    """One word of four is wrong in the first batch, and the only one of the second: 2 of 5, not the batches' mean."""
    said, heard = (["a b", "c d"], ["e"]), iter([["a b", "c x"], ["y"]])
    monkeypatch.setattr(speech, "read_ctc", lambda logits, lengths: next(heard))
    batches = [{"frames": torch.zeros(1, 4, 66), "lengths": torch.tensor([4]), "texts": texts} for texts in said]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.validate(TranscriberModule(width=8, blocks=1), DataLoader(batches, None), verbose=False)
    assert found["val/wer_queries"] == pytest.approx(2 / 5)


def test_padding_repeats_the_mean_frame_so_that_row_means_stay():
    waves = [0.1 * np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate((6400, 12_800))]
    frames, lengths = pad_acoustics([Audio(w, 16_000) for w in waves])
    assert lengths == [40, 80] and frames.shape == (2, 80, 66)
    assert torch.allclose(frames[0, :40].mean(0), frames[0].mean(0), atol=1e-5)


@pytest.mark.parametrize("role, most", [("query", 0.5), ("response", 0.2)])
def test_shipped_ear_understands_unseen_sentences_and_voices(shipped, role, most):
    """Word error rate of 1 is deafness. Over 160 sentences it was 0.37 and 0.07, over 48 of them it moves by 0.03."""
    lines = query_lines(48, 5, "val", 0.0) if role == "query" else agent_lines(48, 5, "val", 0.0)
    heard = shipped.transcribe(corpus_audio(lines))
    assert jiwer.wer([plain_text(line.text) for line in lines], heard) < most


def test_shipped_ear_hears_the_same_words_when_the_rate_is_24_khz(shipped):
    audios = corpus_audio(agent_lines(4, 6, "val", 0.0))
    assert jiwer.wer(shipped.transcribe(audios), shipped.transcribe([resample(a, 24_000) for a in audios])) < 0.1


def test_transcriber_is_one_line_when_its_weights_are_missing(tmp_path):
    with pytest.raises(UserError, match="must be an existing .safetensors file; got"):
        TinyTranscriber(str(tmp_path / "none.safetensors"))
