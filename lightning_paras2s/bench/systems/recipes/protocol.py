"""What the recipes share: the protocol of `CommandSystem` (docs/systems.md), for any Python of at least 3.8.

A recipe runs in its model's own environment, so this file imports nothing but the standard library and numpy.
"""

import json
import os
import sys
import time
import traceback
import wave

import numpy as np


def lines_only():
    """From here on, what anything prints goes to standard error, -> the stream of the protocol.

    Call it before a model's code is imported: some of it prints while it loads, and some writes past `sys.stdout`.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return stream


def answer_lines(stream, name, respond, turns=False):
    """Say that the model is there, and answer until the input ends.

    Args:
        stream: of `lines_only`.
        name: of the model.
        respond: (path of the query's WAV, sample number, `Clock`) -> (samples [N] in -1..1, Hz, text or None). An
            exception is an answer, {"error"}; a crash is not caught.
        turns: whether it carries what was said before: it is then called with a fourth argument, the list of earlier
            turns ({"role", "text", "audio"?, "styles"?}), empty for most queries. Without it, none is ever sent.
    """
    tell(stream, {"ready": name, "turns": True} if turns else {"ready": name})
    for line in sys.stdin:
        asked = json.loads(line)
        row, clock = {"id": asked["id"]}, Clock()
        try:
            before = [asked.get("turns", [])] if turns else []
            samples, rate, text = respond(asked["audio"], int(asked["sample"]), clock, *before)
            row["audio"] = asked["out"]
            row.update({"text": text} if text else {})
            row.update({"first_audio_seconds": clock.first} if clock.first is not None else {})
            write_wav(asked["out"], samples, rate)
        except Exception as error:
            traceback.print_exc()
            row = {"id": asked["id"], "error": f"{type(error).__name__}: {error}"}
        tell(stream, row)


def tell(stream, row):
    stream.write(json.dumps(row) + "\n")
    stream.flush()


class Clock:
    """When the first piece of speech was there, in seconds from the request; None if nothing told it."""

    def __init__(self):
        self.started, self.first = time.perf_counter(), None

    def speech(self):
        """Call it for each piece of speech as it comes."""
        if self.first is None:
            self.first = time.perf_counter() - self.started


def write_wav(path, samples, rate):
    """[N] float samples as 16-bit WAV; too loud ones are scaled, not cut."""
    samples = np.asarray(samples, dtype=np.float64).reshape(-1)
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError("the model gave no finite speech")
    samples = samples / max(1.0, float(np.abs(samples).max()))
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def read_wav(path):
    """A query: [N] float32 samples at 16 kHz."""
    with wave.open(path, "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000), path
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
