"""The verdicts of a run that its summary counts: those by its judge, guideline and labels. Others stay in the log,
unused."""

from __future__ import annotations

from typing import Any

from lightning_paras2s.bench.summary import scores_of
from lightning_paras2s.running.logs import Judging, Log
from lightning_paras2s.types import Verdict


def own_verdicts(log: Log, name: str, summary: dict[str, Any]) -> list[Verdict]:
    """Those of a log (verdicts, swaps), several of an answer where the judge was asked several times."""
    return Judging.of(summary).own(log.read(name, Verdict))


def own_scores(log: Log, name: str, summary: dict[str, Any]) -> dict[str, list[float | None]]:
    """Response id -> scores."""
    return scores_of(own_verdicts(log, name, summary))
