"""The policy under test, of any family: it hears a query as it did in training and answers on both streams; its codes
are decoded (paper, section 5).

Departure from released demos: no top-k and no repetition penalty unless `sampling` names them, since a policy is
trained on samples at a temperature alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_paras2s.batches import by_length
from lightning_paras2s.bench.systems.base import Answer, S2SSystem, digest
from lightning_paras2s.data.dialogue import Dialogue, HeardUtterance
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.speech_lm import Sampling, SpeechLM
from lightning_paras2s.running.origins import weights_sha
from lightning_paras2s.running.shipped import shipped
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query

GREEDY = Sampling(256, 0.0, 0.0)


class PolicySystem(S2SSystem):
    """A trained dual-stream policy behind the processor that it was trained with. Weights are read when the first
    answer is asked for. Earlier turns stand in its prompt, where its family's template has a place for them. The
    `latency` of an answer is its share of the time that its batch took: a lone query waits longer.

    Args:
        policy: weights of the policy: a file (.safetensors) or a folder, as its family keeps them.
        processor: the family's ears, voice and words.
        sampling: temperatures and step limit; greedy by default.
        seed: with query and sample decides the noise.
        rows: queries decoded at once, of like length.
        device: where the policy runs; `auto` is the GPU if there is one.
        dtype: of the policy's weights.
    """

    def __init__(
        self,
        policy: InputPath,
        processor: Processor,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        rows: int = 32,
        device: str = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device must be there; got {device!r} without CUDA; set device: cpu or use a GPU machine")
        self.path, self.processor = policy, processor
        self.sampling, self.seed, self.rows, self.device, self.dtype = sampling, seed, rows, device, dtype
        self.processor.fits(policy)
        self.config_sha = digest([sampling, seed, dtype, weights_sha(shipped(policy)), processor.config_sha], [])

    @cached_property
    def policy(self) -> SpeechLM:
        return self.processor.load_policy(self.path, self.device, self.dtype)

    def release(self) -> None:
        self.__dict__.pop("policy", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def carries(self, turns: Sequence[Turn]) -> bool:
        return self.processor.carries_turns

    def check(self, queries: list[Query], seconds: list[float]) -> None:
        asked = [Dialogue("chat", None, HeardUtterance(s), None, q) for q, s in zip(queries, seconds, strict=True)]
        self.processor.check_turns(asked)
        self.processor.check(asked, False, self.sampling.max_steps)

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        self.check(queries, [audio.seconds for audio in audios])
        started = time.perf_counter()
        noise = torch.stack([self._noise(query, sample) for query in queries])
        turns = [query.turns for query in queries]
        items = self.processor.hear(audios, turns) if any(turns) else self.processor.hear(audios)
        answers = answer_items(self.policy, self.processor, items, self.sampling, noise, self.rows, self.device)
        latency = {"total_seconds": (time.perf_counter() - started) / len(queries)}
        return [replace(answer, latency=latency) for answer in answers]

    def _noise(self, query: Query, sample: int) -> Tensor:
        """[2, steps], of this query and sample alone."""
        key = hashlib.sha256(f"{self.seed}/{query.id}/{sample}".encode()).digest()[:7]
        return torch.rand(2, self.sampling.max_steps, generator=torch.Generator().manual_seed(int.from_bytes(key)))


@torch.no_grad()
def answer_items(
    policy: SpeechLM,
    processor: Processor,
    items: list[Any],
    sampling: Sampling = GREEDY,
    noise: Tensor | None = None,
    rows: int = 32,
    device: str = "cpu",
) -> list[Answer]:
    """What a policy says to what its processor heard; `rows` items, of like length, are decoded at once.

    Args:
        noise: [len(items), 2, max_steps], see `SpeechLM.generate`; may be None if greedy.
    """
    answers: dict[int, Answer] = {}
    for index in by_length([processor.length(item) for item in items], rows):
        batch = processor.to_device(processor.collate([items[i] for i in index]), torch.device(device))
        completion = policy.generate(batch.prompt, sampling, None if noise is None else noise[index].to(device))
        parts = [torch.tensor([row]) for row in range(len(index))] if processor.speaks_alone else [slice(None)]
        spoken = [response for part in parts for response in processor.speak(completion.rows(part))]
        for i, response in zip(index, spoken, strict=True):
            answers[i] = Answer(response.audio, response.text, "ok" if response.finished else "truncated")
    return [answers[i] for i in range(len(items))]
