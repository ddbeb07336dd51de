"""PolyTone analysers at paper scale: a pre-trained audio encoder with low-rank adapters, one a factor (ParaS2S v2).

The paper fine-tunes its analysers on 10k prompts a factor, on one H100, and prints neither encoder nor head. Here: the
encoder of Whisper, or wav2vec 2.0, HuBERT and WavLM, whose layers are mixed with learned weights (SUPERB, arXiv
2105.01051), averaged over the recording, and classified by one linear layer. Only adapters, mixture and head train.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_paras2s.audio import resample
from lightning_paras2s.data.suggestive import LABELS
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.polytone import NOTHING, Analyser, AnalyserRecognizer, Heard, check_factor
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.models.checkpoint import load_tensors, write_tensors
from lightning_paras2s.models.log_mel import log_mel
from lightning_paras2s.models.lora import add_lora
from lightning_paras2s.models.pretrained import load_pretrained
from lightning_paras2s.models.tiny.features import SAMPLE_RATE
from lightning_paras2s.running.shipped import weights_file
from lightning_paras2s.types import Audio

LORA_TARGETS = r".*\.(self_attn|attention)\.[qv]_proj"
HEADS = ("lm_head.", "proj_out.", "quantizer.", "project_q.", "project_hid.", "classifier.", "projector.")
WHISPER_FRAME = 320  # samples a frame of Whisper's encoder
SHORTEST = 1600  # samples; less is padded, so that convolutions have something to see


class EncoderAnalyser(Analyser):
    """See the module's docstring.

    Args:
        factor: that it names.
        path: folder of the pre-trained model (transformers).
        lora_rank: of the adapters on the queries and values of its attention; all else of it is frozen.
        lora_alpha: the adapters' output is scaled by alpha / rank.
    """

    def __init__(self, factor: str, path: str, lora_rank: int = 16, lora_alpha: float = 32.0) -> None:
        from transformers import AutoModel

        super().__init__()
        check_factor(factor)
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"an analyser's encoder must be the folder of a transformers model; got {path}; fetch it")
        self.factor = factor
        self.settings = {"factor": factor, "path": path, "lora_rank": lora_rank, "lora_alpha": lora_alpha}
        self.encoder = self.choose(load_pretrained(AutoModel, path, torch.float32, HEADS, ("masked_spec_embed",)))
        add_lora(self.encoder, self.encoder, LORA_TARGETS, lora_rank, lora_alpha)
        config = self.encoder.config
        self.mixture = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.head = nn.Linear(config.hidden_size, len(LABELS[factor]))

    @abstractmethod
    def choose(self, model: nn.Module) -> nn.Module:
        """The encoder of a pre-trained model."""

    @abstractmethod
    def encode(self, samples: list[Tensor]) -> list[Tensor]:
        """Samples at 16 kHz of each recording -> its own frames in every layer, [layers + 1, T, W]."""

    def forward(self, heard: list[Heard]) -> Tensor:
        device = self.mixture.device
        samples = [torch.from_numpy(h.samples).to(device) for h in heard]
        padded = [F.pad(s, (0, max(0, SHORTEST - len(s)))) for s in samples]
        weights = self.mixture.softmax(0)
        pooled = [torch.tensordot(weights, layers.mean(1), 1) for layers in self.encode(padded)]
        return self.head(torch.stack(pooled)).float()

    def save(self, path: str | Path) -> None:
        """What was trained, with the settings; the encoder stays where it is."""
        tensors = {n: p.detach().cpu().contiguous() for n, p in self.named_parameters() if p.requires_grad}
        write_tensors(path, tensors, {"class": type(self).__name__, "settings": json.dumps(self.settings)})


class WhisperAnalyser(EncoderAnalyser):
    """On Whisper's encoder; a recording is padded to its window (30 s), or cut there."""

    def choose(self, model: nn.Module) -> nn.Module:
        return model.encoder

    def encode(self, samples: list[Tensor]) -> list[Tensor]:
        window = self.encoder.config.max_source_positions * WHISPER_FRAME
        rows = [F.pad(s[:window], (0, max(0, window - len(s)))) for s in samples]
        mel = log_mel(torch.stack(rows), self.encoder.config.num_mel_bins)
        layers = torch.stack(self.encoder(mel, output_hidden_states=True).hidden_states, 1)  # [B, L + 1, T, W]
        counts = [-(-min(len(s), window) // WHISPER_FRAME) for s in samples]
        return [row[:, :count] for row, count in zip(layers, counts, strict=True)]


class Wav2Vec2Analyser(EncoderAnalyser):
    """On wav2vec 2.0 and its kin. Recordings are encoded one by one: padding would change the group norm of the base
    models."""

    def choose(self, model: nn.Module) -> nn.Module:
        return model

    def encode(self, samples: list[Tensor]) -> list[Tensor]:
        normal = [(s - s.mean()) / (s.var(correction=0) + 1e-7).sqrt() for s in samples]
        states = [self.encoder(s[None], output_hidden_states=True).hidden_states for s in normal]
        return [torch.cat(layers) for layers in states]


ANALYSERS = {cls.__name__: cls for cls in (WhisperAnalyser, Wav2Vec2Analyser)}


def load_analyser(path: str | Path, base: str | None = None) -> EncoderAnalyser:
    """A saved analyser; `base` is the folder of its encoder if it is no longer where it was."""
    header, tensors = load_tensors(weights_file(path, "an analyser must be an existing .safetensors file"))
    if header.get("class") not in ANALYSERS:
        raise UserError(f"{path} must hold one of {', '.join(ANALYSERS)}; got {header.get('class', 'no class')}")
    settings = json.loads(header["settings"])
    analyser = ANALYSERS[header["class"]](**{**settings, "path": base or settings["path"]})
    expected = {n: tuple(p.shape) for n, p in analyser.named_parameters() if p.requires_grad}
    if expected != {n: tuple(t.shape) for n, t in tensors.items()}:
        raise UserError(f"{path} must fit the encoder in {analyser.settings['path']}; it was trained on another")
    analyser.load_state_dict(tensors, strict=False)
    return analyser


class EncoderRecognizer(AnalyserRecognizer):
    """Labels of a query by analysers on pre-trained encoders (`fit --config paper/polytone.yaml`).

    Args:
        paths: factor -> weights.
        tone: as in `AnalyserRecognizer`.
        device: where the analysers run.
        base: folder of the encoder, if it is no longer where it was.
    """

    def __init__(
        self,
        paths: dict[str, InputPath],
        tone: StyleRecognizer | None = None,
        device: str = "cuda",
        base: InputPath | None = None,
    ) -> None:
        analysers = {factor: load_analyser(path, base).to(device) for factor, path in paths.items()}
        wrong = [f for f, a in analysers.items() if a.factor != f]
        if wrong:
            raise UserError(f"the file for {wrong[0]} must hold its analyser; got {analysers[wrong[0]].factor}'s")
        names = sorted({type(a).__name__ for a in analysers.values()})
        super().__init__(f"polytone-1/{'+'.join(names)}", analysers, tone)

    def listen(self, audio: Audio) -> Heard:
        return NOTHING._replace(samples=resample(audio, SAMPLE_RATE).samples)
