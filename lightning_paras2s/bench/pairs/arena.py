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
from pathlib import Path
from types import MappingProxyType

import numpy as np

from lightning_paras2s.bench.alike import require_folders
from lightning_paras2s.bench.pairs import meetings
from lightning_paras2s.bench.pairs.arena_bias import first_heard_wins, order_consistency, position_bias
from lightning_paras2s.bench.pairs.arena_page import write_page
from lightning_paras2s.bench.pairs.battles import from_runs, read_battles
from lightning_paras2s.bench.pairs.meetings import VERDICTS
from lightning_paras2s.bench.pairs.play import draw, play, price
from lightning_paras2s.bench.pairs.runs import clusters_of, pairs_of
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
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging.pair_judges import PairJudge
from lightning_paras2s.running.logs import replace_jsonl, say, write_summary
from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.servers.spending import cap
from lightning_paras2s.types import Battle, Query, read_jsonl

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
    max_usd: float | None = None,
    dry_run: bool = False,
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
        max_usd: ask the judge nothing that could take what this start costs above so many USD.
        dry_run: ask nobody and write nothing; tell how many judgements the games ask for, and what they would cost.

    Returns:
        A row a system (strength on Elo's scale with its interval, Elo with its spread, wins, losses, ties by type), how
        ties were dealt, what intervals are clustered by, position bias and order consistency; Krippendorff's alpha of
        judges or listeners who decided the same meetings; with a judge, what became of its judgements.
    """
    check_asked(battles, runs, judge, manifest, games, page, dry_run or max_usd is not None)
    if dry_run:
        return price(judge, draw(runs, games, seed), manifest)
    if isinstance(llm := getattr(judge, "llm", None), OpenAIChat):
        cap(llm, max_usd)
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


def check_asked(
    battles: str | None,
    runs: Sequence[str],
    judge: PairJudge | None,
    manifest: str | None,
    games: int | None,
    page: str | None,
    priced: bool,
) -> None:
    """Refuse options that need another one."""
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
    if judge is None and priced:
        raise UserError(
            "a price and a cap are of a judge, which hears the games; got none; without one nothing is spent"
        )


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
