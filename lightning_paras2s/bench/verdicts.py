"""The verdicts of a run that its summary counts: those by its judge, guideline and labels. Others stay in the log,
unused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_paras2s.bench.summary import scores_of
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import Log, drawn_for
from lightning_paras2s.running.origins import sha
from lightning_paras2s.types import Query, Verdict, iter_jsonl, response_id


def spent_before(log: Log) -> float:
    """What the verdicts in a shard's files have cost, those by the audit's ears too, in USD. Replies that came and
    were not written, when a run was killed, or were asked for again, are not in it."""
    files = [one.path(name) for one in (log, Log(log.folder / "audit", log.suffix)) for name in ("verdicts", "swaps")]
    verdicts = (v for path in files if path.is_file() for v in iter_jsonl(path, Verdict, skip_half_line=True))
    return sum(v.usage.get("cost_usd", 0.0) for v in verdicts)


def own_verdicts(log: Log, name: str, summary: dict[str, Any]) -> list[Verdict]:
    """Those of a log (verdicts, swaps), several of an answer where the judge was asked several times."""
    return drawn_for(summary, log.read(name, Verdict))


def own_scores(log: Log, name: str, summary: dict[str, Any]) -> dict[str, list[float | None]]:
    """Response id -> scores."""
    return scores_of(own_verdicts(log, name, summary))


def verdicts_sha(verdicts: Iterable[Verdict]) -> str:
    """Short hash of what answers were scored."""
    scores = {(v.response_id, v.sample): None if v.score is None else float(v.score) for v in verdicts}
    return sha(sorted(scores.items()))


def counted_verdicts(log: Log, summary: dict[str, Any], queries: Iterable[Query]) -> list[Verdict]:
    """`own_verdicts`, which must be those that the summary counts: an `evaluate` that was ended, or that refused to go
    on, has judged anew and not yet counted. A summary from before it held their hash is taken at its word.

    Raises:
        UserError: they are others.
    """
    found = own_verdicts(log, "verdicts", summary)
    if "verdicts_sha" not in summary:
        return found
    asked = {
        response_id(name, q.id, sample)
        for name in summary["systems"]
        for q in queries
        for sample in range(summary["samples"])
    }
    if verdicts_sha(v for v in found if v.response_id in asked) != summary["verdicts_sha"]:
        raise UserError(
            f"{log.folder} must hold the verdicts that its summary counts; got others; run `evaluate` there to its end"
        )
    return found


def counted_scores(log: Log, summary: dict[str, Any], queries: Iterable[Query]) -> dict[str, list[float | None]]:
    """Response id -> scores."""
    return scores_of(counted_verdicts(log, summary, queries))
