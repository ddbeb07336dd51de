"""Recordings with the style in which they were spoken, to train analysers on: eSpeak's, or those of manifests."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.queries.manifest import check_labelled, placed, read_queries
from lightning_paras2s.data.spoken import CORPUS_VERSION, corpus_audio
from lightning_paras2s.data.suggestive import Spoken, confounded, every_style, polytone, suggestive_texts
from lightning_paras2s.errors import InputPath, UserError, check_apart, check_choice
from lightning_paras2s.hearing.polytone import NOTHING, Heard, WordEar
from lightning_paras2s.hearing.transcribers import TinyTranscriber, reading_sha
from lightning_paras2s.models.tiny.features import SAMPLE_RATE
from lightning_paras2s.running.files import write_arrays
from lightning_paras2s.running.loaders import PlannedLoader, ranks
from lightning_paras2s.running.shipped import weights_file
from lightning_paras2s.speaking.synthesizers import QUERY_PROSODY, QUERY_VOICES
from lightning_paras2s.types import FACTORS, Query

ARRANGEMENTS = {"polytone": polytone, "confounded": confounded}


class Labelled(NamedTuple):
    """A recording with the style in which it was spoken."""

    heard: Heard
    factor: str
    style: str


class FactorBatches(LightningDataModule):
    """Batches of one factor each, in an order drawn from (seed, epoch).

    Args:
        batch_size: recordings a batch.
        seed: of the order of the training batches.
    """

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.train: list[Labelled] | list[Query] = []
        self.val: list[Labelled] | list[Query] = []

    def collate(self, rows: list[Labelled]) -> list[Labelled]:
        return rows

    def train_dataloader(self) -> PlannedLoader:
        return PlannedLoader(self.train, self.collate, self.plan, self.batch_size, **ranks(self.trainer))

    def plan(self, epoch: int) -> list[list[int]]:
        """The recordings of each batch."""
        random = np.random.default_rng([self.seed, epoch])
        batches = []
        for factor in sorted({row.factor for row in self.train}):
            order = random.permutation([i for i, row in enumerate(self.train) if row.factor == factor])
            batches += [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, collate_fn=self.collate)


class PolyToneDataModule(FactorBatches):
    """eSpeak speech of suggestive texts, spoken once, its words heard by the embedded transcriber; both cached.

    Args:
        arrangement: "polytone" (each text in several styles) or "confounded" (the control: the style that its words
            suggest).
        factors: which of emotion, sarcasm, age and gender.
        emotions: texts a style of emotion.
        others: texts a style of each other factor.
        renditions: utterances of a text of emotion (the other factors: 2).
        data_seed: of texts and voices; `seed` is of the order alone.
        transcriber: weights of the ear for words.
        cache_dir: where speech is kept between runs.
    """

    def __init__(
        self,
        arrangement: Literal["polytone", "confounded"] = "polytone",
        factors: tuple[str, ...] = FACTORS,
        emotions: int = 36,
        others: int = 120,
        renditions: int = 3,
        batch_size: int = 32,
        seed: int = 0,
        data_seed: int = 0,
        transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
        cache_dir: str = "cache",
    ) -> None:
        super().__init__(batch_size, seed)
        check_choice("arrangement", arrangement, ARRANGEMENTS)
        self.arrangement, self.factors, self.renditions = arrangement, factors, renditions
        self.sizes = {factor: emotions if factor == "emotion" else others for factor in factors}
        self.data_seed, self.transcriber, self.cache_dir = data_seed, transcriber, cache_dir

    def prepare_data(self) -> None:
        self._hear()

    def setup(self, stage: str | None = None) -> None:
        if not self.train:
            self.train, self.val = self._hear()

    def _hear(self) -> tuple[list[Labelled], list[Labelled]]:
        train, val = [], []
        for factor, size in self.sizes.items():
            texts = suggestive_texts(factor, size, "train", self.data_seed)
            renditions = self.renditions if factor == "emotion" else 2
            train += ARRANGEMENTS[self.arrangement](texts, renditions, "train", self.data_seed)
            few = suggestive_texts(factor, 4 if factor == "emotion" else 8, "val", self.data_seed, "train")
            val += every_style(few, "val", self.data_seed)
        return tuple(labelled(lines, self.transcriber, self.cache_dir) for lines in (train, val))


class ManifestStyles(FactorBatches):
    """Recordings of a manifest (`synthesize`): both halves of each contrast pair are one text in two styles.

    Args:
        train: JSON lines of query records to train on, none of the split test; audio paths are relative to the file.
        val: JSON lines of query records to validate on.
        arrangement: "polytone" (both halves), or "confounded" (one half a pair, chosen by the pair's id: each text in
            one style only, half as many recordings; the benchmark's words suggest none).
        factors: those of the manifest to train on.
    """

    def __init__(
        self,
        train: InputPath,
        val: InputPath,
        arrangement: Literal["polytone", "confounded"] = "polytone",
        factors: tuple[str, ...] = FACTORS,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        check_choice("arrangement", arrangement, ARRANGEMENTS)
        self.paths, self.arrangement, self.factors = (train, val), arrangement, factors

    def setup(self, stage: str | None = None) -> None:
        self.train, self.val = (self._read(path) for path in self.paths)
        if (held := next((q.id for q in self.train if q.split == "test"), None)) is not None:
            raise UserError(
                f"{self.paths[0]}: a query to train on must not be of the split test; got {held!r}; take others, or "
                "make its manifest with --split train"
            )
        check_apart(*([q.id for q in part] for part in (self.train, self.val)))
        if self.arrangement == "confounded":
            self.train = one_style_a_text(self.train)

    def _read(self, path: str) -> list[Query]:
        rows = [q for q in read_queries(path, None) if q.factor in self.factors]
        if not rows:
            raise UserError(f"{path} must hold queries of {', '.join(self.factors)}; got none; see `synthesize`")
        check_labelled(rows, "an analyser's queries")
        root = Path(path).parent
        return [placed(q, lambda audio: str(root / audio)) for q in rows]

    def collate(self, rows: list[Query]) -> list[Labelled]:
        samples = [read_audio(Path(q.audio), SAMPLE_RATE).samples for q in rows]
        return [Labelled(NOTHING._replace(samples=s), q.factor, q.styles[q.factor]) for q, s in zip(rows, samples)]


def one_style_a_text(queries: list[Query]) -> list[Query]:
    """One half of each contrast pair, the same in every process."""
    pairs: dict[str, list[Query]] = {}
    for query in queries:
        pairs.setdefault(query.pair, []).append(query)
    return [halves[zlib.crc32(halves[0].pair_id.encode()) % len(halves)] for halves in pairs.values()]


def labelled(spoken: list[Spoken], transcriber: str, cache_dir: str | Path) -> list[Labelled]:
    """Speak and hear; cached on disk under a hash of the lines, the synthesis, the ear and what it reads by."""
    heard = hear_spoken(spoken, transcriber, cache_dir)
    return [Labelled(h, s.text.factor, s.style) for h, s in zip(heard, spoken, strict=True)]


def hear_spoken(spoken: list[Spoken], transcriber: str, cache_dir: str | Path) -> list[Heard]:
    """What the embedded analysers hear of each line."""
    recipe = [CORPUS_VERSION, QUERY_PROSODY, QUERY_VOICES, [s.line for s in spoken]]
    recipe += [TinyTranscriber.name, reading_sha()]
    key = hashlib.sha256(repr(recipe).encode() + weights_file(transcriber).read_bytes()).hexdigest()
    path = Path(cache_dir) / f"heard-{key[:16]}.npz"
    if not path.is_file():
        ear = WordEar(transcriber)
        heard = [ear.listen(audio) for s in spoken for audio in corpus_audio([s.line])]
        save_heard(path, heard)
    return load_heard(path)


def save_heard(path: Path, heard: list[Heard]) -> None:
    meta = json.dumps([[len(h.acoustics), h.words] for h in heard]).encode()
    write_arrays(path, meta=np.frombuffer(meta, np.uint8), acoustics=np.concatenate([h.acoustics for h in heard]))


def load_heard(path: Path) -> list[Heard]:
    with np.load(path) as data:
        meta, frames = json.loads(data["meta"].tobytes()), data["acoustics"]
    ends = np.cumsum([length for length, _ in meta])
    rows = np.split(frames, ends[:-1])
    return [NOTHING._replace(acoustics=row, words=words) for row, (_, words) in zip(rows, meta, strict=True)]
