"""`headline`: does GRPO beat the SFT that it started from? The figures of one experiment's evaluations, one a seed.

Every figure is a macro average over the factors. Its 95 % interval is a two-way bootstrap: contrast pairs are drawn
within their factor, and seeds among seeds, since both were drawn when the experiment was done; systems share the draws,
so that ratios and differences are paired. p values are of the paired permutation test over contrast pairs, seeds
averaged first (`statistics.sign_flip_test`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.audio import read_audio, silence_fraction
from lightning_paras2s.bench import statistics
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.summary import Judged, judged, rounded, scores_of
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.logs import Log
from lightning_paras2s.types import Evidence, Query, Response, Verdict

REPEATS = 4000
RATIO, MORE_WER = 1.10, 0.03  # what must be reached, and what may be lost
SAME = ("judge", "rubric_sha", "label_source", "samples")
ROW = ("mean", "ci95", "n", "n_failed", "label_swap_gain", "pair_accuracy", "wer")
METRICS = ("score", "audit", "wer", "label_swap_gain", "pair_accuracy", "seconds", "silence", "repetition")


class Evaluation(NamedTuple):
    """One folder of `evaluate`: system -> metric -> values [Q], NaN = not known; and what is not a mean."""

    values: dict[str, dict[str, NDArray]]
    transcripts: dict[str, list[str]]
    summary: dict[str, Any]
    config_sha: dict[str, str]


class Draws(NamedTuple):
    """How often each seed [R, S] and each pair [R, P] is drawn; row 0 is once each, the estimate itself."""

    seeds: NDArray
    pairs: NDArray
    pair_of: NDArray  # [Q]
    factor_of: NDArray  # [P]


def headline(
    runs: list[InputPath],
    sft: str = "sft_fifth",
    grpo: str = "grpo",
    base: str = "base",
    full: str = "sft",
    topline: str = "topline",
    rows: str | None = None,
) -> dict[str, Any]:
    """Print what several seeds of one experiment show, as JSON with --json.

    Args:
        runs: folders of `evaluate`, one a seed, over the same manifest.
        sft: name of the system that GRPO started from.
        grpo: name of the system that it became.
        base: name of the system before SFT.
        full: name of the system of SFT on all demonstrations.
        topline: name of the system that is told the label.
        rows: append one JSON line a run and system to this file (results/headline.jsonl).
    """
    if not runs:
        raise UserError("a headline must have at least one run; got none; give --runs")
    found = [read_evaluation(Path(run)) for run in runs]
    queries = read_queries(found[0].summary["manifest"], None)
    check_same(runs, found, (sft, grpo))
    names = [n for n in (base, sft, full, grpo, topline) if all(n in e.values for e in found)]
    draws = draw(queries, len(found))
    means = {n: {m: macro_means(stack(found, n, m), draws) for m in METRICS} for n in names}
    result = {"runs": list(runs), "seeds": len(found), "n": len(queries), "pairs": len(draws.factor_of)}
    result["systems"] = {n: system_figures(found, n, means[n]) for n in names}
    result["gain"] = gain(found, queries, means, grpo, sft)
    if full in names:
        result["against_all_demonstrations"] = difference(found, queries, means, grpo, full, "score")
    result["audit_order"] = audit_order(means, [n for n in (base, sft, grpo, topline) if n in names])
    wer = difference(found, queries, means, grpo, sft, "wer")
    result["wer"] = wer | {"holds": wer["value"] is not None and wer["value"] <= MORE_WER}
    for metric in ("label_swap_gain", "pair_accuracy", "seconds", "silence", "repetition"):
        result[metric] = difference(found, queries, means, grpo, sft, metric)
    if rows is not None:
        append_rows(Path(rows), runs, found, names)
    return result


def read_evaluation(run: Path) -> Evaluation:
    """What a finished `evaluate` left in its folder."""
    if not (run / "summary.json").is_file():
        raise UserError(f"a run must be a folder of `evaluate` with summary.json; got {run}; finish it first")
    summary = json.loads((run / "summary.json").read_text())
    queries, log = read_queries(summary["manifest"], None), Log(run)
    responses = {r.id: r for r in log.read("responses", Response)}
    evidence = {e.response_id: e for e in log.read("evidence", Evidence)}
    scores, swaps, audit = (own_scores(Log(folder), name, summary) for folder, name in
                            ((run, "verdicts"), (run, "swaps"), (run / "audit", "verdicts")))  # fmt: skip
    values, transcripts, shas = {}, {}, {}
    for system in summary["systems"]:
        ids = {q.id: [f"{system}/{q.id}/{s}" for s in range(summary["samples"])] for q in queries}
        items = [judged(q, ids[q.id], evidence, scores, swaps) for q in queries]
        audited = [judged(q, ids[q.id], evidence, audit, {}).score for q in queries]
        speech = [speech_metrics(run, responses.get(ids[q.id][0]), i.transcript) for q, i in zip(queries, items)]
        values[system] = item_metrics(items) | {"audit": np.array(audited)}
        values[system] |= dict(zip(("seconds", "silence", "repetition"), np.array(speech).T))
        transcripts[system] = [item.transcript for item in items]
        shas[system] = next((r.config_sha for r in responses.values() if r.system == system), "")
    return Evaluation(values, transcripts, summary, shas)


def own_scores(log: Log, name: str, summary: dict[str, Any]) -> dict[str, list[float | None]]:
    """Response id -> scores by the summary's judge, guideline and labels."""
    mine = tuple(summary[key] for key in ("judge", "rubric_sha", "label_source"))
    return scores_of(v for v in log.read(name, Verdict) if (v.judge, v.rubric_sha, v.label_source) == mine)


