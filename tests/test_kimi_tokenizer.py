"""The whole tokenizer on the tiny golden parts: waveform to ids and features and back, the template, the released
layout.
"""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_kimi_audio import tiny_config
from test_kimi_detokenizer import FLOW, tiny_flow, tiny_gan
from test_kimi_encoders import GLM4, WHISPER

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.detokenizer import Detokenizer
from lightning_paras2s.models.kimi.flow_matching import FlowConfig, FlowMatching
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Config, Glm4Tokenizer
from lightning_paras2s.models.kimi.prompt import codes_in, demonstration, speech_prompt
from lightning_paras2s.models.kimi.released import known_fields, load_strictly
from lightning_paras2s.models.kimi.tokenizer import KimiTokenizer
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures
from lightning_paras2s.types import Audio


@pytest.fixture(scope="module")
def tokenizer() -> KimiTokenizer:
    glm4 = Glm4Tokenizer(known_fields(Glm4Config, GLM4["config"]))
    glm4.load_state_dict(GLM4["state_dict"])
    whisper = WhisperFeatures(24, 3, 2, 64)
    whisper.encoder.load_state_dict(WHISPER["state_dict"])
    config = dataclasses.replace(tiny_config(), kimia_adaptor_input_dim=4 * 24)
    return KimiTokenizer(glm4, whisper, Detokenizer(tiny_flow(ode_points=3), tiny_gan()), config).eval()


def test_half_a_tokenizer_says_what_it_lacks(tokenizer):
    mute = KimiTokenizer(tokenizer.glm4, tokenizer.whisper, None, tokenizer.config)
    deaf = KimiTokenizer(None, None, tokenizer.detokenizer, tokenizer.config)
    assert mute.feature_size == deaf.feature_size == 96
    with pytest.raises(UserError, match="must speak; got one that only hears"):
        mute.decode(torch.tensor([[300]]), torch.tensor([1]))
    with pytest.raises(UserError, match="must hear; got one that only speaks"):
        deaf.listen([Audio(np.zeros(1600, np.float32), 16_000)], "cpu")


@torch.no_grad()
def test_codes_features_and_waveforms_have_matching_lengths(tokenizer):
    """0.5 s and 1 s at 24 kHz: ceil(8000 / 1280) = 7 and ceil(16000 / 1280) = 13 codes; 1920 samples a code come
    back.
    """
    wav = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = torch.tensor([12_000, 24_000])
    codes, counts = tokenizer.encode(wav, lengths)
    assert counts.tolist() == [7, 13] and codes.shape == (2, 13)
    assert codes.min() >= 256 and codes.max() < 320
    assert tokenizer.features(wav, lengths).shape == (2, 13, 96)
    wav, samples = tokenizer.decode(codes, counts)
    assert samples.tolist() == [7 * 1920, 13 * 1920] and wav.abs().max() <= 1
    again, _ = tokenizer.decode(codes, counts)
    assert torch.equal(wav, again)


def test_ids_that_are_no_codes_are_not_spoken(tokenizer):
    ids = torch.tensor([[300, 202, 301, 5]])
    clean = torch.tensor([[300, 301]])
    (dirty_wav, dirty), (clean_wav, count) = (
        tokenizer.decode(ids, torch.tensor([4])),
        tokenizer.decode(clean, torch.tensor([2])),
    )
    assert dirty.tolist() == count.tolist() == [3840] and torch.equal(dirty_wav, clean_wav)
    assert tokenizer.decode(ids, torch.tensor([0]))[1].tolist() == [0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab_size": 330}, "must have the policy's 74 codes; got 64"),
        ({"kimia_adaptor_input_dim": 40}, "must give the policy's 40 numbers a code; got 96"),
    ],
)
def test_another_models_tokenizer_is_refused(tokenizer, wrong, message):
    config = dataclasses.replace(tokenizer.config, **wrong)
    with pytest.raises(UserError, match=message):
        KimiTokenizer(tokenizer.glm4, tokenizer.whisper, tokenizer.detokenizer, config)


def test_another_models_detokenizer_is_refused(tokenizer):
    few = Detokenizer(FlowMatching(FlowConfig(semantic_vocab_size=60, hidden_size=8, depth=0)), tiny_gan())
    with pytest.raises(UserError, match="must speak 64 codes; got 59"):
        KimiTokenizer(tokenizer.glm4, tokenizer.whisper, few, tokenizer.config)


