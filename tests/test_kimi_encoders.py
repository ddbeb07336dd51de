"""The GLM-4 tokenizer and the Whisper features against the originals' outputs (golden files)."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Config, Glm4Tokenizer, block_causal, front_end
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures
from lightning_paras2s.models.log_mel import log_mel

GOLDEN = Path(__file__).parent / "golden"
GLM4 = torch.load(GOLDEN / "glm4_tokenizer_tiny.pt", weights_only=True)
WHISPER = torch.load(GOLDEN / "whisper_features_tiny.pt", weights_only=True)


@pytest.fixture(scope="module")
def glm4() -> Glm4Tokenizer:
    names = {f.name for f in dataclasses.fields(Glm4Config)}
    model = Glm4Tokenizer(Glm4Config(**{k: v for k, v in GLM4["config"].items() if k in names}))
    model.load_state_dict(GLM4["state_dict"])
    return model.eval()


@pytest.fixture(scope="module")
def whisper() -> WhisperFeatures:
    sizes = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
    model = WhisperFeatures(**{name: WHISPER["config"][name] for name in sizes})
    model.encoder.load_state_dict(WHISPER["state_dict"])
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", GLM4["cases"])
def test_hidden_states_and_codes_equal_the_original(glm4, name):
    case = GLM4["cases"][name]
    mel, mask = case["input_features"], case["attention_mask"]
    assert torch.equal(block_causal(mask[:, ::2].bool(), 20), case["attention_allowed"])
    hidden, valid = glm4.hidden(mel, mask), case["code_valid"]
    frames = mask[:, ::2].bool()
    assert (hidden - case["hidden_before_pool"])[frames].abs().max() <= 1e-5
    assert (glm4.pool(hidden) - case["hidden_before_quant"])[valid].abs().max() <= 1e-5
    codes, kept = glm4(mel, mask)
    assert torch.equal(kept, valid) and torch.equal(codes[kept], case["code_ids"][kept])
    last = glm4.codebook(codes) + glm4.embed_positions2.weight[: codes.shape[1]]
    assert (last - case["last_hidden_state"])[valid].abs().max() <= 1e-5


def test_waveforms_give_the_originals_features_and_codes(glm4):
    case = GLM4["cases"]["W_waveform_batch"]
    mel, mask = front_end(case["waveforms"])
    assert (mel - case["input_features"]).abs().max() <= 2e-5
    assert torch.equal(mask.int(), case["attention_mask"])
    lengths = torch.tensor([len(w) for w in case["waveforms"]])
    wav = torch.nn.utils.rnn.pad_sequence(case["waveforms"], batch_first=True)
    for got, together, alone in zip(glm4.encode(wav, lengths), case["code_ids_per_utterance"], case["code_ids_alone"]):
        assert torch.equal(got, together) and torch.equal(got, alone)


def test_no_samples_give_no_codes(glm4):
    assert [len(c) for c in glm4.encode(torch.zeros(2, 2000), torch.tensor([0, 1281]))] == [0, 2]


def test_mel_equals_the_original_over_the_padded_chunk():
    padded = torch.nn.functional.pad(WHISPER["waveform"], (0, 480_000 - WHISPER["waveform"].shape[1]))
    mel = log_mel(padded)[0]
    assert list(mel.shape) == WHISPER["mel_shape"]
    assert (mel[:, :240] - WHISPER["mel_head"]).abs().max() <= 1e-5
    assert (mel[:, 240:] - WHISPER["mel_pad_value"]).abs().max() <= 1e-5


@torch.no_grad()
def test_features_equal_the_original_alone_and_in_a_batch(whisper):
    wav, length = WHISPER["waveform"], WHISPER["waveform"].shape[1]
    padded = torch.nn.functional.pad(wav, (0, 480_000 - length))
    states = whisper.encoder(log_mel(padded)).last_hidden_state
    assert (states[:, :116] - WHISPER["encoder_first_frames"]).abs().max() <= 2e-5
    assert (states[:, -1] - WHISPER["encoder_last_frame"]).abs().max() <= 2e-5
    batch = torch.cat([torch.randn(1, length, generator=torch.Generator().manual_seed(0)), wav])
    short, features = whisper(batch, torch.tensor([1281, length]))
    assert (features - WHISPER["features"][0]).abs().max() <= 2e-5
    assert short.shape == (2, 96)


def test_features_of_31_seconds_are_two_independent_chunks(whisper):
    wav = torch.randn(1, 31 * 16_000, generator=torch.Generator().manual_seed(1)) * 0.1
    (whole,) = whisper(wav, torch.tensor([31 * 16_000]))
    (last,) = whisper(wav[:, 480_000:], torch.tensor([16_000]))
    assert whole.shape == (375 + 13, 96)
    assert (whole[375:] - last).abs().max() < 1e-5
