"""Recordings -> Kimi-Audio's two streams. The encoders run on the rank's own device, once a query whatever G is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import LightningDataModule

from lightning_paras2s.audio import read_audio, seconds_of
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.prompt import (
    check_context,
    demonstration,
    pad_answers,
    pad_prompts,
    response_steps,
    speech_prompt,
)
from lightning_paras2s.models.kimi.text import KimiText
from lightning_paras2s.models.kimi.tokenizer import INPUT_RATE, KimiTokenizer
from lightning_paras2s.running.runs import ResumableLoader
from lightning_paras2s.types import Audio, Query, Response, read_jsonl

RawItem = tuple[Query, Path, tuple[Response, Path] | None]


@dataclass(frozen=True)
class RawBatch:
    """Speech before tokenization; `answers` is empty in reinforcement learning."""

    queries: list[Query]
    audios: list[Audio]
    answers: list[tuple[Audio, str]]


class KimiDataModule(LightningDataModule):
    """Batches of spoken queries, with spoken answers for SFT. Files and lengths are checked before any weight is read.

    Args:
        train, val: JSON lines of queries; audio paths are relative to the file.
        tokenizer: builds the `KimiTokenizer`.
        answers: JSON lines of responses (`query_id`, `audio`, `text`), one a query, for SFT; None = queries alone (RL).
        text: builds the text stream's tokenizer; needed with `answers`.
        batch_size: queries a GPU (the global B is this times the GPUs).
        seed: of the order of the training queries; null follows `seed_everything`.
        max_steps: of the policy's own answers (`model.sampling.max_steps`), which must fit behind the query.
    """

    def __init__(
        self,
        train: str,
        val: str,
        tokenizer: Callable[[], KimiTokenizer],
        answers: str | None = None,
        text: Callable[[], KimiText] | None = None,
        batch_size: int = 4,
        val_batch_size: int = 4,
        seed: int | None = None,
        max_steps: int = 0,
    ) -> None:
        super().__init__()
        if answers is not None and text is None:
            raise UserError("answers must be tokenized; got data.answers without data.text; give the text tokenizer")
        self.files, self.answers, self.build = (train, val), answers, (tokenizer, text)
        self.batch_size, self.val_batch_size, self.seed, self.max_steps = (
            batch_size,
            val_batch_size,
            seed or 0,
            max_steps,
        )
        self.tokenizer: KimiTokenizer | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.tokenizer is not None:
            return
        self.train, self.val = (self.read(Path(path)) for path in self.files)
        if shared := {query.id for query, *_ in self.train} & {query.id for query, *_ in self.val}:
            raise UserError(
                f"training and validation must not share queries; got {min(shared)!r} in {self.files[0]} and "
                f"{self.files[1]}; give other queries to data.val"
            )
        tokenizer, text = self.build
        self.tokenizer, self.text = tokenizer().eval().requires_grad_(False), text() if text else None
        self.config = self.tokenizer.config

    def read(self, path: Path) -> list[RawItem]:
        queries = read_jsonl(path, Query)
        answers: dict[str, tuple[Response, Path]] = {}
        if self.answers is not None:
            file = Path(self.answers)
            answers = {r.query_id: (r, file.parent) for r in read_jsonl(file, Response)}
            if missing := next((q.id for q in queries if q.id not in answers), None):
                raise UserError(f"{file} must answer every query of {path}; {missing!r} has no answer; add it")
        items = [(query, path.parent, answers.get(query.id)) for query in queries]
        for query, folder, answer in items:
            steps = self.max_steps
            if answer is not None:
                steps = response_steps(KimiConfig(), seconds_of(answer[1] / answer[0].audio))
            check_context(KimiConfig(), query.id, seconds_of(folder / query.audio), steps)
        return items

    def collate(self, items: list[RawItem]) -> RawBatch:
        audios = [read_audio(folder / query.audio, INPUT_RATE) for query, folder, _ in items]
        answers = [(read_audio(f / r.audio, INPUT_RATE), r.text or "") for _, _, (r, f) in (i for i in items if i[2])]
        return RawBatch([query for query, _, _ in items], audios, answers)

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.train, self.collate, self.batch_size, self.seed, **self.ranks)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, self.collate, self.val_batch_size, shuffle=False, drop_last=False)

    def predict_dataloader(self) -> list[ResumableLoader]:
        """The training and the validation queries, once each."""
        shared = {"shuffle": False, "drop_last": False, **self.ranks}
        return [ResumableLoader(items, self.collate, self.batch_size, **shared) for items in (self.train, self.val)]

    @property
    def ranks(self) -> dict[str, int]:
        """This rank and how many there are."""
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def transfer_batch_to_device(self, batch: RawBatch, device: torch.device, dataloader_idx: int) -> DualStreamBatch:
        self.tokenizer.to(device)
        return self.tokenize(batch, device)

    def tokenize(self, batch: RawBatch, device: torch.device | str) -> DualStreamBatch:
        rows = [speech_prompt(self.config, *heard) for heard in self.tokenizer.listen(batch.audios, device)]
        completion = None
        if batch.answers:
            spoken = self.tokenizer.codes([audio for audio, _ in batch.answers], device)
            texts = [self.text.encode(text) for _, text in batch.answers]
            made = [demonstration(self.config, codes.cpu(), text) for codes, text in zip(spoken, texts)]
            completion = pad_answers(self.config, made).to(device)
        return DualStreamBatch(pad_prompts(self.config, rows), completion, batch.queries, batch.audios)
