"""`DualStreamDataModule`: dialogues -> tokens and features -> batches, for SFT (with answers) and RL (without)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lightning_paras2s.asr import CTCNetwork, ctc_text
from lightning_paras2s.data.dialogues import Dialogue, DialogueSource
from lightning_paras2s.data.dual_stream import AudioIds, DualStreamBatch, Example, build_completion, build_prompt, collate
from lightning_paras2s.data.embedded import Utterance
from lightning_paras2s.data.vocabulary import TextVocab
from lightning_paras2s.models.checkpoint import load_module
from lightning_paras2s.models.tiny_tokenizer import TinyTokenizer, silence, stack_frames
from lightning_paras2s.types import UserError


class DialogueDataset(Dataset):
    """Dialogues with their codes and transcripts; an example is put together when it is asked for."""

    def __init__(self, dialogues: list[Dialogue], tokenizer: TinyTokenizer, transcriber: CTCNetwork | None, delay: int, labelled: bool):
        self.dialogues, self.delay, self.labelled = dialogues, delay, labelled
        self.vocab, self.ids, self.feature_size = TextVocab(), AudioIds(tokenizer.vocab_size), tokenizer.feature_size
        self.user_codes = encode_all(tokenizer, [d.user for d in dialogues])
        self.agent_codes = encode_all(tokenizer, [d.agent for d in dialogues]) if labelled else []
        silent = [i for i, d in enumerate(dialogues) if d.transcript is None]
        heard = transcribe_all(transcriber, [dialogues[i].user for i in silent]) if silent else []
        found = dict(zip(silent, heard, strict=True))
        self.transcripts = [found.get(i, d.transcript or "") for i, d in enumerate(dialogues)]
        self.lengths = [self._length(i) for i in range(len(dialogues))]

    def _length(self, index: int) -> int:
        answer = len(self.agent_codes[index]) if self.labelled else 0
        return max(len(self.user_codes[index]), len(self.transcripts[index].split())) + answer

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> Example:
        dialogue = self.dialogues[index]
        features = torch.zeros(0, self.feature_size)
        if dialogue.user is not None:
            features = stack_frames(torch.from_numpy(dialogue.user.acoustics).float())
        prompt = build_prompt(self.ids, self.vocab, self.user_codes[index], features, self.transcripts[index], dialogue.task)
        audio = dialogue.user.audio if dialogue.query is not None and dialogue.user is not None else None
        if not self.labelled or dialogue.agent is None:
            return Example(*prompt, query=dialogue.query, audio=audio)
        answer = build_completion(
            self.ids, self.vocab, self.agent_codes[index], dialogue.agent.text, dialogue.agent.onsets, self.delay
        )
        return Example(*prompt, *answer, query=dialogue.query, audio=audio)


class EpochBatches:
    """Batches of like length in an order drawn from (seed, epoch), so that a run resumed in mid-epoch goes on where it was.

    `state_dict`/`load_state_dict` keep the epoch and the number of batches already given.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int, shuffle: bool) -> None:
        self.lengths, self.batch_size, self.seed, self.shuffle = lengths, batch_size, seed, shuffle
        self.epoch, self.given = 0, 0

    def order(self) -> list[list[int]]:
        if not self.shuffle:
            every = list(range(len(self.lengths)))
            return [every[i : i + self.batch_size] for i in range(0, len(every), self.batch_size)]
        random = np.random.default_rng([self.seed, self.epoch])
        noisy = np.asarray(self.lengths) + random.random(len(self.lengths)) * 12
        order = noisy.argsort(kind="stable").tolist()
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.order()[self.given :]:
            self.given += 1
            yield batch
        self.epoch, self.given = self.epoch + 1, 0


class DualStreamDataModule(LightningDataModule):
    """Batches for every stage.

    Args:
        source: a `DialogueSource`.
        tokenizer: weights of the `TinyTokenizer`.
        transcriber: weights of a `CTCNetwork` that gives the transcripts where the source has none (as Whisper does in the paper).
        labelled: True = with answers (SFT); False = prompts alone (RL: the labels and answers are dropped).
        batch_size: queries a batch (B).
        delay: audio delay in steps; the policy's.
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
        seed: int = 0,
        cache_dir: str = "cache",
    ) -> None:
        super().__init__()
        self.source = source if isinstance(source, DialogueSource) else source()
        self.tokenizer, self.transcriber, self.labelled = tokenizer, transcriber, labelled
        self.batch_size, self.val_batch_size, self.delay, self.seed = batch_size, val_batch_size, delay, seed
        self.cache_dir = cache_dir
        self.sampler: EpochBatches | None = None
        self._restored: dict[str, int] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.sampler is not None:
            return
        tokenizer = TinyTokenizer.load(self.tokenizer)
        transcriber = load_module(CTCNetwork, self.transcriber).eval() if self.transcriber else None
        make = lambda split: DialogueDataset(  # noqa: E731
            self.source.dialogues(split, self.cache_dir), tokenizer, transcriber, self.delay, self.labelled
        )
        self.train, self.val = make("train"), make("val")
        self.sampler = EpochBatches(self.train.lengths, self.batch_size, self.seed, shuffle=True)
        if self._restored:
            self.sampler.epoch, self.sampler.given = self._restored["epoch"], self._restored["given"]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_sampler=self.sampler, collate_fn=collate)

    def val_dataloader(self) -> DataLoader:
        batches = EpochBatches(self.val.lengths, self.val_batch_size, 0, shuffle=False)
        return DataLoader(self.val, batch_sampler=batches, collate_fn=collate)

    def predict_dataloader(self) -> DataLoader:
        batches = EpochBatches(self.train.lengths, self.val_batch_size, 0, shuffle=False)
        return DataLoader(self.train, batch_sampler=batches, collate_fn=collate)

    def transfer_batch_to_device(self, batch: DualStreamBatch, device: torch.device, dataloader_idx: int) -> DualStreamBatch:
        return batch.to(device)

    def state_dict(self) -> dict[str, int]:
        return {} if self.sampler is None else {"epoch": self.sampler.epoch, "given": self.sampler.given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._restored = dict(state_dict)
        if self.sampler is not None and state_dict:
            self.sampler.epoch, self.sampler.given = state_dict["epoch"], state_dict["given"]


@torch.no_grad()
def encode_all(tokenizer: TinyTokenizer, utterances: list[Utterance | None], batch_size: int = 64) -> list[torch.Tensor]:
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
        raise UserError("queries without transcripts need data.transcriber; got none; give the weights of a transcriber")
    texts = [""] * len(utterances)
    order = sorted((i for i, u in enumerate(utterances) if u is not None), key=lambda i: len(utterances[i].acoustics))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        ids = network(_stack([utterances[i] for i in index])).argmax(-1)
        for row, i in zip(ids, index, strict=True):
            texts[i] = ctc_text(row[: len(utterances[i].acoustics) // 2].tolist())
    return texts


def _stack(utterances: list[Utterance], padding: torch.Tensor | None = None) -> torch.Tensor:
    """acoustics [B, T, 66], padded with `padding` [L, 66] at least once, or with each row's mean frame (as in `asr.pad_acoustics`)."""
    longest = max(len(u.acoustics) for u in utterances) + (0 if padding is None else len(padding))
    rows = [torch.from_numpy(u.acoustics).float() for u in utterances]
    fill = [row.mean(0, keepdim=True) if padding is None else padding[:1] for row in rows]
    return torch.stack([torch.cat([r, f.expand(longest - len(r), -1)]) for r, f in zip(rows, fill, strict=True)])
