"""GRPO's anchor: with weight 0 nothing changes, alone it is SFT's gradient, beside the reward the two add up, and what
it holds stays.
"""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from test_grpo_module import weights
from torch import Tensor
from toys import ToyData, ToyLM, quiet_trainer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import Reward, TokenCountReward
from lightning_paras2s.losses import PerStream
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Sampling
from lightning_paras2s.modules.anchor import NO_ANCHOR, Anchor
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.sft import SFTModule

HELD = PerStream(0.7, 0.3)
BIG = 1e9  # a norm that clips nothing


class Alike(Reward):
    """The same for all: no advantage, so no policy gradient."""

    needs_audio = False

    def score(self, batch, responses) -> Tensor:
        return torch.ones(len(responses))


class Gradient(L.Callback):
    """Keeps the gradient of the first optimizer step."""

    def __init__(self) -> None:
        self.found: list[Tensor] | None = None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if self.found is None:
            self.found = [
                torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in pl_module.policy.parameters()
            ]


def gradient(module: L.LightningModule, folder: Path, labelled: bool = True) -> list[Tensor]:
    trainer, kept = quiet_trainer(1, folder), Gradient()
    trainer.callbacks.append(kept)
    trainer.fit(module, ToyData(batch_size=8, labelled=labelled))
    return kept.found


def grpo(reward=lambda: TokenCountReward(2), **options) -> GRPOModule:
    return GRPOModule(ToyLM, reward, **{"sampling": Sampling(6), "group_size": 4, "max_grad_norm": BIG} | options)


def close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6, rtol=1e-5) for a, b in zip(found, wanted, strict=True))


def test_nothing_changes_without_an_anchor(tmp_path: Path) -> None:
    """Bit by bit, with and without answers beside the queries."""
    ends = []
    for labelled, options in ((False, {}), (True, {}), (True, {"anchor": NO_ANCHOR})):
        module = grpo(lr=1e-2, **options)
        quiet_trainer(2, tmp_path).fit(module, ToyData(batch_size=8, labelled=labelled))
        ends.append(weights(module))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("budget", [0, 50])
def test_the_anchor_alone_has_the_gradient_of_sft(budget: int, tmp_path: Path) -> None:
    """Also when an update is cut in micro-batches (25 tokens a query)."""
    held = gradient(grpo(Alike, beta=0.0, anchor=HELD, micro_batch_tokens=budget), tmp_path)
    sft = SFTModule(ToyLM, text_weight=HELD.text, audio_weight=HELD.audio, max_grad_norm=BIG)
    assert close(held, gradient(sft, tmp_path)) and sum(float(g.abs().sum()) for g in held) > 0.1


@pytest.mark.parametrize(("stream", "weights"), [(TEXT, PerStream(1.0, 0.0)), (AUDIO, PerStream(0.0, 1.0))])
def test_one_stream_is_held_alone(stream: int, weights: PerStream, tmp_path: Path) -> None:
    module = grpo(Alike, beta=0.0, anchor=weights)
    found = dict(zip([name for name, _ in ToyLM().named_parameters()], gradient(module, tmp_path, True), strict=True))
    for name, grad in found.items():
        if name.startswith("heads."):
            assert bool(grad.any()) == name.startswith(f"heads.{stream}."), name


def test_gradients_of_reward_and_anchor_add_up(tmp_path: Path) -> None:
    """The loss is a sum, and the first rollout is the same."""
    both, reward, held = (
        gradient(grpo(*options, anchor=anchor), tmp_path)
        for options, anchor in (((), HELD), ((), NO_ANCHOR), ((Alike,), HELD))
    )
    # `Alike` leaves the KL to a reference that the policy still equals: its gradient is 0 there
    assert close(both, [a + b for a, b in zip(reward, held, strict=True)])
    assert not close(both, reward)


def test_the_held_voice_stays_while_the_words_learn(tmp_path: Path) -> None:
    """A reward on words alone; the toy's streams share a trunk, so an unheld voice drifts."""
    found = {}
    for name, anchor in (("free", NO_ANCHOR), ("held", PerStream(0.0, 1.0))):
        module = grpo(lr=3e-2, beta=0.0, group_size=8, anchor=anchor, max_grad_norm=1.0)
        trainer = quiet_trainer(60, tmp_path)
        trainer.fit(module, ToyData(batch_size=8, labelled=True, size=64))
        assert trainer.callback_metrics["train/reward"] >= 0.9
        batch = ToyData(batch_size=16).collate(list(range(16)))
        logps = module.policy.logps(batch.prompt, batch.completion, Sampling()).values.detach()
        found[name] = float(logps[:, AUDIO][batch.completion.actions[:, AUDIO]].exp().mean())
    # a code of six and the end's mark: 1/8 by chance
    assert found["held"] > 0.5 > found["free"], found
    assert trainer.callback_metrics["train/anchor/audio"] < 0.7


def test_what_cannot_be_held_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="anchor must not be negative; got PerStream"):
        Anchor(PerStream(0.0, -0.1))
    with pytest.raises(UserError, match="needs an answer to each query to hold on to; got queries without answers"):
        gradient(grpo(anchor=HELD), tmp_path, labelled=False)
