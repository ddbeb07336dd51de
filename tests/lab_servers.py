"""The servers of a lab, on loopback: chat completions, gpt-4o-mini-tts and CosyVoice, by their own protocols. The chat
model is the scripted one, and some of its first answers are bad; the voices are eSpeak's, which take of an instruction
the labels alone."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import soundfile
from loopback import Loopback, Sent, completion

from lightning_paras2s.audio import at_rate, write_audio
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.queries.styles import fields_of
from lightning_paras2s.speaking.remote import DESCRIPTION_PROMPT, OPENAI_VOICES
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, QUERY_VOICES, EspeakSynthesizer
from lightning_paras2s.types import SPLITS, Audio, Style

COSY_RATE = 22_050  # Hz of CosyVoice's raw samples
NAMES = ("emotion", "sarcasm", "age", "gender", "tone")


class LabServers(Loopback):
    """All three on one port.

    Attributes:
        asked: how many of each kind were answered well.
    """

    def __init__(self) -> None:
        super().__init__(self.reply)
        self.llm, self.voice = ScriptedLLM(), EspeakSynthesizer()
        self.asked = {"chat": 0, "speech": 0, "cosy": 0}

    def reply(self, path: str, body: bytes, times: int) -> Sent:
        if times == 1 and sum(body) % 7 == 0:  # as servers fail, and then answer
            return (Sent(500, b""), Sent(429, b"", {"Retry-After": "0"}), Sent(200, b'{"choices": [{"mess'))[
                len(body) % 3
            ]
        if path.endswith("/chat/completions"):
            self.asked["chat"] += 1
            prompt = json.loads(body)["messages"][-1]["content"]
            if (described := fields_of(DESCRIPTION_PROMPT, prompt)) is not None:
                return Sent(200, completion(f"Speak like this: {described['style']}."))
            return Sent(200, completion(self.llm.complete([[{"role": "user", "content": prompt}]])[0].text))
        with self.lock:  # eSpeak keeps its state in globals
            if path.endswith("/audio/speech"):
                self.asked["speech"] += 1
                return Sent(200, self.openai(json.loads(body)))
            assert path.endswith("/inference_zero_shot"), path
            self.asked["cosy"] += 1
            return Sent(200, self.cosy(body))

    def openai(self, asked: dict) -> bytes:
        """gpt-4o-mini-tts: a WAV, spoken as the instruction's labels say."""
        labels = {n: m[1] for n in NAMES if (m := re.search(rf"\b{n} (\w+)", asked["instructions"]))}
        voice = AGENT_VOICE if "tone" in labels else adult(OPENAI_VOICES, asked["voice"])
        file, audio = io.BytesIO(), self.voice.synthesize(asked["input"], Style(**labels), voice, 1)
        soundfile.write(file, audio.samples, audio.sample_rate, format="WAV", subtype="PCM_16")
        return file.getvalue()

    def cosy(self, body: bytes) -> bytes:
        """CosyVoice: raw samples in the voice of the prompt, whose words name it here."""
        form = dict(re.findall(r'name="(\w+)"\r\n\r\n([^\r]*)', body.decode("latin-1")))
        audio = self.voice.synthesize(form["tts_text"], Style(), form["prompt_text"], 1)
        samples = at_rate(audio.samples, audio.sample_rate, COSY_RATE)
        return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def adult(voices: dict[str, dict[str, str]], name: str) -> str:
    """One of eSpeak's voices for a split's voice of this name, of its gender."""
    split = next(split for split, found in voices.items() if name in found)
    return next(n for n, v in QUERY_VOICES[split].items() if (v.gender, v.age) == (voices[split][name], "adult"))


def write_voices(folder: Path) -> None:
    """Recorded speakers of both genders and ages for each split, as CosyVoice is given them."""
    rows = []
    for split in SPLITS:
        for gender, age in (("male", "adult"), ("female", "adult"), ("female", "child")):
            voice = next(n for n, v in QUERY_VOICES[split].items() if (v.gender, v.age) == (gender, age))
            name = f"{split}-{gender}-{age}"
            write_audio(folder / f"{name}.wav", Audio(np.full(1600, 0.1, np.float32), 16_000))
            row = {"name": name, "split": split, "gender": gender, "age": age, "audio": f"{name}.wav", "text": voice}
            rows.append(json.dumps(row) + "\n")
    (folder / "voices.jsonl").write_text("".join(rows))
