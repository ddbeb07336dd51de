"""Decoding of Kimi-Audio with fixed shapes: exact against teacher forcing, and the same operations at every step."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_paras2s.models.kimi.decoding import KimiRollout, Replayed, attend, one_query
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.speech_lm import Prompt, Sampling, sampling_noise

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))
from policies import KIMI_TEST  # noqa: E402

SAMPLING = Sampling(7, 0.9, 1.2)


@pytest.fixture(params=["sdpa", "eager"])
def model(request) -> KimiAudio:
    torch.manual_seed(0)
    return KimiAudio(config=KIMI_TEST, attention=request.param).eval()


def prompt() -> Prompt:
    """Two rows, one with padding on the left."""
    tokens = torch.randint(0, 180, (2, 2, 5), generator=torch.Generator().manual_seed(1))
    return Prompt(tokens, torch.tensor([[False, False, True, True, True], [True] * 5]))


def test_decoded_logps_equal_teacher_forcing_when_prompts_are_padded(model):
    completion = model.generate(prompt(), SAMPLING, sampling_noise(0, 0, 6, 7), 3)
    assert completion.actions.any(1).sum() > 30
    scored = model.logps(prompt(), completion, SAMPLING).values
    torch.testing.assert_close(completion.logps, scored, atol=1e-4, rtol=0)
    assert model.model.layers[0].self_attn.config._attn_implementation == model.model.attention


class Operations(TorchDispatchMode):
    """Lists operations and the shapes of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found.append((str(func), tuple(out.shape) if isinstance(out, torch.Tensor) else ()))
        return out


def test_steps_are_the_same_operations_and_ask_the_host_for_nothing(model):
    """What a CUDA graph needs: equal operations and shapes at every step, no value read back, state kept in place."""
    with torch.no_grad():
        rollout = KimiRollout(model, prompt(), SAMPLING, sampling_noise(0, 0, 6, 7), 3)
    with torch.no_grad(), one_query(model.model):
        places = [
            t.data_ptr() for t in (*rollout.states, rollout.tokens, *(layer.keys for layer in rollout.cache.layers))
        ]
        steps = []
        for _ in range(3):
            with Operations() as seen:
                rollout.choose(), rollout.advance()
            steps.append(seen.found)
    assert steps[0] == steps[1] == steps[2] and len(steps[0]) > 100
    names = {name for name, _ in steps[0]}
    assert not names & {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default"}
    assert places == [
        t.data_ptr() for t in (*rollout.states, rollout.tokens, *(layer.keys for layer in rollout.cache.layers))
    ]


def test_attention_of_one_query_equals_the_stock_one():
    """4 query heads on 2 key heads: heads 0, 1 read key head 0. The last two positions are hidden."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 1, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 6, 8, generator=generator)
    mask = torch.zeros(3, 1, 1, 6)
    mask[..., 4:] = -torch.inf
    got, _ = attend(None, query, key, value, mask, 0.3)
    wide = (t.repeat_interleave(2, 1)[:, :, :4] for t in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *wide, scale=0.3)
    torch.testing.assert_close(got, expected.transpose(1, 2), atol=1e-5, rtol=0)


def test_replayed_calls_its_function_each_time_without_a_gpu():
    calls = []
    replayed = Replayed(lambda: calls.append(1), torch.device("cpu"))
    for _ in range(5):
        replayed()
    assert len(calls) == 5 and replayed.graph is None
