"""Samples drawn by one process or two are the same; shards resume by themselves and merge without repetitions."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from unittest.mock import Mock

import lightning as L
import pytest
import torch
from fsdp_worker import said, start
from toys import ToyData, ToyLM, ToyProcessor, ToyScorer

from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import ScorerReward
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.sample import SampleModule, finished_queries, merge
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.types import append_jsonl, read_jsonl

SIZE, SAMPLES = 10, 2  # batches of 4: rank 0 of two gets queries 0 to 3 and 8, rank 1 gets 4 to 7 and 9


class Queries(ToyData):
    """Ten queries in each split, some of them other queries in "val"."""

    def predict_dataloader(self) -> list[ResumableLoader]:
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        options = {"batch_size": self.batch_size, "shuffle": False, "drop_last": False, **ranks}
        return [ResumableLoader(range(start, start + SIZE), self.collate, **options) for start in (0, 100)]


class Counted(SampleModule):
    """Counts the samples that were really drawn."""

    drawn = 0

    def predict_step(self, batch, batch_idx, dataloader_idx=0):
        count = super().predict_step(batch, batch_idx, dataloader_idx)
        self.drawn += count
        return count


def scorer() -> ToyScorer:
    """The same weights whatever was drawn before, and in every process."""
    torch.manual_seed(1)
    return ToyScorer()


def other_scorer() -> ToyScorer:
    torch.manual_seed(2)
    return ToyScorer()


def sample(
    folder: str, rank: int = 0, world_size: int = 1, weights: int = 0, judge=scorer, voice: tuple = ((), {}), **options
) -> int:
    torch.manual_seed(weights)
    policy = ToyLM()
    defaults = {"samples": SAMPLES, "sampling": Sampling(max_steps=20)}
    module = Counted(lambda: policy, lambda: ScorerReward(judge), folder, **{**defaults, **options})
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy="ddp" if world_size > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Queries(labelled=False)
    data.processor.files, data.processor.settings = voice
    trainer.predict(module, data, return_predictions=False)
    (Path(folder) / f"drawn-{rank}").write_text(str(module.drawn))
    return module.drawn


def rows(folder: Path, split: str) -> list[tuple]:
    """Merged samples without the shard in their paths, with a hash of what is heard."""
    found = []
    for row in read_jsonl(folder / f"{split}.jsonl", Preference):
        names = row.query_audio, row.response_audio
        sounds = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
        # The last bits of a score depend on how many are scored at once.
        score = round(row.score, 5)
        found.append((row.query_id, row.sample, score, row.text, *[Path(n).name for n in names], *sounds))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert sample(str(folder)) == 2 * SIZE * SAMPLES
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert start(sample, (str(folder),), folder, 2) == [0, 0], said(folder, 0) + said(folder, 1)
    return folder


def test_two_processes_draw_what_one_draws(whole, two):
    for split in ("train", "val"):
        assert rows(two, split) == rows(whole, split) and len(rows(whole, split)) > SIZE
    assert [int((two / f"drawn-{rank}").read_text()) for rank in (0, 1)] == [2 * 5 * SAMPLES] * 2
    first, second = (set((two / f"train-{rank}/done.txt").read_text().split()) for rank in (0, 1))
    assert not first & second and len(first | second) == SIZE


def test_samples_of_a_query_differ_and_splits_are_apart(whole):
    texts = [row[3] for row in rows(whole, "train")]
    assert len(set(texts)) > 2
    assert not {row[0] for row in rows(whole, "train")} & {row[0] for row in rows(whole, "val")}


def test_cut_shards_are_resumed_by_another_number_of_ranks(whole, two, tmp_path):
    """Rank 1's shard is gone, and rank 0's was cut in the middle of its last line and its last id."""
    cut = tmp_path / "cut"
    shutil.copytree(two, cut)
    for split in ("train", "val"):
        shutil.rmtree(cut / f"{split}-1")
        (cut / f"{split}.jsonl").unlink()
        done = (cut / f"{split}-0/done.txt").read_text().splitlines(keepends=True)
        (cut / f"{split}-0/done.txt").write_text("".join(done[:4]) + "q")
        data = (cut / f"{split}-0/preferences.jsonl").read_bytes()
        (cut / f"{split}-0/preferences.jsonl").write_bytes(data[:-20])
        assert len(finished_queries(cut, split)) == 4
    assert sample(str(cut)) == 2 * 6 * SAMPLES
    for split in ("train", "val"):
        assert rows(cut, split) == rows(whole, split)


def test_finished_run_draws_nothing(whole):
    before = (whole / "train.jsonl").read_bytes()
    assert sample(str(whole)) == 0 and (whole / "train.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "options, said",
    [
        ({"weights": 1}, "another policy"),
        ({"voice": (("checkpoints/embedded/tokenizer.safetensors",), {})}, "another processor"),
        ({"voice": ((), {"speaker": "Ethan"})}, "another processor"),
        ({"judge": other_scorer}, "another reward"),
        ({"samples": 3}, r"samples 3 \(was 2\)"),
        ({"seed": 9}, r"seed 9 \(was 0\)"),
        ({"others": 1}, r"others 1 \(was 0\)"),
        ({"keep_tokens": True}, r"keep_tokens True \(was False\)"),
        ({"sampling": Sampling(max_steps=20, text_temperature=0.5)}, r"sampling.text_temperature 0.5 \(was 1.0\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_folder_when_its_answers_were_made_from_something_else(options, said, whole):
    before = (whole / "train.jsonl").read_bytes()
    with pytest.raises(UserError, match=f"must be made from the same; got {said}"):
        sample(str(whole), **options)
    assert (whole / "train.jsonl").read_bytes() == before


def test_folder_of_an_earlier_version_goes_on_and_is_told_of(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "old")
    (tmp_path / "old/made_from.json").unlink()
    assert sample(str(tmp_path / "old")) == 0 and "is not recorded; they are kept" in capsys.readouterr().err
    assert (tmp_path / "old/made_from.json").read_text() == (whole / "made_from.json").read_text()


def failing(queries: set[str]):
    """A reward whose judge fails on the answers to some queries."""
    judge = ScorerReward.score

    def score(self, batch, responses):
        lost = torch.tensor([query.id in queries for query in batch.queries])
        scores = judge(self, batch, responses)
        return torch.where(lost.repeat_interleave(len(responses) // len(batch)), torch.nan, scores)

    return score


def test_answers_whose_judge_failed_are_asked_for_again(whole, tmp_path, monkeypatch, capsys):
    """All of them first, as in an outage, then those to two queries; batches are of 4, 4 and 2 queries."""
    folder, sounding = str(tmp_path / "x"), {row[0] for split in ("train", "val") for row in rows(whole, split)}
    lost = set(sorted(row[0] for row in rows(whole, "train"))[::9][:2])
    with monkeypatch.context() as patch:
        patch.setattr(ScorerReward, "score", failing(sounding))
        with pytest.raises(UserError, match=r"must hold an answer that was scored; of \d+ queries no answer"):
            sample(folder)
    with monkeypatch.context() as patch:
        patch.setattr(ScorerReward, "score", failing(lost))
        sample(folder)
    assert f"of {len(lost)} queries no answer was scored" in capsys.readouterr().err
    assert finished_queries(Path(folder), "train") == {f"q{i}" for i in range(SIZE)} - lost
    again = {int(name[1:]) // 4 for name in lost}
    assert sample(folder) == SAMPLES * sum((4, 4, 2)[batch] for batch in again)
    for split in ("train", "val"):
        assert rows(Path(folder), split) == rows(whole, split)


def test_policy_is_looked_at_and_the_judge_placed_before_anything_is_drawn(tmp_path, monkeypatch):
    placed = []
    monkeypatch.setattr(ScorerReward, "to", lambda self, device: placed.append(device.type))
    monkeypatch.setattr(ToyProcessor, "suits", Mock(side_effect=[None, UserError("the policy's levels")]))
    assert sample(str(tmp_path / "a")) > 0 and placed == ["cpu"]
    with pytest.raises(UserError, match="the policy's levels"):
        sample(str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("others", -1)])
def test_counts_with_which_nothing_would_be_drawn_or_judged(option: str, value: int, tmp_path):
    with pytest.raises(UserError, match=f"model.{option} must be at least {value + 1}; got {value}"):
        sample(str(tmp_path), **{option: value})


def test_merge_keeps_each_sample_once(tmp_path):
    one = Preference("q", 0, "audio/q.flac", "audio/q-0.flac", 3.0)
    append_jsonl(tmp_path / "train-0/preferences.jsonl", [one, Preference("q", 1, "a", "b", 2.0)])
    append_jsonl(tmp_path / "train-1/preferences.jsonl", [one, Preference("p", 0, "a", "b", 1.0)])
    merge(tmp_path, "train")
    found = read_jsonl(tmp_path / "train.jsonl", Preference)
    assert [(row.query_id, row.sample) for row in found] == [("p", 0), ("q", 0), ("q", 1)]
    assert found[1].response_audio == "train-0/audio/q-0.flac"
    merge(tmp_path, "val")
    assert not (tmp_path / "val.jsonl").exists()
