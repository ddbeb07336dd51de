"""Training of the embedded speech parts: codec, transcriber, style recogniser."""

from __future__ import annotations

from typing import Any

import jiwer
import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lightning_paras2s.data.speech import SpeechBatch
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.phones import SYMBOLS, phone_ids
from lightning_paras2s.hearing.recognizers import HEADS, StyleNetwork
from lightning_paras2s.hearing.transcribers import CTCNetwork, read_ctc
from lightning_paras2s.hearing.words import plain_text, plain_words
from lightning_paras2s.models.checkpoint import load_module, save_module
from lightning_paras2s.models.tiny.features import MELS
from lightning_paras2s.models.tiny.tokenizer import STRIDE, TinyTokenizer
from lightning_paras2s.modules.optimizer import require_length, set_learning_rate, warmup_cosine


class SpeechPartModule(LightningModule):
    """What the three trainings share: AdamW with warm-up and cosine decay, export to safetensors at the end.

    Args:
        lr: peak learning rate, after `warmup_steps`; then half a cosine to a fiftieth over the run.
        warmup_steps: optimizer steps over which the learning rate rises.
        export: weights to write at the end (.safetensors); "" = none.
    """

    network: nn.Module

    def __init__(self, lr: float, warmup_steps: int, export: str) -> None:
        super().__init__()
        self.lr, self.warmup_steps, self.export = lr, warmup_steps, export

    def configure_optimizers(self) -> Optimizer:
        return AdamW(self.parameters(), self.lr, betas=(0.9, 0.98), weight_decay=0.01)

    def on_fit_start(self) -> None:
        require_length(self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the rate of the optimizer step that comes, which a resumed run takes from its own options."""
        total = self.trainer.estimated_stepping_batches
        lr = self.lr * warmup_cosine(self.global_step, self.warmup_steps, total, final=0.02)
        set_learning_rate(self.optimizers().optimizer, lr)
        self.log("train/lr", lr)

    def on_train_end(self) -> None:
        if self.export and self.trainer.is_global_zero:
            save_module(self.network, self.export)


class TokenizerModule(SpeechPartModule):
    """Trains `TinyTokenizer`: L1 on mel and pitch, cross-entropy on voicing, CTC on the quantised frames.

    Args:
        levels: levels of each FSQ dimension; their product is the number of codes.
        width: channels of the network.
        user_weight: weight of users' speech against the agent's (the way out needs the agent's voice only).
        words_weight: weight of the transcription loss.
    """

    def __init__(
        self,
        levels: tuple[int, ...] = (8, 8, 8, 8),
        width: int = 224,
        user_weight: float = 0.1,
        words_weight: float = 0.05,
        lr: float = 1e-3,
        warmup_steps: int = 50,
        export: str = "",
    ) -> None:
        super().__init__(lr, warmup_steps, export)
        self.network = TinyTokenizer(levels, width)
        self.user_weight, self.words_weight = user_weight, words_weight
        self.words = nn.Sequential(
            nn.Conv1d(len(levels), width, 7, padding=3), nn.GELU(), nn.Conv1d(width, SYMBOLS, 3, padding=1)
        )

    def loss(self, batch: SpeechBatch, stage: str) -> Tensor:
        frames, lengths = batch["frames"], batch["lengths"]
        quantised, codes = self.network.quantise(frames)
        output = self.network.expand(quantised)
        mask = (torch.arange(frames.shape[1]) < lengths[:, None]).float()
        weights = torch.where(batch["agent"], 1.0, self.user_weight)[:, None] * mask
        mean = lambda x, w: (x * w).sum() / w.sum().clamp(min=1)  # noqa: E731
        voiced = frames[..., MELS + 1]
        mel = mean((output[..., :MELS] - frames[..., :MELS]).abs().mean(-1), weights)
        pitch = mean((output[..., MELS] - frames[..., MELS]).abs(), weights * voiced)
        voicing = mean(F.binary_cross_entropy_with_logits(output[..., MELS + 1], voiced, reduction="none"), weights)
        texts = [phone_ids(plain_words(text)) for text in batch["texts"]]
        logps = F.log_softmax(self.words(quantised).float(), 1).permute(2, 0, 1)
        said = torch.tensor([i for t in texts for i in t])
        sizes = torch.tensor([len(t) for t in texts])
        ctc = F.ctc_loss(logps, said, lengths // STRIDE, sizes, zero_infinity=True)
        counts = torch.bincount(codes[batch["agent"]].flatten(), minlength=self.network.vocab_size).float()
        usage = (counts > 0).float().mean()
        self.log_dict(
            {
                f"{stage}/mel": mel,
                f"{stage}/pitch": pitch,
                f"{stage}/voicing": voicing,
                f"{stage}/ctc": ctc,
                f"{stage}/codes": usage,
            },
            prog_bar=stage == "train",
            batch_size=len(lengths),
        )
        return mel + 0.5 * pitch + 0.1 * voicing + self.words_weight * ctc

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        return self.loss(batch, "train")

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 1:
            self.loss(batch, "val")


class TranscriberModule(SpeechPartModule):
    """Trains `CTCNetwork` with masking and vocal tract perturbation; validation gives the WER on users' and on the
    agent's speech.

    Args:
        width: channels of the network.
        blocks: convolutional blocks.
        init_from: weights to start from (.safetensors); "" = random ones.
    """

    def __init__(
        self,
        width: int = 176,
        blocks: int = 7,
        lr: float = 2e-3,
        warmup_steps: int = 100,
        init_from: InputPath = "",
        export: str = "",
    ) -> None:
        super().__init__(lr, warmup_steps, export)
        self.network = load_module(CTCNetwork, init_from) if init_from else CTCNetwork(width, blocks)
        if self.network.settings != (asked := {"width": width, "blocks": blocks}):
            raise UserError(
                f"{init_from} must be of the size that is asked for; got {self.network.settings} for {asked}; set "
                "model.width and model.blocks as when it was trained"
            )

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        logps = F.log_softmax(self.network(mask_frames(warp_vocal_tract(batch["frames"]))), -1).transpose(0, 1)
        texts = [phone_ids(plain_words(text)) for text in batch["texts"]]
        said, sizes = torch.tensor([i for t in texts for i in t]), torch.tensor([len(t) for t in texts])
        loss = F.ctc_loss(logps, said, batch["lengths"] // 2, sizes, zero_infinity=True)
        self.log("train/ctc", loss, prog_bar=True, batch_size=len(texts))
        return loss

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        heard = read_ctc(self.network(batch["frames"]), batch["lengths"].tolist())
        texts = [plain_text(text) for text in batch["texts"]]
        wer, words = jiwer.wer(texts, heard), sum(len(text.split()) for text in texts)
        name = ("queries", "responses")[dataloader_idx]
        self.log(f"val/wer_{name}", wer, prog_bar=True, batch_size=words, add_dataloader_idx=False)  # each word alike


class StyleModule(SpeechPartModule):
    """Trains `StyleNetwork` on the labels that are known of each utterance; validation gives the accuracy a factor.

    Args:
        width: channels of the network.
        blocks: convolutional blocks.
    """

    def __init__(
        self, width: int = 96, blocks: int = 4, lr: float = 2e-3, warmup_steps: int = 100, export: str = ""
    ) -> None:
        super().__init__(lr, warmup_steps, export)
        self.network = StyleNetwork(width, blocks)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        frames = mask_frames(batch["frames"], time=0.1)
        frames = torch.cat([frames[..., :MELS] + 0.05 * torch.randn(len(frames), 1, 1), frames[..., MELS:]], -1)
        logits = self.network(frames, batch["lengths"])
        losses = [F.cross_entropy(logits[h], batch["labels"][:, i], ignore_index=-100) for i, h in enumerate(HEADS)]
        loss = torch.stack([x for x in losses if not x.isnan()]).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(frames))
        return loss

    def validation_step(self, batch: SpeechBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self.network(batch["frames"], batch["lengths"])
        for index, head in enumerate(HEADS):
            known = batch["labels"][:, index] >= 0
            if known.any():
                right = (logits[head].argmax(-1) == batch["labels"][:, index])[known].float().mean()
                self.log(f"val/{head}", right, prog_bar=True, batch_size=int(known.sum()), add_dataloader_idx=False)


def mask_frames(frames: Tensor, time: float = 0.08, bands: int = 8) -> Tensor:
    """SpecAugment (arXiv 1904.08779): one band of mel and one stretch of time a row are set to the row's mean."""
    frames = frames.clone()
    batch, length, _ = frames.shape
    for row in range(batch):
        band = int(torch.randint(0, MELS - bands, ()))
        width = int(torch.randint(0, bands + 1, ()))
        frames[row, :, band : band + width] = frames[row, :, :MELS].mean()
        span = int(torch.randint(0, max(1, int(time * length)), ()))
        start = int(torch.randint(0, length - span, ()))
        frames[row, start : start + span, :MELS] = frames[row, :, :MELS].mean()
    return frames


def warp_vocal_tract(frames: Tensor, low: float = 0.84, high: float = 1.2) -> Tensor:
    """Vocal tract length perturbation (Jaitly and Hinton 2013): a row's mel axis is stretched or squeezed by a random
    factor."""
    factors = torch.empty(len(frames), 1).uniform_(low, high)
    place = (torch.arange(MELS) * factors).clamp(max=MELS - 1)  # [B, MELS]
    left = place.floor().long()
    weight = (place - left).unsqueeze(1)
    mel = frames[..., :MELS]
    pick = lambda index: mel.gather(-1, index.unsqueeze(1).expand(-1, mel.shape[1], -1))  # noqa: E731
    warped = pick(left) * (1 - weight) + pick((left + 1).clamp(max=MELS - 1)) * weight
    return torch.cat([warped, frames[..., MELS:]], -1)
