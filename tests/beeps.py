"""A speech of beeps: words are pairs of sines and manners are a faint third one. Tiny, but it is really synthesised and
really heard."""

from __future__ import annotations

import numpy as np

from lightning_paras2s.audio import write_audio
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.speaking.synthesizers import Synthesizer
from lightning_paras2s.types import STYLES, TONES, Audio, Query, Style, to_json

RATE, WORD = 16_000, 1280  # 80 ms a word: bins of 12.5 Hz
MANNERS = (*TONES, *(value for values in STYLES.values() for value in values))
FACTOR_OF = {value: factor for factor, values in STYLES.items() for value in values}


def spectrum(samples: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(samples[: len(samples) // WORD * WORD].reshape(-1, WORD)))


class BeepSynthesizer(Synthesizer):
    name = "beeps"
    sample_rate = RATE

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        time = np.arange(WORD) / RATE
        manner = style.tone or style.sarcasm or style.emotion or style.age or style.gender
        carrier = 0.05 * np.sin(2 * np.pi * (7000 + 25 * MANNERS.index(manner)) * time)
        beeps = []
        for word in plain_words(text):
            low, high = divmod(self.words.index(word), 32)
            tones = [np.sin(2 * np.pi * f * time) for f in (300 + 75 * low, 4000 + 75 * high)]
            beeps.append(0.2 * sum(tones) + carrier)
        return Audio(np.concatenate(beeps).astype(np.float32) if beeps else np.zeros(0, np.float32), RATE)


class BeepTranscriber(Transcriber):
    name = "beep-ear"

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def write_down(self, audios: list[Audio]) -> list[str]:
        return [" ".join(self._word(row) for row in spectrum(audio.samples)) for audio in audios]

    def _word(self, row: np.ndarray) -> str:
        low, high = row[24 : 24 + 6 * 33 : 6].argmax(), row[320 : 320 + 6 * 32 : 6].argmax()
        return self.words[min(32 * int(low) + int(high), len(self.words) - 1)]


class BeepRecognizer(StyleRecognizer):
    name = "beep-manner"

    def recognize(self, audios: list[Audio], role: str) -> list[Style]:
        found = [MANNERS[int(spectrum(a.samples).sum(0)[560 : 560 + 2 * len(MANNERS) : 2].argmax())] for a in audios]
        return [Style(tone=m) if role == "response" else Style(**{FACTOR_OF[m]: m}) for m in found]


def beep_manifest(folder, queries: list[dict], words: list[str]) -> str:
    """Speak each text query in both its styles; -> the manifest's path."""
    rows = []
    for query in queries:
        for style in query["styles"]:
            name = f"{query['id']}-{style}"
            styles = {query["factor"]: style}
            write_audio(
                folder / f"{name}.wav", BeepSynthesizer(words).synthesize(query["text"], Style(**styles), "user")
            )
            rows.append(
                Query(
                    name,
                    query["id"],
                    query["factor"],
                    query["split"],
                    query["text"],
                    styles,
                    query["topic"],
                    f"{name}.wav",
                )
            )
    (folder / "queries.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return str(folder / "queries.jsonl")
