"""Recordings that nobody labelled, as labs have them: any folder, a table (csv, tsv, jsonl), or a folder that Hugging
Face's `datasets` saved to disk. Each is a name that stays the same, a file that can be opened, and the words and the
speaker if they are told.

A dataset on disk is Arrow's own stream format with two small JSON files, so that pyarrow reads it and `datasets`, with
all it brings, is not needed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from lightning_paras2s.bench.queries.tables import rows_of_table
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say

READ = frozenset("wav wave flac ogg oga opus mp3 aif aiff aifc au snd caf w64 rf64".split())  # by `read_audio`
OTHERS = frozenset("m4a mp4 m4b aac wma webm weba amr 3gp ac3".split())  # speech that it does not read
SUFFIXES = READ | OTHERS | frozenset("sph nist mka mkv mov avi".split())
TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl")  # which tell of the recordings beside them
AUDIO = ("file", "audio", "path", "file_name", "filename", "audio_filepath", "audio_path", "wav")
TEXT = ("text", "transcript", "transcription", "sentence")
SPEAKER = ("speaker", "speaker_id", "client_id")


@dataclass(frozen=True)
class Recorded:
    """One recording: its name (the path below the root), how to open it, its words and speaker, "" where not told."""

    name: str
    open: Callable[[], BinaryIO]
    text: str = ""
    speaker: str = ""


def recordings_in(root: Path, leave_out: Path) -> list[Recorded]:
    """All recordings of a folder, table or dataset, or the one that root is; `leave_out` is a folder of ours.

    Raises:
        UserError: there is none, or the table or dataset can't be read.
    """
    if root.is_file() and root.suffix[1:].lower() in SUFFIXES:
        found = [Recorded(as_text(root.name), partial(open, root, "rb"))]
    elif root.is_file():
        found = list(in_table(root))
    elif (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        found = list(in_dataset(root))
    elif table := next((root / name for name in TABLES if (root / name).is_file()), None):
        found = list(in_table(table))
    else:
        found = sorted(in_folder(root, leave_out), key=lambda one: one.name)
    if not found:
        raise UserError(f"root must hold recordings (wav, flac, ogg, mp3, ...); got none in {root}; check the path")
    return found


def in_folder(root: Path, leave_out: Path) -> Iterator[Recorded]:
    """Files with an audio's or video's suffix, at any depth, through links to folders, too; none that is hidden."""
    seen: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True, onerror=lambda error: say(f"left out: {error}")):
        real = os.path.realpath(folder)
        if real in seen or Path(real) == leave_out.resolve():
            below.clear()  # a link that leads back, or pieces that an import wrote
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix[1:].lower() in SUFFIXES:
                yield Recorded(as_text(path.relative_to(root).as_posix()), partial(open, path, "rb"))


def in_table(path: Path) -> Iterator[Recorded]:
    """The recordings that a table lists; a path is relative to its folder."""
    rows, columns = rows_of_table(path)
    audio, text, speaker = (next((c for c in names if c in columns), None) for names in (AUDIO, TEXT, SPEAKER))
    if audio is None:
        got = ", ".join(columns) or "none"
        raise UserError(f"{path} must have a column of audio files ({', '.join(AUDIO)}); got {got}; rename it")
    for row in rows:
        place = row[audio]
        told = [as_text(row.get(column, "")).strip() for column in (text, speaker)]
        yield Recorded(as_text(place), partial(open, path.parent / place, "rb"), *told)


def in_dataset(root: Path, below: str = "") -> Iterator[Recorded]:
    """The rows of what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if (root / "dataset_dict.json").is_file():
        for split in as_object(root / "dataset_dict.json").get("splits", []):
            yield from in_dataset(root / split, f"{split}/")
        return
    if find_spec("pyarrow") is None:
        raise UserError("a dataset on disk needs the package pyarrow; got none; pip install pyarrow")
    features = as_object(root / "dataset_info.json").get("features") or {}
    audio = next((n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "Audio"), None)
    if audio is None:
        raise UserError(f"{root} must have a column of the feature Audio; got {', '.join(features) or 'none'}; cast it")
    text, speaker = (next((c for c in names if c in features), None) for names in (TEXT, SPEAKER))
    number = 0
    for file in as_object(root / "state.json").get("_data_files", []):
        rows = arrow_rows(root / file["filename"])
        for index in range(rows.num_rows):
            told = [str(rows[column][index].as_py() or "") if column else "" for column in (text, speaker)]
            yield Recorded(f"{below}{number:07d}", partial(open_cell, root, rows[audio], index), *told)
            number += 1


def arrow_rows(path: Path) -> Any:
    """A file of a dataset, as a table that stays on the disk."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} must be a file of `save_to_disk`; got another ({error}); save it again") from None


def open_cell(root: Path, column: Any, index: int) -> BinaryIO:
    """A recording in a dataset: its bytes, or the file that it names."""
    cell = column[index].as_py() or {}
    if cell.get("bytes"):
        return io.BytesIO(cell["bytes"])
    if not cell.get("path"):
        raise FileNotFoundError("the row holds neither bytes nor a path")
    return open(root / cell["path"], "rb")


def as_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} must be JSON as `save_to_disk` writes it; got {error}; save it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must be one JSON object; got {type(value).__name__}; save it again")
    return value


def as_text(value: str) -> str:
    """A path or word as text that can be written: a letter in another encoding is a question mark."""
    return value.encode("utf-8", "replace").decode()
