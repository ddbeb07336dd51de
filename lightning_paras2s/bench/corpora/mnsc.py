"""MNSC, the Multitask National Speech Corpus (arXiv 2501.01034): Singlish questions about recordings.

ROOT/<TASK>-<PART>-{Train,Test}/train-00000-of-00003.parquet with context (the recording), instruction and answer
(seen: the hub's listing; the columns in AudioBench's loaders at e991641). CPQA's look is the same, see `cpqa.py`.

Traps: the only split of every folder is called train, of the Test folders, too: which is which stands in the
*folder's* name, and --split must fit it. context, instruction and answer are plain in this release, and {"text",
"audio"} in older ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import arrow_files, arrow_rows, sound_of
from lightning_paras2s.errors import UserError

LICENSE = "see its card (National Speech Corpus)"
FIELDS = ("context", "instruction", "answer")


def read(root: Path, split: str = "test") -> Iterator[Row]:
    ends = {"test": "-Test", "train": "-Train"}
    files = [path for path in arrow_files(root) if set_of(path).endswith(ends.get(split, "-"))]
    if not files:
        raise UserError(f"root must hold MNSC's folders that end in -Test or -Train; got none for {split} in {root}")
    for path in files:
        yield from asked(path, set_of(path), root)


def set_of(path: Path) -> str:
    """The folder of the table; those that `datasets` saved have a folder for the split between."""
    return path.parent.name if path.parent.name not in ("train", "test") else path.parent.parent.name


def asked(path: Path, subset: str, root: Path) -> Iterator[Row]:
    """A table's questions about recordings."""
    for number, row in enumerate(arrow_rows(path, FIELDS)):
        context, rest = row["context"], set(row) - set(FIELDS)
        sound = context.get("audio") if isinstance(context, dict) and "audio" in context else context
        yield Row(
            name=f"{path.stem}-{number:06d}",
            subset=subset,
            audio=sound_of(sound, root),
            instruction=words(row["instruction"]),
            references=(words(row["answer"]),),
            words=words(row["answer"]) if subset.startswith("ASR") else "",
            labels={key: row[key] for key in sorted(rest) if isinstance(row[key], str | int | float | bool)},
        )


def words(value: Any) -> str:
    return str((value.get("text") if isinstance(value, dict) else value) or "")