def test_prompt_is_the_released_template():
    """`151670 151661 a1..an 151663 151676 151645 151671` over blanks, features on a1..an."""
    codes, features = torch.tensor([152064, 152070, 160000]), torch.arange(6.0).view(3, 2) + 1
    tokens, placed, mask = speech_prompt(KimiConfig(), codes, features)
    assert tokens[1].tolist() == [151670, 151661, 152064, 152070, 160000, 151663, 151676, 151645, 151671]
    assert tokens[0].tolist() == [151666] * 9
    assert mask.tolist() == [False] * 2 + [True] * 3 + [False] * 4
    assert torch.equal(placed[2:5], features) and not placed[~mask].any()


def test_demonstration_delays_audio_by_six_and_ends_both_streams():
    tokens, learned = demonstration(KimiConfig(), torch.tensor([152064, 152065]), [11, 12, 13])
    assert tokens[1].tolist() == [151666] * 6 + [152064, 152065, 151645]
    assert tokens[0].tolist() == [11, 12, 13, 151667] + [151666] * 5
    assert learned[1].tolist() == [False] * 6 + [True] * 3
    assert learned[0].tolist() == [True] * 4 + [False] * 5
    with pytest.raises(UserError, match="in 8 tokens; got 9"):
        demonstration(KimiConfig(), torch.tensor([152064, 152065]), list(range(9)))


def test_released_files_load_by_their_own_names(tmp_path):
    flow = tiny_flow()
    torch.save(
        {"state_dict": {f"speech_model.{k}": v for k, v in FLOW["state_dict"].items()} | {"step": torch.ones(1)}},
        tmp_path / "m.pt",
    )
    fresh = type(flow)(flow.config)
    load_strictly(fresh, tmp_path / "m.pt", "speech_model.", others=True)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), flow.state_dict().values()))
    torch.save({"generator": tiny_gan().state_dict()}, tmp_path / "g.pt")
    load_strictly(tiny_gan(), tmp_path / "g.pt")
    save_file(GLM4["state_dict"] | {"ema_count": torch.ones(64)}, tmp_path / "glm4.safetensors")
    load_strictly(
        Glm4Tokenizer(known_fields(Glm4Config, GLM4["config"])), tmp_path / "glm4.safetensors", ignored=("ema_count",)
    )


def test_released_files_that_do_not_fit_name_the_culprit(tmp_path):
    state = dict(GLM4["state_dict"])
    model = Glm4Tokenizer(known_fields(Glm4Config, GLM4["config"]))
    path = tmp_path / "glm4.safetensors"
    with pytest.raises(UserError, match="glm4.safetensors; it is missing"):
        load_strictly(model, path)
    save_file({k: v for k, v in state.items() if k != "conv1.bias"}, path)
    with pytest.raises(UserError, match="must hold conv1.bias"):
        load_strictly(model, path)
    save_file(state | {"conv1.bias": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"conv1.bias must have shape \(32,\); got \(3,\)"):
        load_strictly(model, path)
    save_file(state | {"other": torch.ones(3)}, path)
    with pytest.raises(UserError, match="other must have shape none"):
        load_strictly(model, path)
    save_file(state | {"conv1.bias": torch.ones(32, dtype=torch.int8)}, path)
    with pytest.raises(UserError, match="conv1.bias must hold real numbers; got torch.int8"):
        load_strictly(model, path)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
@pytest.mark.parametrize("keep", [0, 1000])
def test_a_cut_file_is_one_clear_line(tmp_path, name, keep):
    path = tmp_path / name
    save_file(GLM4["state_dict"], path) if name == "m.safetensors" else torch.save(GLM4["state_dict"], path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{name} must be a whole file; got .*; fetch it again") as error:
        load_strictly(Glm4Tokenizer(known_fields(Glm4Config, GLM4["config"])), path)
    assert "\n" not in str(error.value)


def test_a_recording_has_a_code_every_1280_samples_however_its_seconds_are_rounded():
    """0.56 x 12.5 is a little more than 7 in floating point; a prompt that fits must not be refused."""
    for codes in range(1, 8192):
        assert codes_in(1280 * codes / 16_000) == codes
        assert codes_in((1280 * codes + 1) / 16_000) == codes + 1
