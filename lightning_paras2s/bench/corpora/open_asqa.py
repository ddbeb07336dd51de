"""OpenASQA (LTU-AS, arXiv 2309.14405): questions and answers about sounds and speech, for training.

A JSON list of instruction (the question), input (what is said), audio_id, output (the answer), and dataset and task
where they are known (seen: README of the repository ltu at 2002aad, and its openasqa tools). The recordings are those
of AudioSet, IEMOCAP, LibriTTS, FMA, MOSEI and VoxCeleb, which the user fetches.

Traps: audio_id is a path on its authors' disk, found here by its end under ROOT. Many questions share a recording.
The file of all 10.2 M is one list of 4.6 GB, read at once: take a part. `input` is missing or empty where nobody
speaks. A toy set names features (.npz), not recordings: such rows are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import found, json_rows, told
from lightning_paras2s.errors import UserError

LICENSE = "see each source; the questions': CC BY 4.0 is not confirmed"
FIELDS = ("instruction", "audio_id", "output")


def read(root: Path) -> Iterator[Row]:
    tables = [root] if root.is_file() else sorted(root.glob("*.json"))
    if not tables:
        raise UserError(f"root must be one of OpenASQA's .json, or hold them; got none in {root}")
    folder = root.parent if root.is_file() else root
    for path in tables:
        for number, row in enumerate(json_rows(path, FIELDS)):
            name = str(row["audio_id"])
            yield Row(
                name=f"{number:08d}",
                subset=path.stem,
                text=told(row.get("input")),
                audio=found(folder, name),
                instruction=str(row["instruction"]),
                references=(str(row["output"]),),
                labels={key: row[key] for key in ("dataset", "task", "audio_id") if row.get(key)},
                why="features_only" if name.endswith((".npz", ".npy", ".pt")) else "",
            )
