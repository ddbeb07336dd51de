"""Training reads each row up to its last action, and no step behind it."""

import pytest
import torch
from small_policy import SAMPLING, make_prompt, rollout, small_policy

from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.models.tiny.transformer import Block


@pytest.fixture
def model() -> TinySpeechLM:
    return small_policy()


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """How many positions each layer computed, in the order of the passes."""
    counts, forward = [], Block.forward

    def counted(self, x, *args):
        counts.append(len(x))
        return forward(self, x, *args)

    monkeypatch.setattr(Block, "forward", counted)
    return counts


def ended(completion: Completion, text: list[int], audio: list[int]) -> Completion:
    """With actions on each stream up to a step of each row."""
    steps = torch.arange(completion.tokens.shape[2])
    actions = torch.stack([steps < torch.tensor(ends)[:, None] for ends in (text, audio)], 1)
    return Completion(completion.tokens, actions, completion.finished)


def test_layers_compute_the_steps_before_each_rows_last_action_only(model, read):
    prompt = make_prompt()
    completion = ended(rollout(model, prompt, 1), text=[3, 1, 0], audio=[5, 9, 2])
    read.clear()
    model.logps(prompt, completion, SAMPLING)
    prefill = [prompt.mask.numel()] * 5
    trunk, written = 4 + 8 + 1, 2
    assert read == [*prefill, trunk, trunk, written, trunk, trunk]


def test_each_row_has_the_log_probabilities_and_gradients_that_it_has_alone(model):
    prompt = make_prompt()
    completion = ended(rollout(model, prompt, 1), text=[3, 8, 0], audio=[5, 2, 12])
    together = model.logps(prompt, completion, SAMPLING).values
    together.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row in range(3):
        index = torch.tensor([row])
        alone = model.logps(prompt.rows(index), completion.rows(index), SAMPLING).values
        alone.sum().backward()
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_rows_without_an_action_are_not_read_and_feel_nothing(model, read):
    prompt = make_prompt()
    completion = ended(rollout(model, prompt, 1), text=[0, 0, 0], audio=[0, 0, 0])
    read.clear()
    logps = model.logps(prompt, completion, SAMPLING)
    assert len(read) == 5 and not logps.values.any() and not logps.entropy.any()  # the prompts alone
    logps.values.sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_first_step_alone_needs_no_response_step(model, read):
    prompt = make_prompt()
    completion = rollout(model, prompt, 1)
    read.clear()
    short = model.logps(prompt, ended(completion, text=[1, 1, 1], audio=[1, 0, 1]), SAMPLING).values
    assert len(read) == 5
    whole = model.logps(prompt, ended(completion, text=[9, 9, 9], audio=[9, 9, 9]), SAMPLING).values
    torch.testing.assert_close(short[:, TEXT, 0], whole[:, TEXT, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(short[[0, 2], AUDIO, 0], whole[[0, 2], AUDIO, 0], atol=1e-5, rtol=0)
