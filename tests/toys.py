"""Small stand-ins for the seams, so that the stages' own logic is tested in seconds: they know nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_paras2s.data import judged
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.data.preferences import PreferenceBatch
from lightning_paras2s.judging.rewards import TokenCountReward
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Logps, Prompt, Sampling, SpeechLM, Streams
from lightning_paras2s.models.tiny.vocabulary import TextVocab
from lightning_paras2s.models.tokenizer import SpeechTokenizer
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.runs import run_dir
from lightning_paras2s.speaking.codec import SpokenResponse, speak, through_codec
from lightning_paras2s.types import Audio, Query, to_json

WORDS = ("<blank>", "<eos>", "yes", "no", "oh", "dear")
CODES = 6
FRAME = 160


def inverse_cdf(logits: Tensor, uniform: Tensor | None, temperature: float) -> Tensor:
    """Draw one token a row: logits [B, V], uniform [B] -> ids [B]. Temperature 0 takes the most likely token."""
    if temperature == 0:
        return logits.argmax(-1)
    cdf = torch.softmax(logits.float() / temperature, -1).double().cumsum(-1)
    target = uniform.double().to(cdf.device).unsqueeze(-1) * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


class ToyVocab(TextVocab):
    def __len__(self) -> int:
        return len(WORDS)

    def decode(self, ids: list[int]) -> str:
        spoken = ids[: ids.index(1)] if 1 in ids else ids
        return " ".join(WORDS[i] for i in spoken if i)


class ToyLM(SpeechLM):
    """A recurrent dual-stream model: the prompt's mean sets the state, both streams' last tokens are summed."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.settings = {"width": width, "dropout": dropout}
        self.streams = Streams(text_blank=0, text_eos=1, audio_blank=CODES, audio_eos=CODES + 1, delay=1)
        self.sizes = (len(WORDS), CODES + 2)
        self.embed = nn.ModuleList([nn.Embedding(size, width) for size in self.sizes])
        self.cell = nn.GRUCell(width, width)
        self.heads = nn.ModuleList([nn.Linear(width, size) for size in self.sizes])
        self.dropout = nn.Dropout(dropout)

    def _start(self, prompt: Prompt, rows: int) -> Tensor:
        x = sum(self.embed[s](prompt.tokens[:, s]) for s in (TEXT, AUDIO)) * prompt.mask.unsqueeze(-1)
        return (x.sum(1) / prompt.mask.sum(1, keepdim=True)).repeat_interleave(rows // len(prompt), 0)

    def _step(self, state: Tensor, tokens: Tensor) -> Tensor:
        return self.cell(sum(self.embed[s](tokens[:, s]) for s in (TEXT, AUDIO)), state)

    def _logits(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(state)
        return self.heads[TEXT](hidden), self.heads[AUDIO](hidden)

    def _blanks(self, rows: int) -> Tensor:
        return torch.tensor([[self.streams.text_blank, self.streams.audio_blank]]).repeat(rows, 1)

    def positions(self, prompt: int, steps: int, group_size: int) -> int:
        return prompt + group_size * steps

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        state, last, out = self._start(prompt, len(completion)), self._blanks(len(completion)), []
        for t in range(completion.tokens.shape[-1]):
            state = self._step(state, last)
            out.append(self._logits(state))
            last = completion.tokens[..., t]
        return torch.stack([o[0] for o in out], 1), torch.stack([o[1] for o in out], 1)

    @torch.no_grad()
    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        rows, s = len(prompt) * group_size, self.streams
        state, last = self._start(prompt, rows), self._blanks(rows)
        tokens, actions = (
            last.unsqueeze(-1).repeat(1, 1, sampling.max_steps),
            torch.zeros(rows, 2, sampling.max_steps).bool(),
        )
        logps = torch.zeros(rows, 2, sampling.max_steps)
        live, talking = torch.ones(rows).bool(), torch.ones(rows).bool()
        for t in range(sampling.max_steps):
            state = self._step(state, last)
            logits, temperatures = self._logits(state), (sampling.text_temperature, sampling.audio_temperature)
            last = self._blanks(rows)
            for stream, acts in ((TEXT, live & talking), (AUDIO, live & (t >= s.delay))):
                uniform = None if noise is None else noise[:, stream, t]
                drawn = inverse_cdf(logits[stream], uniform, temperatures[stream])
                chosen = (
                    torch.log_softmax(logits[stream] / temperatures[stream], -1)
                    .gather(-1, drawn.unsqueeze(-1))
                    .squeeze(-1)
                )
                last[:, stream] = torch.where(acts, drawn, last[:, stream])
                actions[:, stream, t], logps[:, stream, t] = acts, torch.where(acts, chosen, 0.0)
            tokens[..., t] = last
            talking &= last[:, TEXT] != s.text_eos
            live &= last[:, AUDIO] != s.audio_eos
        return Completion(tokens, actions, ~live, logps).trim()

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        temperatures = (sampling.text_temperature, sampling.audio_temperature)
        values, entropies = [], []
        for stream, logits in enumerate(self(prompt, completion)):
            full = torch.log_softmax(logits / temperatures[stream], -1)
            acts = completion.actions[:, stream]
            chosen = full.gather(-1, completion.tokens[:, stream].unsqueeze(-1)).squeeze(-1)
            values.append(torch.where(acts, chosen, 0.0))
            entropies.append(torch.where(acts, -(full.exp() * full).sum(-1), 0.0))
        return Logps(torch.stack(values, 1), torch.stack(entropies, 1))

    def reference(self) -> ToyLM:
        copy = ToyLM(**self.settings)
        copy.load_state_dict(self.state_dict())
        return copy.requires_grad_(False).eval()

    def save(self, path: Path) -> None:
        save_module(self, path, torch.float32)


class ToyTokenizer(SpeechTokenizer):
    """Code k is 10 ms of a tone of 200 (k + 1) Hz; code 0 is silence."""

    sample_rate, frame_rate, vocab_size, feature_size = 16_000, 100.0, CODES, 1

    def encode(self, wav: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(wav), wav.shape[1] // FRAME, dtype=torch.long), lengths // FRAME

    def features(self, wav: Tensor, lengths: Tensor) -> Tensor:
        return torch.zeros(len(wav), wav.shape[1] // FRAME, 1)

    def decode(self, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        time = torch.arange(FRAME) / self.sample_rate
        wav = torch.sin(2 * torch.pi * 200 * (codes.unsqueeze(-1) + 1) * time) * (codes > 0).unsqueeze(-1) * 0.5
        return wav.flatten(1), lengths * FRAME


class ToyProcessor(Processor):
    """What `ToyLM` needs around it; it hears nothing."""

    name, files, settings = "ToyLM", (), {}
    tokenizer, vocabulary = ToyTokenizer(), ToyVocab()

    def prepare(self, dialogues, labelled, cache_dir):
        raise NotImplementedError

    hear = length = load_policy = collate = prepare

    def to_device(self, loaded, device):
        return loaded.to(device)

    def speak(self, completion: Completion, decode_audio: bool = True) -> list[SpokenResponse]:
        return speak(completion, self.tokenizer if decode_audio else None, self.vocabulary.decode)

    def through_codec(self, audios: list[Audio]) -> list[Audio]:
        return through_codec(audios, self.tokenizer)


class ToyScorer(ResponseScorer):
    """Hears the loudness and the zero crossings of the response."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.settings = {"width": width}
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 5))

    def score_logits(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        heard = [[np.abs(r.samples).mean(), (np.diff(np.sign(r.samples)) != 0).mean()] for r in responses]
        return self.net(torch.tensor(np.array(heard), dtype=torch.float32) * 4)

    def save(self, path: Path) -> None:
        save_module(self, path, torch.float32)


def toy_query(i: int) -> Query:
    styles = {"sarcasm": ("sincere", "sarcastic")[i % 2]}
    return Query(f"q{i}", f"p{i // 2}", "sarcasm", "train", "so nice", styles, "rain", f"q{i}.wav")


class ToyData(L.LightningDataModule):
    """Sixteen prompts whose demonstrations depend on the prompt's first token."""

    processor = ToyProcessor()

    def __init__(self, batch_size: int = 4, labelled: bool = True, size: int = 16) -> None:
        super().__init__()
        self.batch_size, self.labelled, self.size = batch_size, labelled, size

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(self.size), self.collate, self.batch_size, seed=3)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(self.size), self.collate, self.batch_size, shuffle=False)

    def predict_dataloader(self) -> list[ResumableLoader]:
        splits = (range(self.size), range(self.size, self.size + 6))
        return [ResumableLoader(ids, self.collate, self.batch_size, shuffle=False, drop_last=False) for ids in splits]

    def collate(self, items: list[int]) -> DualStreamBatch:
        index = torch.tensor(items)
        tokens = torch.stack([2 + index % 4, index % CODES], 1).unsqueeze(-1)
        prompt = Prompt(tokens, torch.ones(len(items), 1).bool())
        silence = Audio(np.zeros(800, np.float32), 16_000)
        return DualStreamBatch(
            prompt, self._demonstrations(index), [toy_query(i) for i in items], [silence] * len(items)
        )

    def _demonstrations(self, index: Tensor) -> Completion | None:
        if not self.labelled:
            return None
        code, blank = index % CODES, torch.full_like(index, CODES)
        text = torch.stack([2 + index % 4, torch.ones_like(index), 0 * index, 0 * index], 1)
        audio = torch.stack([blank, code, code, blank + 1], 1)
        actions = torch.tensor([[True, True, False, False], [False, True, True, True]]).repeat(len(index), 1, 1)
        return Completion(torch.stack([text, audio], 1), actions, torch.ones(len(index)).bool())


class KillAt(L.Callback):
    """Ends the process as `kill -9` does, in the middle of a training batch, once a run."""

    def __init__(self, batch: int, marker: str) -> None:
        self.batch, self.marker = batch, Path(marker)

    def on_before_optimizer_step(self, trainer: L.Trainer, *args) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx >= self.batch and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KillJob(KillAt):
    """The same for all processes of a job that was started in a session of its own."""

    def on_before_optimizer_step(self, trainer: L.Trainer, *args) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx >= self.batch and trainer.is_global_zero:
            if not self.marker.exists():
                self.marker.touch()
                os.killpg(os.getpgid(0), signal.SIGKILL)


class TermRank(L.Callback):
    """SIGTERM to one of several processes in a batch."""

    def __init__(self, rank: int, batch: int) -> None:
        self.rank, self.batch = rank, batch

    def on_train_batch_start(self, trainer: L.Trainer, *args) -> None:
        if (trainer.global_rank, trainer.fit_loop.epoch_loop.total_batch_idx) == (self.rank, self.batch):
            os.kill(os.getpid(), signal.SIGTERM)


class DeadlyReward(TokenCountReward):
    """Scores 1..5. Ends the process as `kill -9` does at its n-th call, once: there, or in the middle of a line that is
    written after it."""

    config_sha = "deadly-1"  # when it dies changes no score

    def __init__(self, token: int, call: int, marker: str, half_line: bool = False) -> None:
        super().__init__(token)
        self.call, self.marker, self.half_line = call, Path(marker), half_line

    def score(self, batch: DualStreamBatch, responses: list) -> Tensor:
        self.call -= 1
        if self.call == 0 and not self.marker.exists():
            self.marker.touch()
            if not self.half_line:
                os.kill(os.getpid(), signal.SIGKILL)
            judged.append_jsonl = write_half
        return 1 + 4 * super().score(batch, responses)


def write_half(path: Path, items: list) -> None:
    if items:
        text = "".join(to_json(item) + "\n" for item in items)
        with path.open("a") as file:
            file.write(text[: len(text) * 2 // 3])
        os.kill(os.getpid(), signal.SIGKILL)


class KeepRollouts(L.Callback):
    """Writes what each rank was asked and answered in every batch to `rollouts-RANK.pt` in the run's folder."""

    def __init__(self) -> None:
        self.kept: list[dict] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, *args) -> None:
        rollout, _ = pl_module.last_rollout
        ids = [query.id for query in batch.queries]
        self.kept.append({"queries": ids, "prompt": rollout.prompt.tokens, "answers": rollout.completion.tokens})

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(self.kept, run_dir(trainer) / f"rollouts-{trainer.global_rank}.pt")


class ToyPreferences(L.LightningDataModule):
    """Louder responses are judged better."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(16), self.collate, self.batch_size, seed=3)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(16), self.collate, self.batch_size, shuffle=False)

    def collate(self, items: list[int]) -> PreferenceBatch:
        wave = np.sin(np.arange(800) / 3).astype(np.float32)
        responses = [Audio(wave * (0.2 * (i % 5) + 0.1), 16_000) for i in items]
        scores = torch.tensor([1.0 + i % 5 for i in items])
        return PreferenceBatch(responses, responses, scores, [""] * len(items), [f"q{i // 4}" for i in items])


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns, in numbers."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return out


def quiet_trainer(steps: int, folder: Path) -> L.Trainer:
    """Trains for some steps on the CPU and writes nothing."""
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
