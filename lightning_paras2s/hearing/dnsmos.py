"""DNSMOS: how natural speech sounds, 1 to 5, by a network that was fitted on people's ratings (Reddy et al., ICASSP
2022, arXiv 2110.01763).

A guard, never a reward: it tells whether a policy won its score with a voice that is worse to listen to. The ONNX file
is that of Microsoft's package speechmos, read with onnxruntime alone.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lightning_paras2s.audio import is_silent, resample
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.faster_whisper import INSTALL, check_sha256
from lightning_paras2s.running.threads import side_by_side
from lightning_paras2s.types import Audio

RATE, WINDOW_SECONDS = 16_000, 9.01
MODEL_SHA256 = "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd"
# From the network's raw outputs to opinion scores (speechmos, not personalised), highest power first.
POLYNOMIALS = {
    "signal": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}


class Naturalness(NamedTuple):
    """Mean opinion scores 1 to 5: of the voice, of what is behind it (5: nothing), and of both."""

    signal: float
    background: float
    overall: float


UNHEARD = Naturalness(float("nan"), float("nan"), float("nan"))


class DNSMOS:
    """Recordings to opinion scores; silence has none (NaN).

    Args:
        windows: all (as speechmos: a window of 9.01 s every second, over a short recording said again and again), or
            first (one, which holds a recording of up to 9.01 s whole; a fifth of the time for an answer of 3 s).

    Raises:
        UserError: the extra `ears` is missing, or its file is another than the one known.
    """

    def __init__(self, windows: Literal["all", "first"] = "all") -> None:
        if (lack := missing_dnsmos()) is not None:
            raise UserError(f"DNSMOS needs the packages of the extra `ears`; got no {lack}; {INSTALL}")
        import onnxruntime

        path = Path(find_spec("speechmos").origin).parent / "dnsmos_models/sig_bak_ovr.onnx"
        found = check_sha256(path, MODEL_SHA256)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.windows = windows
        self.name = f"dnsmos-sig-bak-ovr/{windows}/{found[:8]}"

    def rate(self, audios: list[Audio]) -> list[Naturalness]:
        return side_by_side(lambda audio: UNHEARD if is_silent(audio) else self._rate(audio), audios)

    def _rate(self, audio: Audio) -> Naturalness:
        heard = windows(resample(audio, RATE).samples)[: 1 if self.windows == "first" else None]
        raw = [self.session.run(None, {"input_1": window[None].astype(np.float32)})[0][0] for window in heard]
        # The network's order is signal, background, overall; the mean is of opinion scores, not of raw outputs.
        scores = [[np.polyval(p, x) for p, x in zip(POLYNOMIALS.values(), row, strict=True)] for row in raw]
        return Naturalness(*np.mean(scores, 0).tolist())


def windows(samples: np.ndarray) -> list[np.ndarray]:
    """[N] at 16 kHz -> windows of 9.01 s, one a second; what is shorter is said again (doubled) until it fills one."""
    size = int(WINDOW_SECONDS * RATE)
    while len(samples) < size:
        samples = np.append(samples, samples)
    count = int(len(samples) // RATE - WINDOW_SECONDS) + 1
    found = [samples[i * RATE : int((i + WINDOW_SECONDS) * RATE)] for i in range(count)]
    return [window for window in found if len(window) >= size]


def missing_dnsmos() -> str | None:
    """The package that is lacking; None if all are there."""
    return next((name for name in ("onnxruntime", "speechmos") if find_spec(name) is None), None)
