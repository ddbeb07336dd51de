"""Folders of `evaluate` that are compared or listened to: an answer belongs to one of them, counts where the folder's
summary is about it, and hangs together with what was answered to the other half of its query's contrast pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.asked import asked_queries, count_asked, manifest_queries
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import read_summary
from lightning_paras2s.types import Query, answered, read_jsonl


def require_own_ids(ids: Mapping[str, Iterable[str]]) -> None:
    """Refuse a response's id that two runs hold: a rating names no run, so nobody could tell which of them it is of.

    Args:
        ids: run -> the ids of its responses.
    """
    known: dict[str, str] = {}
    for run, names in ids.items():
        for name in names:
            if known.setdefault(name, run) != run:
                raise UserError(
                    f"runs must hold answers of ids of their own; got {name!r} in {known[name]} and in {run}; evaluate "
                    "one of the systems under another name, or take one run at a time"
                )


def about(run: str, ids: Iterable[str]) -> set[str]:
    """Those of a folder's responses that its summary is about; all where it has none. (A folder holds every system,
    sample and query that was ever evaluated there.)

    Args:
        ids: of the folder's responses.

    Raises:
        UserError: the folder holds answers to more queries than the summary is about, and its manifest does not tell
            which.
    """
    summary = summary_of(run)
    if not summary:
        return set(ids)
    asked = [(name, answered(name)) for name in ids]
    samples = summary.get("samples", float("inf"))
    asked = [(name, who) for name, who in asked if who.system in summary["systems"] and who.sample < samples]
    held, count = {who.query_id for _, who in asked}, count_asked(summary)
    if count is None or len(held) <= count:
        return {name for name, _ in asked}
    found = asked_queries(summary) if "queries_sha" in summary else None
    if found is None:
        raise UserError(
            f"the summary of {run} must tell which queries it is about; got {count} of {len(held)}, and a manifest "
            f"that is gone or another one ({summary.get('manifest')}); run `evaluate` there once more"
        )
    queries = {q.id for q in found}
    return {name for name, who in asked if who.query_id in queries}


def pairs_of(runs: Sequence[str], manifest: str | None = None) -> dict[str, str]:
    """Query id -> its contrast pair, as a manifest has it, else those that the runs' summaries name; {} where there is
    none."""
    if manifest is not None:
        return {q.id: q.pair for q in read_jsonl(manifest, Query)}
    return {q.id: q.pair for run in runs for q in manifest_queries(summary_of(run))}


def cluster_of(query_id: str, pairs: Mapping[str, str]) -> str:
    """What a query's games hang together with: all of its contrast pair, or its own where nobody tells its pair."""
    return f"pair {pairs[query_id]}" if query_id in pairs else f"query {query_id}"


def clusters_of(queries: Iterable[str], pairs: Mapping[str, str]) -> dict[str, int]:
    """How many independent things queries are: contrast pairs, and queries of which nobody tells the pair."""
    names = {cluster_of(query, pairs) for query in queries}
    found = sum(name.startswith("pair ") for name in names)
    return {"pairs": found, "queries": len(names) - found}


def clustered(clusters: Mapping[str, int]) -> str:
    """`clusters_of` in words."""
    words = {"pairs": ("contrast pair", "contrast pairs"), "queries": ("query", "queries")}
    told = [f"{count} {words[name][count != 1]}" for name, count in clusters.items() if count]
    unknown = "; no manifest tells a query's pair, so halves of one count apart" if clusters["queries"] else ""
    return f"intervals are clustered by {' and '.join(told)}{unknown}"


def summary_of(run: str) -> dict[str, Any]:
    """A folder's summary.json; {} where it has none."""
    path = Path(run) / "summary.json"
    return read_summary(path, ("systems",)) if path.is_file() else {}
