"""Judged samples and the reward model learned from them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from toys import ToyData, ToyLM, ToyPreferences, ToyProcessor, ToyScorer

from lightning_paras2s.audio import read_audio
from lightning_paras2s.data.embedded import reply_frames, text_queries
from lightning_paras2s.data.judged import sample_batch
from lightning_paras2s.data.made_from import Recipe
from lightning_paras2s.data.preferences import Preference, PreferenceDataModule
from lightning_paras2s.data.swapped import swapped
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.rewards import ScorerReward, TokenCountReward
from lightning_paras2s.judging.rubric import BEST_TONES
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.reward import RewardModule, agreement, factor_loss, score_loss
from lightning_paras2s.running.runs import RunLogger
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Audio, Query, Style, append_jsonl, read_jsonl

RECIPE = Recipe(2, Sampling(max_steps=20))


def judged(policy, processor, reward, batches, folder: Path, recipe: Recipe) -> Path:
    for batch in batches:
        sample_batch(policy, processor, reward, batch, folder, recipe)
    return folder / "preferences.jsonl"


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


@pytest.mark.parametrize("score", [0.0, 0.3, 7.0, 80.0, float("nan")])
def test_scores_that_are_not_1_to_5_are_refused(score: float, tmp_path: Path) -> None:
    """As a tone's 0 and 1, or a percentage: their cross-entropy has no lower bound. Rounding is not refused."""
    with pytest.raises(UserError, match=f"scores must be from 1 to 5; got {score:g}"):
        score_loss(torch.zeros(2, 5), torch.tensor([3.0, score]))
    assert float(score_loss(torch.zeros(2, 5), torch.tensor([5.0000005, 0.9999999]))) == pytest.approx(math.log(5))
    if score == score:
        rows = [Preference(f"t{i}", 0, "q.wav", "r.wav", s) for i, s in enumerate((5.0, score))]
        append_jsonl(tmp_path / "train.jsonl", rows)
        with pytest.raises(UserError, match=f"train.jsonl:2: a score must be from 1 to 5; got {score}"):
            PreferenceDataModule(str(tmp_path / "train.jsonl"), str(tmp_path / "train.jsonl")).setup()


def test_samples_when_a_reward_has_another_scale(tmp_path: Path, capsys) -> None:
    """A reward of 0..1 is refused before anything of the batch is written, unless tokens are kept: rejection sampling
    learns of any scale."""
    build = (ToyLM(), ToyProcessor(), TokenCountReward(2))
    batch = next(iter(ToyData(labelled=False).val_dataloader()))
    with pytest.raises(UserError, match="must be from 1 to 5; got .* of TokenCountReward; .*model.keep_tokens"):
        judged(*build, [batch], tmp_path / "a", RECIPE)
    assert not (tmp_path / "a/done.txt").exists() and not (tmp_path / "a/preferences.jsonl").read_text()
    found = judged(*build, [batch], tmp_path / "b", replace(RECIPE, keep_tokens=True))
    assert len(read_jsonl(found, Preference)) > 4 and "no reward model can learn scores" in capsys.readouterr().err


def test_samples_when_a_reward_gives_no_number_for_each(tmp_path: Path) -> None:
    class Column(TokenCountReward):
        def score(self, batch, responses):
            return 1 + super().score(batch, responses)[:, None]

    batch = next(iter(ToyData(labelled=False).val_dataloader()))
    with pytest.raises(UserError, match=r"Column.score must give a tensor \[\d+\], .*; got Tensor \[\d+, 1\]"):
        judged(ToyLM(), ToyProcessor(), Column(2), [batch], tmp_path, RECIPE)
    assert not (tmp_path / "done.txt").exists() and not (tmp_path / "preferences.jsonl").read_text()


def test_factor_loss_when_some_are_unknown() -> None:
    """Uniform logits cost log 4 a known factor; an unknown one costs nothing, and nothing is known of none."""
    logits = torch.zeros(3, 4)
    assert float(factor_loss(logits, ["age", "", "emotion"])) == pytest.approx(math.log(4))
    assert float(factor_loss(logits, ["", "", ""])) == 0


def test_factor_when_the_scorer_tells_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ToyScorer tells no factor"):
        trainer(tmp_path, max_steps=1).fit(RewardModule(ToyScorer, factor_weight=0.3), ToyPreferences())


