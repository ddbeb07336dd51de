"""TRACE's human labels of S2S-Arena's and SpeakBench's pairs (arXiv 2601.13742), as battles with typed ties.

s2sarena.json (314 pairs) and speakbench.json (497), JSON lists of index, instruction_id, instruction_path,
instruction_text, model_a, model_b, audio1_path, audio2_path and label, which has content, voice_quality,
paralinguistics and overall, each 1, 2, both_good or both_bad (seen: the files at 9cb2a59).

Traps: of S2S-Arena, instruction_id joins the first folder and the name: identity_audio_1 is four recordings, so the
query is known by instruction_path. The models' names (4o) are not those of the release's folders (ChatGPT-4o), which
stand in the audio's place. Of SpeakBench instruction_id is a number, and instruction_path differs from pair to pair.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Battle

TRACE = {"1": "a", "2": "b", "both_good": "both_good", "both_bad": "both_bad"}


def read_trace(path: str, dimension: str = "overall") -> list[Battle]:
    """The labels of one dimension: content, voice_quality, paralinguistics or overall."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [trace_battle(row, dimension) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        labels = ", ".join(TRACE)
        raise UserError(f"{path} must be TRACE's s2sarena.json, its labels {labels}; got {error!r}") from None


def trace_battle(row: dict[str, Any], dimension: str) -> Battle:
    """A query of S2S-Arena has the id that `import_speech --corpus s2s_arena` gives it, a model its folder's name."""
    first, *place = PurePosixPath(row["instruction_path"]).with_suffix("").parts
    query = "-".join(("s2s_arena", *place)) if first == "input" else str(row["instruction_id"])
    names = [folder_of(row.get(f"audio{i}_path", ""), row[f"model_{side}"]) for i, side in enumerate("ab", 1)]
    return Battle(query, *names, "ab", TRACE[row["label"][dimension]], "trace")


def folder_of(place: str, name: str) -> str:
    parts = PurePosixPath(place).parts
    return parts[1] if len(parts) > 1 and parts[0] == "output" else name
