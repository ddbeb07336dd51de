"""`DualStreamDataModule`: dialogues -> tokens and features -> batches, for SFT (with answers) and RL (without)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import Dataset

from lightning_paras2s.data.dual_stream import (
    AudioIds,
    DualStreamBatch,
    Example,
    build_completion,
    build_prompt,
    collate,
)
from lightning_paras2s.data.embedded import Utterance
from lightning_paras2s.data.sources import Dialogue, DialogueSource
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import CTCNetwork, read_ctc
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer, silence, stack_frames
from lightning_paras2s.models.tiny.vocabulary import TextVocab
from lightning_paras2s.running.runs import ResumableLoader


class DialogueDataset(Dataset):
    """Dialogues with their codes and transcripts; an example is put together when it is asked for."""

    def __init__(
        self,
        dialogues: list[Dialogue],
        tokenizer: TinyTokenizer,
        transcriber: CTCNetwork | None,
        delay: int,
        labelled: bool,
        cache_dir: str = "cache",
    ) -> None:
        self.dialogues, self.delay, self.labelled = dialogues, delay, labelled
        self.vocab, self.ids, self.feature_size = TextVocab(), AudioIds(tokenizer.vocab_size), tokenizer.feature_size
        self.user_codes = cached_codes(tokenizer, [d.user for d in dialogues], cache_dir)
        self.agent_codes = cached_codes(tokenizer, [d.agent for d in dialogues], cache_dir) if labelled else []
        silent = [i for i, d in enumerate(dialogues) if d.transcript is None]
        heard = transcribe_all(transcriber, [dialogues[i].user for i in silent]) if silent else []
        found = dict(zip(silent, heard, strict=True))
        self.transcripts = [found.get(i, d.transcript or "") for i, d in enumerate(dialogues)]
        self.lengths = [self._length(i) for i in range(len(dialogues))]

    def _length(self, index: int) -> int:
        answer = len(self.agent_codes[index]) if self.labelled else 0
        return len(self.user_codes[index]) + len(self.transcripts[index].split()) + answer

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> Example:
        dialogue = self.dialogues[index]
        features = torch.zeros(0, self.feature_size)
        if dialogue.user is not None:
            features = stack_frames(torch.from_numpy(dialogue.user.acoustics).float())
        prompt = build_prompt(
            self.ids, self.vocab, self.user_codes[index], features, self.transcripts[index], dialogue.task
        )
        audio = dialogue.user.audio if dialogue.query is not None and dialogue.user is not None else None
        if not self.labelled or dialogue.agent is None:
            return Example(*prompt, query=dialogue.query, audio=audio)
        answer = build_completion(
            self.ids, self.vocab, self.agent_codes[index], dialogue.agent.text, dialogue.agent.onsets, self.delay
        )
        return Example(*prompt, *answer, query=dialogue.query, audio=audio)


class BucketedLoader(ResumableLoader):
    """Batches of like length: `lengths` are sorted with some noise and cut in batches, whose order is a function of
    (seed, epoch)."""

    def __init__(self, items: DialogueDataset, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(items, collate, batch_size, seed, True, True, rank, world_size)

    def order(self, epoch: int, size: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, epoch])
        noisy = np.asarray(self.items.lengths) + random.random(len(self.items)) * 12
        order = noisy.argsort(kind="stable")
        # A few items sit out each epoch, others every time, so that all batches are whole.
        order = np.delete(order, random.permutation(len(order))[: len(order) % size])
        return order.reshape(-1, size)[random.permutation(len(order) // size)].ravel()


class DualStreamDataModule(LightningDataModule):
    """Batches for every stage.

    Args:
        source: a `DialogueSource`.
        tokenizer: weights of the `TinyTokenizer`.
        transcriber: weights of a `CTCNetwork` that gives the transcripts where the source has none (as Whisper does in
            the paper).
        labelled: True = with answers (SFT); False = prompts alone (RL: the labels and answers are dropped).
        batch_size: queries a batch (B).
        delay: audio delay in steps; the policy's.
        seed: of the order of the training queries; null follows `seed_everything`.
        cache_dir: where speech is kept between runs.
    """

    def __init__(
        self,
        source: Callable[[], DialogueSource] | DialogueSource,
        tokenizer: str,
        transcriber: str | None = None,
        labelled: bool = True,
        batch_size: int = 32,
        val_batch_size: int = 64,
        delay: int = 2,
        seed: int | None = None,
        cache_dir: str = "cache",
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, DialogueSource) else source()
        self.tokenizer, self.transcriber, self.labelled = tokenizer, transcriber, labelled
        self.batch_size, self.val_batch_size, self.delay, self.seed = batch_size, val_batch_size, delay, seed or 0
        self.cache_dir = cache_dir
        self.train: DialogueDataset | None = None

    def setup(self, stage: str | None = None) -> None:
        if self.train is not None:
            return
        tokenizer = TinyTokenizer.load(self.tokenizer)
        transcriber = load_module(CTCNetwork, self.transcriber).eval() if self.transcriber else None
        make = lambda split: DialogueDataset(  # noqa: E731
            self.source.dialogues(split, self.cache_dir),
            tokenizer,
            transcriber,
            self.delay,
            self.labelled,
            self.cache_dir,
        )
        self.train, self.val = make("train"), make("val")

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BucketedLoader(self.train, self.batch_size, self.seed, rank, world_size)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, collate, self.val_batch_size, shuffle=False, drop_last=False)

    def predict_dataloader(self) -> list[ResumableLoader]:
        """The training and the validation dialogues, once each."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shared = {"shuffle": False, "drop_last": False, "rank": rank, "world_size": world_size}
        return [ResumableLoader(items, collate, self.batch_size, **shared) for items in (self.train, self.val)]

    def transfer_batch_to_device(
        self, batch: DualStreamBatch, device: torch.device, dataloader_idx: int
    ) -> DualStreamBatch:
        return batch.to(device)