def item_metrics(items: list[Judged]) -> dict[str, NDArray]:
    """[Q] each; a pair's accuracy stands at both its halves, NaN where one is unscored."""
    score = np.array([i.score for i in items])
    matched, ids = statistics.pair_scores(score, [i.pair_id for i in items], [i.style for i in items])
    accurate = dict(zip(ids, statistics.pair_accuracy(matched), strict=True))
    return {
        "score": score,
        "wer": np.array([i.wer for i in items]),
        "label_swap_gain": score - np.array([i.swapped for i in items]),
        "pair_accuracy": np.array([accurate.get(i.pair_id, np.nan) for i in items]),
    }


def speech_metrics(run: Path, response: Response | None, transcript: str) -> tuple[float, float, float]:
    """Seconds, share of silence, and repetition of a response; NaN without speech."""
    if response is None or not response.audio:
        return np.nan, np.nan, np.nan
    return response.seconds, silence_fraction(read_audio(run / response.audio, SAMPLE_RATE)), repetition(transcript)


def repetition(transcript: str) -> float:
    """Share of word pairs that were said before: 0 for "the oil, the house", 0.5 for "oil oil oil"."""
    words = transcript.split()
    pairs = list(zip(words, words[1:], strict=False))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def check_same(runs: list[str], found: list[Evaluation], needed: tuple[str, ...]) -> None:
    for run, evaluation in zip(runs, found, strict=True):
        missing = [name for name in needed if name not in evaluation.values]
        if missing:
            raise UserError(f"{run} must hold the systems {', '.join(needed)}; got {', '.join(evaluation.values)}")
        differing = [k for k in (*SAME, "manifest") if evaluation.summary[k] != found[0].summary[k]]
        if differing:
            raise UserError(f"all runs must be evaluated alike; {run} differs from {runs[0]} in {', '.join(differing)}")


def stack(found: list[Evaluation], system: str, metric: str) -> NDArray:
    """[S, Q]"""
    return np.stack([evaluation.values[system][metric] for evaluation in found])


def draw(queries: list[Query], seeds: int, repeats: int = REPEATS, seed: int = 0) -> Draws:
    ids, pair_of = np.unique([q.pair_id for q in queries], return_inverse=True)
    factors = {q.pair_id: q.factor for q in queries}
    factor_of = np.array([factors[i] for i in ids])
    random = np.random.default_rng(seed)
    drawn = np.ones((repeats + 1, len(ids)))
    for factor in sorted(set(factors.values())):
        of = np.flatnonzero(factor_of == factor)
        drawn[1:, of] = random.multinomial(len(of), np.full(len(of), 1 / len(of)), repeats)
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), repeats)
    return Draws(np.concatenate([np.ones((1, seeds)), of_seeds]), drawn, pair_of, factor_of)


