"""Nothing that we ask of transformers is announced to go: a release that takes it away would stop decoding, or, where
any keyword is taken, decode without a past.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from contextlib import contextmanager

import pytest
import torch
from omni_release import write_release
from sounds import hiss, tone
from test_kimi_audio import mixed_prompt, tiny_kimi
from test_qwen_family import queries
from tiny_models import write_omni
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from lightning_paras2s.models.kimi import cache
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.qwen_omni.scorer import QwenOmniScorer
from lightning_paras2s.models.speech_lm import Sampling, sampling_noise

SAMPLING = Sampling(4)


@contextmanager
def nothing_deprecated(monkeypatch):
    """Warnings of what will go are errors, and what transformers says of it in its log is, too."""
    said = []
    with warnings.catch_warnings(), monkeypatch.context() as patch:
        for category in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("error", category)
        for level in ("warning", "warning_once"):
            patch.setattr(logging.Logger, level, lambda self, message, *_, **__: said.append(str(message)))
        yield
    assert not [line for line in said if "deprecat" in line or "will be removed" in line]


def decode(model, prompt) -> None:
    """A rollout, its log-probabilities and their gradient."""
    completion = model.generate(prompt, SAMPLING, sampling_noise(0, 0, 2 * len(prompt), 4), group_size=2)
    model.logps(prompt, completion, SAMPLING).values.sum().backward()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_kimi_asks_for_nothing_deprecated(attention, monkeypatch):
    with nothing_deprecated(monkeypatch):
        decode(tiny_kimi(attention=attention), mixed_prompt())


def test_qwen_omni_asks_for_nothing_deprecated(tmp_path, monkeypatch):
    write_release(tmp_path / "omni")
    with nothing_deprecated(monkeypatch):
        decode(QwenOmni(str(tmp_path / "omni")), queries((9, 4))[0])


def test_the_reward_model_asks_for_nothing_deprecated(tmp_path, monkeypatch):
    write_omni(tmp_path)
    with nothing_deprecated(monkeypatch):
        scorer = QwenOmniScorer(str(tmp_path), lora_rank=2)
        scorer([tone(200, 0.5)], [hiss(0)]).sum().backward()


@pytest.mark.skipif(
    "cache" not in inspect.signature(Qwen2DecoderLayer.forward).parameters, reason="nothing is deprecated there yet"
)
def test_the_old_name_of_the_cache_is_found_out(monkeypatch):
    monkeypatch.setattr(cache, "cache_argument", lambda _: "past_key_values")
    with pytest.raises(FutureWarning, match="past_key_values"), nothing_deprecated(monkeypatch):
        decode(tiny_kimi(), mixed_prompt())


def test_a_block_that_knows_neither_name_is_refused():
    """It would take any keyword, and decode without a past."""

    class Block(torch.nn.Module):
        def forward(self, x, **rest):
            return x

    with pytest.raises(ValueError):
        cache.cache_argument(Block)
