"""A folder as a lab has it: speech of the embedded voices in files of 34 kinds, and 16 that are of no use."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from lightning_paras2s.audio import at_rate
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.data.embedded import text_queries
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.voice_activity import Span, VoiceActivity
from lightning_paras2s.speaking.synthesizers import QUERY_VOICES, EspeakSynthesizer
from lightning_paras2s.types import Audio, Style

RATE = 16_000
# (name, rate, format, subtype, channels): each holds another utterance.
KINDS = (
    *((f"rates/{hz}.wav", hz, "WAV", "PCM_16", 1) for hz in (8000, 11025, 16000, 22050, 24000, 44100, 48000)),
    *((f"bits/{kind}.WAV", 16000, "WAV", kind, 1) for kind in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *((f"phone/{kind}.wav", 8000, "WAV", kind, 1) for kind in ("ULAW", "ALAW", "IMA_ADPCM", "GSM610")),
    *((f"rooms/{count}.wav", 48000, "WAV", "PCM_16", count) for count in (2, 4, 6)),
    ("loss less/16.flac", 44100, "FLAC", "PCM_16", 2),
    ("loss less/24.flac", 48000, "FLAC", "PCM_24", 1),
    ("web/a.ogg", 48000, "OGG", "VORBIS", 2),
    ("web/b.opus", 48000, "OGG", "OPUS", 1),
    ("web/c.mp3", 44100, "MP3", "MPEG_LAYER_III", 2),
    ("web/d.mp3", 16000, "MP3", "MPEG_LAYER_III", 1),
    ("old/a.aiff", 22050, "AIFF", "PCM_16", 1),
    ("old/b.au", 8000, "AU", "ULAW", 1),
    ("old/d.caf", 32000, "CAF", "PCM_16", 1),
    ("old/an mp3.wav", 24000, "MP3", "MPEG_LAYER_III", 1),
)


@lru_cache
def speech(number: int) -> np.ndarray:
    """An utterance of at least a second, its own words in some voice and mood, without noise."""
    queries, voices = text_queries("test"), sorted(QUERY_VOICES["test"])
    moods = ("happy", "sad", "angry", "neutral")
    style = Style(emotion=moods[number % 4])
    text, voice = queries[number * 7].text, voices[number % len(voices)]
    return EspeakSynthesizer(noise=False).synthesize(text, style, voice, number).samples


def write(path: Path, samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format=kind, subtype=subtype)


def in_rooms(samples: np.ndarray, channels: int) -> np.ndarray:
    """[N, channels]: the voice softer to the right; of six, in the centre alone (5.1); of four, once turned over."""
    gains = {1: (1,), 2: (1, 0.5), 4: (1, -1, 0, 0), 6: (0, 0, 1, 0, 0, 0)}[channels]
    return samples[:, None] * np.array(gains)


def chords(seconds: float, notes: tuple[float, ...] = (261.6, 329.6, 392.0)) -> np.ndarray:
    """An organ that holds one chord after another, as loud as a voice."""
    time = np.arange(int(seconds * RATE)) / RATE
    step = 2.0 ** (np.array([0, 5, 7, 0])[(time / 0.5).astype(int) % 4] / 12)
    phase = 2 * np.pi * np.cumsum(step) / RATE
    return 0.06 * sum(np.sin(h * note * phase) / h for note in notes for h in (1, 2, 3))


def write_lab(root: Path) -> dict[str, str]:
    """50 recordings (and what is none); -> name -> what must come of it."""
    for number, (name, rate, kind, subtype, channels) in enumerate(KINDS):
        write(root / name, in_rooms(at_rate(speech(number), RATE, rate), channels), rate, kind, subtype)
    found = dict.fromkeys((name for name, *_ in KINDS), "kept")
    first = len(KINDS)
    pause = np.zeros(int(2.5 * RATE), np.float32)
    write(root / "long.wav", np.concatenate([part for n in range(first, first + 40) for part in (speech(n), pause)]))
    names = ("long.wav", "deep/er/día ñ 言.wav", f"{'long name ' * 20}.wav", "loud.wav", "cut off.wav")
    write(root / names[1], speech(first + 40))
    write(root / names[2], speech(first + 41))
    write(root / "loud.wav", speech(first + 42) * 32768, subtype="FLOAT")
    (root / "cut off.wav").write_bytes(wav_bytes(root, speech(first + 43))[:-9001])
    return found | dict.fromkeys(names, "kept") | write_useless(root)


def write_useless(root: Path) -> dict[str, str]:
    """16 files of which nothing can be used, and why."""
    again = speech(0)
    write(root / "x/nothing.wav", np.zeros(0, np.float32))
    write(root / "x/silence.flac", np.zeros(3 * RATE, np.float32), kind="FLAC")
    write(root / "x/nan.wav", np.where(np.arange(RATE * 2) == 99, np.nan, 0.1).astype(np.float32), subtype="FLOAT")
    write(root / "x/infinite.wav", np.full(RATE * 2, np.inf, np.float32), subtype="FLOAT")
    write(root / "x/tone.wav", 0.2 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE))
    write(root / "x/organ.wav", chords(6.0))
    write(root / "x/hiss.ogg", 0.05 * np.random.default_rng(0).standard_normal(3 * RATE), kind="OGG", subtype="VORBIS")
    write(root / "x/brief.wav", again[: int(0.6 * RATE)])
    write(root / "z/softer.wav", 0.3 * speech(2))
    write(root / "z/telephone.wav", at_rate(speech(3), RATE, 8000), 8000)
    write(root / "z/shared.mp3", at_rate(speech(4), RATE, 44100), 44100, "MP3", "MPEG_LAYER_III")
    write(root / "z/messenger.ogg", at_rate(speech(5), RATE, 48000), 48000, "OGG", "OPUS")
    (root / "z/copy.wav").write_bytes((root / KINDS[2][0]).read_bytes())
    (root / "x/empty.wav").touch()
    (root / "x/page.mp3").write_text("<html>404 Not Found</html>\n" * 50)
    (root / "x/phone memo.wav").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))  # without its index
    left_out = {"nothing.wav": "empty", "silence.flac": "silent", "nan.wav": "not_finite", "infinite.wav": "not_finite"}
    left_out |= dict.fromkeys(("tone.wav", "organ.wav", "hiss.ogg"), "no_speech") | {"brief.wav": "short"}
    left_out |= {"empty.wav": "empty", "page.mp3": "unreadable", "phone memo.wav": "unreadable"}
    twice = ("softer.wav", "telephone.wav", "shared.mp3", "messenger.ogg", "copy.wav")
    # No recordings: a hidden file, as a Mac leaves beside each; notes; a link that leads back.
    (root / "x/._tone.wav").write_bytes(b"\0\5\x16\7")
    (root / "notes.txt").write_text("speaker 3 had a cold")
    os.symlink(root, root / "x/back")
    return {f"x/{name}": why for name, why in left_out.items()} | {f"z/{name}": "duplicate" for name in twice}


def wav_bytes(root: Path, samples: np.ndarray) -> bytes:
    path = root / "whole.wav"
    write(path, samples)
    data = path.read_bytes()
    path.unlink()
    return data


class Unsteady(VoiceActivity):
    """Speech is what is loud and does not stay as loud: enough for voices, tones and organs without noise."""

    name = "unsteady-1"

    def find(self, audio: Audio) -> list[Span]:
        size = audio.sample_rate // 50
        frames = audio.samples[: len(audio.samples) // size * size].reshape(-1, size)
        level = 10 * np.log10(np.square(frames).mean(1) + 1e-10)
        found: list[Span] = []
        for frame in np.flatnonzero(level > -45).tolist():
            if found and frame - found[-1].end <= 15:  # 0.3 s
                found[-1] = Span(found[-1].start, frame + 1)
            else:
                found.append(Span(frame, frame + 1))
        return [Span(s.start * size, s.end * size) for s in found if level[s.start : s.end].std() > 2.5]


class Dictation(Transcriber):
    """Says of each recording one of a few sentences, by its length; counts what it was asked, and may break."""

    name = config_sha = "dictation-1"  # when it breaks makes it no other ear
    sentences = ("we sold the house last week", "my dog will not eat his food", "is there a train to the sea today")

    def __init__(self, breaks_after: int = 10**9) -> None:
        self.asked, self.breaks_after = 0, breaks_after

    def write_down(self, audios: list[Audio]) -> list[str]:
        self.asked += len(audios)
        if self.asked > self.breaks_after:
            raise KeyboardInterrupt
        return [self.sentences[len(audio.samples) % 3] for audio in audios]


def take(root: Path, out: Path, transcriber: Transcriber | None = None, **options) -> dict:
    """Import recordings with ears that need no extra."""
    ears = {"transcriber": transcriber or Dictation(), "voice_activity": Unsteady()}
    return import_speech("recordings", str(root), str(out), **ears, **options)
