"""URO-Bench (arXiv 2502.17810): 40 sets, basic and pro, English, Chinese and others; single questions and dialogues.

ROOT/{basic,pro}/<Set>/test.jsonl (URO-Bench-data.zip): source_wav, relative to its own folder, source_text, and
target_text where there is a right answer, a string or a list; emotion, style or requirement in some sets; a dialogue
has id, num_round and dialogue, a list of rounds (fields seen in the loaders of its repository at 9e74bc0: examples,
mark.py and metrics; the data itself was not seen).

Traps: `emotion` is the speaker's in UnderEmotion, but the one that the *answer* must have in GenEmotion. A set
without target_text wants the words themselves (Repeat), or has no right answer. Files of answers are named by the
line (0000.wav), so an item's name is its line. A result file ends with {"final_score": ...}, which is no item. In a
dialogue the model's own earlier answers are its history there; here it is the reference answers (the first, where there
are several), since a query is the same for every system. The last round is the query.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import checked, found, json_rows, told
from lightning_paras2s.errors import UserError

LICENSE = "MIT"
EMOTIONS = {"happy": "happy", "sad": "sad", "angry": "angry", "surprised": "surprised", "fearful": "fear"}
EMOTIONS |= {"disgusted": "disgust", "neutral": "neutral"}
LABELS = ("emotion", "style", "requirement")
VERBATIM = ("genemotion", "repeat")  # sets whose target_text is to be said word by word


def read(root: Path) -> Iterator[Row]:
    tables = sorted(path for track in ("basic", "pro") for path in (root / track).glob("*/test.jsonl"))
    if not tables:
        raise UserError(f"root must be URO-Bench-data with basic/SET/test.jsonl and pro/SET/test.jsonl; got {root}")
    for path in tables:
        for line, row in enumerate(json_rows(path)):
            if "final_score" in row:
                raise UserError(f"{path} must be a set of URO-Bench; got a result file; check root")
            rounds = row.get("dialogue") or [row]
            for turn in rounds:
                checked(turn, ("source_wav", "source_text"), f"{path}, row {line + 1}")
            yield item(path, line, row, rounds)


def item(path: Path, line: int, row: dict[str, Any], rounds: list[dict[str, Any]]) -> Row:
    """The last round is the query; those before it are its earlier turns."""
    last, earlier = rounds[-1], []
    for turn in rounds[:-1]:
        where = str(found(path.parent, turn["source_wav"]))
        earlier += [{"role": "user", "text": turn["source_text"], "audio": where}]
        earlier += [{"role": "assistant", "text": (targets(turn) or ("",))[0], "audio": ""}]
    emotion, name = EMOTIONS.get(told(row.get("emotion")).lower()), path.parent.name.lower()
    asked = emotion if name.startswith("genemotion") else None
    understood = emotion if name.startswith("underemotion") else None
    return Row(
        name=f"{line:04d}",
        subset=f"{path.parent.parent.name}/{path.parent.name}",
        text=last["source_text"],
        audio=found(path.parent, last["source_wav"]),
        styles={"emotion": understood} if understood else {},
        references=targets(last),
        labels={key: row[key] for key in ("id", *LABELS) if key in row},
        turns=tuple(earlier),
        emotions=(asked,) if asked else (),
        words=next(iter(targets(last)), "") if name.startswith(VERBATIM) else "",
    )


def targets(turn: dict[str, Any]) -> tuple[str, ...]:
    value = turn.get("target_text")
    values = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(str(one) for one in values)
