"""Recordings -> Kimi-Audio's two streams. The encoders run on the rank's own device, once a query whatever G is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from lightning_paras2s.audio import read_audio
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.models.kimi_config import KimiConfig
from lightning_paras2s.models.kimi_tokenizer import KimiText, KimiTokenizer, demonstration, speech_prompt
from lightning_paras2s.models.speech_lm import Completion, Prompt
from lightning_paras2s.runs import ResumableLoader
from lightning_paras2s.types import Audio, Query, Response, UserError, read_jsonl

RawItem = tuple[Query, Path, tuple[Response, Path] | None]


@dataclass(frozen=True)
class RawBatch:
    """Speech before tokenization; `answers` is empty in reinforcement learning."""

    queries: list[Query]
    audios: list[Audio]
    answers: list[tuple[Audio, str]]


class KimiDataModule(LightningDataModule):
    """Batches of spoken queries, with spoken answers for SFT.

    Args:
        train, val: JSON lines of queries; audio paths are relative to the file.
        tokenizer: builds the `KimiTokenizer`.
        answers: JSON lines of responses (`query_id`, `audio`, `text`), one a query, for SFT; None = queries alone (RL).
        text: builds the text stream's tokenizer; needed with `answers`.
        batch_size: queries a GPU (the global B is this times the GPUs).
        config: the policy's ids.
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
        seed: int = 0,
        config: KimiConfig | None = None,
    ) -> None:
        super().__init__()
        if answers is not None and text is None:
            raise UserError("answers must be tokenized; got data.answers without data.text; give the text tokenizer")
        self.files, self.answers, self.build = (train, val), answers, (tokenizer, text)
        self.batch_size, self.val_batch_size, self.seed = batch_size, val_batch_size, seed
        self.config = config or KimiConfig()
        self.tokenizer: KimiTokenizer | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.tokenizer is not None:
            return
        self.train, self.val = (self.read(Path(path)) for path in self.files)
        tokenizer, text = self.build
        self.tokenizer, self.text = tokenizer().eval().requires_grad_(False), text() if text else None

    def read(self, path: Path) -> list[RawItem]:
        queries = read_jsonl(path, Query)
        if self.answers is None:
            return [(query, path.parent, None) for query in queries]
        file = Path(self.answers)
        found = {r.query_id: (r, file.parent) for r in read_jsonl(file, Response)}
        if missing := next((q.id for q in queries if q.id not in found), None):
            raise UserError(f"{file} must answer every query of {path}; {missing!r} has no answer; add it")
        return [(query, path.parent, found[query.id]) for query in queries]

    def collate(self, items: list[RawItem]) -> RawBatch:
        rate = KimiTokenizer.sample_rate
        audios = [read_audio(folder / query.audio, rate) for query, folder, _ in items]
        answers = [(read_audio(f / r.audio, rate), r.text or "") for _, _, (r, f) in (i for i in items if i[2])]
        return RawBatch([query for query, _, _ in items], audios, answers)

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ResumableLoader(self.train, self.collate, self.batch_size, self.seed, rank=rank, world_size=world_size)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, self.collate, self.val_batch_size, shuffle=False, drop_last=False)

    def transfer_batch_to_device(self, batch: RawBatch, device: torch.device, dataloader_idx: int) -> DualStreamBatch:
        self.tokenizer.to(device)
        return self.tokenize(batch, device)

    @torch.no_grad()
    def tokenize(self, batch: RawBatch, device: torch.device | str) -> DualStreamBatch:
        wav, lengths = pad_audio(batch.audios, device)
        codes, counts = self.tokenizer.encode(wav, lengths)
        features = self.tokenizer.features(wav, lengths)
        rows = [speech_prompt(self.config, c[:n], f[:n]) for c, f, n in zip(codes, features, counts.tolist())]
        completion = None
        if batch.answers:
            spoken, counts = self.tokenizer.encode(*pad_audio([audio for audio, _ in batch.answers], device))
            texts = [self.text.encode(text) for _, text in batch.answers]
            made = [demonstration(self.config, c[:n].cpu(), t) for c, n, t in zip(spoken, counts.tolist(), texts)]
            completion = pad_answers(self.config, made).to(device)
        return DualStreamBatch(pad_prompts(self.config, rows), completion, batch.queries, batch.audios)


def pad_audio(audios: list[Audio], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """wav [B, N], lengths [B] in samples."""
    rows = [torch.from_numpy(a.samples.copy()).float() for a in audios]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), lengths


def pad_prompts(config: KimiConfig, rows: list[tuple[Tensor, Tensor, Tensor]]) -> Prompt:
    """Left-pad tokens [2, P_i], features [P_i, F] and their masks [P_i] with blanks."""
    width = max(tokens.shape[1] for tokens, _, _ in rows)
    first, size = rows[0][0], (len(rows), width)
    tokens = first.new_full((len(rows), 2, width), config.blank)
    mask, where = torch.zeros(2, *size, dtype=torch.bool, device=first.device)
    features = rows[0][1].new_zeros(*size, rows[0][1].shape[-1])
    for i, (row, placed, at) in enumerate(rows):
        start = width - row.shape[1]
        tokens[i, :, start:], features[i, start:] = row, placed
        mask[i, start:], where[i, start:] = True, at
    return Prompt(tokens, mask, features, where)


def pad_answers(config: KimiConfig, rows: list[tuple[Tensor, Tensor]]) -> Completion:
    """Right-pad demonstrations, tokens and learned [2, T_i], with blanks."""
    width = max(tokens.shape[1] for tokens, _ in rows)
    tokens = torch.full((len(rows), 2, width), config.blank)
    actions = torch.zeros(len(rows), 2, width, dtype=torch.bool)
    for i, (row, learned) in enumerate(rows):
        tokens[i, :, : row.shape[1]], actions[i, :, : row.shape[1]] = row, learned
    return Completion(tokens, actions, torch.ones(len(rows), dtype=torch.bool))
