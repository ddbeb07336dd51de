"""The GRPO loss of a `TinySpeechLM` and its gradient are the same however the batch is cut, padded or ordered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_tiny_lm import SAMPLING, make_prompt, rollout, wider
from test_tiny_lm import model as model  # noqa: PLC0414  a fixture
from torch import Tensor

from lightning_paras2s.losses import group_advantages, grpo_loss, loss_denominator
from lightning_paras2s.models.speech_lm import Completion, Prompt

GROUP = 4
REWARDS = torch.tensor([1.0, 4, 2, 5, 3, 3, 1, torch.nan, 2, 2, 5, 1])  # three queries, one response unscored


def loss_and_gradient(
    model, parts: list[tuple[Prompt, Completion, Tensor, Tensor]], denominator: Tensor
) -> tuple[float, Tensor]:
    """Of several micro-batches of (prompt, completion, advantages, sampler's log-probabilities), summed."""
    model.zero_grad()
    total = 0.0
    for prompt, completion, advantages, old in parts:
        logps = model.logps(prompt, completion, SAMPLING).values
        result = grpo_loss(logps, old, old - 0.1, advantages, completion.actions, denominator=denominator)
        result.loss.backward()
        total += result.loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


def longer(completion: Completion, extra: int) -> Completion:
    """More steps on the right, filled with anything but blanks."""
    pad = (0, extra)
    return Completion(F.pad(completion.tokens, pad, value=1), F.pad(completion.actions, pad), completion.finished)


@pytest.mark.parametrize("change", ["each query by itself", "two and one", "padding left", "padding right", "order"])
def test_loss_and_gradient_do_not_change_when_the_batch_is_arranged_otherwise(model, change):
    prompt = make_prompt()
    completion, advantages = rollout(model, prompt, GROUP), group_advantages(REWARDS, GROUP)
    # Off-policy by up to 0.3 nats, so that some ratios are clipped and the KL is not flat.
    wave = 0.3 * torch.sin(torch.arange(completion.logps.numel())).view_as(completion.logps)
    old = torch.where(completion.actions, completion.logps + wave, 0)
    denominator = loss_denominator(completion.actions)
    expected, gradient = loss_and_gradient(model, [(prompt, completion, advantages, old)], denominator)

    def some(queries: list[int]) -> tuple[Prompt, Completion, Tensor, Tensor]:
        rows = torch.tensor([q * GROUP + g for q in queries for g in range(GROUP)])
        return prompt.rows(torch.tensor(queries)), completion.rows(rows), advantages[rows], old[rows]

    parts = {
        "each query by itself": [some([0]), some([1]), some([2])],
        "two and one": [some([1, 2]), some([0])],
        "padding left": [(wider(prompt, 4), completion, advantages, old)],
        "padding right": [(prompt, longer(completion, 3), advantages, F.pad(old, (0, 3)))],
        "order": [some([2, 0, 1])],
    }[change]
    loss, other = loss_and_gradient(model, parts, denominator)
    assert gradient.abs().max() > 1e-3 and loss == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(other, gradient, atol=1e-4 * float(gradient.abs().max()), rtol=0)
