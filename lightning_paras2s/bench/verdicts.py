"""The verdicts of a run that its summary counts: those by its judge, guideline and labels. Others stay in the log,
unused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_paras2s.bench.summary import scores_of
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import Judging, Log
from lightning_paras2s.running.origins import sha
from lightning_paras2s.types import Query, Verdict, response_id


def own_verdicts(log: Log, name: str, summary: dict[str, Any]) -> list[Verdict]:
    """Those of a log (verdicts, swaps), several of an answer where the judge was asked several times."""
    drawn = summary.get("judge_samples", float("inf"))  # a judge that was asked more often before left more
    return [v for v in Judging.of(summary).own(log.read(name, Verdict)) if v.sample < drawn]


def own_scores(log: Log, name: str, summary: dict[str, Any]) -> dict[str, list[float | None]]:
    """Response id -> scores."""
    return scores_of(own_verdicts(log, name, summary))


def counted_scores(log: Log, summary: dict[str, Any], queries: Iterable[Query]) -> dict[str, list[float | None]]:
    """Response id -> scores by the verdicts that the summary counts, and no others (`check_counted`)."""
    check_counted(log, summary, queries)
    return own_scores(log, "verdicts", summary)


def verdicts_sha(verdicts: Iterable[Verdict]) -> str:
    """Short hash of what answers were scored."""
    scores = {(v.response_id, v.sample): None if v.score is None else float(v.score) for v in verdicts}
    return sha(sorted(scores.items()))


def check_counted(log: Log, summary: dict[str, Any], queries: Iterable[Query]) -> None:
    """Refuse a log that holds others than the verdicts that its summary counts: an `evaluate` that was ended, or that
    refused to go on, has judged anew and not yet counted. A summary from before it held their hash is taken at its
    word.
    """
    if "verdicts_sha" not in summary:
        return
    asked = {
        response_id(name, q.id, sample)
        for name in summary["systems"]
        for q in queries
        for sample in range(summary["samples"])
    }
    found = [v for v in own_verdicts(log, "verdicts", summary) if v.response_id in asked]
    if verdicts_sha(found) != summary["verdicts_sha"]:
        raise UserError(
            f"{log.folder} must hold the verdicts that its summary counts; got others; run `evaluate` there to its end"
        )
