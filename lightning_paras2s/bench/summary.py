"""From judged responses to the numbers of a leaderboard: for each system, each factor and overall, with intervals and
failures.

Overall is the macro average over the factors (the paper's Avg), of every number (`over_factors`). Unscored responses
are counted, left out of the mean, and shown once more as if they had scored 1 (`mean_worst_case`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.judging.judges import HEARD
from lightning_paras2s.judging.rubric import names_topic
from lightning_paras2s.types import Evidence, Query, Response, Verdict, answered

OVERALL = "overall"
UNLABELLED = "unlabelled"  # the factor of queries of which nobody told what they are about


@dataclass(frozen=True)
class Judged:
    """One query of one system, its samples averaged; NaN = unscored or unknown. `swapped` is the score against the
    pair's other style; `topic` and `topic_written` tell whether the topic is named, in what was heard and in the
    response's own text; `heard`: an answer came, and the ear knows such speech; `worst` is the score with each sample
    that has none as 1 (NaN: as `score`, or 1)."""

    query_id: str
    pair_id: str
    factor: str
    style: str
    score: float
    swapped: float
    transcript: str
    tone: str
    wer: float
    topic: float
    topic_written: float = float("nan")
    heard: bool = True
    worst: float = float("nan")


def summarise_system(items: list[Judged]) -> dict[str, dict[str, Any]]:
    """Factor -> numbers, and "overall": of every number the unweighted mean of the factors', of counts the sum."""
    factors = sorted({item.factor for item in items})
    found = {factor: summarise([i for i in items if i.factor == factor]) for factor in factors}
    return {**found, OVERALL: {**summarise(items), "factors": factors}}


def summarise(items: list[Judged]) -> dict[str, Any]:
    """The numbers of one system, averaged over the factors that the items are of."""
    scores = np.array([i.score for i in items])
    scored = np.isfinite(scores)
    mean = over_factors(items, scores)
    told = np.array([i.worst for i in items])
    worst = over_factors(items, np.where(np.isfinite(told), told, np.where(scored, scores, 1.0)))
    known = {
        "names_topic": [i.topic for i in items],
        "writes_topic": [i.topic_written for i in items],
        "wer": [i.wer for i in items],
    }
    return {
        "mean": rounded(mean.value),
        "ci95": [rounded(x) for x in mean.ci95],
        "n": int(scored.sum()),
        "n_failed": int((~scored).sum()),
        "n_pairs": mean.clusters,
        "mean_worst_case": rounded(worst.value),
        "detectable_difference": rounded(statistics.detectable_of(columns_of(items, scores))),
        **with_interval("label_swap_gain", over_factors(items, scores - np.array([i.swapped for i in items]))),
        **pair_metrics(items),
        **{name: rounded(over_factors(items, values).value) for name, values in known.items()},
        "tones": {tone: sum(i.tone == tone for i in items) for tone in sorted({i.tone for i in items} - {""})},
    }


def columns_of(items: Sequence[Judged | Pair], values: Sequence[float]) -> statistics.Columns:
    """A value an item, or a pair -> a column a factor, clustered by contrast pair."""
    return statistics.by_factor(values, [i.pair_id for i in items], [i.factor for i in items])


def over_factors(items: Sequence[Judged | Pair], values: Sequence[float]) -> Estimate:
    """The one average of this package: the mean over factors of the mean over items, clustered by contrast pair.
    A factor without any value is not in it: such an average is of another benchmark, and `standings.table` marks it."""
    return statistics.macro_mean(columns_of(items, values))


class Pair(NamedTuple):
    """A contrast pair of one factor: scores of its halves [2], scores against the other half's style [2] (NaN where one
    is missing), and what was heard in either half, and in which tone ("" where nothing was)."""

    factor: str
    pair_id: str
    matched: NDArray
    swapped: NDArray
    transcripts: tuple[str, ...]
    tones: tuple[str, ...]


def pairs_of(items: list[Judged]) -> list[Pair]:
    """The pairs of which both halves were asked; a `pair_id` that two factors use names two pairs."""
    found: dict[tuple[str, str], dict[str, list[Judged]]] = {}
    for item in items:
        found.setdefault((item.factor, item.pair_id), {}).setdefault(item.style, []).append(item)
    made = []
    for (factor, pair), halves in found.items():
        if len(halves) == 2:
            one = [halves[style] for style in sorted(halves)]
            score, swap = (
                np.array([mean_score(getattr(i, n) for i in half) for half in one]) for n in ("score", "swapped")
            )
            heard = [next((item for item in half if item.heard), None) for half in one]
            said, tones = (tuple(getattr(i, n) if i else "" for i in heard) for n in ("transcript", "tone"))
            made.append(Pair(factor, pair, score, swap, said, tones))
    return made


