"""Rejection sampling: a policy's own best answers, as their tokens, are demonstrations that no codec has to make.

`SampleModule` with `keep_tokens` draws and judges K answers a query; the best of each query, if it is good enough, is
learned by `SFTModule` (as in RAFT, arXiv 2304.06767, and Llama 2, arXiv 2307.09288, section 3.2.3). The paper's stage 1
learns recorded answers instead; where a family's codes can't be made of speech, or where there are no labels, these
take their place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_paras2s.data.completions import KeptCompletion, demonstration
from lightning_paras2s.data.datamodule import DualStreamDataModule
from lightning_paras2s.data.dialogue import Dialogue
from lightning_paras2s.data.dual_stream import DualStreamBatch, pad_completions
from lightning_paras2s.data.made_from import FILE as MADE_FROM
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.data.sources import DialogueSource
from lightning_paras2s.data.swapped import number_of
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.processor import Items, Processor
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.types import Query, read_jsonl

SPLITS = ("train", "val")


class RejectionDataModule(DualStreamDataModule):
    """The best of a policy's own judged answers, one a query, as demonstrations for `SFTModule`, or for `GRPOModule` to
    hold on to (`anchor`).

    Args:
        source: the queries that were sampled for.
        processor: of the policy's family.
        judged: folder that `SampleModule` wrote with `keep_tokens`.
        floor: least score of an answer that is learned.
        balance: of the queries of one style, at most so many times as many as of the rarest style of any factor; 0 =
            no limit.
        batch_size: queries a batch and process.
    """

    def __init__(
        self,
        source: Callable[[], DialogueSource] | DialogueSource,
        processor: Processor,
        judged: InputPath,
        floor: float = 4.0,
        balance: float = 0.0,
        batch_size: int = 32,
        val_batch_size: int = 64,
        seed: int | None = None,
        cache_dir: str = "cache",
    ) -> None:
        super().__init__(source, processor, False, batch_size, val_batch_size, seed, cache_dir)
        self.judged, self.floor, self.balance, self.longest = Path(judged), floor, balance, 0
        self.source, self.chosen = Chosen(self.source, self), {}

    @property
    def max_steps(self) -> int:
        """Of the longest answer, learned or the policy's own."""
        return max(self.longest, super().max_steps)

    def choose(self, split: str, dialogues: list[Dialogue]) -> list[Dialogue]:
        """The dialogues that have a good answer, which is remembered for the batches.

        Raises:
            UserError: no tokens were kept, or none is left.
        """
        path, asked = self.judged / f"{split}_completions.jsonl", {d.query.id: d for d in dialogues if d.query}
        if not path.is_file():
            raise UserError(f"data.judged must hold {path.name}; it does not; sample with --model.keep_tokens true")
        tell_other_voice(self.judged, self.processor)
        tokens = read_jsonl(path, KeptCompletion)
        kept = {(k.query_id, k.sample): k for k in tokens if k.finished}
        judged = [p for p in read_jsonl(self.judged / f"{split}.jsonl", Preference) if not p.answers]
        if lost := {p.query_id for p in judged} - {k.query_id for k in tokens}:
            raise UserError(
                f"{path} must hold the tokens of all judged queries; it lacks those of {min(lost)!r} ({len(lost)} such "
                "queries), sampled without keep_tokens; sample to another folder"
            )
        fit = [p for p in judged if p.query_id in asked and (p.query_id, p.sample) in kept]
        best = best_answers(fit, {name: d.query for name, d in asked.items()}, self.floor, self.balance)
        if not best:
            top = max((p.score for p in fit), default=None)
            raise UserError(
                f"of {split}'s {len(judged)} judged answers at least one must reach {self.floor}; the best has {top}; "
                "lower data.floor or sample more"
            )
        chosen = {name: kept[name, p.sample] for name, p in best.items()}
        self.chosen |= chosen
        self.longest = max(self.longest, *(len(k.text) for k in chosen.values()))
        return [asked[name] for name in asked if name in chosen]

    def setup(self, stage: str | None = None) -> None:
        if self.balance and self.balance < 1:
            raise UserError(f"data.balance must be 0 (no limit) or at least 1; got {self.balance}; change it")
        if self.train is None:
            super().setup(stage)
            found = (self.source.given[split] for split in SPLITS)
            parts = zip((self.train, self.val), found, strict=True)
            self.train, self.val = (Answered(items, [self.chosen[d.query.id] for d in part]) for items, part in parts)

    def train_dataloader(self):
        return self.with_answers(super().train_dataloader)

    def val_dataloader(self):
        return self.with_answers(super().val_dataloader)

    def predict_dataloader(self):
        raise UserError("the best answers are for training and validation; got predict; use DualStreamDataModule")

    def with_answers(self, loader: Callable[[], Any]):
        made = loader()
        made.collate = self.collate
        return made

    def collate(self, items: list[tuple[Any, KeptCompletion]]) -> tuple[Any, list[KeptCompletion]]:
        return self.processor.collate([item for item, _ in items]), [kept for _, kept in items]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> DualStreamBatch:
        heard, kept = batch
        completion = pad_completions([demonstration(k) for k in kept], tuple(kept[0].blanks)).to(device)
        return replace(self.processor.to_device(heard, device), completion=completion)


def tell_other_voice(judged: Path, processor: Processor) -> None:
    """Say so where a folder's answers were drawn with another processor: of another codec, a token is another sound."""
    file = judged / MADE_FROM
    if file.is_file() and (was := json.loads(file.read_text(encoding="utf-8")).get("processor")):
        if was != processor.config_sha:
            say_once(
                f"{judged}: its answers were drawn with another processor than data.processor ({was}, now "
                f"{processor.config_sha}); where its codec is another, their tokens are other sounds"
            )


class Chosen(DialogueSource):
    """Of a source's dialogues those with an answer that is learned.

    Args:
        source: gives the dialogues.
        module: chooses the answers; it makes this source itself.
    """

    def __init__(self, source: DialogueSource, module: RejectionDataModule) -> None:
        self.source, self.module = source, module
        self.given: dict[str, list[Dialogue]] = {}

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        self.given[split] = self.module.choose(split, self.source.dialogues(split, cache_dir))
        return self.given[split]


@dataclass(frozen=True)
class Answered:
    """A processor's items, each with its answer's tokens."""

    items: Items
    kept: list[KeptCompletion]

    @property
    def lengths(self) -> list[float]:
        return list(self.items.answered([len(k.text) for k in self.kept]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, KeptCompletion]:
        return self.items[index], self.kept[index]


def best_answers(
    judged: list[Preference], queries: dict[str, Query], floor: float, balance: float
) -> dict[str, Preference]:
    """Of each query the answer with the highest score, the earliest of equals, if it reaches `floor`.

    With `balance`, each style (of its factor) keeps at most `balance` times the rarest style's number of queries, those
    with the highest scores; among equals chance decides, by the query's id alone.
    """
    best: dict[str, Preference] = {}
    for answer in sorted(judged, key=lambda p: (-p.score, p.sample)):
        if answer.score >= floor:
            best.setdefault(answer.query_id, answer)
    if not balance or not best:
        return best
    styles = {name: (queries[name].factor, queries[name].styles.get(queries[name].factor)) for name in best}
    most, seen = int(min(Counter(styles.values()).values()) * balance), Counter()
    left = {}
    for name in sorted(best, key=lambda n: (-best[n].score, number_of(n))):
        seen[styles[name]] += 1
        if seen[styles[name]] <= most:
            left[name] = best[name]
    return left
