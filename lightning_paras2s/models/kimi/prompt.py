"""Kimi-Audio's prompt template and answers, a dialogue and batches of them (ids: `KimiConfig`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.turns import Turn

MARKS = 6  # tokens of the template around a query's codes
CODE_RATE = 12.5  # Hz


class Piece(NamedTuple):
    """A turn as it stands in a prompt: tokens [2, T]; features [n, F] of the n positions where `mask` [T] is True."""

    tokens: Tensor
    features: Tensor
    mask: Tensor


def speech_prompt(
    config: KimiConfig, codes: Tensor, features: Tensor, before: Sequence[Piece] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """A spoken user turn that wants text and speech in return, behind the dialogue's earlier turns.

    Audio stream: user_start media_begin codes media_end speech_ctd msg_end assistant_start; text stream: blanks.

    Args:
        codes: [T], ids; features: [T, F].
        before: earlier turns, the oldest first.

    Returns:
        tokens [2, P], features [P, F], their mask [P]; P is T + 6 and the length of the earlier turns.
    """
    pieces = [*before, spoken_turn(config, codes, features)]
    start = codes.new_tensor([[config.blank], [config.assistant_start]])
    tokens = torch.cat([*(piece.tokens for piece in pieces), start], 1)
    mask = torch.cat([*(piece.mask for piece in pieces), torch.zeros(1, dtype=torch.bool, device=codes.device)])
    placed = features.new_zeros(len(mask), features.shape[-1])
    placed[mask] = torch.cat([piece.features for piece in pieces])
    return tokens, placed, mask


def spoken_turn(config: KimiConfig, codes: Tensor, features: Tensor) -> Piece:
    """A user's recording. In the release, too, each that closes a user's turn asks for text and speech."""
    marks = [config.media_end, config.speech_ctd, config.msg_end]
    audio = torch.cat([codes.new_tensor([config.user_start, config.media_begin]), codes, codes.new_tensor(marks)])
    tokens = torch.full((2, len(audio)), config.blank, device=codes.device)
    tokens[AUDIO] = audio
    mask = torch.zeros(len(audio), dtype=torch.bool, device=codes.device)
    mask[2 : 2 + len(codes)] = True
    return Piece(tokens, features, mask)


def written_turn(config: KimiConfig, start: int, text: list[int], features: Tensor) -> Piece:
    """A turn of which only the words are known: start, words on the text stream, msg_end.

    Args:
        start: user_start or assistant_start.
        features: [., F]; their type, device and F.
    """
    tokens = torch.full((2, len(text) + 2), config.blank, device=features.device)
    tokens[TEXT, 1:-1] = torch.tensor(text, device=features.device)
    tokens[AUDIO, 0], tokens[AUDIO, -1] = start, config.msg_end
    return Piece(tokens, features[:0], torch.zeros(len(text) + 2, dtype=torch.bool, device=features.device))


def spoken_answer(config: KimiConfig, codes: Tensor, text: list[int], features: Tensor) -> Piece:
    """An assistant's earlier answer: assistant_start, then as it was spoken (6 blanks, codes; its words beside them, no
    text_eos), msg_end. It has no features: only what users say is heard by the feature encoder."""
    spoken = config.kimia_mimo_audiodelaytokens + len(codes)
    tokens = torch.full((2, spoken + 2), config.blank, device=codes.device)
    tokens[AUDIO, 0], tokens[AUDIO, -1] = config.assistant_start, config.msg_end
    tokens[AUDIO, -1 - len(codes) : -1] = codes
    tokens[TEXT, 1 : 1 + len(text)] = torch.tensor(text, device=codes.device)
    return Piece(tokens, features[:0], torch.zeros(spoken + 2, dtype=torch.bool, device=codes.device))


def turn_length(config: KimiConfig, turn: Turn, words: int) -> int:
    """Positions of an earlier turn with so many tokens of text.

    Raises:
        UserError: its words don't fit beside its speech.
    """
    if turn.sound is None:
        return words + 2
    if turn.role == "user":
        return MARKS - 1 + codes_in(turn.seconds)
    room = config.kimia_mimo_audiodelaytokens + codes_in(turn.seconds)
    if words > room:
        raise UserError(
            f"an earlier answer's text must fit beside its speech, in {room} tokens; got {words}: {turn.text!r:.60}; "
            "is the recording cut, or the text another's?"
        )
    return room + 2


def demonstration(config: KimiConfig, codes: Tensor, text: list[int]) -> tuple[Tensor, Tensor]:
    """One spoken answer: 6 blanks, codes, msg_end on the audio stream; words, text_eos, blanks on the text stream.

    Returns:
        tokens [2, T], and what is to be learned [2, T] (not the blanks).

    Raises:
        UserError: the text does not fit beside the speech.
    """
    delay, blank = config.kimia_mimo_audiodelaytokens, config.blank
    steps = delay + len(codes) + 1
    if len(text) + 1 > steps:
        raise UserError(
            f"an answer's text must fit beside its speech, in {steps - 1} tokens; got {len(text)}; "
            "is the audio cut or the text another's?"
        )
    tokens = torch.full((2, steps), blank)
    tokens[AUDIO, delay:-1], tokens[AUDIO, -1] = codes, config.msg_end
    tokens[TEXT, : len(text) + 1] = torch.tensor([*text, config.text_eos])
    learned = torch.zeros(2, steps, dtype=torch.bool)
    learned[AUDIO, delay:] = True
    learned[TEXT, : len(text) + 1] = True
    return tokens, learned


def codes_in(seconds: float) -> int:
    """Codes of a recording. 7 x 0.08 s is 7 codes, though 0.56 x 12.5 is a little more than 7."""
    return math.ceil(round(seconds * CODE_RATE, 6))


def response_steps(config: KimiConfig, seconds: float) -> int:
    """Steps of a spoken answer: the delay, its codes, its end."""
    return config.kimia_mimo_audiodelaytokens + codes_in(seconds) + 1


def check_context(config: KimiConfig, name: str, seconds: float, steps: int, before: int = 0) -> None:
    """A query of some seconds, behind earlier turns of some positions, and an answer of some steps must fit in the
    context.

    Raises:
        UserError: naming the query.
    """
    length, room = before + MARKS + codes_in(seconds) + steps, config.max_position_embeddings
    told = f", behind {before} positions of earlier turns" if before else ""
    if length > room:
        raise UserError(
            f"query and answer together must fit in {room} positions (12.5 a second); got {length} for {name!r} "
            f"({seconds:.0f} s and {steps} steps{told}); shorten the query or lower max_steps"
        )
