"""Judged samples of the supervised policy, K a query: what the reward model learns from (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import Recording, write_audio
from lightning_paras2s.data.completions import keep_completions
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.made_from import Recipe, claim, made_from
from lightning_paras2s.data.swapped import Draw, number_of, swapped
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import InputPath, UserError, check_apart
from lightning_paras2s.judging.rewards import Reward, repeat
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM, sampling_noise
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Audio, append_jsonl, read_jsonl


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
        train: manifest (JSON lines of `Preference`) written by `build_preferences`; may be several: of the supervised
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
        return PreferenceBatch(
            queries, responses, scores, [p.factor for p, _ in items], [p.query_id for p, _ in items]
        )

    def train_dataloader(self) -> ResumableLoader:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return ResumableLoader(self.train, self._collate, self.batch_size, self.seed, rank=rank, world_size=world_size)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.val, self._collate, self.batch_size, shuffle=False, drop_last=False)


@torch.no_grad()
def build_preferences(
    policy: SpeechLM,
    processor: Processor,
    reward: Reward,
    batches: Iterable[DualStreamBatch],
    folder: str | Path,
    samples: int = 8,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    others: int = 0,
    written: WrittenAnswers | None = None,
    keep_tokens: bool = False,
    draw: Draw = "repeated",
) -> Path:
    """Sample, judge and keep `samples` responses a query; killed and called again, it goes on where it stopped. A
    query's samples are a function of (seed, its id), whatever else is in its batch.

    Args:
        others: each response is also judged as an answer to so many other queries of its batch (`swapped`), or the
            scorer could learn which answers are good, and not for whom.
        written: answers of demonstrations beside the sampled ones, or the scorer would never hear a good answer of a
            kind that the policy doesn't give.
        keep_tokens: write the sampled answers' tokens, too, to `completions.jsonl`.
        draw: how the other queries are drawn, see `swapped`.

    Returns:
        The manifest, `folder/preferences.jsonl`; the recordings lie beside it.

    Raises:
        UserError: the folder has answers that were made from something else; or scores off the scale of 1..5.
    """
    folder = Path(folder)
    recipe = Recipe(samples, sampling, seed, others, written, keep_tokens, draw)
    claim(folder, made_from(policy, reward.config_sha, recipe), begun=(folder / "preferences.jsonl").is_file())
    append_jsonl(folder / "preferences.jsonl", [])
    for batch in batches:
        sample_batch(policy, processor, reward, batch, folder, recipe)
    return folder / "preferences.jsonl"


@torch.no_grad()
def sample_batch(
    policy: SpeechLM, processor: Processor, reward: Reward, batch: DualStreamBatch, folder: Path, recipe: Recipe
) -> None:
    """`build_preferences` of one batch, in a folder that is made from the same."""
    manifest, attempted = folder / "preferences.jsonl", folder / "done.txt"
    append_jsonl(manifest, [])  # mends a half line
    finished = set(attempted.read_text().splitlines()) if attempted.is_file() else set()
    if all(query.id in finished for query in batch.queries):
        return
    done = {(p.query_id, p.answers, p.sample): p for p in read_jsonl(manifest, Preference)}
    policy.eval()
    samples, sampling, seed = recipe.samples, recipe.sampling, recipe.seed
    noise = torch.cat([sampling_noise(seed, number_of(q.id), samples, sampling.max_steps) for q in batch.queries])
    completion = policy.generate(batch.prompt, sampling, noise, samples)
    if recipe.keep_tokens:
        append_jsonl(folder / "completions.jsonl", keep_completions(batch.queries, completion, policy.streams))
    pools = [(0, processor.speak(completion))]
    if recipe.written is not None:
        pools.append((samples, recipe.written.answer(batch, processor, seed)))
    found, asked = [], [batch, *swapped(batch, recipe.others, seed, recipe.draw)]
    for first, responses in pools:
        for queries, scores in zip(asked, reward.score_for(asked, responses), strict=True):
            _check_scale(reward, scores, recipe.keep_tokens)
            found += _preferences(queries, batch, responses, scores, first)
        _keep(folder, batch, responses, first)
    answers = {p.response_audio for p in done.values()}
    for query, audio in zip(batch.queries, batch.audios, strict=True):
        if (place := _query_audio(query.id)) in answers:
            raise UserError(
                f"{folder} must hold no answer where a query's recording belongs; got one at {place}, of an earlier "
                "version; choose another model.folder"
            )
        write_audio(folder / place, audio)
    new = {key: p for p in found if (key := (p.query_id, p.answers, p.sample)) not in done}
    append_jsonl(manifest, list(new.values()))
    with attempted.open("a") as file:
        file.write("".join(f"{query.id}\n" for query in batch.queries))


def _check_scale(reward: Reward, scores: Tensor, keep_tokens: bool) -> None:
    """A reward model learns 1..5 alone; the best of an answer's tokens can be learned of any scale.

    Raises:
        UserError: scores off that scale, where no tokens are kept that could be learned in their stead.
    """
    if (strange := next((s for s in scores.tolist() if s == s and off_scale(s)), None)) is None:
        return
    got = f"got {strange:g} of {type(reward).__name__}"
    if not keep_tokens:
        raise UserError(
            f"the scores that a reward model learns must be from 1 to 5; {got}; map them onto 1..5, or set "
            "model.keep_tokens to learn the best answers themselves (RejectionDataModule, data.floor on that scale)"
        )
    say_once(f"no reward model can learn scores that are not from 1 to 5; {got}; the kept tokens can be learned")


def _keep(folder: Path, batch: DualStreamBatch, responses: list[SpokenResponse], first: int) -> None:
    """Write the recordings of a query's responses, numbered from `first`."""
    count = len(responses) // len(batch)
    for i, (query, response) in enumerate(zip(repeat(batch.queries, count), responses, strict=True)):
        if len(response.audio.samples):
            write_audio(folder / _answer_audio(query.id, first + i % count), response.audio)


def _preferences(
    asked: DualStreamBatch, answered: DualStreamBatch, responses: list[SpokenResponse], scores: Tensor, first: int
) -> list[Preference]:
    """The responses to `answered`, numbered from `first`, with their scores as answers to `asked`."""
    samples = len(responses) // len(answered)
    pairs = zip(repeat(asked.queries, samples), repeat(answered.queries, samples), strict=True)
    return [
        Preference(
            query.id,
            first + i % samples,
            _query_audio(query.id),
            _answer_audio(own.id, first + i % samples),
            score,
            response.text,
            "" if own.id == query.id else own.id,
            query.factor,
        )
        for i, ((query, own), response, score) in enumerate(zip(pairs, responses, scores.tolist(), strict=True))
        if score == score and len(response.audio.samples)
    ]


def _query_audio(query_id: str) -> str:
    return f"audio/{query_id}.flac"


def _answer_audio(query_id: str, sample: int) -> str:
    """In a folder of its own: the first answer to "clip-1" is no query "clip-1-0"."""
    return f"answers/{query_id}-{sample}.flac"


def off_scale(score: float) -> bool:
    """Whether a score is none of 1..5, the scale that a reward model learns; rounding aside (an expected score of 5
    may be 5.0000005)."""
    return not 1 - 1e-4 <= score <= 5 + 1e-4
