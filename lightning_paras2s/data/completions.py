"""A policy's own answers kept as their tokens: demonstrations that no codec has to make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_paras2s.models.speech_lm import Completion, Streams
from lightning_paras2s.types import Query


@dataclass(frozen=True)
class KeptCompletion:
    """A sampled answer's tokens.

    Attributes:
        query_id, sample: whose it is, as in `Preference`.
        text, audio: the tokens of both streams, a step each.
        text_actions, audio_actions: "1" where the token was sampled, "0" where it was forced.
        blanks: what stands on both streams where there is nothing.
        finished: ended by itself and not by the step limit.
    """

    query_id: str
    sample: int
    text: list[int]
    audio: list[int]
    text_actions: str
    audio_actions: str
    blanks: list[int]
    finished: bool


def keep_completions(queries: list[Query], completion: Completion, streams: Streams) -> list[KeptCompletion]:
    """Records of the answers of a batch, those to a query adjacent, without padding."""
    samples, kept, blanks = len(completion) // len(queries), [], [streams.text_blank, streams.audio_blank]
    for i in range(len(completion)):
        row = completion.rows(slice(i, i + 1)).trim().to("cpu")
        actions = ["".join("01"[int(a)] for a in stream) for stream in row.actions[0]]
        query, tokens = queries[i // samples], row.tokens[0].tolist()
        kept.append(KeptCompletion(query.id, i % samples, *tokens, *actions, blanks, bool(row.finished)))
    return kept


def demonstration(kept: KeptCompletion) -> tuple[Tensor, Tensor]:
    """Tokens [2, T] and what is to be learned of them [2, T], for `pad_completions`."""
    learned = [[action == "1" for action in actions] for actions in (kept.text_actions, kept.audio_actions)]
    return torch.tensor([kept.text, kept.audio]), torch.tensor(learned)