def test_agreement_when_some_are_unscored() -> None:
    """Of (1, 2), (2, 4), (3, 6): both correlations 1, mean error (1 + 2 + 3) / 3."""
    scores = torch.tensor([1.0, 2.0, 3.0, torch.nan]), torch.tensor([2.0, 4.0, 6.0, 1.0])
    found = agreement(*scores, ["a", "a", "b", "b"])
    assert found == pytest.approx({"pearson": 1.0, "pearson_within": 1.0, "spearman": 1.0, "mae": 2.0})


def test_agreement_within_queries_is_blind_to_what_they_differ_by() -> None:
    """Two queries of which one gets higher scores of both: the order of their own answers is told wrong."""
    expected, judged = torch.tensor([1.0, 2.0, 4.0, 5.0]), torch.tensor([2.0, 1.0, 5.0, 4.0])
    found = agreement(expected, judged, ["a", "a", "b", "b"])
    assert found["pearson"] == pytest.approx(0.8) and found["pearson_within"] == pytest.approx(-1.0)
    # one answer a query: nothing differs within them; rounding is no difference
    assert agreement(expected, judged, ["a", "b", "c", "d"])["pearson_within"] == 0.0
    assert agreement(expected, torch.full((4,), 0.1), ["a"] * 4)["pearson_within"] == 0.0
    assert agreement(expected[:0], judged[:0], [])["pearson"] == 0.0


def test_preferences_when_built_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward = ScorerReward(ToyScorer)
    policy, data = ToyLM(), ToyData(labelled=False, size=8)
    build = (policy, ToyProcessor(), reward)
    first = judged(*build, list(data.val_dataloader())[:1], tmp_path, replace(RECIPE, samples=3))
    some = read_jsonl(first, Preference)
    with first.open("a") as file:
        file.write('{"query_id": "q5"')  # cut in the middle of a line
    judged(*build, data.val_dataloader(), tmp_path, replace(RECIPE, samples=3))
    whole = judged(*build, data.val_dataloader(), tmp_path / "whole", replace(RECIPE, samples=3))
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

    build = (ToyLM(), ToyProcessor(), ScorerReward(ToyScorer))
    alone = read_jsonl(judged(*build, [batch], tmp_path / "a", RECIPE), Preference)
    more = read_jsonl(judged(*build, [batch], tmp_path / "b", replace(RECIPE, others=2)), Preference)
    assert [p for p in more if not p.answers] == alone
    for swap in (p for p in more if p.answers):
        assert swap.response_audio.startswith(f"answers/{swap.answers}-")
        assert swap.query_audio == f"audio/{swap.query_id}.flac"
        assert (tmp_path / "b" / swap.query_audio).is_file()
    assert len(more) > 2 * len(alone) and {p.factor for p in more} == {"emotion"}


@pytest.mark.parametrize("size", [1, 3, 8])
def test_others_when_they_are_drawn_once_each(size: int, capsys) -> None:
    """Three others of a batch of 8, both of a batch of 3, none of a batch of 1: two are told of."""
    batch = next(iter(ToyData(size, labelled=False, size=size).val_dataloader()))
    found = swapped(batch, 3, draw="distinct")
    taken = [{b.queries[i].id for b in found} for i in range(size)]
    assert {len(ids) for ids in taken} == {min(3, size - 1)}
    assert not any(query.id in ids for query, ids in zip(batch.queries, taken, strict=True))
    assert ("too few queries for others=3" in capsys.readouterr().err) == (size < 4)


def test_recordings_when_an_id_looks_like_an_answers_number(tmp_path: Path) -> None:
    """The first answer to "clip-1" and the query "clip-1-0" are two recordings: 0.5 s and 0.75 s are the queries."""
    build = (ToyLM(), ToyProcessor(), ScorerReward(ToyScorer))
    batch = next(iter(ToyData(2, labelled=False).val_dataloader()))
    audios = [Audio(np.full(n, 0.1, np.float32), 16_000) for n in (8000, 12000)]
    queries = [replace(q, id=i) for q, i in zip(batch.queries, ("clip-1", "clip-1-0"), strict=True)]
    batch = replace(batch, queries=queries, audios=audios)
    found = read_jsonl(judged(*build, [batch], tmp_path, RECIPE), Preference)
    assert found and {p.query_audio for p in found}.isdisjoint(p.response_audio for p in found)
    seconds = [read_audio(tmp_path / p.response_audio, 16_000).seconds for p in found]
    assert max(seconds) < 0.25  # 20 steps of 10 ms
    old = tmp_path / "old"
    append_jsonl(old / "preferences.jsonl", [Preference("clip-1", 0, "audio/clip-1.flac", "audio/clip-1-0.flac", 3.0)])
    with pytest.raises(UserError, match="must hold no answer where a query's recording belongs"):
        judged(*build, [batch], old, RECIPE)


