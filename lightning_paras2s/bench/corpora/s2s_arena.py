"""S2S-Arena's first release (arXiv 2503.05085 v1): 154 spoken instructions in folders by task.

ROOT/<task>/<name>.{wav,mp3}, or ROOT/input/<task>/..., a task one folder deep or three (identity/age/adults); answers
of a model in ROOT/output/<Model>/<task>/<name>.wav, and of some in .../<name>/<name>.wav (seen: the places that TRACE
at 9cb2a59 names, and the repository's scripts at 88c5a22; the list of tasks from the hub). `pairs/arena.py` reads
TRACE's labels of it.

Traps: names repeat over folders (audio_0 is in nearly all), so an item's name is its whole path; TRACE's
instruction_id joins only the first folder and the name, and four recordings share identity_audio_1. An answer's
ending may be another than its question's. Level and domain are not in the release; our own set in
data/text/arena.jsonl has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Response

LICENSE = "CC BY-NC-SA 4.0; the answers: Apache-2.0"
SOUNDS = (".wav", ".mp3", ".flac", ".ogg")


def read(root: Path) -> Iterator[Row]:
    folder = root / "input" if (root / "input").is_dir() else root
    files = [p for p in sounds(folder) if "output" not in p.relative_to(folder).parts[:1]]
    if not files:
        raise UserError(f"root must hold S2S-Arena's folders of recordings, by task; got none in {root}")
    for path in files:
        name = path.relative_to(folder).with_suffix("")
        yield Row(name.as_posix(), "", audio=path, labels={"task": name.parent.as_posix()},
                  why="" if len(name.parts) > 1 else "no_task")  # fmt: skip


def answers(root: Path, names: dict[str, str]) -> tuple[dict[str, list[Response]], int]:
    """Each model's recorded answers, and how many are to no question; names: an item's name -> its query's id."""
    made: dict[str, list[Response]] = {}
    strays = 0
    for model in sorted(p for p in (root / "output").iterdir() if p.is_dir()) if (root / "output").is_dir() else []:
        for path in sounds(model):
            place = path.relative_to(model).with_suffix("")
            deeper = len(place.parts) > 1 and place.parts[-1] == place.parts[-2] and place.as_posix() not in names
            name = (place.parent if deeper else place).as_posix()
            if name in names:
                made.setdefault(model.name, []).append(Response(names[name], model.name, audio=str(path.resolve())))
            strays += name not in names
    return made, strays


def sounds(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.suffix.lower() in SOUNDS and not p.name.startswith(".")]
    return sorted(found)
