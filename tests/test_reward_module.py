"""Judged samples and the reward model learned from them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from toys import ToyData, ToyLM, ToyPreferences, ToyScorer, ToyTokenizer, ToyVocab

from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.preferences import Preference, build_preferences, swapped
from lightning_paras2s.modules.reward import RewardModule, agreement, score_loss
from lightning_paras2s.modules.rewards import ScorerReward, word_error_rate
from lightning_paras2s.runs import RunLogger
from lightning_paras2s.types import Style, read_jsonl


def trainer(folder: Path, **options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=RunLogger(str(folder), "toy", "a"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def test_scorer_when_judged_by_loudness(tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_steps=300)
    fit.fit(RewardModule(ToyScorer, lr=0.05, warmup_steps=5), ToyPreferences())
    assert fit.callback_metrics["val/spearman"] > 0.95
    assert (tmp_path / "toy" / "a" / "scorer.safetensors").is_file()


def test_loss_when_a_score_lies_between_classes() -> None:
    """Uniform logits cost log 5 whatever the score; a NaN row takes no part."""
    logits = torch.tensor([[0.0] * 5, [0.0] * 5, [float("nan")] * 5])
    assert float(score_loss(logits, torch.tensor([5.0, 2.5, 1.0]))) == pytest.approx(math.log(5))
    # p = softmax(0, 0, 0, 0, ln 4) = 1/8, ..., 1/2; score 4.5 is half 4, half 5: (log 8 + log 2) / 2.
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.log(4)]])
    assert float(score_loss(logits, torch.tensor([4.5]))) == pytest.approx((math.log(8) + math.log(2)) / 2)


def test_agreement_when_some_are_unscored() -> None:
    """Of (1, 2), (2, 4), (3, 6): both correlations 1, mean error (1 + 2 + 3) / 3."""
    found = agreement(torch.tensor([1.0, 2.0, 3.0, torch.nan]), torch.tensor([2.0, 4.0, 6.0, 1.0]))
    assert found == pytest.approx({"pearson": 1.0, "spearman": 1.0, "mae": 2.0})


def test_preferences_when_built_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward, sampling = ScorerReward(ToyScorer), Sampling(max_steps=20)
    policy, data = ToyLM(), ToyData(labelled=False, size=8)
    build = (policy, ToyTokenizer(), ToyVocab(), reward)
    first = build_preferences(*build, list(data.val_dataloader())[:1], tmp_path, 3, sampling)
    some = read_jsonl(first, Preference)
    with first.open("a") as file:
        file.write('{"query_id": "q5"')  # cut in the middle of a line
    build_preferences(*build, data.val_dataloader(), tmp_path, 3, sampling)
    whole = build_preferences(*build, data.val_dataloader(), tmp_path / "whole", 3, sampling)
    assert 0 < len(some) < len(read_jsonl(first, Preference))
    assert first.read_text() == whole.read_text()
    assert all((tmp_path / p.response_audio).is_file() for p in some)


def test_preferences_when_answers_are_judged_for_others(tmp_path: Path) -> None:
    """Half of the others are of the same factor and another style, where the batch has one; each has its own row."""
    data = ToyData(labelled=False, size=8)
    batch = next(iter(data.val_dataloader()))
    styles = [Style(emotion=("sad", "happy")[i % 2]) for i in range(len(batch))]
    queries = [replace(q, factor="emotion", styles={"emotion": s.emotion}) for q, s in zip(batch.queries, styles)]
    batch = replace(batch, queries=queries)
    contrast, anyone = swapped(batch, 2)
    assert all(a.style.emotion != b.style.emotion for a, b in zip(queries, contrast.queries, strict=True))
    assert all(a.id != b.id for a, b in zip(queries, anyone.queries, strict=True))
    assert torch.equal(contrast.prompt.tokens, batch.prompt.tokens)

    build = (ToyLM(), ToyTokenizer(), ToyVocab(), ScorerReward(ToyScorer))
    sampling = Sampling(max_steps=20)
    alone = read_jsonl(build_preferences(*build, [batch], tmp_path / "a", 2, sampling), Preference)
    more = read_jsonl(build_preferences(*build, [batch], tmp_path / "b", 2, sampling, others=2), Preference)
    assert [p for p in more if not p.answers] == alone
    for swap in (p for p in more if p.answers):
        assert swap.response_audio.startswith(f"audio/{swap.answers}-")
        assert swap.query_audio == f"audio/{swap.query_id}.flac"
        assert (tmp_path / "b" / swap.query_audio).is_file()
    assert len(more) > 2 * len(alone)


def test_word_error_rate_when_one_side_is_empty() -> None:
    assert [word_error_rate("", ""), word_error_rate("", "oh"), word_error_rate("oh", "")] == [0, 1, 1]
    assert word_error_rate("a b c d", "a b c") == 0.25
