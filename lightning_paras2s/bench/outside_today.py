"""Are the answers that ears from outside heard still those of a run's folder?

outside.json holds the queries that were asked about and a hash of each speaker's answers to them; a voice that says a
system's texts goes with that system's. Where there are no hashes, the lines of outside*.jsonl are compared with
today's answers: their texts, and their sounds, where the recordings lie there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.hearing.outside import NAME, Outside, digest
from lightning_paras2s.running.logs import Log
from lightning_paras2s.running.origins import file_sha, sha
from lightning_paras2s.types import Response, answered, iter_jsonl, response_id


def today(run: Path, result: dict[str, Any]) -> dict[str, Any]:
    """What `audit` found, without the figures of answers that are others today; notes tell of those, and of speakers
    of whom it can't be known."""
    same = still_heard(run, result)
    gone, unknown = ([name for name, known in same.items() if known is what] for what in (False, None))
    notes = list(result.get("notes", []))
    if gone:
        listed = ", ".join(gone)
        notes.append(f"left out: {listed}, whose answers are others than those that were heard; ask `audit` again")
    if unknown:
        notes.append(f"not known of {', '.join(unknown)} whether its answers are those that were heard")
    kept = {name: row for name, row in result["systems"].items() if name not in gone}
    between = [row for row in result.get("differences", []) if not {row["a"], row["b"]} & set(gone)]
    return {**result, "systems": kept, "differences": between, "notes": notes}


def still_heard(run: Path, result: dict[str, Any]) -> dict[str, bool | None]:
    """Speaker -> are the answers that were heard still the folder's? None = it can't be known."""
    responses = {row.id: row for row in rows_read(run, "responses", Response)}
    if not responses:
        return dict.fromkeys(result["systems"])
    systems, same = {row.system for row in responses.values()}, {}
    texts = {name: name if name in systems else result.get("control_texts") or name for name in result["systems"]}
    if "answers_sha" in result:
        queries, shas = result["queries"], result["answers_sha"]
        return {name: answers_sha(run, responses, of, queries) == shas[name] for name, of in texts.items()}
    lines = {row.response_id: row for row in rows_read(run, NAME, Outside)}.values()
    for name, of in texts.items():
        own = [row for row in lines if answered(row.response_id).system == name]
        found = [same_answer(run, responses.get(_as(row, of)), row, of == name) for row in own]
        same[name] = False if False in found else True if found and None not in found else None
    return same


def answers_sha(run: Path, responses: Mapping[str, Response], system: str, queries: Iterable[str]) -> str:
    """Short hash of a system's (first) answers to queries: their recordings, texts and statuses."""
    found = [responses.get(response_id(system, query, 0)) for query in queries]
    return sha([None if row is None else [row.id, _sound_sha(run, row), row.text, row.status] for row in found])


def same_answer(run: Path, answer: Response | None, line: Outside, its_sound: bool = True) -> bool | None:
    """Is an answer the one that a line of outside.jsonl is about? None = it can't be known, its recording is away.

    Args:
        its_sound: the answer's own recording was heard, not a voice that says its text.
    """
    if answer is None or (answer.text or "") != line.text or (its_sound and not answer.audio):
        return False
    if not its_sound:
        return True
    place = run / answer.audio
    return digest(read_audio(place, SAMPLE_RATE)) == line.sha256 if place.is_file() else None


def _sound_sha(run: Path, row: Response) -> str:
    return (file_sha(run / row.audio) or row.sha256[:16]) if row.audio else ""


def rows_read(run: Path, name: str, record: type) -> Iterable[Any]:
    """Read alone: nothing is mended in a folder that another process may be writing to."""
    return [row for path in Log(run).shards(name) for row in iter_jsonl(path, record, skip_half_line=True)]


def _as(line: Outside, system: str) -> str:
    return response_id(system, answered(line.response_id).query_id, 0)
