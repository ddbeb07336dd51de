"""What evaluations must share for their scores to be compared: judge, guideline, labels, queries and ears, each by its
name and by its content; and that they must be several.

A name tells neither weights nor thresholds. Their hashes (`running/parts.py`: no device, thread, batch size or path is
in them) are in summary.json as `judge_sha` and `providers_sha`, and in its `audit` once more. A summary from before
they were written is taken at its names, and `unrecorded` tells so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import Judging, Log

SAME = Judging._fields  # scores by different judges don't belong in one table
ALIKE = ("queries_sha", "providers")  # nor do those of other queries, or what other ears heard
HASHES = ("judge_sha", "providers_sha")
WHAT = {
    "queries_sha": "the same queries",
    "providers": "the same ears",
    "judge_sha": "the same judge, with its weights and thresholds",
    "providers_sha": "the same ears, with their weights",
}
Summaries = Mapping[str, Mapping[str, Any]]  # run -> its summary.json


def require_folders(runs: Sequence[str]) -> None:
    """Refuse a folder that is named twice: it would be compared with itself."""
    known: dict[Path, str] = {}
    for run in runs:
        place = Path(run).resolve()
        if place in known:
            raise UserError(f"runs must be different folders; got one as {known[place]} and as {run}; name it once")
        known[place] = run


def require_seeds(runs: Sequence[str]) -> None:
    """Refuse runs that are one: a folder that is named twice, or the copy of one.

    Raises:
        UserError: naming both.
    """
    require_folders(runs)
    known: dict[str, str] = {}
    for run in runs:
        files = Log(Path(run)).shards("responses")
        responses = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        if files and responses in known:  # with their latencies, which no other run repeats
            raise UserError(
                f"runs must be of different seeds; {run} holds the responses of {known[responses]}, to the byte; "
                "a copy tells nothing new: name one of them"
            )
        known[responses] = run


def require_alike(summaries: Summaries) -> None:
    """Refuse runs of other queries, by other ears, or by a judge of other weights or thresholds; and their audits.

    Raises:
        UserError: naming two runs that differ, and in what.
    """
    first_run, first = next(iter(summaries.items()))
    for run, summary in summaries.items():
        if others := [WHAT[key] for key in ALIKE if alike(summary, key) != alike(first, key)]:
            raise UserError(
                f"all runs of a table must have {' and '.join(others)}; {run} and {first_run} differ in that; "
                "make a table of each, or evaluate them alike"
            )
    for key in HASHES:
        _require_same(summaries, key, "all runs of a table")
    audits = {run: summary["audit"] for run, summary in summaries.items() if "audit" in summary}
    for key in ("providers", *HASHES):
        _require_same(audits, key, "the audits of a table")


def alike(summary: Mapping[str, Any], key: str) -> Any:
    """What a summary says of its queries or ears; one from before queries were hashed is known by its manifest."""
    return summary.get(key, summary.get("manifest") if key == "queries_sha" else None)


def unrecorded(summaries: Summaries) -> list[str]:
    """A line about runs that others stand beside, of whose judge or ears no hash is recorded."""
    if len(summaries) < 2:
        return []
    kinds = {"judge_sha": "judge", "providers_sha": "ears"}
    lacks: dict[str, list[str]] = {}
    for run, summary in summaries.items():
        if what := [kind for key, kind in kinds.items() if key not in summary]:
            lacks.setdefault(" and ".join(what), []).append(run)
        if what := [kind for key, kind in kinds.items() if key not in summary.get("audit", kinds)]:
            lacks.setdefault(f"the audit's {' and '.join(what)}", []).append(run)
    told = "; ".join(f"{what} of {', '.join(runs)}" for what, runs in lacks.items())
    return [f"Compared by name alone, their weights and thresholds are not recorded: {told}."] if told else []


def _require_same(summaries: Summaries, key: str, who: str) -> None:
    """All that hold a key hold one value."""
    known = {run: summary[key] for run, summary in summaries.items() if key in summary}
    for run, value in known.items():
        first_run, first = next(iter(known.items()))
        if value != first:
            raise UserError(
                f"{who} must have {WHAT[key]}; got {first} in {first_run} and {value} in {run}; make a table of each, "
                "or evaluate them alike"
            )
