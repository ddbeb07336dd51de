"""EChat-200K and EChat-eval (OSUM-EChat, arXiv 2508.09600): empathetic Chinese dialogues, in the repository's raw and
shard lists.

raw: *.list or *.jsonl, a line each of key, wav, txt, task, and extra with question, age, gender, emotion, think_str,
dataset. shard: .tar of KEY.wav, KEY.txt, KEY.gender, KEY.emotion, KEY.extra, ... (seen: README, the look-alike data
and the shard writer of the repository at f2bcfac; how EChat-200K lies on the hub was not seen).

Traps: `txt` is what the *agent* says; the query's words are extra.question. Labels stand in angle brackets
(<FEMALE>), and "none" is written where there is none. A list of the kind "combine" has wav "only-meta": its
recordings are in the tar. A KEY may hold dots. The list's end is .list, its lines are JSON.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import found, json_rows, told
from lightning_paras2s.errors import UserError

LICENSE = "Apache-2.0"
OURS = {
    "age": {"adult": "adult", "child": "child"},
    "gender": {"female": "female", "male": "male"},
    "emotion": {"happy": "happy", "sad": "sad", "angry": "angry", "surprise": "surprised", "surprised": "surprised",
                "fear": "fear", "disgust": "disgust", "neutral": "neutral"},
}  # fmt: skip


def read(root: Path) -> Iterator[Row]:
    tables = [root] if root.is_file() else sorted(p for end in ("list", "jsonl", "tar") for p in root.rglob(f"*.{end}"))
    if not tables:
        raise UserError(f"root must hold EChat's .list, .jsonl or .tar; got none in {root}")
    folder = root.parent if root.is_file() else root
    for path in tables:
        rows = shard(path) if path.suffix == ".tar" else json_rows(path, ("key", "wav", "txt"))
        for row in rows:
            yield item(path.stem, row, folder)


def item(subset: str, row: dict[str, Any], folder: Path) -> Row:
    extra = row.get("extra") or {}
    labels = {key: told(extra.get(key)) or told(row.get(key)) for key in ("emotion", "age", "gender", "dataset")}
    styles = {key: OURS[key][labels[key].lower()] for key in OURS if labels[key].lower() in OURS[key]}
    wav, reply = row["wav"], told(row["txt"])
    labels |= {"think": told(extra.get("think_str")), "task": told(row.get("task"))}
    return Row(
        name=str(row["key"]),
        subset=subset,
        text=told(extra.get("question")),
        audio=wav if isinstance(wav, bytes) else found(folder, wav),
        styles=styles,
        references=(reply,) if reply else (),
        labels={key: value for key, value in labels.items() if value},
        why="in_the_tar" if wav == "only-meta" else "",
    )


def shard(path: Path) -> Iterator[dict[str, Any]]:
    """A shard's items: all files of a key, which lie one after another, make one."""
    row: dict[str, Any] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.rpartition(".")
                if row and row["key"] != key:
                    yield {"wav": "", "txt": "", **row}
                    row = {}
                data = tar.extractfile(member).read()
                value = data if field == "wav" else json.loads(data) if field == "extra" else data.decode()
                row = {"key": key} | row | {field: value}
    except (tarfile.TarError, ValueError, AttributeError) as error:
        raise UserError(f"{path} must be a shard of KEY.wav, KEY.txt, KEY.extra; got {error}; fetch it again") from None
    if row:
        yield {"wav": "", "txt": "", **row}
