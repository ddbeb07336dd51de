"""`remembered`: what is made once serves a training, whoever asked first."""

from __future__ import annotations

import pytest
import torch

from lightning_paras2s.models.kimi.processor import load_ears as kimi_ears
from lightning_paras2s.models.kimi.processor import load_voice as kimi_voice
from lightning_paras2s.models.log_mel import mel_filters
from lightning_paras2s.models.qwen_omni.processor import load_ears as omni_ears
from lightning_paras2s.models.qwen_omni.processor import load_voice as omni_voice
from lightning_paras2s.models.remembered import remembered
from lightning_paras2s.models.tiny import features
from lightning_paras2s.models.tiny.processor import load_ears


def test_made_once():
    calls = []

    @remembered(1)
    def twice(n: int) -> torch.Tensor:
        """Two of n."""
        calls.append(n)
        return torch.full((2,), float(n))

    assert twice(1) is twice(1) and calls == [1] and twice.__doc__ == "Two of n."
    twice(2), twice(1)
    assert calls == [1, 2, 1]


def test_a_tensor_made_while_validating_can_be_trained_with():
    weights = remembered()(lambda: torch.ones(3))
    with torch.inference_mode():
        assert not weights().is_inference()
    x = torch.ones(3, requires_grad=True)
    (x * weights()).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [0, 3200])
def test_what_features_remember_is_no_inference_tensor(size):
    for function in (features._filters, features._mel_to_linear, features._acoustics_of, mel_filters):
        function.cache_clear()
    with torch.inference_mode():
        made = [features._filters(), features._mel_to_linear(), mel_filters(128)]
        made.append(features.acoustics_of(torch.zeros(size)))
    assert not any(one.is_inference() or one.requires_grad for one in made)


def test_every_network_that_processors_share_is_remembered_so():
    for loader in (load_ears, kimi_ears, kimi_voice, omni_ears, omni_voice):
        assert loader.__wrapped__.__wrapped__.__module__ == loader.__module__


def test_ears_loaded_while_predicting_hold_plain_weights_and_recordings(tmp_path):
    load_ears.cache_clear()
    with torch.inference_mode():
        ears = load_ears("checkpoints/embedded/tokenizer.safetensors", "checkpoints/embedded/transcriber.safetensors")
        example = ears.remembered(bytes(4 * 16000), 16000)
    assert not any(p.is_inference() for p in ears.tokenizer.parameters())
    assert not example.prompt.is_inference() and not example.features.is_inference()
