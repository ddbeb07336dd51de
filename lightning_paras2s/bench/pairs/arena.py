"""Pairwise comparison of systems (S2S-Arena, arXiv 2503.05085), with typed ties, both orders, and intervals.

Strengths are Davidson's (1970, Bradley-Terry with ties): P(a beats b) = s_a / (s_a + s_b + v sqrt(s_a s_b)), P(tie)
with the middle term; intervals are clustered by contrast pair, whose halves have one text, where a manifest tells the
pairs, else by query. Online Elo (K = 32, start 1000) is S2S-Arena's and
depends on the order of the games: it is shown with its spread over random orders. A forced win or loss would invent a
winner in most games (TRACE: both bad in 58 %), so verdicts are a, b, both_good, both_bad.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

import numpy as np

from lightning_paras2s.bench.alike import require_alike, require_folders, unrecorded
from lightning_paras2s.bench.corpora.trace import read_trace
from lightning_paras2s.bench.pairs import meetings
from lightning_paras2s.bench.pairs.arena_bias import first_heard_wins, order_consistency, position_bias
from lightning_paras2s.bench.pairs.arena_page import write_page
from lightning_paras2s.bench.pairs.meetings import VERDICTS
from lightning_paras2s.bench.pairs.play import ORDERS, draw, own_names, play, require_same_queries
from lightning_paras2s.bench.pairs.runs import about, clusters_of, pairs_of, summary_of
from lightning_paras2s.bench.pairs.strength import (
    davidson,
    elo,
    equal_p,
    groups_of,
    half_widths,
    is_bounded,
    on_elo_scale,
    tables,
)
from lightning_paras2s.bench.people.votes import TABLES, names_of, of_today, once, rater, read_humans
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging.pair_judges import GOOD, PairJudge
from lightning_paras2s.running.logs import Log, replace_jsonl, say, verdicts_of, write_summary
from lightning_paras2s.types import Answered, Battle, Query, Response, answered, read_jsonl, response_id

MIN_CLUSTERS = 30  # for an interval of a strength; with fewer it is too wide (speed/intervals.py)


def arena(
    out: str,
    battles: InputPath | None = None,
    runs: Sequence[InputPath] = (),
    judge: PairJudge | None = None,
    manifest: InputPath | None = None,
    games: int | None = None,
    listeners: InputPath | None = None,
    orders: int = 200,
    seed: int = 0,
    page: str | None = None,
    page_games: int = 60,
) -> dict:
    """Rank systems by pairwise battles: OUT/arena.json, and OUT/battles.jsonl if they were made here.

    Args:
        out: folder to write.
        battles: JSON lines of battles, of listeners' choices (`annotate`; or a CSV of them), or TRACE's s2sarena.json.
            What one judge decided twice counts once; two verdicts of one judge on one game are refused.
        runs: folders of `evaluate` instead. Without a judge, two systems' scores for a query become a battle (a higher
            score wins; equal scores are both_good from 4, else both_bad).
        judge: hears the responses of the runs in pairs, in both orders; resumed if battles.jsonl exists.
        manifest: the queries, for the judge and the page; those with a level or topic are ranked by it, too. It tells
            the contrast pairs that intervals are clustered by, as do those that the runs' summaries name.
        games: pairs of responses that the judge hears, drawn evenly; all if not given. Only with a judge.
        listeners: battles as above, by others, to compare these with: do they agree where both judged a pair? Choices
            between answers that the runs have replaced since are left out.
        orders: random orders of the games for Elo.
        seed: of both draws.
        page: an HTML file with players to listen to the games; needs runs and the manifest of their queries.
        page_games: games on the page, evenly spread over pairs of systems and verdicts.

    Returns:
        A row a system (strength on Elo's scale with its interval, Elo with its spread, wins, losses, ties by type), how
        ties were dealt, what intervals are clustered by, position bias and order consistency; Krippendorff's alpha of
        judges or listeners who decided the same meetings; with a judge, what became of its judgements.
    """
    if bool(battles) == bool(runs):
        raise UserError(f"arena needs battles or runs, one of them; got battles={battles!r} and {len(runs)} runs")
    require_folders(runs)
    if page is not None and (not runs or manifest is None):
        raise UserError("a page to listen to needs runs and the manifest of their queries; got one without the other")
    if judge is not None and not (runs and manifest):
        raise UserError("a pairwise judge needs runs and the manifest of their queries; got one without the other")
    if games is not None and judge is None:
        raise UserError(
            f"games must be given with a judge, which hears them; got games={games} without one; leave it out, and all "
            "battles count"
        )
    folder, judging, others = Path(out), {}, read_battles(listeners, runs) if listeners else []
    if judge is not None:
        played, judging = play(folder, judge, draw(runs, games, seed), manifest)
    else:
        played = read_battles(battles) if battles else from_runs(runs)
        if runs:
            replace_jsonl(folder / "battles.jsonl", played)
    pairs = pairs_of(runs, manifest)
    result = rank(played, orders, seed, pairs) | {"between_judges": meetings.between_judges(played, pairs)} | judging
    if manifest is not None:
        result |= by_tag(played, {q.id: q for q in read_jsonl(manifest, Query)}, orders, seed)
    if listeners is not None:
        result["listeners"] = meetings.compared(played, others, pairs, listeners)
    if page is not None:
        result["page"] = write_page(Path(page), played, runs, manifest, result, page_games)
    write_summary(folder / "arena.json", result)
    return result


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


def rank(
    games: list[Battle], orders: int = 200, seed: int = 0, pairs: Mapping[str, str] = MappingProxyType({})
) -> dict:
    """All that `arena` reports; systems that no chain of battles links are ranked in groups of their own.

    Args:
        pairs: query id -> its contrast pair; a query that it lacks is independent of all others.
    """
    groups, rows, ties, chances = groups_of(games), [], [], []
    for number, systems in enumerate(groups, 1):
        own = [g for g in games if g.a in systems]
        found, tie, chance = rank_group(own, systems, orders, np.random.default_rng(seed), pairs)
        rows += [{**row, "group": number} for row in found]
        ties.append(tie)
        chances.append(chance)
    if len(groups) > 1:
        said = "; ".join(", ".join(group) for group in groups)
        say(f"{len(groups)} groups of systems never met and have no common scale, each is ranked by itself: {said}")
    return {
        "systems": rows,
        "groups": groups,
        "games": len(games),
        "queries": len({g.query_id for g in games}),
        "clusters": clusters_of({g.query_id for g in games}, pairs),
        "tie_parameter": ties[0] if len(ties) == 1 else ties,
        "equal_p": chances[0] if len(chances) == 1 else chances,
        "verdicts": dict(Counter(g.verdict for g in games)),
        "first_heard_wins": first_heard_wins(games),
        "order_consistency": order_consistency(games),
        "position_bias": bias._asdict() if (bias := position_bias(games, pairs)) else None,
    }


def by_tag(games: list[Battle], queries: Mapping[str, Query], orders: int, seed: int) -> dict[str, dict]:
    """The ranking at each level (L1 to L4 of S2S-Arena) and in each topic (its domains), where queries have one."""
    found: dict[str, dict] = {}
    for key, tag in (("by_level", "level"), ("by_topic", "topic")):
        parts: dict[str, list[Battle]] = defaultdict(list)
        for game in games:
            if game.query_id in queries and (name := getattr(queries[game.query_id], tag)):
                parts[name].append(game)
        if parts:
            halves = {q.id: q.pair for q in queries.values()}
            found[key] = {name: rank(part, orders, seed, halves) for name, part in sorted(parts.items())}
    return found


def rank_group(
    games: list[Battle], systems: list[str], orders: int, random: np.random.Generator, pairs: Mapping[str, str]
) -> tuple[list[dict], float, float | None]:
    """A row a system, the strongest first, the tie parameter, and the chance of such strengths if all are equal.

    No interval where it would mean nothing: few clusters, or a system that lost to nobody, or whose ties alone link it
    (its strength has no end; the number is where the search was stopped).
    """
    wins, ties = tables(games, systems, pairs)
    strength, tie = davidson(wins.sum(0), ties.sum(0))
    bounded = is_bounded(wins.sum(0), ties.sum(0))
    shown = bounded and len(wins) >= MIN_CLUSTERS
    half = half_widths(wins, ties, (strength, tie)) if shown else np.zeros(len(systems))
    ends = on_elo_scale(np.stack([strength - half, strength + half], 1)).tolist()  # [S, 2]
    order = np.array([random.permutation(len(games)) for _ in range(orders)], int).reshape(orders, len(games))
    ratings = elo(games, systems, order) if orders else elo(games, systems)[None]
    counts, rows = records(games, systems), []
    for i, name in enumerate(systems):
        row = {"system": name, "strength": float(on_elo_scale(strength)[i]), "bounded": bounded}
        row["ci95"] = ends[i] if shown and half[i] > 0 else [None, None]
        row |= {"elo": float(ratings[:, i].mean()), "elo_spread95": interval(ratings[:, i]), **counts[name]}
        rows.append(row)
    chance = equal_p(wins, ties, (strength, tie)) if shown and len(systems) > 1 else None
    return sorted(rows, key=lambda row: -row["strength"]), tie, chance


def interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]


def records(games: list[Battle], systems: list[str]) -> dict[str, dict[str, int]]:
    """Wins, losses and ties by type of each system."""
    counts = {name: dict.fromkeys(("wins", "losses", *VERDICTS[2:]), 0) for name in systems}
    for g in games:
        won, lost = {"a": ("wins", "losses"), "b": ("losses", "wins")}.get(g.verdict, (g.verdict, g.verdict))
        counts[g.a][won] += 1
        counts[g.b][lost] += 1
    return counts
