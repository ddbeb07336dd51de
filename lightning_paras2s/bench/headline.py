"""`headline`: does GRPO beat the SFT that it started from? The figures of one experiment's evaluations, one a seed.

Every figure is a macro average over the factors. Its 95 % interval counts contrast pairs and seeds as drawn
(`bench/seeds.py`); ratios and differences are paired. p values come from the same errors, so a p is below .05 where the
interval leaves "no difference" out, and there is none where there is no interval.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_paras2s.audio import read_audio, silence_fraction
from lightning_paras2s.bench.alike import require_alike, require_seeds, unrecorded
from lightning_paras2s.bench.asked import asked_queries
from lightning_paras2s.bench.items import Item, write_items
from lightning_paras2s.bench.outside_today import rows_read, same_answer
from lightning_paras2s.bench.seeds import Design, Parts, design_of, estimate, macro_parts, p_value, shared
from lightning_paras2s.bench.summary import OVERALL, Judged, accurate_pairs, judged, mean_score, rounded
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.verdicts import counted_scores, own_scores
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.outside import NAME, Outside
from lightning_paras2s.hearing.words import plain_text, plain_units
from lightning_paras2s.running.files import rows_in
from lightning_paras2s.running.logs import Judging, Log, read_summary, replace_jsonl
from lightning_paras2s.types import Evidence, Query, Response, response_id

RATIO, MORE_WER = 1.10, 0.03  # what must be reached, and what may be lost
SAME = (*Judging._fields, "samples", "manifest")
ROW = ("mean", "ci95", "n", "n_failed", "label_swap_gain", "pair_accuracy", "wer")
METRICS = ("score", "audit", "wer", "label_swap_gain", "pair_accuracy", "seconds", "silence", "repetition")


class Evaluation(NamedTuple):
    """One folder of `evaluate`: the queries it was about; system -> metric -> values [Q], NaN = not known; and what is
    not a mean. `items`: every answer of every system, its seed still 0."""

    queries: list[Query]
    values: dict[str, dict[str, NDArray]]
    transcripts: dict[str, list[str]]
    summary: dict[str, Any]
    config_sha: dict[str, str]
    items: list[Item]


def headline(
    runs: list[InputPath],
    sft: str = "sft_fifth",
    grpo: str = "grpo",
    base: str = "base",
    full: str = "sft",
    topline: str = "topline",
    rows: str | None = None,
    items: str | None = None,
) -> dict[str, Any]:
    """Print what several seeds of one experiment show, as JSON with --json.

    Args:
        runs: folders of `evaluate`, one a seed, over the same queries and with the same ears.
        sft: name of the system that GRPO started from.
        grpo: name of the system that it became.
        base: name of the system before SFT.
        full: name of the system of SFT on all demonstrations.
        topline: name of the system that is told the label.
        rows: write one JSON line a run and system to this file (results/headline.jsonl), in place of those that it
            holds of the same run and system; the first run is seed 1.
        items: write what every answer was worth to this file (results/scores.jsonl.gz); in it, the rows of the same
            systems and seeds (the first run is seed 1) are replaced.
    """
    if not runs:
        raise UserError("a headline must have at least one run; got none; give --runs")
    require_seeds(runs)
    found = [read_evaluation(Path(run)) for run in runs]
    check_same(runs, found, (sft, grpo))
    queries = found[0].queries
    names = [n for n in (base, sft, full, grpo, topline) if all(n in e.values for e in found)]
    design = design_of(queries)
    notes = unrecorded({run: e.summary for run, e in zip(runs, found, strict=True)})
    result = {"runs": list(runs), "seeds": len(found), "n": len(queries), "pairs": len(design.factor_of)}
    result["notes"] = notes
    result["systems"] = {n: system_figures(found, n, design) for n in names}
    result["gain"] = gain(found, design, grpo, sft)
    if full in names:
        result["against_all_demonstrations"] = difference(found, design, grpo, full, "score")
    result["audit_order"] = audit_order(found, design, [n for n in (base, sft, grpo, topline) if n in names])
    wer = difference(found, design, grpo, sft, "wer")
    result["wer"] = wer | {"holds": wer["value"] is not None and wer["value"] <= MORE_WER}
    for metric in ("label_swap_gain", "pair_accuracy", "seconds", "silence", "repetition"):
        result[metric] = difference(found, design, grpo, sft, metric)
    if rows is not None:
        write_rows(Path(rows), runs, found, names)
    if items is not None:
        write_items(Path(items), [replace(i, seed=seed) for seed, e in enumerate(found, 1) for i in e.items])
    return result


def read_evaluation(run: Path) -> Evaluation:
    """What a finished `evaluate` left in its folder."""
    if not (run / "summary.json").is_file():
        raise UserError(f"a run must be a folder of `evaluate` with summary.json; got {run}; finish it first")
    summary = read_summary(run / "summary.json", ("systems", *SAME))
    queries, log = asked_queries(summary), Log(run)
    if queries is None:
        raise UserError(
            f"{summary['manifest']} must hold the queries that {run} was about; got others; run `evaluate` again"
        )
    responses = {r.id: r for r in log.read("responses", Response)}
    evidence = {e.response_id: e for e in log.read("evidence", Evidence)}
    # Logs that the summary does not tell of may be of earlier answers.
    swapped = any(cells[OVERALL]["label_swap_gain"] is not None for cells in summary["systems"].values())
    scores, swaps = counted_scores(log, summary, queries), own_scores(log, "swaps", summary) if swapped else {}
    audit = counted_scores(Log(run / "audit"), summary["audit"], queries) if "audit" in summary else {}
    values, transcripts, shas, rows, outside = {}, {}, {}, [], heard_outside(run, responses)
    for system in summary["systems"]:
        ids = {q.id: [response_id(system, q.id, s) for s in range(summary["samples"])] for q in queries}
        items = [judged(q, ids[q.id], evidence, scores, swaps, responses) for q in queries]
        audited = [judged(q, ids[q.id], evidence, audit, {}).score for q in queries]
        speech = [speech_metrics(run, responses.get(ids[q.id][0]), i.transcript) for q, i in zip(queries, items)]
        values[system] = item_metrics(items) | {"audit": np.array(audited)}
        values[system] |= dict(zip(("seconds", "silence", "repetition"), np.array(speech).T))
        statuses = [r.status if (r := responses.get(ids[q.id][0])) else "missing" for q in queries]
        made = [as_item(system, i, a, s) for i, a, s in zip(items, audited, statuses, strict=True)]
        rows += [replace(item, **outside.get(ids[item.query_id][0], {})) for item in made]
        transcripts[system] = [item.transcript for item in items]
        shas[system] = next((r.config_sha for r in responses.values() if r.system == system), "")
    return Evaluation(queries, values, transcripts, summary, shas, rows)


def heard_outside(run: Path, responses: dict[str, Response]) -> dict[str, dict[str, float | None]]:
    """Response id -> what ears from outside found, by the names of an `Item`; {} if they have not listened. Answers
    that are others today are left out, and one without a text of its own has no word error rate: the log's is of its
    words against none."""
    found = {}
    for row in rows_read(run, NAME, Outside):
        if same_answer(run, responses.get(row.response_id), row) is not False:
            heard = {"naturalness": row.overall, "perplexity": row.perplexity_heard}
            found[row.response_id] = {"outside_wer": row.wer if row.text else None, **heard}
    return found


def as_item(system: str, row: Judged, audit: float, status: str) -> Item:
    known = {"score": row.score, "swapped": row.swapped, "audit": audit, "wer": row.wer}
    known |= {"topic": float(row.topic), "topic_written": row.topic_written}
    about = (row.query_id, row.pair_id, row.factor, row.style)
    return Item(system, 0, *about, **{k: rounded(v) for k, v in known.items()}, tone=row.tone, status=status)


def item_metrics(items: list[Judged]) -> dict[str, NDArray]:
    """[Q] each; a pair's accuracy stands at both its halves, NaN where one is unscored."""
    score = np.array([i.score for i in items])
    accurate = accurate_pairs(items)
    return {
        "score": score,
        "wer": np.array([i.wer for i in items]),
        "label_swap_gain": score - np.array([i.swapped for i in items]),
        "pair_accuracy": np.array([accurate.get((i.factor, i.pair_id), np.nan) for i in items]),
    }


