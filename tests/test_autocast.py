"""bf16-mixed: what trains computes in bfloat16, and hearing, speaking and scores stay what they are."""

import numpy as np
import pytest
import torch
from sounds import hiss
from test_kimi_audio import mixed_prompt, tiny_kimi
from test_kimi_tokenizer import tokenizer  # noqa: F401
from test_qwen_omni import folder, scorer  # noqa: F401

from lightning_paras2s.models.log_mel import log_mel
from lightning_paras2s.models.speech_lm import Sampling, sampling_noise
from lightning_paras2s.models.tiny.features import acoustics, vocode
from lightning_paras2s.types import Audio


def mixed() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kimi_works_under_autocast(attention):
    """bf16-mixed: float32 weights, products of bfloat16 (8 bits: a part in 256). What was drawn is what is scored."""
    model, prompt, sampling = tiny_kimi(attention=attention), mixed_prompt(), Sampling(8)
    with torch.autocast("cpu", torch.bfloat16):
        completion = model.generate(prompt, sampling, sampling_noise(1, 0, 14, 8), 2)
        found = model.logps(prompt, completion, sampling).values
        found.sum().backward()
    assert found.dtype == torch.float32 and found.count_nonzero() > 100
    exact = model.logps(prompt, completion, sampling).values
    for one, other in ((found, completion.logps), (found, exact)):
        assert (one - other).abs().max() < 0.1  # logits up to 5, 8 bits, 6 blocks
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() and g.dtype == torch.float32 for g in grads)


@torch.no_grad()
def test_hearing_and_speaking_are_the_same_under_autocast(tokenizer):  # noqa: F811
    """A vocoder of 16 bits hisses, and the nearest code vector is another: rewards would depend on the precision."""
    audio = Audio((np.random.default_rng(0).standard_normal(8000) * 0.1).astype(np.float32), 16_000)
    ids, wav = torch.arange(256, 296)[None], torch.from_numpy(audio.samples)[None]
    plain = (tokenizer.decode(ids, torch.tensor([40]))[0], *tokenizer.listen([audio], "cpu")[0], log_mel(wav))
    with mixed():
        found = (tokenizer.decode(ids, torch.tensor([40]))[0], *tokenizer.listen([audio], "cpu")[0], log_mel(wav))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, found))


def test_the_reward_model_scores_and_learns_under_autocast(scorer):  # noqa: F811
    pair = [hiss(0)], [hiss(1)]
    with mixed():
        found = scorer.score_logits(*pair)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert (found - scorer.score_logits(*pair)).abs().max() < 0.2  # logits of about 2, 8 bits, 3 blocks
    assert all(p.grad.isfinite().all() for p in scorer.parameters() if p.requires_grad)


def test_the_embedded_ears_and_voice_are_the_same_under_autocast():
    """Mel energies over ten orders of magnitude, of 8 bits, would be others; and they are remembered."""
    wav = torch.from_numpy((np.random.default_rng(0).standard_normal((2, 6400)) * 0.1).astype(np.float32))
    heard = acoustics(wav)
    with mixed():
        again, spoken = acoustics(wav), vocode(heard)
    assert torch.equal(again, heard) and again.dtype == torch.float32
    assert torch.equal(spoken, vocode(heard)) and spoken.dtype == torch.float32
