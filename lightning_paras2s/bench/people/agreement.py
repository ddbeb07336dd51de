"""`agreement`: does the judge agree with listeners, and do they agree with each other? (paper, Tables 2 and 7)

Correlations come with n, unit of analysis and intervals, and beside them what no correlation sees: bias, error and
kappa. Items on which all listeners disagree are kept; the paper drops them, which inflates agreement, so the figures
without them stand apart. Where listeners agree no better than chance, the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.bench.alike import require_folders
from lightning_paras2s.bench.pairs.runs import require_own_ids
from lightning_paras2s.bench.people import reliability as measures
from lightning_paras2s.bench.people.votes import names_of, of_today, once, rater, read_humans
from lightning_paras2s.bench.summary import OVERALL, mean_score, rounded, scores_of
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.logs import Log, say, verdicts_of, write_summary
from lightning_paras2s.types import FACTORS, Human, Query, Response, answered, read_jsonl


class Items(NamedTuple):
    """What was rated: ratings [annotators, items] and the judge's scores [items], NaN where missing."""

    ids: list[str]
    ratings: NDArray
    judge: NDArray
    factors: list[str]
    pairs: list[str]
    raters: list[str]

    def take(self, rows: Sequence[int]) -> Items:
        rows = list(rows)
        ids, factors, pairs = ([column[i] for i in rows] for column in (self.ids, self.factors, self.pairs))
        return Items(ids, self.ratings[:, rows], self.judge[rows], factors, pairs, self.raters)


def agreement(humans: InputPath, runs: list[InputPath], manifest: InputPath, out: str | None = None) -> dict[str, Any]:
    """Compare a judge's scores with listeners', by item and by system, and listeners with each other.

    Args:
        humans: JSON lines of `annotate` with scores, or a CSV with the columns item_id, annotator, score.
        runs: folders of `evaluate` whose responses they rated, all by one judge, whose systems have names of their own.
        manifest: the queries.
        out: a JSON file to write.

    Returns:
        For each factor and overall: Krippendorff's alpha of the listeners with and without the items on which all of
        them differ; correlations, kappa, bias and error of the judge; how well one listener meets the mean of the
        others (`ceiling`); the same by system; and each listener.
    """
    items, judge = load(humans, runs, manifest)
    table: dict[str, Any] = {"judge": judge, "annotators": len(items.ratings)}
    for factor in [f for f in FACTORS if f in items.factors] + [OVERALL]:
        part = items if factor == OVERALL else items.take([i for i, f in enumerate(items.factors) if f == factor])
        table[factor] = between_listeners(part) | judge_and_listeners(part)
    table["systems"], table["raters"] = by_system(items), by_rater(items)
    for name, row in table["raters"].items():
        if row["n"] > 2 and not np.nanstd(items.ratings[items.raters.index(name)]):
            say(f"{name} gave one score to all of {row['n']}: no correlation tells how that meets the others")
    if out is not None:
        write_summary(Path(out), table)
    return table


def load(humans: str, runs: list[str], manifest: str) -> tuple[Items, str]:
    """Ratings, scores and clusters of every rated response; the judge's name."""
    queries = {q.id: q for q in read_jsonl(manifest, Query)}
    require_folders(runs)
    held = {run: verdicts_of(Path(run)) for run in runs}
    require_own_ids({run: [v.response_id for v in verdicts] for run, (_, verdicts) in held.items()})
    judges = {judging for judging, _ in held.values()}
    verdicts = [v for _, found in held.values() for v in found]
    scores = {name: mean_score(found) for name, found in scores_of(verdicts).items()}
    if len(judges) != 1:
        raise UserError(f"all runs must have one judge; got {len(judges)}; score them again")
    responses = [r for run in runs for r in Log(Path(run)).read("responses", Response)]
    rated = of_recordings([h for h in read_humans(humans) if h.score is not None], responses, humans)
    for h in rated:
        if not measures.SCALE[0] <= h.score <= measures.SCALE[-1]:
            got = f"{h.score:g} of {h.item_id}"
            raise UserError(f"{humans}: a listener's score must be from 1 to 5; got {got}; mend the line")
    ids = sorted({h.item_id for h in rated})
    if not ids:
        raise UserError(f"{humans} must hold ratings with a score; got none; pairwise choices go to `arena`")
    asked = [queries.get(answered(name).query_id) for name in ids]
    if None in asked:
        raise UserError(f"{manifest} must hold the query of {ids[asked.index(None)]!r}; got none; check the manifest")
    held_ids = {v.response_id for v in verdicts} | {r.id for r in responses}
    if gone := [name for name in ids if name not in held_ids]:
        raise UserError(
            f"runs must hold the answers that were rated; got none of {gone[0]!r} (and {len(gone) - 1} more); name its "
            "run, too, or take the ratings out"
        )
    names = names_of(rated)
    rows = {who: row for row, who in enumerate(names)}
    columns = {name: column for column, name in enumerate(ids)}
    ratings = np.full((len(rows), len(ids)), np.nan)
    for h in rated:
        ratings[rows[rater(h.annotator)], columns[h.item_id]] = h.score
    judged = np.array([scores.get(name, np.nan) for name in ids])
    factors, pairs = [q.factor for q in asked], [q.pair for q in asked]
    return Items(ids, ratings, judged, factors, pairs, list(names.values())), judges.pop().judge


