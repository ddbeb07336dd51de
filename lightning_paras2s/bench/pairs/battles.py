"""Where an arena's battles come from: files, listeners' choices, TRACE, or the scores of `evaluate`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path

import numpy as np

from lightning_paras2s.bench.alike import require_alike, unrecorded
from lightning_paras2s.bench.corpora.trace import read_trace
from lightning_paras2s.bench.pairs import meetings
from lightning_paras2s.bench.pairs.meetings import VERDICTS
from lightning_paras2s.bench.pairs.play import ORDERS, own_names, require_same_queries
from lightning_paras2s.bench.pairs.runs import about, summary_of
from lightning_paras2s.bench.people.votes import TABLES, names_of, of_today, once, rater, read_humans
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.pair_judges import GOOD
from lightning_paras2s.running.logs import Log, say, verdicts_of
from lightning_paras2s.types import Answered, Battle, Response, answered, read_jsonl, response_id


def read_battles(path: str, runs: Sequence[str] = ()) -> list[Battle]:
    """The battles of a file; of listeners' choices, those between what the runs hold today."""
    if path.endswith(".json"):
        return read_trace(path)
    of_people = path.lower().endswith(TABLES) or is_of_listeners(path)
    games = from_listeners(path, runs) if of_people else read_jsonl(path, Battle)
    for number, game in enumerate(games, 1):
        if game.verdict not in VERDICTS or game.order not in ORDERS or game.a == game.b:
            raise UserError(
                f"{path}: battle {number} must be between two systems, its order one of {', '.join(ORDERS)} and its "
                f"verdict one of {', '.join(VERDICTS)}; got {game}; mend the line"
            )
    if not games:
        raise UserError(f"{path} must hold at least one battle; got none")
    return meetings.once(games, path)


def is_of_listeners(path: str) -> bool:
    """Does a file hold `Human` records?"""
    with Path(path).open("rb") if Path(path).is_file() else nullcontext(()) as lines:
        return b'"annotator"' in next((line for line in lines if line.strip()), b"")


def from_listeners(path: str, runs: Sequence[str] = ()) -> list[Battle]:
    """Listeners' choices between two responses, "a/query/0 | b/query/0", the first heard first."""
    games, humans = [], [h for h in read_humans(path) if h.verdict is not None]
    shas = {row.id: row.sha256 for run in runs for row in Log(Path(run)).read("responses", Response)}
    pairs = {h.item_id: [shas.get(response_id(*who)) for who in two_of(h.item_id)] for h in humans if shas}
    today = {name: " | ".join(both) for name, both in pairs.items() if all(both)}
    humans = once(of_today(humans, today, path, "choice"), path)
    names = names_of(humans)
    for choice in humans:
        first, second = two_of(choice.item_id)
        who = names[rater(choice.annotator)]
        games.append(Battle(first.query_id, first.system, second.system, "ab", choice.verdict, who))
    return games


def two_of(item_id: str) -> tuple[Answered, Answered]:
    """The two responses of a choice's id, "a/query/0 | b/query/0"; names may hold the bar as well."""
    parts = item_id.split(" | ")
    for cut in range(1, len(parts)):
        try:
            first, second = answered(" | ".join(parts[:cut])), answered(" | ".join(parts[cut:]))
        except UserError:
            continue
        if first.query_id == second.query_id:
            return first, second
    raise UserError(f"a choice's item_id must name two responses to a query, FIRST | SECOND; got {item_id!r}")


def from_runs(runs: Sequence[str]) -> list[Battle]:
    """Battles from the scores of `evaluate`, all by one judge, of what the summaries are about and what the same ears
    heard (as far as that is recorded: what is not is told); a response without a score has no battle."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    held = {run: verdicts_of(Path(run)) for run in runs}
    judges = {judging for judging, _ in held.values()}
    if len(judges) > 1:
        raise UserError(f"all runs must have one judge; got {', '.join(sorted(j.judge for j in judges))}")
    require_same_queries(runs)
    require_scored_alike(runs)
    kept = {run: about(run, [v.response_id for v in rows]) for run, (_, rows) in held.items()}
    told = {run: [v for v in rows if v.response_id in kept[run]] for run, (_, rows) in held.items()}
    names = own_names({run: {answered(v.response_id).system for v in rows} for run, rows in told.items()})
    for run, verdicts in told.items():
        for v in verdicts:
            who = answered(v.response_id)
            if v.status == "ok" and v.score is not None:
                scores[who.query_id][names[run, who.system]].append(v.score)
    games = []
    for query, by_system in sorted(scores.items()):
        means = {system: float(np.mean(values)) for system, values in sorted(by_system.items())}
        for a, b in combinations(means, 2):
            games.append(Battle(query, a, b, "ab", compare(means[a], means[b]), "scores"))
    if not games:
        raise UserError(f"runs must hold scores of two systems for a query; got none in {', '.join(runs)}")
    return games


def require_scored_alike(runs: Sequence[str]) -> None:
    """Refuse scores that don't belong in one table, by the runs' summaries; say which have none."""
    summaries = {run: summary for run in runs if (summary := summary_of(run))}
    if summaries:
        require_alike(summaries)
    for line in unrecorded(summaries):
        say(line)
    if len(runs) > 1 and (bare := [run for run in runs if run not in summaries]):
        say(
            "not known, for there is no summary.json, whether queries, judge and ears are the others': "
            + ", ".join(bare)
        )


def compare(first: float, second: float) -> str:
    if first != second:
        return "a" if first > second else "b"
    return "both_good" if first >= GOOD else "both_bad"
