"""eSpeak NG's C library, in process from its wheel: text to samples with the onsets of words, and to phonemes."""

from __future__ import annotations

import _ctypes
import ctypes
from typing import TYPE_CHECKING

import numpy as np

from lightning_paras2s.errors import UserError

if TYPE_CHECKING:
    from lightning_paras2s.speaking.synthesizers import Prosody


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_RATE, _VOLUME, _PITCH, _RANGE, _WORDGAP = 1, 2, 3, 4, 7
_WORD_EVENT, _END_EVENT, _SYNCHRONOUS, _UTF8 = 1, 0, 2, 1


class Espeak:
    """The C library: one per process, because it keeps its state in globals."""

    instance: Espeak | None = None
    SAMPLE_RATE = 22_050

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        path = espeakng_loader.get_data_path().removesuffix("/espeak-ng-data").encode()
        rate = self.library.espeak_Initialize(_SYNCHRONOUS, 0, path, 0)
        if rate != self.SAMPLE_RATE:
            raise UserError(f"eSpeak NG must start at {self.SAMPLE_RATE} Hz; got {rate}; reinstall espeakng-loader")
        self.library.espeak_ng_SetRandSeed(1)  # it would seed itself with the time
        self.chunks: list[np.ndarray] = []
        self.words: list[tuple[int, int]] = []  # (position in the text, sample)
        self._callback = _CALLBACK(self._receive)
        self.library.espeak_SetSynthCallback(self._callback)
        self.voice = ""

    @classmethod
    def fresh(cls) -> Espeak:
        """The library loaded anew (4 ms): its statics (phases, flutter, random numbers) would run on from one utterance
        to the next, and what was spoken before would change the samples."""
        if cls.instance is not None:
            cls.instance.library.espeak_Terminate()
            _ctypes.dlclose(cls.instance.library._handle)
        cls.instance = cls()
        return cls.instance

    def _receive(self, samples, count, events) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != _END_EVENT:
            if events[index].type == _WORD_EVENT:
                self.words.append((events[index].text_position, events[index].sample))
            index += 1
        return 0

    def speak(self, text: str, voice: str, prosody: Prosody, word_gap: int) -> tuple[np.ndarray, list[int | None]]:
        if "\0" in text:
            raise UserError(f"text to speak must hold no NUL, at which eSpeak NG stops; got {text!r:.60}; take it out")
        if voice != self.voice:
            if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(f"a voice must be one of eSpeak NG's; got {voice!r}; see speaking/synthesizers.py")
            self.voice = voice
        settings = {_RATE: prosody.rate, _VOLUME: 80, _PITCH: prosody.pitch, _RANGE: prosody.range, _WORDGAP: word_gap}
        for parameter, value in settings.items():
            self.library.espeak_SetParameter(parameter, int(round(value)), 0)
        self.chunks, self.words = [], []
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        self.library.espeak_Synchronize()
        samples = np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)
        return samples.astype(np.float32) / 32768, word_starts(text, self.words)

    def phonemes(self, word: str, voice: str = "en-US") -> str:
        """eSpeak's names of a word's phonemes, "_" between them, with stress marks."""
        if self.voice != voice:
            self.library.espeak_SetVoiceByName(voice.encode())
            self.voice = voice
        text = ctypes.c_char_p(word.encode())
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        return self.library.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, ord("_") << 8).decode()


def word_starts(text: str, events: list[tuple[int, int]]) -> list[int | None]:
    """The sample at which each word starts; None for a word that eSpeak runs together with the one before ("of the").

    Args:
        events: (position of the word in the text, from 1; sample).
    """
    starts: list[int | None] = []
    position = 0
    found = dict(events)
    for word in text.split():
        begin = text.index(word, position)
        position = begin + len(word)
        starts.append(next((found[p] for p in range(begin + 1, position + 1) if p in found), None))
    return starts
