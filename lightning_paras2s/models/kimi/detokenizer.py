"""Codes -> 24 kHz speech as Kimi-Audio does it: mel chunk by chunk (flow matching with look-ahead), vocoder,
cross-fade.

Kept from the original, since the released model's users hear it so: the two halves of a Hamming window add up to
1.08, so cross-faded stretches are 8 % louder, and the last chunk is joined without a cross-fade.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_paras2s.models.kimi.bigvgan import BigVGAN
from lightning_paras2s.models.kimi.flow_matching import FlowMatching, FlowStream, Noise


@dataclass
class Voice:
    """One utterance on its way out: the vocoded second half of what was last put out, and its mel."""

    wav: Tensor | None = None
    mel: Tensor | None = None


class Detokenizer(nn.Module):
    """Batched over utterances of any lengths; each comes out as if it were alone.

    Args:
        flow: codes to mel.
        vocoder: mel to wave.
    """

    def __init__(self, flow: FlowMatching, vocoder: BigVGAN) -> None:
        super().__init__()
        self.flow, self.vocoder = flow, vocoder

    def decode(self, codes: list[Tensor], noise: Noise) -> list[Tensor]:
        """Codes [n_i] -> waveforms [1920 n_i] (0 codes: empty)."""
        pieces: list[list[Tensor]] = [[] for _ in codes]
        for row, piece in self.stream(codes, noise):
            pieces[row].append(piece)
        return [torch.cat(p) if p else self.vocoder.conv_pre.bias.new_zeros(0) for p in pieces]

    @torch.no_grad()
    def stream(self, codes: list[Tensor], noise: Noise) -> Iterator[tuple[int, Tensor]]:
        """(row, samples) as they come, chunk after chunk of 30 codes."""
        size, stream = self.flow.config.chunk_codes, FlowStream(self.flow, noise)
        rows = [i for i, c in enumerate(codes) if len(c)]
        voices, start = {i: Voice() for i in rows}, 0
        while rows:
            final = [len(codes[i]) <= start + size for i in rows]
            mels = stream([codes[i][start : start + size] for i in rows], final)
            wavs = self.vocode([m if (v := voices[i].mel) is None else torch.cat([v, m]) for i, m in zip(rows, mels)])
            for i, last, mel, wav in zip(rows, final, mels, wavs):
                yield i, wav if last else cross_fade(voices[i], mel, wav)
            stream.keep([k for k, last in enumerate(final) if not last])
            rows, start = [i for i, last in zip(rows, final) if not last], start + size

    def vocode(self, mels: list[Tensor]) -> list[Tensor]:
        """Mels [T_i, 80] -> waveforms; those of one length together, since padding would change a row's end."""
        found: dict[int, Tensor] = {}
        for length in {len(m) for m in mels}:
            same = [i for i, m in enumerate(mels) if len(m) == length]
            mel = torch.stack([mels[i] for i in same]).to(self.vocoder.conv_pre.bias)
            wav = self.vocoder(mel.transpose(1, 2))[:, 0]
            found |= dict(zip(same, wav))
        return [found[i] for i in range(len(mels))]


def cross_fade(voice: Voice, mel: Tensor, wav: Tensor) -> Tensor:
    """Put out a middle chunk and keep the rest (in `voice`) for the next.

    Args:
        mel: the chunk's new frames [T, 80]; wav: vocoded old and new frames.
    """
    mel = mel if voice.mel is None else torch.cat([voice.mel, mel])
    hop = len(wav) // len(mel)
    if voice.wav is None:
        end, head = len(mel) // 2 * hop, wav[: len(mel) // 2 * hop]
    else:
        past = len(voice.wav)
        end = 2 * past
        assert end <= len(wav), "a chunk is longer than what is kept of the one before"
        window = torch.hamming_window(end, device=wav.device, dtype=wav.dtype)
        head = torch.cat([voice.wav * window[past:] + wav[:past] * window[:past], wav[past:end]])
    voice.wav, voice.mel = wav[end:], mel[end // hop :]
    return head