def of_recordings(rated: list[Human], responses: list[Response], where: str) -> list[Human]:
    """The ratings of what the runs hold today; one of a recording that was replaced since is left out, and told."""
    return once(of_today(rated, {r.id: r.sha256 for r in responses}, where, "rating"), where)


def between_listeners(items: Items) -> dict[str, Any]:
    """Krippendorff's alpha (ordinal) over all items, with its interval, and over those the paper would keep."""
    found = {"items": len(items.ids), "ratings": int(np.isfinite(items.ratings).sum())}
    alpha = measures.krippendorff_alpha(items.ratings)
    low, high, _ = measures.krippendorff_interval(items.ratings, items.pairs)
    kept = measures.without_full_disagreement(items.ratings)
    found |= {"alpha": rounded(alpha), "alpha_ci95": [rounded(low), rounded(high)]}
    found |= {"alpha_without_full_disagreement": rounded(measures.krippendorff_alpha(kept))}
    return found | {"items_without_full_disagreement": kept.shape[1], "listeners": in_words(alpha)}


def in_words(alpha: float) -> str:
    """What an alpha means (Krippendorff's bounds: .8 reliable, .667 the least for tentative conclusions)."""
    if not np.isfinite(alpha):
        return "not defined: too few ratings, or all are equal"
    if alpha <= 0:
        return "no agreement: the listeners agree no better than chance; their means say nothing about the judge"
    return "reliable" if alpha >= 0.8 else "tentative" if alpha >= 0.667 else "weak"


def judge_and_listeners(items: Items) -> dict[str, Any]:
    """The judge against the listeners' mean, an item a response."""
    human = human_means(items.ratings)
    both = np.isfinite(human) & np.isfinite(items.judge)
    found: dict[str, Any] = {"unit": "response", "n": int(both.sum()), "n_unjudged": int((~both).sum())}
    for kind in measures.CORRELATIONS:
        c = measures.correlation(items.judge, human, items.pairs, kind)
        found |= {kind: rounded(c.value), f"{kind}_ci95": [rounded(c.low), rounded(c.high)], f"{kind}_p": c.p}
        found |= {f"{kind}_ceiling": rounded(measures.human_ceiling(items.ratings, kind))}
    if both.any():
        found |= {"bias": rounded(measures.bias(items.judge[both], human[both]))}
        found |= {"mae": rounded(measures.mean_absolute_error(items.judge[both], human[both]))}
        found |= {"kappa": rounded(measures.cohen_kappa(items.judge, human))}
    return {name: None if value != value else value for name, value in found.items()}


def by_system(items: Items) -> dict[str, Any]:
    """Each system's mean by either, and the correlation of these means where there are three systems or more; it has no
    interval: so few systems say nothing of others, and the means' own errors pull it down (speed/intervals.py)."""
    human = human_means(items.ratings)
    both = np.flatnonzero(np.isfinite(human) & np.isfinite(items.judge))
    systems = np.array([answered(items.ids[i]).system for i in both])
    names = sorted(set(systems.tolist()))

    found: dict[str, Any] = {"unit": "system", "n": len(names)}
    if not names:
        return found
    scores = np.stack([human[both], items.judge[both]], 1)
    every = np.array([scores[systems == name].mean(0) for name in names])  # [systems, 2]
    found["means"] = {n: {"listeners": rounded(h), "judge": rounded(j)} for n, (h, j) in zip(names, every, strict=True)}
    if len(names) >= 3:
        found |= {kind: rounded(measure(*every.T)) for kind, measure in measures.CORRELATIONS.items()}
    return found


def by_rater(items: Items) -> dict[str, Any]:
    """Each listener's ratings, mean, and bias and correlation against the mean of the others on what both rated."""
    found = {}
    for row, name in enumerate(items.raters):
        own, others = items.ratings[row], human_means(np.delete(items.ratings, row, 0))
        both = np.isfinite(own) & np.isfinite(others)
        alike = measures.CORRELATIONS["pearson"](own[both], others[both]) if both.sum() > 2 else np.nan
        apart = measures.bias(own[both], others[both]) if both.any() else np.nan
        found[name] = {"n": int(np.isfinite(own).sum()), "mean": rounded(np.nanmean(own))}
        found[name] |= {"bias": rounded(apart), "pearson": rounded(alike)}
    return found


def human_means(ratings: NDArray) -> NDArray:
    """Mean over the listeners of each item, NaN without any: [A, N] -> [N]."""
    counts = np.isfinite(ratings).sum(0)
    return np.where(counts > 0, np.nansum(ratings, 0) / np.maximum(counts, 1), np.nan)
