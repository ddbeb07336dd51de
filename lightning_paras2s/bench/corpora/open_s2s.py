"""OpenS2S (arXiv 2507.05177): spoken dialogues with empathy, for training.

JSON lines, each {"messages": [{"role", "content": [{"text", "audio", "speech_units", "spk_emb"}]}]} (seen: README and
src/instruction_dataset.py of the repository at 359565c; how the data set on the hub is packed was not seen: unpack it
so that the lines and the recordings lie under ROOT).

Traps: a field that is not there is "". A user's message may hold an instruction in writing and then the recording, or
several recordings. An answer is its text with speech_units (tokens of GLM-4-Voice), not a recording. The original
drops recordings under half a second without saying so. audio is a path of its authors' disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import found, json_rows
from lightning_paras2s.errors import UserError

LICENSE = "Apache-2.0 (repository); the data's: see its card"


def read(root: Path) -> Iterator[Row]:
    tables = [root] if root.is_file() else sorted(root.rglob("*.jsonl"))
    if not tables:
        raise UserError(f"root must hold OpenS2S's .jsonl; got none in {root}")
    folder = root.parent if root.is_file() else root
    for path in tables:
        for line, row in enumerate(json_rows(path, ("messages",))):
            yield item(f"{line:07d}", path.stem, row["messages"], folder)


def item(name: str, subset: str, messages: list[dict[str, Any]], folder: Path) -> Row:
    """The last user's message is the query, what answers it the reference."""
    users = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    if not users or not isinstance(messages[users[-1]].get("content"), list):
        return Row(name, subset, why="no_user")
    last = users[-1]
    sounds, words = parts(messages[last])
    answer = " ".join(parts(messages[last + 1])[1]) if last + 1 < len(messages) else ""
    turns, why = [], "" if len(sounds) == 1 else "several_recordings" if sounds else "no_audio"
    for message in messages[:last]:
        heard, said = parts(message)
        place = str(found(folder, heard[0])) if heard else ""
        turns.append({"role": message.get("role", ""), "text": " ".join(said), "audio": place})
        if len(heard) > 1 or (heard and said and message.get("role") == "user"):  # the words are an instruction
            why = why or "turn_of_several_parts"
    audio = found(folder, sounds[0]) if sounds else None
    return Row(name, subset, "", audio, instruction=" ".join(words), references=(answer,) if answer else (),
               turns=tuple(turns), why=why)  # fmt: skip


def parts(message: dict[str, Any]) -> tuple[list[str], list[str]]:
    """A message's recordings and its words."""
    content = message.get("content")
    rows = content if isinstance(content, list) else [{"text": content or ""}]
    return [r["audio"] for r in rows if r.get("audio")], [r["text"] for r in rows if r.get("text")]
