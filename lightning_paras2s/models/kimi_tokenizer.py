"""`KimiTokenizer`: GLM-4 codes and Whisper features in, flow matching and BigVGAN out; and Kimi-Audio's prompt
template.

Ids are the language model's: code c is id 152064 + c. As in the released code, ids that are no codes are dropped
before they are spoken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from lightning_paras2s.data.vocabulary import TextVocab
from lightning_paras2s.models.bigvgan import BigVGAN, BigVGANConfig
from lightning_paras2s.models.flow_matching import FlowConfig, FlowMatching, seeded_noise
from lightning_paras2s.models.glm4_tokenizer import Glm4Config, Glm4Tokenizer
from lightning_paras2s.models.kimi_config import KimiConfig, read_json
from lightning_paras2s.models.kimi_detokenizer import Detokenizer
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.models.whisper_features import WhisperFeatures
from lightning_paras2s.types import UserError

INPUT_RATE = 16_000  # Hz, what both encoders hear


class KimiTokenizer(SpeechTokenizer):
    """See the module's docstring. `released` builds it from the released files.

    Args:
        config: the language model's ids.
        seed: of the detokenizer's noise; every response gets the same, so that it adds no noise to rewards within a
            group.
    """

    sample_rate = 24_000
    frame_rate = 12.5

    def __init__(
        self,
        glm4: Glm4Tokenizer,
        whisper: WhisperFeatures,
        detokenizer: Detokenizer,
        config: KimiConfig = KimiConfig(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.glm4, self.whisper, self.detokenizer, self.seed = glm4, whisper, detokenizer, seed
        self.first_id, self.vocab_size, self.feature_size = (
            config.kimia_token_offset,
            config.vocab_size,
            whisper.feature_size,
        )
        codes = glm4.config.quantize_vocab_size
        if self.first_id + codes != self.vocab_size:
            raise UserError(
                f"the speech tokenizer must have the policy's {self.vocab_size - self.first_id} codes; got {codes}; "
                "it belongs to another model"
            )

    @classmethod
    def released(cls, path: str, glm4_path: str, config: KimiConfig = KimiConfig(), seed: int = 0) -> KimiTokenizer:
        """From the folder of Kimi-Audio and that of glm-4-voice-tokenizer.

        Raises:
            UserError: naming a file that is missing or holds other tensors.
        """
        folder = Path(path)
        glm4 = Glm4Tokenizer(glm4_config(read_json(Path(glm4_path) / "config.json")))
        load_strictly(glm4, Path(glm4_path) / "model.safetensors", ignored=("ema_count", "ema_weight", "codebook.ema"))
        whisper = WhisperFeatures()
        load_strictly(
            whisper.encoder,
            folder / "whisper-large-v3" / "model.safetensors",
            "model.encoder.",
            ("model.decoder.", "proj_out"),
        )
        flow = FlowMatching(flow_config(folder / "audio_detokenizer" / "config.yaml"))
        load_strictly(flow, folder / "audio_detokenizer" / "model.pt", "speech_model.", others=True)
        vocoder = BigVGAN(known_fields(BigVGANConfig, read_json(folder / "vocoder" / "config.json")))
        load_strictly(vocoder, folder / "vocoder" / "model.pt")
        return cls(glm4, whisper, Detokenizer(flow, vocoder), config, seed).eval().requires_grad_(False)

    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.glm4.encode(*self.heard(wav, lengths))
        counts = torch.tensor([len(c) for c in codes], device=wav.device)
        return nn.utils.rnn.pad_sequence(codes, batch_first=True) + self.first_id, counts

    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return nn.utils.rnn.pad_sequence(self.whisper(*self.heard(wav, lengths)), batch_first=True)

    def heard(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The waveforms at 16 kHz, and their lengths."""
        from torchaudio.functional import resample

        return resample(wav, self.sample_rate, INPUT_RATE), -(-lengths * INPUT_RATE // self.sample_rate)

    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows = [row[: int(n)] for row, n in zip(codes, lengths)]
        spoken = [row[(row >= self.first_id) & (row < self.vocab_size)] - self.first_id for row in rows]
        device = self.detokenizer.vocoder.conv_pre.bias.device
        wavs = self.detokenizer.decode([s.to(device) for s in spoken], seeded_noise(self.seed))
        samples = torch.tensor([len(w) for w in wavs])
        return nn.utils.rnn.pad_sequence(wavs, batch_first=True), samples


class KimiText(TextVocab):
    """The text stream's words. Built from the release's own tokenizer files, which bring code of their own.

    Args:
        path: folder of Kimi-Audio.
    """

    def __init__(self, path: str, config: KimiConfig = KimiConfig()) -> None:
        from transformers import AutoTokenizer

        if not Path(path).is_dir():
            raise UserError(f"the text tokenizer needs the folder of Kimi-Audio; got {path}; fetch it")
        self.tokenizer, self.config = AutoTokenizer.from_pretrained(path, trust_remote_code=True), config

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, bos=False, eos=False)

    def decode(self, ids: list[int]) -> str:
        """Words up to text EOS; special ids are skipped."""
        end = ids.index(self.config.text_eos) if self.config.text_eos in ids else len(ids)
        first_special = min(self.config.msg_end, self.config.blank, self.config.media_begin) - 2
        return self.tokenizer.decode([i for i in ids[:end] if i < first_special])


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