def speech_metrics(run: Path, response: Response | None, transcript: str) -> tuple[float, float, float]:
    """Seconds, share of silence, and repetition of a response; NaN without speech, repetition without heard words."""
    if response is None or not response.audio:
        return np.nan, np.nan, np.nan
    said_again = repetition(transcript) if plain_units(transcript) else np.nan
    return response.seconds, silence_fraction(read_audio(run / response.audio, SAMPLE_RATE)), said_again


def repetition(transcript: str) -> float:
    """Share of word pairs that were said before: 0 for "the oil, the house", 0.5 for "oil oil oil"."""
    words = plain_units(transcript)
    pairs = list(zip(words, words[1:], strict=False))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def distinct_share(transcripts: list[str]) -> float:
    """How many different things were said, over the answers in which words were heard; NaN if there are none."""
    said = [words for transcript in transcripts if (words := plain_text(transcript))]
    return len(set(said)) / len(said) if said else float("nan")


def check_same(runs: list[str], found: list[Evaluation], needed: tuple[str, ...]) -> None:
    for run, evaluation in zip(runs, found, strict=True):
        missing = [name for name in needed if name not in evaluation.values]
        if missing:
            raise UserError(f"{run} must hold the systems {', '.join(needed)}; got {', '.join(evaluation.values)}")
        about, first = ({key: e.summary.get(key) for key in SAME} for e in (evaluation, found[0]))
        if differing := [key for key in SAME if about[key] != first[key]]:
            raise UserError(
                f"all runs must be evaluated alike; {run} differs from {runs[0]} in {', '.join(differing)}; evaluate "
                "them alike, or take a headline of each"
            )
    if without := [run for run, e in zip(runs, found, strict=True) if "audit" not in e.summary]:
        if len(without) < len(runs):
            raise UserError(
                f"runs must all have an audit, or none; got none of {', '.join(without)}; evaluate them alike"
            )
    require_alike({run: evaluation.summary for run, evaluation in zip(runs, found, strict=True)})


