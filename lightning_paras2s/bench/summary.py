"""From judged responses to the numbers of a leaderboard: for each system, each factor and overall, with intervals and
failures.

Overall is the macro average over the factors (the paper's Avg). Unscored responses are counted, left out of the mean,
and shown once more as if they had scored 1 (`mean_worst_case`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.judging.rubric import names_topic
from lightning_paras2s.types import Evidence, Query, Response, Verdict, answered

OVERALL = "overall"


@dataclass(frozen=True)
class Judged:
    """One query of one system, its samples averaged; NaN = unscored or unknown. `swapped` is the score against the
    pair's other style; `topic` and `topic_written` tell whether the topic is named, in what was heard and in the
    response's own text."""

    query_id: str
    pair_id: str
    factor: str
    style: str
    score: float
    swapped: float
    transcript: str
    tone: str
    wer: float
    topic: bool
    topic_written: float = float("nan")


def summarise_system(items: list[Judged]) -> dict[str, dict[str, Any]]:
    """Factor -> numbers, and "overall"."""
    factors = sorted({item.factor for item in items})
    found = {factor: summarise([i for i in items if i.factor == factor]) for factor in factors}
    return {**found, OVERALL: {**summarise(items), **macro(items, factors)}}


def summarise(items: list[Judged]) -> dict[str, Any]:
    """The numbers of one factor of one system."""
    scores, pairs = np.array([i.score for i in items]), [i.pair_id for i in items]
    scored = np.isfinite(scores)
    mean = statistics.bootstrap_mean(scores, pairs)
    worst = statistics.bootstrap_mean(np.where(scored, scores, 1.0), pairs)
    gain = statistics.label_swap_gain(scores, [i.swapped for i in items], pairs)
    return {
        "mean": rounded(mean.value),
        "ci95": [rounded(x) for x in mean.ci95],
        "n": int(scored.sum()),
        "n_failed": int((~scored).sum()),
        "n_pairs": mean.clusters,
        "mean_worst_case": rounded(worst.value),
        "detectable_difference": rounded(statistics.detectable_difference(statistics.clustered_se(scores, pairs))),
        **with_interval("label_swap_gain", gain),
        **pair_metrics(items),
        "names_topic": mean_of_known([i.topic for i in items]),
        "writes_topic": mean_of_known([i.topic_written for i in items]),
        "wer": mean_of_known([i.wer for i in items]),
        "tones": {tone: sum(i.tone == tone for i in items) for tone in sorted({i.tone for i in items} - {""})},
    }


def pair_metrics(items: list[Judged]) -> dict[str, Any]:
    """Contrast-pair numbers over the pairs with both halves scored."""
    halves = [f"{i.style}" for i in items]
    matched, ids = statistics.pair_scores([i.score for i in items], [i.pair_id for i in items], halves)
    found: dict[str, Any] = {"n_whole_pairs": len(ids)}
    metrics = {
        "pair_accuracy": statistics.pair_accuracy,
        "pair_min": statistics.pair_min,
        "pair_gap": statistics.pair_gap,
    }
    for name, metric in metrics.items():
        found |= with_interval(name, statistics.bootstrap_mean(metric(matched), ids))
    swapped, swapped_ids = statistics.pair_scores([i.swapped for i in items], [i.pair_id for i in items], halves)
    ours, theirs = dict(zip(ids, matched, strict=True)), dict(zip(swapped_ids, swapped, strict=True))
    both = [pair for pair in ids if pair in theirs]
    rows = [ours[pair] for pair in both], [theirs[pair] for pair in both]
    gains = statistics.awareness_gain(*(np.reshape(r, (-1, 2)) for r in rows))
    found |= with_interval("awareness_gain", statistics.bootstrap_mean(gains, both))
    replies: dict[str, list[Judged]] = {}
    for item in items:
        replies.setdefault(item.pair_id, []).append(item)
    whole = {pair: pick for pair, pick in replies.items() if len(pick) == 2}
    contrast = [statistics.response_contrast(a.transcript, b.transcript) for a, b in whole.values()]
    found |= with_interval("response_contrast", statistics.bootstrap_mean(contrast, list(whole)))
    found["tone_change"] = rounded(float(np.mean([a.tone != b.tone for a, b in whole.values()]))) if whole else None
    return found


def macro(items: list[Judged], factors: list[str]) -> dict[str, Any]:
    """What is averaged over factors rather than over items."""
    columns = {
        f: ([i.score for i in items if i.factor == f], [i.pair_id for i in items if i.factor == f]) for f in factors
    }
    mean = statistics.macro_bootstrap(columns)
    return {"mean": rounded(mean.value), "ci95": [rounded(x) for x in mean.ci95], "factors": factors}


def compare(systems: dict[str, list[Judged]]) -> list[dict[str, Any]]:
    """Every pair of systems, paired by query."""
    scores = {name: {i.query_id: i.score for i in items if np.isfinite(i.score)} for name, items in systems.items()}
    clusters = {i.query_id: i.pair_id for items in systems.values() for i in items}
    return [
        {
            "a": row.a,
            "b": row.b,
            "difference": rounded(row.difference.value),
            "ci95": [rounded(x) for x in row.difference.ci95],
            "n": row.difference.n,
            "p": row.p,
            "p_holm": row.p_holm,
            "detectable_difference": rounded(row.detectable),
        }
        for row in statistics.compare_systems(scores, clusters)
    ]


def with_interval(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: rounded(estimate.value), f"{name}_ci95": [rounded(x) for x in estimate.ci95]}


def rounded(value: float) -> float | None:
    """Four decimals; None where a number is not defined (JSON has no NaN)."""
    return round(float(value), 4) if np.isfinite(value) else None


def mean_of_known(values: Iterable[float]) -> float | None:
    """Rounded mean of what is known; None if nothing is."""
    return rounded(mean_score(v for v in values if np.isfinite(v)))


def mean_score(scores: Iterable[float | None]) -> float:
    """Mean of the scored samples; NaN if none is."""
    known = [s for s in scores if s is not None]
    return float(np.mean(known)) if known else float("nan")


def judged(
    query: Query,
    ids: list[str],
    evidence: dict[str, Evidence],
    scores: dict,
    swaps: dict,
    responses: dict[str, Response] | None = None,
) -> Judged:
    """One query's row of the statistics; the first sample stands for what was heard and written."""
    text = next((r.text for i in ids if (r := (responses or {}).get(i)) and r.text), None)
    first = next((evidence[i] for i in ids if i in evidence), Evidence(""))
    wers = [evidence[i].wer for i in ids if i in evidence and evidence[i].wer is not None]
    return Judged(
        query.id,
        query.pair_id,
        query.factor,
        query.styles[query.factor],
        mean_score(s for i in ids for s in scores.get(i, [])),
        mean_score(s for i in ids for s in swaps.get(i, [])),
        first.transcript,
        first.tone,
        mean_score(wers),
        names_topic(query.text, first.transcript),
        float("nan") if text is None else float(names_topic(query.text, text)),
    )


def judging(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """What became of the judge's verdicts, a system at a time, and what they cost."""
    statuses: dict[str, dict[str, int]] = {}
    usd = 0.0
    for verdict in verdicts:
        found = statuses.setdefault(answered(verdict.response_id).system, {})
        found[verdict.status] = found.get(verdict.status, 0) + 1
        usd += verdict.usage.get("cost_usd", 0.0)
    return {"verdict_statuses": statuses, "judge_usd": round(usd, 6)}


def scores_of(verdicts: Iterable[Verdict]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.response_id, []).append(verdict.score)
    return found