def macro_means(values: NDArray, draws: Draws) -> NDArray:
    """[S, Q] -> [R], the mean over factors of each factor's mean; NaN values are left out."""
    known = np.isfinite(values)
    pairs = np.eye(len(draws.factor_of))[draws.pair_of]  # [Q, P]
    sums, counts = np.where(known, values, 0) @ pairs, known @ pairs  # [S, P]
    totals = [((draws.seeds @ part) * draws.pairs) for part in (sums, counts)]  # [R, P]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.divide(*(t[:, draws.factor_of == f].sum(1) for t in totals)) for f in sorted(set(draws.factor_of))]
    return np.mean(means, 0)


def interval(draws: NDArray) -> dict[str, Any]:
    """The estimate and the middle 95 % of the draws."""
    known = draws[1:][np.isfinite(draws[1:])]
    ci95 = [rounded(x) for x in np.percentile(known, [2.5, 97.5])] if len(known) else [None, None]
    return {"value": rounded(draws[0]), "ci95": ci95}


def system_figures(found: list[Evaluation], name: str, means: dict[str, NDArray]) -> dict[str, Any]:
    """Every metric with its interval; how many responses were not scored; whether lengths and answers still vary."""
    scores, seconds = stack(found, name, "score"), stack(found, name, "seconds")
    counts = {"n": int(np.isfinite(scores).sum()), "n_failed": int((~np.isfinite(scores)).sum())}
    distinct = np.mean([len(set(e.transcripts[name])) / len(e.transcripts[name]) for e in found])
    varied = {"length_deviation": rounded(np.nanstd(seconds) / np.nanmean(seconds)), "distinct": rounded(distinct)}
    by_seed = [rounded(np.nanmean(row)) for row in scores]
    return counts | {"by_seed": by_seed} | {m: interval(means[m]) for m in METRICS} | varied


def difference(found: list[Evaluation], queries: list[Query], means: dict, a: str, b: str, metric: str) -> dict:
    """Metric of a - metric of b, with its interval and the permutation test's p."""
    per_query = np.ma.masked_invalid(stack(found, a, metric) - stack(found, b, metric)).mean(0).filled(np.nan)
    p = statistics.sign_flip_test(per_query, [q.pair_id for q in queries])
    return interval(means[a][metric] - means[b][metric]) | {"p": rounded(p)}


def gain(found: list[Evaluation], queries: list[Query], means: dict, grpo: str, sft: str) -> dict[str, Any]:
    """Score of GRPO / score of SFT."""
    ratio = interval(means[grpo]["score"] / means[sft]["score"])
    p = difference(found, queries, means, grpo, sft, "score")["p"]
    return {"ratio": ratio["value"], "ci95": ratio["ci95"], "p": p, "holds": ratio["value"] >= RATIO and p < 0.05}


def audit_order(means: dict[str, dict[str, NDArray]], order: list[str]) -> dict[str, Any]:
    """Does the audit rank the systems as they should be, and in what share of the draws?"""
    audits = np.array([means[name]["audit"] for name in order])  # [systems, R]
    holds = (np.diff(audits, axis=0) > 0).all(0)
    return {"systems": order, "means": [rounded(x) for x in audits[:, 0]], "holds": bool(holds[0]),
            "share_of_draws": rounded(holds[1:].mean())}  # fmt: skip


def append_rows(path: Path, runs: list[str], found: list[Evaluation], names: list[str]) -> None:
    """One line a run and system: what it is and what it scored; `seed` counts the runs."""
    lines = []
    for seed, (run, evaluation) in enumerate(zip(runs, found, strict=True)):
        for name in names:
            cell = evaluation.summary["systems"][name]["overall"]
            audit = evaluation.summary.get("audit", {}).get("systems", {}).get(name, {}).get("overall", {})
            kept = {key: cell[key] for key in ROW}
            heard = {"audit_mean": audit.get("mean"), "audit_ci95": audit.get("ci95")}
            about = {"run": run, "config_sha": evaluation.config_sha[name], "seed": seed, "system": name}
            lines.append(about | kept | heard | {"cost_seconds": sum(evaluation.summary["seconds"].values())})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