def accurate_pairs(items: list[Judged]) -> dict[tuple[str, str], float]:
    """(factor, pair) -> 1 where both halves reach the bound, 0 where one does not; pairs with both halves scored."""
    whole = [p for p in pairs_of(items) if np.isfinite(p.matched).all()]
    return {(p.factor, p.pair_id): float((p.matched >= statistics.PASS).all()) for p in whole}


def pair_metrics(items: list[Judged]) -> dict[str, Any]:
    """Contrast-pair numbers over the pairs with both halves scored; contrast and change of tone, for which no judge is
    asked, over those in both of whose halves words, or a tone, were heard: an answer that never came differs from none.
    """
    pairs = pairs_of(items)
    whole = [p for p in pairs if np.isfinite(p.matched).all()]
    both = [p for p in whole if np.isfinite(p.swapped).all()]
    matched, swapped = (np.reshape([getattr(p, n) for p in both], (-1, 2)) for n in ("matched", "swapped"))
    scores = np.reshape([p.matched for p in whole], (-1, 2))
    worded, toned = [p for p in pairs if all(p.transcripts)], [p for p in pairs if all(p.tones)]
    contrast = [statistics.response_contrast(*p.transcripts) for p in worded]
    changed = [float(p.tones[0] != p.tones[1]) for p in toned]
    accuracy = statistics.macro_share(columns_of(whole, statistics.pair_accuracy(scores)))
    return {
        "n_whole_pairs": len(whole),
        **with_interval("pair_accuracy", accuracy),
        **with_interval("pair_min", over_factors(whole, statistics.pair_min(scores))),
        **with_interval("pair_gap", over_factors(whole, statistics.pair_gap(scores))),
        **with_interval("awareness_gain", over_factors(both, statistics.awareness_gain(matched, swapped))),
        **with_interval("response_contrast", over_factors(worded, contrast)),
        "tone_change": rounded(over_factors(toned, changed).value),
    }


def compare(systems: dict[str, list[Judged]]) -> list[dict[str, Any]]:
    """Every pair of systems, paired by query; `factors`: those in which both have a score, and that the difference is
    the mean of."""
    scores = {name: {i.query_id: i.score for i in items if np.isfinite(i.score)} for name, items in systems.items()}
    every = [i for items in systems.values() for i in items]
    clusters, factors = {i.query_id: i.pair_id for i in every}, {i.query_id: i.factor for i in every}
    return [
        {
            "a": row.a,
            "b": row.b,
            "difference": rounded(row.difference.value),
            "ci95": [rounded(x) for x in row.difference.ci95],
            "n": row.difference.n,
            "factors": sorted({factors[query] for query in scores[row.a] if query in scores[row.b]}),
            "p": row.p,
            "p_holm": row.p_holm,
            "detectable_difference": rounded(row.detectable),
        }
        for row in statistics.compare_systems(scores, clusters, factors)
    ]


def with_interval(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: rounded(estimate.value), f"{name}_ci95": [rounded(x) for x in estimate.ci95]}


def rounded(value: float) -> float | None:
    """Four decimals; None where a number is not defined (JSON has no NaN)."""
    return round(float(value), 4) if np.isfinite(value) else None


def mean_score(scores: Iterable[float | None]) -> float:
    """Mean of the scored samples; NaN if none is."""
    known = [s for s in scores if s is not None and np.isfinite(s)]
    return float(np.mean(known)) if known else float("nan")


def judged(
    query: Query,
    ids: list[str],
    evidence: dict[str, Evidence],
    scores: dict,
    swaps: dict,
    responses: dict[str, Response] | None = None,
) -> Judged:
    """One query's row of the statistics; the first sample that came stands for what was heard and written."""
    text = next((r.text for i in ids if (r := (responses or {}).get(i)) and r.text), None)
    told = [evidence[i] for i in ids if i in evidence]
    first = next((e for e in told if e.status in HEARD), told[0] if told else Evidence("", status="missing"))
    heard = first.status in HEARD
    wers = [evidence[i].wer for i in ids if i in evidence and evidence[i].wer is not None]
    return Judged(
        query.id,
        query.pair_id,
        query.factor or UNLABELLED,
        query.label,
        mean_score(s for i in ids for s in scores.get(i, [])),
        mean_score(s for i in ids for s in swaps.get(i, [])),
        first.transcript,
        first.tone,
        mean_score(wers),
        float(names_topic(query.text, first.transcript)) if heard else float("nan"),
        float("nan") if text is None else float(names_topic(query.text, text)),
        heard,
        mean_score(1.0 if s is None else s for i in ids for s in scores.get(i) or [None]),
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
