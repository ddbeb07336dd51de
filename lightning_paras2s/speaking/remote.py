"""Speech from servers and heavy models: gpt-4o-mini-tts, CosyVoice; CSM, YourTTS (paper, section 3.1, Table 1)."""

from __future__ import annotations

import io
import json
import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.remote import Answer, Gate, Patience, ask, gather
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES, Synthesizer, Voice
from lightning_paras2s.types import SPLITS, Audio, Style, read_jsonl

DESCRIPTION_PROMPT = """
Describe in one or two sentences how a voice actor should speak so that the listener clearly hears this speaker:
{style}.
Speak of tone, pace, pitch, volume and breath only, never of the words. Give the description and nothing else.
"""
OPENAI_VOICES = {  # the voices of gpt-4o-mini-tts, dealt out so that splits share none
    "train": {"alloy": "female", "coral": "female", "nova": "female", "ash": "male", "echo": "male", "verse": "male"},
    "val": {"shimmer": "female", "fable": "male"},
    "test": {"sage": "female", "ballad": "male", "onyx": "male"},
}


class RemoteSynthesizer(Synthesizer):
    """A synthesizer that can fail for reasons of its own: a server, a network, a model."""

    concurrency: int = 1
    usd_per_minute: float = 0.0  # of speech

    @abstractmethod
    def voices(self, split: str) -> dict[str, Voice]:
        """The voices of users of a split; splits share none."""

    @abstractmethod
    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        """Speech and "ok", or None and a status that says why not; never raises for one bad answer."""

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        audio, status = self.try_synthesize(text, style, voice, seed)
        if audio is None:
            raise UserError(f"{self.name} must answer with speech; got {status}; check the server and its log")
        return audio


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

    def of(self, split: str) -> dict[str, Voice]:
        return {n: Voice(n, s.gender, s.age) for n, s in self.speakers.items() if s.split == split}

    def recording(self, voice: str) -> Path:
        return self.root / self.speakers[voice].audio


class OpenAITTS(RemoteSynthesizer):
    """gpt-4o-mini-tts, or a server with the same /audio/speech; the style is an instruction, maybe by a chat model.

    Args:
        model: name on the server.
        base_url: of the server.
        api_key_env: environment variable that holds the key.
        describer: writes the instruction from the style's labels (paper); without one the labels are the instruction.
        concurrency: requests at a time.
        patience: how long to try a request, and how often.
    """

    sample_rate = 24_000
    usd_per_minute = 0.015  # platform.openai.com, 2025

    def __init__(
        self,
        model: str = "gpt-4o-mini-tts",
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        describer: ChatLLM | None = None,
        concurrency: int = 8,
        patience: Patience = Patience(),
    ) -> None:
        self.name, self.model, self.url = model, model, base_url.rstrip("/") + "/audio/speech"
        self.api_key_env, self.describer = api_key_env, describer
        self.concurrency, self.patience = concurrency, patience

    def voices(self, split: str) -> dict[str, Voice]:
        return {name: Voice(name, gender) for name, gender in OPENAI_VOICES[split].items()}

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        instructions, status = self.describe(style)
        if instructions is None:
            return None, f"description_{status}"
        body = {
            "model": self.model,
            "voice": voice,
            "input": text,
            "instructions": instructions,
            "response_format": "wav",
        }
        key = os.environ.get(self.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = post(lambda: {"url": self.url, "json": body, "headers": headers}, read_wav, self.patience)
        if answer.status in ("http_401", "http_403", "http_404"):
            raise UserError(f"{self.url} must know the key in ${self.api_key_env} and the model; got {answer.status}")
        return answer.value, answer.status

    def describe(self, style: Style) -> tuple[str | None, str]:
        """How to speak, and "ok"; or None and the chat model's status."""
        labels = ", ".join(f"{name} {value}" for name, value in asdict(style).items() if value)
        if self.describer is None:
            return f"Speak like this person: {labels}.", "ok"
        reply = self.describer.complete([[{"role": "user", "content": DESCRIPTION_PROMPT.format(style=labels)}]])[0]
        return reply.text, reply.status


class CosyVoice(RemoteSynthesizer):
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

    def voices(self, split: str) -> dict[str, Voice]:
        return self.speakers.of(split)

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


class CsmTTS(RemoteSynthesizer):
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

    def voices(self, split: str) -> dict[str, Voice]:
        return self.speakers.of(split)

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


class YourTTS(RemoteSynthesizer):
    """YourTTS through the package TTS (paper, Table 1), zero-shot from recorded speakers.

    Args:
        voices_list: JSON lines of `PromptVoice`.
        model: a name that the package TTS knows.
    """

    name = "your-tts"
    sample_rate = 16_000

    def __init__(self, voices_list: InputPath, model: str = "tts_models/multilingual/multi-dataset/your_tts") -> None:
        try:
            from TTS.api import TTS
        except ImportError:
            raise UserError("YourTTS needs the package TTS; got none; pip install coqui-tts") from None
        self.speakers, self.model = PromptVoices(voices_list), TTS(model)

    def voices(self, split: str) -> dict[str, Voice]:
        return self.speakers.of(split)

    def try_synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> tuple[Audio | None, str]:
        samples = self.model.tts(text, speaker_wav=str(self.speakers.recording(voice)), language="en")
        return Audio(np.asarray(samples, np.float32), self.sample_rate), "ok"


def user_voices(synthesizer: Synthesizer, split: str) -> dict[str, Voice]:
    """Voices that users of a split may have."""
    return synthesizer.voices(split) if isinstance(synthesizer, RemoteSynthesizer) else QUERY_VOICES[split]


def post(request: Callable[[], dict], read: Callable[[bytes], Audio], patience: Patience) -> Answer:
    """One patient request."""
    return gather([request], lambda session, item: ask(session, item, read, patience, Gate()), 1, patience)[0]


def read_wav(body: bytes) -> Audio:
    """A sound file's bytes.

    Raises:
        ValueError: if it is cut, empty or no sound file.
    """
    try:
        samples, rate = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"no sound file: {error}") from None
    if not len(samples):
        raise ValueError("no samples")
    return Audio(samples.mean(1), rate)


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
