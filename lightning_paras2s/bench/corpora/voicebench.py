"""VoiceBench (arXiv 2410.17196): eleven sets of English questions, as its repository on the hub holds them.

ROOT/<subset>/<split>-00000-of-00001.parquet with prompt and audio; sd-qa, openbookqa, mmsu and bbh also have
reference, bbh has id, ifeval has key, instruction_id_list and kwargs (folders and columns seen: hub listing, and the
repository's main.py and evaluators at 5338154). The audio is bytes in the table.

Traps: a reference is a letter in openbookqa and mmsu, whose options stand in the prompt's text; (A) or yes in bbh;
words in sd-qa. The splits of sd-qa are countries, those of mmsu domains. kwargs holds null for what a rule doesn't
use. `alpacaeval` is a part of `alpacaeval_full`, which the leaderboard scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import arrow_files, arrow_rows, sound_of
from lightning_paras2s.errors import UserError

LICENSE = "Apache-2.0"
SUBSETS = {
    "advbench": 520,
    "alpacaeval": 199,
    "alpacaeval_full": 636,
    "alpacaeval_speaker": None,
    "bbh": 1000,
    "commoneval": 200,
    "ifeval": 345,
    "mmsu": 3074,
    "mtbench": 46,
    "openbookqa": 455,
    "sd-qa": 553,
    "wildvoice": 1000,
}
CHOICES = ("openbookqa", "mmsu")
RULES = ("key", "instruction_id_list", "kwargs", "id")


def read(root: Path) -> Iterator[Row]:
    files = [path for path in arrow_files(root) if path.parent.name in SUBSETS]
    if not files:
        raise UserError(f"root must hold VoiceBench's folders ({', '.join(SUBSETS)}) of .parquet; got none in {root}")
    for path in files:
        subset, split, part = path.parent.name, *place_of(path.stem)
        for number, row in enumerate(arrow_rows(path, ("prompt", "audio"))):
            reference = row.get("reference")
            choice = subset in CHOICES and str(reference).strip().upper() in ("A", "B", "C", "D")
            yield Row(
                name=f"{split}-{part}-{number:05d}",
                subset=subset,
                text=row["prompt"],
                audio=sound_of(row["audio"], root),
                references=() if choice or reference is None else (str(reference),),
                options=dict.fromkeys("ABCD", "") if choice else {},
                right=str(reference).strip().upper() if choice else "",
                labels={"split": split} | {name: without_null(row[name]) for name in RULES if name in row},
                why="no_right_option" if subset in CHOICES and not choice else "",
            )


def place_of(stem: str) -> tuple[str, str]:
    """Split and part of SPLIT-00000-of-00001; a split may hold dashes and dots itself."""
    split, *rest = stem.rsplit("-", 3)
    return (split, rest[0]) if len(rest) == 3 and rest[1] == "of" else (stem, "0")


def without_null(value: Any) -> Any:
    """The same, objects without their nulls: a table's columns are those of all rules."""
    if isinstance(value, dict):
        return {key: without_null(one) for key, one in value.items() if one is not None}
    return [without_null(one) for one in value] if isinstance(value, list) else value
