"""Qwen2.5-Omni's ears (waveform -> what the thinker hears) and voice (codes -> waveform), transformers' own classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.tokenizer import own_types
from lightning_paras2s.models.qwen_omni.released import EARS, VOICE, load_part, load_speaker
from lightning_paras2s.models.qwen_omni.scorer import audio_tokens, mel_batch
from lightning_paras2s.models.sampling import OwnDraws
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.types import Audio


class OmniEars(nn.Module):
    """The thinker's audio tower.

    Args:
        path: folder of Qwen2.5-Omni.
        config: its config.
        dtype: of the weights.
    """

    def __init__(self, path: str, config, dtype: torch.dtype) -> None:
        from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

        super().__init__()
        self.tower = load_part(Qwen2_5OmniAudioEncoder, config.thinker_config.audio_config, path, EARS, dtype)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, audios: list[Audio]) -> list[Tensor]:
        """Features [T, h] of each recording, 25 a second."""
        weight = self.tower.conv1.weight
        mel, mask = (t.to(weight.device) for t in mel_batch(audios))
        frames = mask.sum(1)
        after = (frames - 1) // 2 + 1  # its first stride
        with own_types(weight.device):
            packed = mel.permute(0, 2, 1)[mask.bool()].T  # [bands, all frames]
            heard = self.tower(packed.to(weight.dtype), feature_lens=frames, aftercnn_lens=after).last_hidden_state
        return list(heard.split([audio_tokens(int(n)) for n in frames]))


class OmniVoice(SpeechTokenizer):
    """token2wav: flow matching and BigVGAN in float32, as released, a response at a time, so that none depends on the
    others of its batch; all get the same noise, so that it adds none to rewards within a group.

    It speaks and does not hear: the encoder from waveform to codes was never released.

    Args:
        path: folder of Qwen2.5-Omni.
        config: its config.
        speaker: whose voice.
        seed: of the noise.
        ode_points: of flow matching; the release's 10.
    """

    sample_rate = 24_000
    frame_rate = 50.0
    feature_size = 0

    def __init__(self, path: str, config, speaker: str, seed: int, ode_points: int) -> None:
        from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavModel

        super().__init__()
        _, cond, mel = load_speaker(path, speaker)
        self.model = load_part(Qwen2_5OmniToken2WavModel, config.token2wav_config, path, VOICE, torch.float32)
        self.cond, self.mel = nn.Buffer(cond, persistent=False), nn.Buffer(mel, persistent=False)
        self.vocab_size = config.token2wav_config.dit_config.num_embeds + 1  # rows of its table
        self.seed, self.ode_points = seed, ode_points
        self.requires_grad_(False)

    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError("Qwen2.5-Omni's codes can't be made of speech; its encoder was never released; sample answers")

    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        raise UserError("Qwen2.5-Omni's voice doesn't hear; ask its processor")

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        wavs = [self.say(row[: int(n)].to(self.cond.device)) for row, n in zip(codes, lengths, strict=True)]
        samples = torch.tensor([len(wav) for wav in wavs])
        return nn.utils.rnn.pad_sequence(wavs, batch_first=True), samples

    def say(self, codes: Tensor) -> Tensor:
        """codes [T] -> wav [480 T]."""
        if not len(codes):
            return self.cond.new_zeros(0)
        with OwnDraws(self.seed), own_types(self.cond.device):
            wav = self.model(codes[None], conditioning=self.cond, reference_mel=self.mel, num_steps=self.ode_points)
        return wav.reshape(-1).float()
