"""Text and style to speech: synthesizers.

`EspeakSynthesizer` runs eSpeak NG in process from its wheel. A style is a region of prosody: a centre (`PROSODY`) with
natural variation around it, drawn from the seed. The agent speaks with one voice, without variation, words aligned to
the codec's frames.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.signal import butter, lfilter

from lightning_paras2s.audio import at_rate, rms
from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.running.origins import sha
from lightning_paras2s.speaking.espeak import Espeak
from lightning_paras2s.types import Audio, Style


class Synthesizer(ABC):
    """Text to speech in a style and a voice. It costs nothing, unless a subclass says otherwise."""

    name: str
    sample_rate: int
    usd_per_minute: float = 0.0  # of speech
    beside_usd: float = 0.0  # spent so far beside speech: a chat model's descriptions of voices

    def at_most_usd(self, characters: float) -> float:
        """What the speech of a text of so many characters can cost, with what is spent beside it."""
        return 0.0

    def unspeakable(self, text: str) -> str:
        """What of `text` no voice of this synthesizer can speak as it is written; "" if all can be."""
        return ""

    @abstractmethod
    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        """Speak `text`. The same arguments give the same samples."""


@dataclass(frozen=True)
class Prosody:
    """eSpeak's controls (rate in words/min, pitch and range 0..99), then effects on the waveform.

    `gain_db` is the level, `tilt_db` raises (+) or lowers (-) everything above 1 kHz (bright, dark), `tremor` is the
    depth of a 6 Hz amplitude modulation, `roughness` that of a 40 Hz one.
    """

    rate: float = 170
    pitch: float = 48
    range: float = 50
    gain_db: float = 0
    tilt_db: float = 0
    tremor: float = 0
    roughness: float = 0


QUERY_PROSODY = {
    "neutral": Prosody(),
    "happy": Prosody(192, 68, 85, 2, 2),
    "surprised": Prosody(148, 92, 98, 3, 1),
    "sad": Prosody(118, 20, 8, -6, -5),
    "angry": Prosody(208, 32, 70, 6, 6),
    "fear": Prosody(218, 82, 8, -5, -1, tremor=0.6),
    "disgust": Prosody(118, 8, 85, 3, 2, roughness=0.6),
    "sincere": Prosody(175, 60, 60, 0, 0),
    "sarcastic": Prosody(108, 38, 95, 0, -3),
}
AGENT_PROSODY = {
    "neutral": Prosody(185, 48, 50),
    "cheerful": Prosody(200, 72, 80, 1, 2),
    "excited": Prosody(215, 95, 99, 3, 3),
    "empathetic": Prosody(150, 30, 25, -3, -5),
    "calm": Prosody(160, 55, 5, -2, -2),
    "apologetic": Prosody(145, 8, 70, -4, -3),
}
CHILD_PITCH = 15.0
SECONDS_A_CHARACTER = 0.1  # of slow speech, so that estimates lie above; English has about 0.07
AGENT_VOICE = "agent"


class Voice(NamedTuple):
    """An eSpeak voice name, and the factor by which the vocal tract is shortened (a child's: 1.2 to 1.4)."""

    espeak: str
    gender: str
    age: str = "adult"
    shorten: float = 1.0


def _voices() -> dict[str, dict[str, Voice]]:
    adults = {
        "train": {
            "male": "en-US+m1 en-US+m3 en-GB-x-rp+m4 en-US+m6 en-GB-x-rp+m7 en-US+m8 en-US+Andy "
            "en-US+Mike en-GB-x-rp+Michael en-US+robert en-US+Denis en-US+miguel en-US+ed en-GB-x-rp+travis en-US+rob "
            "en-GB-x-rp+Gene en-US+Lee en-GB-x-rp+Hugo en-US+adam en-US+benjamin "
            "en-US+david en-US+edward en-GB-x-rp+grandpa en-US+ian en-US+john en-GB-x-rp+max en-US+norbert "
            "en-US+quincy",
            "female": "en-US+f1 en-US+f2 en-GB-x-rp+f3 en-US+f5 en-US+Alicia en-US+Andrea en-GB-x-rp+linda "
            "en-US+steph en-GB-x-rp+f1 en-US+grandma en-GB-x-rp+f2 en-GB-x-rp+Alicia en-US+linda en-GB-x-rp+Andrea "
            "en-GB-x-rp+f5 en-US+f3",
        },
        "val": {"male": "en-US+paul en-GB-x-rp+Reed", "female": "en-US+Annie en-GB-x-rp+aunty"},
        "test": {
            "male": "en-US+m2 en-GB-x-rp+m5 en-US+Diogo en-US+victor",
            "female": "en-US+f4 en-GB-x-rp+belinda en-US+anika en-GB-x-rp+steph2",
        },
    }
    shorten = {"train": (1.22, 1.26, 1.3, 1.34, 1.38), "val": (1.25, 1.32), "test": (1.24, 1.28, 1.33, 1.36)}
    voices: dict[str, dict[str, Voice]] = {}
    for split, genders in adults.items():
        found = {name: Voice(name, gender) for gender, names in genders.items() for name in names.split()}
        children = [voice for voice in found.values() if voice.gender == "female"]
        for index, voice in enumerate(children):
            factor = shorten[split][index % len(shorten[split])]
            found[f"{voice.espeak}/child"] = Voice(voice.espeak, voice.gender, "child", factor)
        voices[split] = found
    return voices


QUERY_VOICES = _voices()


class Speech(NamedTuple):
    """Audio with the onset of each whitespace-separated word, in samples."""

    audio: Audio
    onsets: list[int]


class EspeakSynthesizer(Synthesizer):
    """eSpeak NG, in process, 16 kHz. Voices: `QUERY_VOICES` of any split, or "agent".

    Args:
        variation: 1 = a style is a region (rate 8 %, pitch 6, range 8, level 1.5 dB; standard deviations), 0 =
            always its centre.
        noise: whether queries get background noise (18 to 40 dB below speech) and level variation.
        frame_samples: the agent's words start on multiples of this (the codec's hop), which makes its codes nearly
            deterministic.
    """

    name = "espeak-ng"
    sample_rate = 16_000

    def __init__(self, variation: float = 1.0, noise: bool = True, frame_samples: int = 640) -> None:
        self.variation, self.noise, self.frame_samples = float(variation), noise, frame_samples

    @property
    def config_sha(self) -> str:
        """Of all options: each decides how some voice sounds."""
        return sha(type(self).__name__, self.variation, self.noise, self.frame_samples)

    def unspeakable(self, text: str) -> str:
        """All voices are English: they spell the letters of other scripts, by name or not at all. A text ends for them
        where a NUL stands."""
        return first_foreign_word(text) or next((word for word in text.split() if "\0" in word), "")

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        if voice == AGENT_VOICE:
            return self.speak_as_agent(text, style.tone or "neutral").audio
        for voices in QUERY_VOICES.values():
            if voice in voices:
                return self.speak_as_user(text, style, voices[voice], seed)
        known = ", ".join(repr(next(iter(QUERY_VOICES[split]))) for split in QUERY_VOICES)
        raise UserError(
            f"a voice must be {AGENT_VOICE!r} or one of QUERY_VOICES, such as {known}; got {voice!r}; "
            "lightning_paras2s/speaking/synthesizers.py lists them by split"
        )

    def speak_as_user(self, text: str, style: Style, voice: Voice, seed: int = 0) -> Audio:
        """A query: prosody around the style's centre, the voice's age and gender, noise and level from `seed`."""
        manner = style.sarcasm or style.emotion or "neutral"
        random = np.random.default_rng(seed)
        prosody = vary(QUERY_PROSODY[manner], random, self.variation)
        if voice.age == "child":
            prosody = replace(
                prosody, pitch=min(prosody.pitch + CHILD_PITCH, 99), rate=prosody.rate / voice.shorten * 1.05
            )
        samples, _ = Espeak.fresh().speak(text, voice.espeak, prosody, 0)
        rate = int(round(Espeak.SAMPLE_RATE * voice.shorten / 50) * 50)
        audio = shape(Audio(at_rate(samples, rate, self.sample_rate), self.sample_rate), prosody)
        return add_noise(audio, random) if self.noise else audio

    def speak_as_agent(self, text: str, tone: str) -> Speech:
        """A response in the agent's voice, always the same for the same words and tone; word onsets lie on frames."""
        check_choice("a tone", tone, AGENT_PROSODY)
        prosody = AGENT_PROSODY[tone]
        samples, starts = Espeak.fresh().speak(text, "en-US", prosody, 1)
        scale = self.sample_rate / Espeak.SAMPLE_RATE
        audio = Audio(at_rate(samples, Espeak.SAMPLE_RATE, self.sample_rate), self.sample_rate)
        starts = [None if start is None else int(start * scale) for start in starts]
        aligned, onsets = align_words(audio.samples, starts, self.frame_samples)
        return Speech(shape(Audio(aligned, self.sample_rate), prosody), onsets)


def first_foreign_word(text: str) -> str:
    """The first word of two or more letters of which none is Latin; "" if there is none (a lone pi is read by name)."""
    for word in text.split():
        letters = [c for c in word if unicodedata.category(c)[0] == "L"]
        if len(letters) > 1 and not any(unicodedata.name(c, "").startswith("LATIN") for c in letters):
            return word
    return ""


def most_minutes(characters: float) -> float:
    """How long speech of so many characters may take: what all prices of speech that is not there yet build on."""
    return characters * SECONDS_A_CHARACTER / 60


def vary(centre: Prosody, random: np.random.Generator, amount: float) -> Prosody:
    """A point of the style's region."""
    steps = random.standard_normal(4).clip(-2, 2) * amount
    return replace(
        centre,
        rate=float(np.clip(centre.rate * (1 + 0.08 * steps[0]), 85, 320)),
        pitch=float(np.clip(centre.pitch + 6 * steps[1], 0, 99)),
        range=float(np.clip(centre.range + 8 * steps[2], 0, 99)),
        gain_db=centre.gain_db + 1.5 * steps[3],
    )


def shape(audio: Audio, prosody: Prosody, loudness: float = 0.06) -> Audio:
    """Level the speech, then apply the prosody's effects on the waveform."""
    samples = audio.samples.astype(np.float64)
    if prosody.tilt_db:
        low = lfilter(*butter(1, 1000, fs=audio.sample_rate), samples)
        samples = low + 10 ** (prosody.tilt_db / 20) * (samples - low)
    time = np.arange(len(samples)) / audio.sample_rate
    samples *= 1 - prosody.tremor * (0.5 + 0.5 * np.sin(2 * np.pi * 6 * time))
    samples *= 1 - prosody.roughness * (0.5 + 0.5 * np.sin(2 * np.pi * 40 * time))
    samples *= loudness * 10 ** (prosody.gain_db / 20) / max(rms(samples), 1e-6)
    return Audio(np.clip(samples, -1, 1).astype(np.float32), audio.sample_rate)


def add_noise(audio: Audio, random: np.random.Generator) -> Audio:
    """Brownish background noise 18 to 40 dB below the speech, and up to 3 dB of level either way."""
    white = random.standard_normal(len(audio.samples))
    pole, below_db = float(random.uniform(0, 0.95)), random.uniform(18, 40)
    gain = 10 ** (random.uniform(-3, 3) / 20)
    noisy = gain * (audio.samples + brownish(white, pole, audio.samples, -below_db))
    return Audio(np.clip(noisy, -1, 1).astype(np.float32), audio.sample_rate)


def brownish(white: np.ndarray, pole: float, speech: np.ndarray, level_db: float) -> np.ndarray:
    """White noise through a one-pole low-pass, `level_db` against the speech's root mean square."""
    noise = lfilter([1.0], [1.0, -pole], white)
    return noise * (rms(speech) * 10 ** (level_db / 20) / max(rms(noise), 1e-9))


def align_words(
    samples: np.ndarray, starts: list[int | None], frame: int, fade: int = 48
) -> tuple[np.ndarray, list[int]]:
    """Insert silence before words so that each starts on a multiple of `frame`; -> samples, onsets of all words.

    A word without a start of its own is placed one frame after the word before. Trailing silence is cut to one frame.
    """
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    end = min(len(samples), (int(loud[-1]) if len(loud) else 0) + frame)
    cuts = sorted({start for start in starts if start is not None and 0 < start < end})
    pieces, moved, position = [], {}, 0
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    for start, stop in zip([0, *cuts], [*cuts, end], strict=True):
        piece = samples[start:stop].copy()
        if len(piece) > 2 * fade:
            piece[:fade] *= ramp
            piece[-fade:] *= ramp[::-1]
        moved[start] = position
        padded = -(-len(piece) // frame) * frame
        pieces.append(np.pad(piece, (0, padded - len(piece))))
        position += padded
    onsets: list[int] = []
    for start in starts:
        known = 0 if start is not None and start <= 0 else moved.get(start)
        after = onsets[-1] + frame if onsets else 0
        onsets.append(after if known is None or known < after else known)
    return np.concatenate(pieces).astype(np.float32), onsets