def glm4_config(values: dict) -> Glm4Config:
    return known_fields(Glm4Config, values)


def flow_config(path: Path) -> FlowConfig:
    """The release's config.yaml, whose keys lie nested; mean and deviation of the mel must be among them."""
    if not path.is_file():
        raise UserError(f"the detokenizer must have {path}; it is missing; fetch it")
    values = dict(flatten(yaml.safe_load(path.read_text())))
    if missing := {"mel_mean", "mel_std"} - values.keys():
        raise UserError(f"{path} must give {' and '.join(sorted(missing))}; it does not; is it another model's?")
    if not values.get("normalize_mel", True):
        values |= {"mel_mean": 0.0, "mel_std": 1.0}
    return known_fields(FlowConfig, values)


def flatten(values: dict) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        yield from flatten(value) if isinstance(value, dict) else [(key, value)]


def known_fields(cls: type, values: dict):
    """`cls` from the entries of `values` that it has; lists become tuples."""
    names = {f.name for f in dataclasses.fields(cls)}
    return cls(**{k: json_tuple(v) for k, v in values.items() if k in names})


def json_tuple(value):
    return tuple(json_tuple(v) for v in value) if isinstance(value, list) else value


def load_strictly(
    module: nn.Module, path: Path, prefix: str = "", ignored: tuple[str, ...] = (), others: bool = False
) -> None:
    """Load the tensors under `prefix`; any that lacks, is too many or has another shape is an error that names it.

    Args:
        ignored: beginnings of names that may lie beside; `others`: any name outside the prefix may.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"the tokenizer must have {path}; it is missing; fetch it")
    if path.suffix == ".safetensors":
        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = found.get("state_dict", found.get("generator", found))
    inside = {
        k.removeprefix(prefix): v
        for k, v in found.items()
        if k.startswith(prefix) and not k.startswith(ignored or "\0")
    }
    outside = [k for k in found if not k.startswith(prefix) and not k.startswith(ignored or "\0")]
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    for name in sorted(wanted.keys() | inside.keys()):
        if name not in inside:
            raise UserError(f"{path} must hold {prefix}{name}; it does not; is it another model's?")
        if name not in wanted or tuple(inside[name].shape) != wanted[name]:
            got = tuple(inside[name].shape)
            raise UserError(
                f"{prefix}{name} must have shape {wanted.get(name, 'none')}; got {got} in {path}; "
                "is it another model's?"
            )
    if outside and not others:
        raise UserError(f"{path} must hold only {prefix} tensors; got {outside[0]}; is it another model's?")
    module.load_state_dict(inside)