def stack(found: list[Evaluation], system: str, metric: str) -> NDArray:
    """[S, Q]"""
    return np.stack([evaluation.values[system][metric] for evaluation in found])


def figure(parts: Parts, design: Design) -> dict[str, Any]:
    """A value and its interval, as JSON."""
    made = estimate(parts, design)
    return {"value": rounded(made.value), "ci95": [rounded(x) for x in made.ci95]}


def system_figures(found: list[Evaluation], name: str, design: Design) -> dict[str, Any]:
    """Every metric with its interval; how many responses were not scored; whether lengths and answers still vary."""
    scores, seconds = stack(found, name, "score"), stack(found, name, "seconds")
    counts = {"n": int(np.isfinite(scores).sum()), "n_failed": int((~np.isfinite(scores)).sum())}
    distinct = mean_score(distinct_share(e.transcripts[name]) for e in found)
    varied = {"length_deviation": rounded(np.nanstd(seconds) / np.nanmean(seconds)), "distinct": rounded(distinct)}
    by_seed = [rounded(macro_parts(row[None], design).value) for row in scores]
    figures = {m: figure(macro_parts(stack(found, name, m), design), design) for m in METRICS}
    return counts | {"by_seed": by_seed} | figures | varied


def difference(found: list[Evaluation], design: Design, a: str, b: str, metric: str) -> dict:
    """Metric of a - metric of b where both are known, with its interval and p, both over pairs and seeds."""
    first, second = parts_of_two(found, design, (a, b), metric)
    return figure(first - second, design) | {"p": rounded(p_value(first - second, design))}


def parts_of_two(found: list[Evaluation], design: Design, names: tuple[str, str], metric: str) -> list[Parts]:
    """A metric of two systems, of the answers of which it is known of both."""
    return [macro_parts(v, design) for v in shared(*(stack(found, name, metric) for name in names))]


def gain(found: list[Evaluation], design: Design, grpo: str, sft: str) -> dict[str, Any]:
    """Score of GRPO / score of SFT where both are scored; p is that of a ratio of 1."""
    after, before = parts_of_two(found, design, (grpo, sft), "score")
    ratio, p = figure(after / before, design), rounded(p_value(after / before, design, 1.0))
    holds = p is not None and p < 0.05 and ratio["value"] >= RATIO
    return {"ratio": ratio["value"], "ci95": ratio["ci95"], "p": p, "holds": holds}


def audit_order(found: list[Evaluation], design: Design, order: list[str]) -> dict[str, Any]:
    """Does the audit rank the systems as they should be, and is each step's interval above 0?"""
    twos = [parts_of_two(found, design, names, "audit") for names in zip(order[1:], order, strict=False)]
    steps = [figure(after - before, design) for after, before in twos]
    holds = all(step["value"] is not None and step["value"] > 0 for step in steps)
    sure = all(step["ci95"][0] is not None and step["ci95"][0] > 0 for step in steps)
    means = [rounded(macro_parts(stack(found, name, "audit"), design).value) for name in order]
    return {"systems": order, "means": means, "steps": steps, "holds": holds, "each_step_sure": sure}


def write_rows(path: Path, runs: list[str], found: list[Evaluation], names: list[str]) -> None:
    """One line a run and system: what it is and what it scored; `seed` counts the runs, from 1. Those of other runs and
    systems stay."""
    lines = []
    for seed, (run, evaluation) in enumerate(zip(runs, found, strict=True), 1):
        for name in names:
            cell = evaluation.summary["systems"][name]["overall"]
            audit = evaluation.summary.get("audit", {}).get("systems", {}).get(name, {}).get("overall", {})
            kept = {key: cell[key] for key in ROW}
            heard = {"audit_mean": audit.get("mean"), "audit_ci95": audit.get("ci95")}
            about = {"run": run, "config_sha": evaluation.config_sha[name], "seed": seed, "system": name}
            lines.append(about | kept | heard | {"cost_seconds": sum(evaluation.summary["seconds"].values())})
    made = {(line["run"], line["system"]) for line in lines}
    kept = [row for row in rows_in(path) if (row["run"], row["system"]) not in made]
    replace_jsonl(path, [*kept, *lines])
