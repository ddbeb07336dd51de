"""TELEVAL (arXiv 2507.18061): sets of Chinese and some English queries: knowledge, dialects, empathy, age, sounds.

ROOT/<set>/*.parquet as on the hub, or ROOT/<set>/<set>.jsonl with ROOT/<set>/audios/<key>.wav as its tool
parquet2jsonl.py leaves them: key, audio, query, answer; query_emo, answer_emo (a list), para_name, age, answer_age,
answer_common in some sets; multiturn_memory-zh has nrounds, user_audio1.., user_text1.., bot_text1.. (seen: the
repository's src/utils.py, registry and tools at 6acd665; the data itself was not seen).

Traps: `answer` may be a JSON text, in it a tuple written as {"__tuple__": true, "items": [...]}; emotions compare in
lower case. The .jsonl's paths are of another machine. In para_mix300-zh `answer` fits the sound (para_name).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import arrow_files, arrow_rows, json_rows, sound_of, told
from lightning_paras2s.errors import UserError

LICENSE = "Apache-2.0 (code); the data's by set"
EMOTIONS = {"happy": "happy", "joy": "happy", "sad": "sad", "angry": "angry", "surprised": "surprised"}
EMOTIONS |= {"surprise": "surprised", "fear": "fear", "fearful": "fear", "disgusted": "disgust", "neutral": "neutral"}
AGES = {"child": "child", "children": "child", "adult": "adult"}
SAID = ("key", "audio", "query", "answer")


def read(root: Path) -> Iterator[Row]:
    files = [p for p in [*sorted(root.rglob("*.jsonl")), *arrow_files(root)] if p.is_file()]
    if not files:
        raise UserError(f"root must hold TELEVAL's sets, SET/*.parquet or SET/SET.jsonl; got none in {root}")
    for path in files:
        for row in (json_rows if path.suffix == ".jsonl" else arrow_rows)(path, ("key",)):
            yield dialogue(path, row) if "user_audio1" in row else single(path, row)


def single(path: Path, row: dict[str, Any]) -> Row:
    emotion, age = (told(row.get(key)).lower() for key in ("query_emo", "age"))
    styles = {"emotion": EMOTIONS[emotion]} if emotion in EMOTIONS else {}
    styles |= {"age": AGES[age]} if age in AGES else {}
    labels = {key: plain(value) for key, value in row.items() if key not in SAID and not key.endswith("_audio")}
    sound = sound_of(row.get("audio"), path.parent)
    return Row(str(row["key"]), path.parent.name, told(row.get("query")), sound, styles, labels=labels,
               references=answers(row.get("answer")), emotions=fitting(row.get("answer_emo")))  # fmt: skip


def fitting(value: Any) -> tuple[str, ...]:
    """By our names; others nobody hears here. Neutral fits as more than half of the list alone (emo2vec.py, strict)."""
    names = [told(one).lower() for one in answers(value)]
    flat = names.count("neutral") > len(names) / 2
    return tuple(dict.fromkeys(EMOTIONS[n] for n in names if n in EMOTIONS and (flat or n != "neutral")))


def dialogue(path: Path, row: dict[str, Any]) -> Row:
    count = int(row.get("nrounds") or max(i for i in range(1, 9) if row.get(f"user_audio{i}")))
    turns = []
    for i in range(1, count):
        sound = sound_of(row.get(f"user_audio{i}"), path.parent) or ""
        turns.append({"role": "user", "text": row.get(f"user_text{i}") or "", "audio": sound})
        turns.append({"role": "assistant", "text": row.get(f"bot_text{i}") or "", "audio": ""})
    sound = sound_of(row.get(f"user_audio{count}"), path.parent)
    return Row(str(row["key"]), path.parent.name, row.get(f"user_text{count}") or "", sound,
               references=answers(row.get("answer") or row.get(f"bot_text{count}")), turns=tuple(turns))  # fmt: skip


def answers(value: Any) -> tuple[str, ...]:
    value = plain(value)
    return tuple(str(one) for one in value) if isinstance(value, list) else (str(value),) if value else ()


def plain(value: Any) -> Any:
    """What a JSON text holds, its tuples as lists; any other value as it is."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value  # words that begin with a bracket
    return plain(value["items"]) if isinstance(value, dict) and value.get("__tuple__") else value