def cached_codes(tokenizer: TinyTokenizer, utterances: list[Utterance | None], cache_dir: str) -> list[torch.Tensor]:
    """`encode_all`, kept on disk under a hash of the codec's weights and the speech."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tokenizer.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for utterance in utterances:
        digest.update(b"-" if utterance is None else utterance.acoustics.tobytes())
    path = Path(cache_dir) / f"codes-{digest.hexdigest()}.npz"
    if not path.is_file():
        codes = encode_all(tokenizer, utterances)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}.{path.name}")
        np.savez(part, codes=torch.cat(codes).numpy().astype(np.int32), counts=[len(c) for c in codes])
        part.replace(path)
    with np.load(path) as kept:
        return list(torch.from_numpy(kept["codes"]).long().split(kept["counts"].tolist()))


@torch.no_grad()
def encode_all(
    tokenizer: TinyTokenizer, utterances: list[Utterance | None], batch_size: int = 64
) -> list[torch.Tensor]:
    """Codes of each utterance, [T]; empty where there is none."""
    codes = [torch.zeros(0, dtype=torch.long)] * len(utterances)
    order = sorted((i for i, u in enumerate(utterances) if u is not None), key=lambda i: len(utterances[i].acoustics))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        found = tokenizer.quantise(_stack([utterances[i] for i in index], silence()))[1]
        for row, i in zip(found, index, strict=True):
            codes[i] = row[: len(utterances[i].acoustics) // 4].clone()
    return codes


@torch.no_grad()
def transcribe_all(network: CTCNetwork | None, utterances: list[Utterance | None], batch_size: int = 64) -> list[str]:
    """What the transcriber hears in each utterance."""
    if network is None:
        raise UserError(
            "queries without transcripts need data.transcriber; got none; give the weights of a transcriber"
        )
    texts = [""] * len(utterances)
    order = sorted((i for i, u in enumerate(utterances) if u is not None), key=lambda i: len(utterances[i].acoustics))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        logits = network(_stack([utterances[i] for i in index]))
        for text, i in zip(read_ctc(logits, [len(utterances[i].acoustics) for i in index]), index, strict=True):
            texts[i] = text
    return texts


def _stack(utterances: list[Utterance], padding: torch.Tensor | None = None) -> torch.Tensor:
    """acoustics [B, T, 66], padded with `padding` [L, 66] at least once, or with each row's mean frame (as in
    `asr.pad_acoustics`)."""
    longest = max(len(u.acoustics) for u in utterances) + (0 if padding is None else len(padding))
    rows = [torch.from_numpy(u.acoustics).float() for u in utterances]
    fill = [row.mean(0, keepdim=True) if padding is None else padding[:1] for row in rows]
    return torch.stack([torch.cat([r, f.expand(longest - len(r), -1)]) for r, f in zip(rows, fill, strict=True)])
