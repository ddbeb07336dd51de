"""From codes to speech: completions as a listener gets them, and what a codec leaves of recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_paras2s.audio import in_range, resample
from lightning_paras2s.batches import by_length
from lightning_paras2s.data.dialogue import SPEECH_RATE
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.types import Audio

TOGETHER = 16  # responses that are decoded at once


@dataclass(frozen=True)
class SpokenResponse:
    """A completion as a listener gets it.

    Attributes:
        audio: the decoded audio stream; empty where it was not decoded, or held no code.
        text: the text stream in words.
        finished: ended by audio EOS and not by the step limit.
        text_ids: ids that were sampled on the text stream, blanks and EOS included.
    """

    audio: Audio
    text: str
    finished: bool
    text_ids: tuple[int, ...]


@torch.no_grad()
def speak(
    completion: Completion, tokenizer: SpeechTokenizer | None, words: Callable[[list[int]], str]
) -> list[SpokenResponse]:
    """Decode both streams of every completion; forced tokens and special ids are not spoken.

    Args:
        tokenizer: the voice; None = the audio stream is not decoded, and the responses are silent.
        words: text ids -> words.
    """
    rows = []
    for tokens, actions in zip(completion.tokens.cpu(), completion.actions.cpu(), strict=True):
        rows.append((tokens[AUDIO][actions[AUDIO]], tokens[TEXT][actions[TEXT]].tolist()))
    audios = [Audio(np.zeros(0, np.float32), SPEECH_RATE)] * len(rows)
    if tokenizer is not None:
        audios = decode_codes(tokenizer, [codes[codes < tokenizer.vocab_size] for codes, _ in rows])
    return [
        SpokenResponse(audio, words(ids), bool(finished), tuple(ids))
        for audio, (_, ids), finished in zip(audios, rows, completion.finished, strict=True)
    ]


def decode_codes(tokenizer: SpeechTokenizer, codes: list[Tensor]) -> list[Audio]:
    """Codes of several responses, [T] each, to waveforms; those of like length together."""
    found: dict[int, Audio] = {}
    for part in by_length([len(c) for c in codes], TOGETHER):
        lengths = torch.tensor([len(codes[i]) for i in part])
        padded = pad_sequence([*(codes[i] for i in part), codes[0].new_zeros(1)], batch_first=True)[:-1]
        wav, samples = tokenizer.decode(padded, lengths)
        for i, row, n in zip(part, wav.float().cpu().numpy(), samples, strict=True):
            # As in a file: training hears what is evaluated.
            found[i] = Audio(in_range(row[: int(n)])[0], tokenizer.sample_rate)
    return [found[i] for i in range(len(codes))]


def load_codec(path: str) -> SpeechTokenizer:
    """The codec whose weights a file holds: of all families', the embedded one alone has both ways in one file."""
    from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer

    return TinyTokenizer.load(path).requires_grad_(False)


def through_codec(audios: list[Audio], tokenizer: SpeechTokenizer) -> list[Audio]:
    """What the codec leaves of recordings, which it hears at its own rate."""
    codes = []
    for audio in audios:
        samples = resample(audio, tokenizer.sample_rate).samples
        wav = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
        found, counts = tokenizer.encode(wav, torch.tensor([wav.shape[-1]]))
        codes.append(found[0, : int(counts[0])])
    return decode_codes(tokenizer, codes)
