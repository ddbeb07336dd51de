"""Zero-shot speech from recorded speakers: CosyVoice on its server; CSM, YourTTS (paper, section 3.1, Table 1)."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.origins import file_sha, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.speaking.remote import RemoteSynthesizer, post
from lightning_paras2s.speaking.synthesizers import Voice
from lightning_paras2s.types import SPLITS, Audio, Style, read_jsonl


@dataclass(frozen=True)
class PromptVoice:
    """A recorded speaker for zero-shot synthesis: some seconds of speech (`audio`, relative to the list), its words."""

    name: str
    split: str
    gender: str
    age: str
    audio: str
    text: str


class PromptVoices:
    """Recorded speakers, from a list of JSON lines (paper: LibriSpeech and CommonVoice for gender, NNCES for age).

    Raises:
        UserError: a name used twice, an unknown split, or a missing recording.
    """

    def __init__(self, path: str) -> None:
        self.root = Path(path).parent
        rows = read_jsonl(path, PromptVoice)
        self.speakers = {row.name: row for row in rows}
        for row in rows:
            if row.split not in SPLITS or not (self.root / row.audio).is_file():
                raise UserError(
                    f"{path}: {row.name} must have a split of {', '.join(SPLITS)} and a recording; got {row}"
                )
        if len(self.speakers) < len(rows):
            raise UserError(f"{path}: names must be unique; got {len(rows)} lines with {len(self.speakers)} names")

    @cached_property
    def config_sha(self) -> str:
        """Of who they are, what they say and how, wherever list and recordings lie."""
        rows = [asdict(row) | {"audio": file_sha(self.recording(name))} for name, row in self.speakers.items()]
        return sha(sorted(rows, key=itemgetter("name")))

    def of(self, split: str) -> dict[str, Voice]:
        return {n: Voice(n, s.gender, s.age) for n, s in self.speakers.items() if s.split == split}

    def recording(self, voice: str) -> Path:
        return self.root / self.speakers[voice].audio


class PromptedSynthesizer(RemoteSynthesizer):
    """One that speaks in recorded voices."""

    speakers: PromptVoices

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What beside the speakers decides how it sounds."""

    @property
    def config_sha(self) -> str:
        return sha(type(self).__name__, self.settings, self.speakers.config_sha)

    def voices(self, split: str) -> dict[str, Voice]:
        return self.speakers.of(split)


class CosyVoice(PromptedSynthesizer):
    """CosyVoice's own HTTP server (runtime/python/fastapi), zero-shot from recorded speakers: age and gender (paper).

    Args:
        voices_list: JSON lines of `PromptVoice`.
        base_url: of the server.
        sample_rate: of the raw 16-bit samples that it streams (CosyVoice 1: 22,050; CosyVoice 2: 24,000).
        concurrency: requests at a time.
        patience: how long to try a request, and how often.
    """

    name = "cosyvoice-zero-shot"

    def __init__(
        self,
        voices_list: InputPath,
        base_url: str = "http://127.0.0.1:50000",
        sample_rate: int = 22_050,
        concurrency: int = 2,
        patience: Patience = Patience(),
    ) -> None:
        self.speakers, self.url, self.sample_rate = PromptVoices(voices_list), base_url.rstrip("/"), sample_rate
        self.concurrency, self.patience = concurrency, patience

    @property
    def settings(self) -> dict[str, Any]:
        return {"sample_rate": self.sample_rate}

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        def request() -> dict[str, Any]:
            import aiohttp

            form = aiohttp.FormData()
            form.add_field("tts_text", text)
            form.add_field("prompt_text", self.speakers.speakers[voice].text)
            recording = self.speakers.recording(voice)
            form.add_field("prompt_wav", recording.read_bytes(), filename=recording.name, content_type="audio/wav")
            return {"url": f"{self.url}/inference_zero_shot", "data": form}

        answer = post(request, lambda body: read_pcm(body, self.sample_rate), self.patience)
        return answer.value, answer.status


class CsmTTS(PromptedSynthesizer):
    """Sesame's CSM through transformers (paper, Table 1); the style is heard in the recorded speaker, if anywhere.

    Args:
        voices_list: JSON lines of `PromptVoice`.
        model: a name on the hub, or a folder.
        device: where it computes: cuda, cuda:1, cpu.
    """

    name = "csm"
    sample_rate = 24_000

    def __init__(self, voices_list: InputPath, model: str = "sesame/csm-1b", device: str = "cuda") -> None:
        from transformers import AutoProcessor, CsmForConditionalGeneration

        from lightning_paras2s.models.pretrained import load_strictly, one_line

        self.speakers, self.device = PromptVoices(voices_list), device
        here = Path(model).is_dir()
        with one_line(model):
            self.processor = AutoProcessor.from_pretrained(model, local_files_only=here)
        self.model = load_strictly(CsmForConditionalGeneration, model, "auto", here=here).to(device).eval()

    @property
    def settings(self) -> dict[str, Any]:
        return {"weights": part_sha(self.model)}

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        import torch

        from lightning_paras2s.audio import read_audio

        speech = read_audio(self.speakers.recording(voice), self.sample_rate).samples
        said = {"type": "text", "text": self.speakers.speakers[voice].text}
        turns = [
            {"role": "0", "content": [said, {"type": "audio", "path": speech}]},
            {"role": "0", "content": [{"type": "text", "text": text}]},
        ]
        inputs = self.processor.apply_chat_template(turns, tokenize=True, return_dict=True).to(self.device)
        torch.manual_seed(seed)
        samples = self.model.generate(**inputs, output_audio=True)[0].float().cpu().numpy()
        return Audio(samples, self.sample_rate), "ok"


class YourTTS(PromptedSynthesizer):
    """YourTTS through the package TTS (paper, Table 1), zero-shot from recorded speakers.

    Args:
        voices_list: JSON lines of `PromptVoice`.
        model: a name that the package TTS knows.
    """

    name = "your-tts"

    def __init__(self, voices_list: InputPath, model: str = "tts_models/multilingual/multi-dataset/your_tts") -> None:
        try:
            from TTS.api import TTS
        except ImportError:
            raise UserError("YourTTS needs the package TTS; got none; pip install coqui-tts") from None
        self.speakers, self.model, self.named = PromptVoices(voices_list), TTS(model), model
        self.sample_rate = int(self.model.synthesizer.output_sample_rate)  # YourTTS's is 16 kHz, others' is not

    @property
    def settings(self) -> dict[str, Any]:
        return {"model": self.named, "weights": part_sha(self.model)}

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        samples = self.model.tts(text, speaker_wav=str(self.speakers.recording(voice)), language="en")
        return Audio(np.asarray(samples, np.float32), self.sample_rate), "ok"


def read_pcm(body: bytes, sample_rate: int) -> Audio:
    """Raw 16-bit little-endian samples.

    Raises:
        ValueError: for JSON (an error in disguise), an odd number of bytes, or less than 50 ms.
    """
    if body[:1] == b"{" and is_json(body):
        raise ValueError("JSON instead of samples")
    if len(body) % 2 or len(body) < 0.1 * sample_rate:
        raise ValueError("samples are cut")
    return Audio(np.frombuffer(body, "<i2").astype(np.float32) / 32768, sample_rate)


def is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