def test_preferences_when_written_answers_are_judged_too(tmp_path: Path) -> None:
    """They come behind the sampled ones, whose rows stay as they are; each is judged for others as well."""

    class Loud:
        def answer(self, batch, processor, seed):
            tone = Audio(torch.sin(torch.arange(8000) / 10).numpy(), 16_000)
            return [SpokenResponse(tone, "a word", True, ())] * (2 * len(batch))

    batch = next(iter(ToyData(labelled=False, size=8).val_dataloader()))
    build = (ToyLM(), ToyProcessor(), ScorerReward(ToyScorer))
    recipe = replace(RECIPE, samples=3, others=1)
    rows = read_jsonl(judged(*build, [batch], tmp_path / "a", replace(recipe, written=Loud())), Preference)
    plain = read_jsonl(judged(*build, [batch], tmp_path / "b", recipe), Preference)
    assert [p for p in rows if p.sample < 3] == plain
    written = [p for p in rows if p.sample >= 3]
    assert {p.sample for p in written} == {3, 4} and {p.text for p in written} == {"a word"}
    assert len([p for p in written if not p.answers]) == len([p for p in written if p.answers]) == 2 * len(batch)
    assert all((tmp_path / "a" / p.response_audio).is_file() for p in written)


def test_written_answers_name_the_subject_and_fit_the_style_in_turn() -> None:
    """The first is a frame for the query's style, the second for its contrast; the same for the same query and seed."""
    query = next(q for q in text_queries("train") if q.factor == "age")
    asked = Query("q-child", query.id, "age", "train", query.text, {"age": "child"}, query.topic, "")
    answers = WrittenAnswers(EspeakSynthesizer(), count=3, own_subject=1.0, fitting_tone=1.0)
    for turn, style in enumerate(("child", "adult")):
        text, tone = answers.line(asked, turn, 0)
        assert text in {f.format(subject=query.subject) for f in reply_frames("train", "age", style)}
        assert tone in BEST_TONES[style] | {"neutral"}
    assert answers.line(asked, 2, 0) == answers.line(asked, 2, 0)
    assert len({answers.line(asked, 0, seed) for seed in range(5)}) > 1


def test_lowest_scores_when_a_share_is_kept(tmp_path: Path) -> None:
    """Of 200 ones given to other queries' answers about half; all ones of own answers, all other scores."""
    rows = [Preference(f"t{i}", 0, "q.wav", "r.wav", 1.0 + (i % 3 == 1), answers="x" * (i % 3 > 0)) for i in range(600)]
    append_jsonl(tmp_path / "train.jsonl", rows)
    append_jsonl(tmp_path / "val.jsonl", [Preference("v", 0, "q.wav", "r.wav", 1.0)])
    data = PreferenceDataModule(str(tmp_path / "train.jsonl"), str(tmp_path / "val.jsonl"), lowest=0.5)
    data.setup()
    kept = [p for p, _ in data.train]
    ones = [p for p in kept if p.answers and p.score == 1]
    assert len(kept) - len(ones) == 400 and 70 < len(ones) < 130


def test_training_manifests_when_there_are_several(tmp_path: Path) -> None:
    """Each one's recordings lie beside it; none may hold a query of the validation set."""
    for name in ("first", "again", "val"):
        append_jsonl(tmp_path / name / "p.jsonl", [Preference(f"{name}-q", 0, "q.wav", "r.wav", 1.0)])
    first, again, val = (str(tmp_path / name / "p.jsonl") for name in ("first", "again", "val"))
    data = PreferenceDataModule([first, again], val)
    data.setup()
    found = [(p.query_id, folder.name) for p, folder in data.train]
    assert found == [("first-q", "first"), ("again-q", "again")]
    with pytest.raises(UserError, match="must not share queries; got 'val-q'"):
        PreferenceDataModule([first, val], val).setup()


def test_word_error_rate_when_one_side_is_empty() -> None:
    assert [word_error_rate("", ""), word_error_rate("", "oh"), word_error_rate("oh", "")] == [0, 1, 1]
    assert word_error_rate("a b c d", "a b c") == 0.25
