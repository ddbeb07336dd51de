"""Speech to train the embedded ears and the codec on: users' and the agent's, of the embedded text set."""

from __future__ import annotations

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lightning_paras2s.data.dialogue import Utterance
from lightning_paras2s.data.embedded import agent_lines, query_lines
from lightning_paras2s.data.spoken import corpus
from lightning_paras2s.errors import InputPath, check_share
from lightning_paras2s.hearing.recognizers import HEADS
from lightning_paras2s.models.tiny.features import acoustics, stack_acoustics, vocode
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
from lightning_paras2s.running.loaders import PlannedLoader, ranks


class SpeechBatch(dict):
    """frames [B, T, 66], lengths [B] (frames), texts, labels [B, heads] (-100 = unknown), agent [B] bool."""


def collate(utterances: list[Utterance]) -> SpeechBatch:
    lengths = torch.tensor([len(u.acoustics) for u in utterances])
    rows = [torch.from_numpy(u.acoustics).float() for u in utterances]
    frames = stack_acoustics(rows)
    labels = [[HEADS[h].index(v) if (v := getattr(u.style, h)) else -100 for h in HEADS] for u in utterances]
    agent = torch.tensor([u.style.tone is not None for u in utterances])
    return SpeechBatch(
        frames=frames, lengths=lengths, texts=[u.text for u in utterances], labels=torch.tensor(labels), agent=agent
    )


class SpeechDataModule(LightningDataModule):
    """User and agent speech from the embedded text set, spoken once and cached.

    Args:
        queries: utterances of users for training.
        responses: utterances of the agent for training.
        batch_size: utterances a batch.
        seed: of texts, voices and the order of the batches.
        decoded: share of agent speech that is replaced by what `tokenizer` makes of it (for the ears that hear the
            policy).
        tokenizer: weights of a `TinyTokenizer`, needed where decoded > 0.
        cache_dir: where speech is kept between runs.
        lexica: splits whose words (not sentences) are read in random strings.
        emotional: utterances of emotion queries beside those (emotion has more values than the other factors, and
            speech of every other factor is neutral).
    """

    def __init__(
        self,
        queries: int = 8000,
        responses: int = 8000,
        batch_size: int = 32,
        seed: int = 0,
        decoded: float = 0.0,
        tokenizer: InputPath | None = None,
        cache_dir: str = "cache",
        lexica: tuple[str, ...] = ("train",),
        emotional: int = 0,
    ) -> None:
        super().__init__()
        check_share("data.decoded", decoded)
        self.emotional = emotional
        self.lexica = tuple(lexica)
        self.queries, self.responses, self.batch_size, self.seed = queries, responses, batch_size, seed
        self.decoded, self.tokenizer, self.cache_dir = decoded, tokenizer, cache_dir
        self.train: list[Utterance] = []

    def prepare_data(self) -> None:
        self._corpora()

    def _corpora(self) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
        train = (
            query_lines(self.queries, self.seed, lexica=self.lexica),
            agent_lines(self.responses, self.seed + 1, lexica=self.lexica),
            query_lines(self.emotional, self.seed + 5, lexica=self.lexica, factors=("emotion",)),
        )
        held_out = query_lines(400, self.seed + 2, "val", 0.0), agent_lines(200, self.seed + 3, "val", 0.0)
        queries, responses, emotional, val_queries, val_responses = (
            corpus(lines, self.cache_dir) if lines else [] for lines in (*train, *held_out)
        )
        return queries + emotional + self._decode(responses), val_queries, self._decode(val_responses)

    def setup(self, stage: str | None = None) -> None:
        if not self.train:
            self.train, self.val_queries, self.val_responses = self._corpora()

    def _decode(self, utterances: list[Utterance]) -> list[Utterance]:
        if not self.decoded or not utterances:
            return utterances
        tokenizer = TinyTokenizer.load(self.tokenizer or "")
        count = int(self.decoded * len(utterances))
        return [decode_utterance(tokenizer, u) for u in utterances[:count]] + utterances[count:]

    def train_dataloader(self) -> PlannedLoader:
        return PlannedLoader(self.train, collate, self.plan, self.batch_size, **ranks(self.trainer))

    def plan(self, epoch: int) -> list[list[int]]:
        """The utterances of each batch: of like length, in an order drawn from (seed, epoch)."""
        generator = torch.Generator().manual_seed(self.seed * 1000 + epoch)
        jitter = torch.rand(len(self.train), generator=generator) * 40
        order = sorted(range(len(self.train)), key=lambda i: len(self.train[i].acoustics) + float(jitter[i]))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator)]

    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(u, 32, collate_fn=collate) for u in (self.val_queries, self.val_responses)]


@torch.no_grad()
def decode_utterance(tokenizer: TinyTokenizer, utterance: Utterance) -> Utterance:
    """What the codec makes of an utterance, heard again."""
    frames = torch.from_numpy(utterance.acoustics).float()[None]
    wav = vocode(tokenizer.reconstruct(tokenizer.quantise(frames)[1]))
    return Utterance(acoustics(wav)[0].half().numpy(), utterance.text, utterance.style, utterance.onsets)
