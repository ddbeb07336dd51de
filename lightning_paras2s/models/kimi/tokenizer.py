"""`KimiTokenizer`: GLM-4 codes and Whisper features in, flow matching and BigVGAN out.

Ids are the language model's: code c is id 152064 + c. As in the released code, ids that are no codes are dropped
before they are spoken.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lightning_paras2s.audio import resample
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.detokenizer import Detokenizer
from lightning_paras2s.models.kimi.flow_matching import seeded_noise
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Tokenizer
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures
from lightning_paras2s.models.log_mel import SAMPLE_RATE as INPUT_RATE
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.types import Audio


class KimiTokenizer(SpeechTokenizer):
    """See the module's docstring. `KimiProcessor` builds it from the released files.

    It hears and speaks in its own types whatever the trainer's precision: autocast would round the vocoder to 16 bits,
    and codes would flip.

    Args:
        glm4: the ear for codes; None for a tokenizer that only speaks.
        whisper: the ear for features; None for a tokenizer that only speaks.
        detokenizer: the voice; None for a tokenizer that only hears.
        config: the language model's ids.
        seed: of the detokenizer's noise; every response gets the same, so that it adds no noise to rewards within a
            group.
    """

    sample_rate = 24_000
    frame_rate = 12.5

    def __init__(
        self,
        glm4: Glm4Tokenizer | None,
        whisper: WhisperFeatures | None,
        detokenizer: Detokenizer | None,
        config: KimiConfig = KimiConfig(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.glm4, self.whisper, self.detokenizer, self.seed = glm4, whisper, detokenizer, seed
        self.config, self.first_id, self.vocab_size = config, config.kimia_token_offset, config.vocab_size
        self.feature_size, codes = config.kimia_adaptor_input_dim, self.vocab_size - self.first_id
        if glm4 is not None and (got := glm4.config.quantize_vocab_size) != codes:
            raise UserError(
                f"the speech tokenizer must have the policy's {codes} codes; got {got}; it belongs to another model"
            )
        if whisper is not None and (got := whisper.feature_size) != self.feature_size:
            raise UserError(
                f"the feature encoder must give the policy's {self.feature_size} numbers a code; got {got}; "
                "it belongs to another model"
            )
        if detokenizer is not None and (got := detokenizer.flow.config.semantic_vocab_size - 1) != codes:
            raise UserError(f"the detokenizer must speak {codes} codes; got {got}; it belongs to another model")

    def listen(self, audios: list[Audio], device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
        """Ids [T] and features [T, F] of each recording, T = ceil(12.5 seconds); over 30 s in independent chunks."""
        codes = self.codes(audios, device)
        with own_types(device):
            return list(zip(codes, self.whisper(*pad_audio(audios, device))))

    @torch.no_grad()
    def codes(self, audios: list[Audio], device: torch.device | str) -> list[Tensor]:
        """Ids [T] of each recording."""
        if self.glm4 is None:
            raise UserError("a tokenizer of queries must hear; got one that only speaks; ask the processor's ears")
        with own_types(device):
            return [codes + self.first_id for codes in self.glm4.encode(*pad_audio(audios, device))]

    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        with own_types(wav.device):
            codes = self.glm4.encode(*self.heard(wav, lengths))
        counts = torch.tensor([len(c) for c in codes], device=wav.device)
        return nn.utils.rnn.pad_sequence(codes, batch_first=True) + self.first_id, counts

    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        with own_types(wav.device):
            return nn.utils.rnn.pad_sequence(self.whisper(*self.heard(wav, lengths)), batch_first=True)

    def heard(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The waveforms at 16 kHz, and their lengths."""
        from lightning_paras2s.models.signals import resample

        return resample(wav, self.sample_rate, INPUT_RATE), -(-lengths * INPUT_RATE // self.sample_rate)

    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.detokenizer is None:
            raise UserError("a tokenizer of responses must speak; got one that only hears; ask the processor's voice")
        rows = [row[: int(n)] for row, n in zip(codes, lengths)]
        spoken = [row[(row >= self.first_id) & (row < self.vocab_size)] - self.first_id for row in rows]
        device = self.detokenizer.vocoder.conv_pre.bias.device
        with own_types(device):
            wavs = self.detokenizer.decode([s.to(device) for s in spoken], seeded_noise(self.seed))
        samples = torch.tensor([len(w) for w in wavs])
        return nn.utils.rnn.pad_sequence(wavs, batch_first=True), samples


def own_types(device: torch.device | str) -> torch.autocast:
    """Without autocast."""
    return torch.autocast(torch.device(device).type, enabled=False)


def pad_audio(audios: list[Audio], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """wav [B, N] at 16 kHz, lengths [B] in samples."""
    rows = [torch.from_numpy(np.array(resample(a, INPUT_RATE).samples)).float() for a in audios]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), torch.tensor([len(row) for row in rows])
