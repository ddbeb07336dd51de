"""`SFTModule` learns demonstrations, exports them, and starts again from what it exported."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from toys import ToyData, ToyLM

from lightning_paras2s.errors import UserError
from lightning_paras2s.modules.optimizer import warmup_cosine
from lightning_paras2s.modules.sft import SFTModule
from lightning_paras2s.modules.training import initial_policy
from lightning_paras2s.running.runs import RunLogger


def train(folder: Path, steps: int, data: ToyData, precision: str = "32-true", **options) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        logger=RunLogger(str(folder), "sft", "a"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(SFTModule(ToyLM, warmup_steps=5, **options), data)
    return trainer


def test_probability_when_demonstrations_are_learned(tmp_path: Path) -> None:
    """Text and codes follow from the prompt's two tokens, so every action can be known."""
    trainer = train(tmp_path, 250, ToyData(), lr=0.02)
    assert trainer.callback_metrics["val/probability/text"] > 0.99
    assert trainer.callback_metrics["val/probability/audio"] > 0.99
    exported = load_file(tmp_path / "sft" / "a" / "policy.safetensors")
    again = initial_policy(ToyLM, str(tmp_path / "sft" / "a" / "policy.safetensors"), seed=1)
    assert all(torch.equal(exported[name], tensor) for name, tensor in again.state_dict().items())


def test_weights_when_trained_in_bfloat16(tmp_path: Path) -> None:
    trainer = train(tmp_path, 2, ToyData(), precision="bf16-mixed", lr=0.01)
    assert {p.dtype for p in trainer.lightning_module.parameters()} == {torch.float32}


def test_error_when_there_are_no_demonstrations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs demonstrations"):
        train(tmp_path, 1, ToyData(labelled=False))


def test_error_when_weights_are_of_another_size(tmp_path: Path) -> None:
    ToyLM(width=8).save(tmp_path / "small.safetensors")
    with pytest.raises(UserError, match="must fit the configured policy"):
        initial_policy(lambda: ToyLM(width=16), str(tmp_path / "small.safetensors"), seed=0)


def test_learning_rate_when_it_rises_and_falls() -> None:
    """Warm-up of 4: quarters; half-way of the cosine from 1 to .1 is .55."""
    assert [warmup_cosine(step, 4, 14) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert warmup_cosine(9, 4, 14) == pytest.approx(0.55)
    assert warmup_cosine(14, 4, 14) == pytest.approx(0.1)
    assert warmup_cosine(50, 4, 0) == 1
