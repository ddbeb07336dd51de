"""Draws answers to a batch, judges them and keeps them in a folder (paper, section 4.2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.completions import keep_completions
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.made_from import Recipe
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.data.swapped import number_of, swapped
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import off_scale
from lightning_paras2s.judging.rewards import Reward, checked, repeat
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.speech_lm import SpeechLM, sampling_noise
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import append_jsonl, read_jsonl


@torch.no_grad()
def sample_batch(
    policy: SpeechLM, processor: Processor, reward: Reward, batch: DualStreamBatch, folder: Path, recipe: Recipe
) -> None:
    """Sample, judge and keep responses to the queries of a batch that a folder is not done with. A query's samples are
    a function of (seed, its id), whatever else is in its batch. The folder is done with a query if one of its answers
    was scored, or none has a sound: one whose judge failed is asked for again by the next run.

    Raises:
        UserError: scores off the scale of 1..5, or a folder of an earlier version whose answers stand where the
            queries' recordings belong.
    """
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
        for queries, told in zip(asked, reward.score_for(asked, responses), strict=True):
            scores = checked(reward, told, responses)
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
        file.write("".join(f"{name}\n" for name in settled(batch, pools[0][1], found)))


def settled(batch: DualStreamBatch, responses: list[SpokenResponse], found: list[Preference]) -> list[str]:
    """Ids of a batch's queries with a scored answer of their own, or without an answer that can be heard."""
    scored = {p.query_id for p in found if not p.answers}
    asked = repeat([query.id for query in batch.queries], len(responses) // len(batch))
    heard = {name for name, response in zip(asked, responses, strict=True) if len(response.audio.samples)}
    return [query.id for query in batch.queries if query.id in scored or query.id not in heard]


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
    """Write the recordings of a query's responses, numbered from `first`; one that is not finite has no score."""
    count = len(responses) // len(batch)
    for i, (query, response) in enumerate(zip(repeat(batch.queries, count), responses, strict=True)):
        if len(response.audio.samples) and np.isfinite(response.audio.samples).all():
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
