"""Judged samples of the supervised policy, K a query: what the reward model learns from (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import Recording
from lightning_paras2s.errors import InputPath, UserError, check_apart, check_share
from lightning_paras2s.judging.judges import off_scale
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.types import Audio, read_jsonl


@dataclass(frozen=True)
class Preference:
    """One judged sample; audio paths are relative to the manifest. Responses that could not be judged are not kept.

    Attributes:
        query_id: the query that the response was judged for.
        sample: its number among the responses to a query: the sampled ones, then the written ones.
        answers: the query that it was sampled or written for, where that is another one.
        factor: what the query is about; "" where that is not known.
    """

    query_id: str
    sample: int
    query_audio: str
    response_audio: str
    score: float
    text: str = ""
    answers: str = ""
    factor: str = ""


@dataclass(frozen=True)
class PreferenceBatch:
    queries: list[Audio]
    responses: list[Audio]
    scores: Tensor  # [B], 1..5
    factors: list[str]
    query_ids: list[str]

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device) -> PreferenceBatch:
        return replace(self, scores=self.scores.to(device))


class PreferenceDataModule(L.LightningDataModule):
    """Judged samples for `RewardModule`.

    Args:
        train: manifest (JSON lines of `Preference`) written by `SampleModule`; may be several: of the supervised
            policy's answers, say, and of those that RL made of it.
        val: manifest of other queries, to validate on.
        batch_size: judged responses a batch.
        lowest: share that is kept, in training, of the responses that score 1 for a query that they don't answer; most
            do, and would be most of what is learned.
        seed: of the order, and of what is kept; null follows `seed_everything`.
        sample_rate: Hz, at which recordings are read.
    """

    def __init__(
        self,
        train: InputPath | list[InputPath],
        val: InputPath,
        batch_size: int = 32,
        lowest: float = 1.0,
        seed: int | None = None,
        sample_rate: int = 16_000,
    ) -> None:
        super().__init__()
        check_share("data.lowest", lowest)
        self.manifests = ([train] if isinstance(train, str) else train, [val])
        self.batch_size, self.seed, self.sample_rate, self.lowest = batch_size, seed or 0, sample_rate, lowest

    def setup(self, stage: str | None = None) -> None:
        self.train, self.val = ([item for path in paths for item in self._read(Path(path))] for paths in self.manifests)
        drawn = np.random.default_rng(self.seed).random(len(self.train)) < self.lowest
        pairs = zip(self.train, drawn, strict=True)
        self.train = [item for item, kept in pairs if kept or not item[0].answers or item[0].score > 1]
        check_apart(*([p.query_id for p, _ in part] for part in (self.train, self.val)))

    def _read(self, path: Path) -> list[tuple[Preference, Path]]:
        rows = read_jsonl(path, Preference)
        for number, row in enumerate(rows, 1):
            if off_scale(row.score):
                raise UserError(
                    f"{path}:{number}: a score must be from 1 to 5; got {row.score}; map the reward's scores onto 1..5"
                )
        return [(row, path.parent) for row in rows]

    def _collate(self, items: list[tuple[Preference, Path]]) -> PreferenceBatch:
        queries = [Recording(folder / p.query_audio, self.sample_rate) for p, folder in items]
        responses = [Recording(folder / p.response_audio, self.sample_rate) for p, folder in items]
        scores = torch.tensor([p.score for p, _ in items])
        return PreferenceBatch(queries, responses, scores, [p.factor for p, _ in items], [p.query_id for p, _ in items])

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ResumableLoader(self.train, self._collate, self.batch_size, self.seed, rank=rank, world_size=world_size)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, self._collate, self.batch_size, shuffle=False, drop_last=False)
