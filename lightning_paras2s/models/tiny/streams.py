"""From codes and words to the embedded policy's two token streams.

Prompt: user_start, the query's codes, user_end on the audio stream; then the query's transcript on the text stream;
then assistant_start with the task's mark. (In Kimi-Audio's template, too, speech and text take turns; a transcript
summed onto the codes was not copied from.)
Completion: each word at its onset on the text stream, its audio `delay` steps later.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_paras2s.data.dual_stream import DualStreamBatch, pad_completions, pad_prompts
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tiny.vocabulary import BLANK, EOS, TextVocab
from lightning_paras2s.types import Audio, Query


@dataclass(frozen=True)
class AudioIds:
    """Special ids of the embedded policy's audio stream, after the codes."""

    codes: int

    @property
    def blank(self) -> int:
        return self.codes

    @property
    def eos(self) -> int:
        return self.codes + 1

    @property
    def user_start(self) -> int:
        return self.codes + 2

    @property
    def user_end(self) -> int:
        return self.codes + 3

    @property
    def assistant_start(self) -> int:
        return self.codes + 4


@dataclass(frozen=True)
class Example:
    """One training example before padding.

    Attributes:
        prompt: [2, P]; features: [P, F] with `features_mask` [P].
        completion: [2, T] and actions [2, T], or None (reinforcement learning).
    """

    prompt: Tensor
    features: Tensor
    features_mask: Tensor
    completion: Tensor | None = None
    actions: Tensor | None = None
    query: Query | None = None
    audio: Audio | None = None


def build_prompt(
    ids: AudioIds, vocab: TextVocab, codes: Tensor, features: Tensor, transcript: str, task: str = "chat"
) -> tuple[Tensor, Tensor, Tensor]:
    """codes [T], features [T, F] -> tokens [2, P], features [P, F], features_mask [P].

    Without audio (codes of length 0) the prompt is the transcript alone.
    """
    words = torch.tensor(vocab.encode(transcript), dtype=torch.long)
    heard = slice(1, 1 + len(codes))
    said = slice(2 + len(codes), 2 + len(codes) + len(words))
    tokens = torch.empty(2, said.stop + 1, dtype=torch.long)
    tokens[TEXT], tokens[AUDIO] = BLANK, ids.blank
    tokens[AUDIO, 0], tokens[AUDIO, heard.stop], tokens[AUDIO, -1] = ids.user_start, ids.user_end, ids.assistant_start
    tokens[AUDIO, heard], tokens[TEXT, said], tokens[TEXT, -1] = codes, words, vocab.task(task)
    placed = torch.zeros(tokens.shape[1], features.shape[-1])
    placed[heard] = features
    mask = torch.zeros(tokens.shape[1], dtype=torch.bool)
    mask[heard] = True
    return tokens, placed, mask


def build_completion(
    ids: AudioIds, vocab: TextVocab, codes: Tensor, text: str, onsets: tuple[int, ...], delay: int
) -> tuple[Tensor, Tensor]:
    """codes [T] and the words with their onsets (in codes) -> tokens [2, delay + T + 1], actions.

    A spelt word takes as many steps as it has letters, and begins before its onset where what is left would not fit
    behind it. Text EOS follows the last word; the blanks after it and the audio blanks of the delay are forced, not
    actions.
    """
    total = len(codes) + delay + 1
    tokens = torch.empty(2, total, dtype=torch.long)
    tokens[TEXT], tokens[AUDIO] = BLANK, ids.blank
    tokens[AUDIO, delay:-1], tokens[AUDIO, -1] = codes, ids.eos
    step = 0
    spoken = [pieces for word in text.split() if (pieces := vocab.encode(word))][: len(onsets)]
    left = sum(map(len, spoken))
    for pieces, onset in zip(spoken, onsets, strict=False):
        step = max(step, min(onset, total - 1 - left))
        left -= len(pieces)
        for piece in pieces:
            if step < total - 1:
                tokens[TEXT, step] = piece
                step += 1
    tokens[TEXT, min(step, total - 1)] = EOS
    actions = torch.ones(2, total, dtype=torch.bool)
    actions[TEXT, min(step, total - 1) + 1 :] = False
    actions[AUDIO, :delay] = False
    return tokens, actions


def unspelt(vocab: TextVocab, text: str) -> str:
    """The first word of an answer that the text stream can't write in full ("42"); "" if it can. The voice would say
    what the words leave out."""
    return next((w for w in plain_words(text) if w not in vocab.index and len(vocab.encode_word(w)) < len(w)), "")


def collate(examples: list[Example]) -> DualStreamBatch:
    """Left-pad prompts, right-pad completions."""
    user_start = int(examples[0].prompt[AUDIO, 0])
    prompt = pad_prompts([(e.prompt, e.features, e.features_mask) for e in examples], (BLANK, user_start))
    completion = None
    if all(e.completion is not None for e in examples):
        blank = int(examples[0].completion[AUDIO, 0])  # a completion begins with it
        completion = pad_completions([(e.completion, e.actions) for e in examples], (BLANK, blank))
    queries, audios = [e.query for e in examples if e.query], [e.audio for e in examples if e.audio]
    return DualStreamBatch(prompt, completion, queries, audios)
