"""The policy under test: it hears a query as it did in training, answers on both streams, and its codes are decoded."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import resample
from lightning_paras2s.bench.systems.base import Answer, S2SSystem, digest
from lightning_paras2s.data.dual_stream import AudioIds, Example, build_prompt, collate
from lightning_paras2s.errors import InputPath
from lightning_paras2s.hearing.transcribers import TinyTranscriber
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
from lightning_paras2s.models.tiny.vocabulary import TextVocab
from lightning_paras2s.speaking.codec import speak
from lightning_paras2s.types import Audio, Query

GREEDY = Sampling(256, 0.0, 0.0)
REMEMBERED = 256  # prompts: about 100 kB each


class PolicySystem(S2SSystem):
    """A trained dual-stream policy behind the codec and the transcriber that it was trained with.

    Args:
        policy: its weights (.safetensors).
        tokenizer: the codec's weights; by default those that are shipped.
        transcriber: weights of the ear that writes down the query for it; by default those that are shipped.
        sampling: temperatures and step limit; greedy by default.
        seed: of the samples, where a temperature is not 0.
        rows: queries decoded at once, of like length.
    """

    def __init__(
        self,
        policy: InputPath,
        tokenizer: InputPath = "checkpoints/embedded/tokenizer.safetensors",
        transcriber: InputPath = "checkpoints/embedded/transcriber.safetensors",
        sampling: Sampling = GREEDY,
        seed: int = 0,
        rows: int = 32,
    ) -> None:
        self.policy, self.prompter = TinySpeechLM.load(policy).eval(), load_prompter(tokenizer, transcriber)
        self.sampling, self.seed, self.rows = sampling, seed, rows
        self.config_sha = digest([sampling, seed], [policy, tokenizer, transcriber])

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        started = time.perf_counter()
        examples = [self.prompter.example(audio) for audio in audios]
        noise = torch.stack([self._noise(query, sample) for query in queries])
        parts = (self.prompter.tokenizer, self.prompter.vocab)
        answers = answer_prompts(self.policy, examples, *parts, self.sampling, noise, self.rows)
        latency = {"total_seconds": (time.perf_counter() - started) / len(queries)}
        return [replace(answer, latency=latency) for answer in answers]

    def _noise(self, query: Query, sample: int):
        key = hashlib.sha256(f"{self.seed}/{query.id}/{sample}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(key))
        return torch.rand(2, self.sampling.max_steps, generator=generator)


def answer_prompts(
    policy: TinySpeechLM,
    examples: list[Example],
    tokenizer: TinyTokenizer,
    vocab: TextVocab,
    sampling: Sampling = GREEDY,
    noise: Tensor | None = None,
    rows: int = 32,
) -> list[Answer]:
    """What a policy says to prompts; `rows` of them, of like length, are decoded at once.

    Args:
        noise: [len(examples), 2, max_steps], see `SpeechLM.generate`; may be None if greedy.
    """
    order = sorted(range(len(examples)), key=lambda i: (examples[i].prompt.shape[1], i))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), rows):
        index = order[start : start + rows]
        prompt = collate([examples[i] for i in index]).prompt
        completion = policy.generate(prompt, sampling, None if noise is None else noise[index])
        for row, i in enumerate(index):
            # One answer a pass: padding would change what the codec makes of its last codes.
            spoken = speak(completion.rows(torch.tensor([row])), tokenizer, vocab)[0]
            answers[i] = Answer(spoken.audio, spoken.text, "ok" if spoken.finished else "truncated")
    return [answers[i] for i in range(len(examples))]


class Prompter:
    """Hears queries for policies: codes, features and transcript. Policies with the same ears share one, and it hears
    each recording once for all of them."""

    def __init__(self, tokenizer: str, transcriber: str) -> None:
        self.tokenizer = TinyTokenizer.load(tokenizer)
        # One recording a pass: padding to a batch's longest could change what is heard.
        self.transcriber = TinyTranscriber(transcriber, batch_size=1)
        self.vocab, self.ids = TextVocab(), AudioIds(self.tokenizer.vocab_size)
        self._remembered = lru_cache(REMEMBERED)(self._example)

    def example(self, audio: Audio) -> Example:
        return self._remembered(audio.samples.tobytes(), audio.sample_rate)

    def _example(self, samples: bytes, sample_rate: int) -> Example:
        audio = Audio(np.frombuffer(samples, np.float32), sample_rate)
        transcript = self.transcriber.transcribe([audio])[0]
        wav = torch.from_numpy(resample(audio, self.tokenizer.sample_rate).samples.copy())[None]
        lengths = torch.tensor([wav.shape[-1]])
        codes, counts = self.tokenizer.encode(wav, lengths)
        count = int(counts[0])
        features = self.tokenizer.features(wav, lengths)[0, :count]
        return Example(*build_prompt(self.ids, self.vocab, codes[0, :count], features, transcript))


@lru_cache(maxsize=4)
def load_prompter(tokenizer: str, transcriber: str) -> Prompter:
    return Prompter(tokenizer, transcriber)
