"""Chunked log-probabilities against plain log_softmax, and the promise that no [tokens, vocabulary] tensor is made."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import Largest

from lightning_paras2s.models.sampling import draw
from lightning_paras2s.models.selective import selective_logps

RANGES = ((3, 4), (7, 8), (20, 90))
LEGAL = torch.cat([torch.arange(a, b) for a, b in RANGES])


def case(n=37, width=16, vocab=90):
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(n, width, generator=g), torch.randn(vocab, width, generator=g)
    return hidden.requires_grad_(), weight.requires_grad_(), LEGAL[torch.randint(len(LEGAL), (n,), generator=g)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunks", [(5, 11), (1000, 1000)])
def test_values_and_gradients_equal_log_softmax_for_any_chunk(temperature, chunks):
    hidden, weight, ids = case()
    table = torch.log_softmax(hidden @ weight[LEGAL].T / temperature, -1)
    expected = table.gather(1, torch.searchsorted(LEGAL, ids)[:, None])[:, 0]
    entropy = -(table.exp() * table).sum(-1)
    upstream = torch.linspace(-1, 1, 37)
    wanted = torch.autograd.grad((expected * upstream + entropy * upstream.flip(0)).sum(), (hidden, weight))
    got_logps, got_entropy = selective_logps(hidden, weight, ids, RANGES, temperature, *chunks)
    got = torch.autograd.grad((got_logps * upstream + got_entropy * upstream.flip(0)).sum(), (hidden, weight))
    assert torch.allclose(got_logps, expected, atol=1e-5) and torch.allclose(got_entropy, entropy, atol=1e-5)
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(got, wanted))
    illegal = torch.ones(90, dtype=torch.bool)
    illegal[LEGAL] = False
    assert not got[1][illegal].any()


def test_no_tensor_of_tokens_by_vocabulary_is_made():
    """512 tokens x 4096 ids would be 2 M numbers; the largest allowed is the weight's gradient, 4096 x 8."""
    hidden, weight = torch.randn(512, 8, requires_grad=True), torch.randn(4096, 8, requires_grad=True)
    ids = torch.randint(4096, (512,))
    with Largest() as seen:
        logps, entropy = selective_logps(hidden, weight, ids, ((0, 4096),), 1.0, 64, 256)
        (logps.sum() + entropy.sum()).backward()
    assert seen.size == 4096 * 8 > 64 * 256


def test_peak_grows_with_the_chunk_and_not_with_the_vocabulary():
    def peak(vocab: int, chunk: int) -> int:
        hidden, weight = torch.randn(256, 4), torch.randn(vocab, 4)
        with Largest() as seen, torch.no_grad():
            selective_logps(hidden, weight, torch.zeros(256, dtype=torch.long), ((0, vocab),), 1.0, 256, chunk)
        return seen.size

    assert peak(4096, 512) == peak(65536, 512) == 256 * 512
    assert peak(65536, 1024) == 2 * 256 * 512


def test_no_tokens_give_zero_gradients():
    hidden, weight, _ = case(n=0)
    logps, entropy = selective_logps(hidden, weight, torch.zeros(0, dtype=torch.long), RANGES)
    (logps.sum() + entropy.sum()).backward()
    assert weight.grad is not None and not weight.grad.any() and hidden.grad.shape == (0, 16)


def test_no_denormal_number_is_made_at_low_temperatures():
    """Logits 0 and -100 (twice, at temperature 1/2): e^-100 = 4e-44 is denormal in float32, whose least normal number
    is 1e-38, and products with such numbers take fifty times as long. What they would add is below rounding.
    """

    class Denormals(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for t in result if isinstance(result, tuple | list) else [result]:
                if isinstance(t, torch.Tensor) and t.is_floating_point():
                    small = t.detach().abs()
                    self.found += int(((small > 0) & (small < torch.finfo(torch.float32).tiny)).sum())
            return result

    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [-50.0], [-50.0]], requires_grad=True)
    with Denormals() as seen:
        logps, entropy = selective_logps(hidden, weight, torch.tensor([0, 1]), ((0, 3),), 0.5)
        (logps.sum() + entropy.sum()).backward()
    assert seen.found == 0
    torch.testing.assert_close(logps, torch.tensor([0.0, -100.0]), atol=1e-5, rtol=0)
    with Denormals() as seen:
        tokens, drawn = draw(torch.tensor([[0.0, -50.0]]), torch.tensor([0.5]), 0.5)
    assert seen.found == 0 and tokens.item() == 0 and drawn.item() == 0
