"""What every answer was worth, a line each (results/scores.jsonl.gz): from these rows each figure of a results table is
made again, by `figures`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.seeds import design_of, estimate, macro_parts
from lightning_paras2s.bench.summary import Judged, accurate_pairs, rounded
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.types import Query, to_json


@dataclass(frozen=True)
class Item:
    """One query of one system; None where a number is not known. `swapped`: the score against the pair's other style;
    `audit`: the score by the audit's ears; `topic`, `topic_written`: is the topic named in what was heard, in the text;
    `status`: of the response. By ears from outside, where they listened: the word error rate of what they heard, a
    predicted opinion of the sound (1 to 5), the perplexity of the words."""

    system: str
    seed: int
    query_id: str
    pair_id: str
    factor: str
    style: str
    score: float | None
    swapped: float | None
    audit: float | None
    wer: float | None
    topic: float | None
    topic_written: float | None
    tone: str = ""
    status: str = "ok"
    outside_wer: float | None = None
    naturalness: float | None = None
    perplexity: float | None = None


METRICS = {
    "mean": "score",
    "audit_mean": "audit",
    "label_swap_gain": "gain",
    "pair_accuracy": "accurate",
    "wer": "wer",
    "names_topic": "topic",
    "writes_topic": "topic_written",
    "outside_wer": "outside_wer",
    "naturalness": "naturalness",
    "perplexity": "perplexity",
}
INTERVALS = {"mean": "ci95", "audit_mean": "audit_ci95"}
INTERVALS |= {n: f"{n}_ci95" for n in ("label_swap_gain", "pair_accuracy", "outside_wer", "naturalness", "perplexity")}


def write_items(path: Path, items: Iterable[Item]) -> None:
    """Whole or not at all; the same rows are the same bytes. Rows of other systems and seeds stay."""
    new = list(items)
    named = {(i.system, i.seed) for i in new}
    kept = [i for i in read_items(path) if (i.system, i.seed) not in named] if path.is_file() else []
    rows = sorted([*kept, *new], key=lambda i: (i.system, i.seed, i.query_id))
    text = "".join(to_json(row) + "\n" for row in rows)
    with written_whole(path) as part:
        part.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_items(path: Path) -> list[Item]:
    if not path.is_file():
        raise UserError(f"{path} must be an existing file of items; got none; write it with `headline --items`")
    return [Item(**json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]


def figures(items: list[Item]) -> dict[str, Any]:
    """The row of a results table: one system, one or several seeds over the same queries.

    With one seed the numbers are those of `evaluate`'s summary, with several those of `headline`.
    """
    seeds = sorted({i.seed for i in items})
    by_seed = [sorted((i for i in items if i.seed == seed), key=lambda i: i.query_id) for seed in seeds]
    asked = [[i.query_id for i in part] for part in by_seed]
    if any(ids != asked[0] for ids in asked):
        raise UserError(f"all seeds of {items[0].system} must be asked the same queries; got others; evaluate alike")
    values = {name: np.stack([metric_of(part, key) for part in by_seed]) for name, key in METRICS.items()}
    first = by_seed[0]
    found: dict[str, Any] = {"seed": seeds if len(seeds) > 1 else seeds[0], "system": first[0].system}
    found |= {"n": int(np.isfinite(values["mean"]).sum()), "n_failed": int((~np.isfinite(values["mean"])).sum())}
    for name, rows in values.items():
        if np.isfinite(rows).any() or name in ("mean", "label_swap_gain", "pair_accuracy"):
            value, ends = _figure(name, rows, first)
            found |= {name: value} | ({INTERVALS[name]: ends} if name in INTERVALS else {})
    factors = np.array([i.factor for i in first])
    known = {f: values["mean"][:, factors == f] for f in np.unique(factors)}
    found["by_factor"] = {str(f): rounded(np.nanmean(part)) for f, part in known.items() if np.isfinite(part).any()}
    if len(seeds) > 1:
        found["by_seed"] = [_figure("mean", row[None], first)[0] for row in values["mean"]]
    return found


def _figure(name: str, rows: NDArray, items: list[Item]) -> tuple[float | None, list[float | None]]:
    """A metric [S, Q] averaged over factors, and its interval."""
    if len(rows) > 1:
        queries = [Query(i.query_id, i.pair_id, i.factor, "", "", {}, "", "") for i in items]
        design = design_of(queries)
        made = estimate(macro_parts(rows, design), design)
    else:
        columns = statistics.by_factor(rows[0], [i.pair_id for i in items], [i.factor for i in items])
        made = statistics.macro_share(columns) if name == "pair_accuracy" else statistics.macro_mean(columns)
    ends = [np.exp(x) if name == "perplexity" else x for x in (made.value, *made.ci95)]  # a geometric mean
    return rounded(ends[0]), [rounded(end) for end in ends[1:]]


def metric_of(items: list[Item], key: str) -> NDArray:
    """[Q]; a pair's accuracy stands at its first half, and NaN at the other."""
    if key == "perplexity":
        return np.log([np.nan if i.perplexity is None else i.perplexity for i in items])
    if key == "gain":
        return metric_of(items, "score") - metric_of(items, "swapped")
    if key != "accurate":
        return np.array([np.nan if (v := getattr(i, key)) is None else float(v) for i in items])
    scores = metric_of(items, "score")
    halves = [
        Judged(i.query_id, i.pair_id, i.factor, i.style, score, np.nan, "", "", np.nan, False)
        for i, score in zip(items, scores, strict=True)
    ]
    accurate = accurate_pairs(halves)
    return np.array([accurate.pop((i.factor, i.pair_id), np.nan) for i in items])  # once a pair
