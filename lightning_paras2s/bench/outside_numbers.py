"""The numbers of an answer by ears from outside, and what they say of each speaker: means, and differences of two."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.summary import mean_score, rounded
from lightning_paras2s.hearing.outside import Outside
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging.judges import Judge, ask_judge
from lightning_paras2s.running.logs import replace_jsonl
from lightning_paras2s.types import Evidence, Query, Style

LOGS = ("perplexity_heard", "perplexity_written")  # averaged as logarithms


def write_rows(path: Path, numbers: dict[str, list[dict[str, Any]]]) -> None:
    replace_jsonl(path, [as_line(name, row) for name, found in numbers.items() for row in found])


def as_line(system: str, row: dict[str, Any]) -> dict[str, Any]:
    """What `results/` keeps of an answer: every number here can be computed from it again."""
    query = row["query"]
    about = {"system": system, "query_id": query.id, "pair_id": query.pair_id, "factor": query.factor}
    about |= {"style": query.label, "query": query.text}
    return about | row["said"] | {name: value for name, value in row.items() if name not in ("query", "said")}


def error_rate(text: str, heard: str | None) -> float | None:
    """From the words, not from the log's number: a better normaliser then needs no new hearing."""
    return word_error_rate(text, heard) if text and heard is not None else None


def scores(
    query: Query, style: Style, ours: Evidence | None, found: Outside, judge: Judge | None
) -> dict[str, float | None]:
    """The judge's score of the words that either ear heard, the mean of its verdicts; the tone is that which our own
    ears heard, the style the one that the run's judge was told."""
    if judge is None or ours is None:
        return {}
    asked = {"score_ours": ours}
    if found.heard is not None:
        wer = error_rate(found.text, found.heard)
        asked["score_outside"] = replace(ours, transcript=found.heard, wer=wer)
    told = ask_judge(judge, [query] * len(asked), [style] * len(asked), list(asked.values()))
    means = {name: mean_score(v.score for v in row) for name, row in zip(asked, told, strict=True)}
    return {name: value if isfinite(value) else None for name, value in means.items()}


def measures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each number's mean with its 95 % interval, clustered by contrast pair (Student's t); perplexities as geometric
    means."""
    pairs = [row["query"].pair for row in rows]
    found: dict[str, Any] = {"n": len(rows), "n_pairs": len(set(pairs))}
    for name in sorted({n for row in rows for n in row} - {"query", "said"}):
        values = column(rows, name)
        estimate = statistics.clustered_mean(values, pairs)
        if not estimate.n:
            continue
        back = np.exp if name in LOGS else float
        found[name] = rounded(back(estimate.value))
        found[f"{name}_ci95"] = [rounded(back(x)) for x in estimate.ci95]
        found[f"{name}_n"] = estimate.n
    return found


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
    return np.log(values) if name in LOGS else values


def differences(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every two systems, b - a, paired by query; of perplexities the ratio."""
    found = []
    for a, b in combinations(rows, 2):
        left, right = ({row["query"].id: row for row in rows[name]} for name in (a, b))
        both = [query for query in left if query in right]
        pairs = [left[query]["query"].pair for query in both]
        for name in ("wer_ours", "wer_outside", "score_ours", "score_outside", "dnsmos", *LOGS):
            values = column([right[q] for q in both], name) - column([left[q] for q in both], name)
            estimate = statistics.macro_difference({"": (values, pairs)})
            if estimate.n:
                back = np.exp if name in LOGS else float
                cell = {"value": rounded(back(estimate.value)), "ci95": [rounded(back(x)) for x in estimate.ci95]}
                found.append({"a": a, "b": b, "measure": name, **cell, "n": estimate.n})
    return found
