"""Kimi-Audio's prompt template and answers, one utterance and batches of them (ids: `KimiConfig`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.speech_lm import AUDIO, TEXT

MARKS = 6  # tokens of the template around a query's codes
CODE_RATE = 12.5  # Hz


def speech_prompt(config: KimiConfig, codes: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One spoken user turn that wants text and speech in return.

    Audio stream: user_start media_begin codes media_end speech_ctd msg_end assistant_start; text stream: blanks.

    Args:
        codes: [T], ids; features: [T, F].

    Returns:
        tokens [2, T + 6], features [T + 6, F], their mask [T + 6].
    """
    before = [config.user_start, config.media_begin]
    after = [config.media_end, config.speech_ctd, config.msg_end, config.assistant_start]
    audio = torch.cat([codes.new_tensor(before), codes, codes.new_tensor(after)])
    tokens = torch.full((2, len(audio)), config.blank, device=codes.device)
    tokens[AUDIO] = audio
    mask = torch.zeros(len(audio), dtype=torch.bool, device=codes.device)
    mask[2 : 2 + len(codes)] = True
    placed = features.new_zeros(len(audio), features.shape[-1])
    placed[mask] = features
    return tokens, placed, mask


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


def check_context(config: KimiConfig, name: str, seconds: float, steps: int) -> None:
    """A query of some seconds and an answer of some steps must fit in the context.

    Raises:
        UserError: naming the query.
    """
    length, room = MARKS + codes_in(seconds) + steps, config.max_position_embeddings
    if length > room:
        raise UserError(
            f"query and answer together must fit in {room} positions (12.5 a second); got {length} for {name!r} "
            f"({seconds:.0f} s and {steps} steps); shorten the query or lower max_steps"
        )
