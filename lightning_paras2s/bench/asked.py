"""Which queries a finished evaluation was about, read from its summary and today's manifest.

Importing this module must stay cheap: what a command shows needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_paras2s.running.origins import inputs_of, queries_sha
from lightning_paras2s.types import Query, read_jsonl


def count_asked(summary: Mapping[str, Any]) -> int | None:
    """How many queries a summary is about; None where it does not say."""
    rows = [row.get("overall", {}) for row in summary["systems"].values()]
    return max((row["n"] + row["n_failed"] for row in rows if "n" in row and "n_failed" in row), default=None)


def manifest_queries(summary: Mapping[str, Any]) -> list[Query]:
    """All of the manifest that a summary names; none if it is not where it was."""
    place = summary.get("manifest")
    return read_jsonl(place, Query) if place and Path(place).is_file() else []


def asked_queries(summary: Mapping[str, Any]) -> list[Query] | None:
    """The manifest's queries, or the first pairs of each factor (`evaluate --limit`), as many as the summary counts.

    None if these are others today than they were, or no more there. A summary from before queries were hashed is taken
    at its count.
    """
    rows, count = manifest_queries(summary), count_asked(summary)
    if not rows or not count:
        return None
    found = first_pairs(rows, count)
    made = queries_sha(found, {q.id: inputs_of(q, Path(summary["manifest"]).parent) for q in found})
    return found if len(found) == count and summary.get("queries_sha", made) == made else None


def first_pairs(queries: list[Query], count: int) -> list[Query]:
    """As few of the first pairs of each factor as hold `count` queries, or all."""
    places = places_of(queries)
    last = max(sorted(places)[:count], default=-1)
    return [q for q, place in zip(queries, places, strict=True) if place <= last]


def counted_queries(queries: list[Query], summary: Mapping[str, Any]) -> list[Query]:
    """Those of a manifest that a summary counts, as far as it tells; all where it does not, or counts others."""
    count = count_asked(summary)
    found = first_pairs(queries, count) if count else queries
    return found if len(found) == count else queries


def places_of(queries: Iterable[Query]) -> list[int]:
    """Which of its factor's pairs, in order, each query belongs to: a `limit` takes the first ones."""
    pairs: dict[str, dict[str, int]] = {}  # factor -> pair -> its place
    return [(of := pairs.setdefault(q.factor, {})).setdefault(q.pair, len(of)) for q in queries]
