"""Pairwise comparison of systems (S2S-Arena, arXiv 2503.05085), with typed ties, both orders, and intervals.

Strengths are Davidson's (1970, Bradley-Terry with ties): P(a beats b) = s_a / (s_a + s_b + v sqrt(s_a s_b)), P(tie)
with the middle term; intervals come from a bootstrap over queries. Online Elo (K = 32, start 1000) is S2S-Arena's and
depends on the order of the games: it is shown with its spread over random orders. A forced win or loss would invent a
winner in most games (TRACE: both bad in 58 %), so verdicts are a, b, both_good, both_bad.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from lightning_paras2s.bench.pairs.play import ORDERS, draw, play
from lightning_paras2s.bench.people.reliability import cohen_kappa
from lightning_paras2s.bench.statistics import bootstrap as resample
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging.pair_judges import PairJudge
from lightning_paras2s.running.logs import replace_file, verdicts_of
from lightning_paras2s.types import Battle, Human, read_jsonl, to_json

VERDICTS = ("a", "b", "both_good", "both_bad")
TRACE = {"1": "a", "2": "b", "both_good": "both_good", "both_bad": "both_bad"}
GOOD = 4.0
ELO_START, ELO_K, ELO_SCALE = 1000.0, 32.0, 400.0


def arena(
    out: str,
    battles: InputPath | None = None,
    runs: Sequence[InputPath] = (),
    judge: PairJudge | None = None,
    manifest: InputPath | None = None,
    games: int | None = None,
    listeners: InputPath | None = None,
    bootstrap: int = 200,
    orders: int = 200,
    seed: int = 0,
) -> dict:
    """Rank systems by pairwise battles: OUT/arena.json, and OUT/battles.jsonl if they were made here.

    Args:
        out: folder to write.
        battles: JSON lines of battles, of listeners' choices (`annotate`), or TRACE's s2sarena.json.
        runs: folders of `evaluate` instead. Without a judge, two systems' scores for a query become a battle (a higher
            score wins; equal scores are both_good from 4, else both_bad).
        judge: hears the responses of the runs in pairs, in both orders; resumed if battles.jsonl exists.
        manifest: the queries, for the judge.
        games: pairs of responses that the judge hears, drawn evenly; all if not given.
        listeners: battles as above, to compare these with: do they agree where both judged a pair?
        bootstrap: resamples of the queries.
        orders: random orders of the games for Elo.
        seed: of all three.

    Returns:
        A row a system (strength on Elo's scale with its interval, Elo with its spread, wins, losses, ties by type), how
        ties were dealt, position bias and order consistency; with a judge, what became of its judgements.
    """
    if bool(battles) == bool(runs):
        raise UserError(f"arena needs battles or runs, one of them; got battles={battles!r} and {len(runs)} runs")
    if (judge is None) != (manifest is None) or (judge is not None and not runs):
        raise UserError("a pairwise judge needs runs and the manifest of their queries; got one without the other")
    folder, judging = Path(out), {}
    if judge is not None:
        played, judging = play(folder, judge, draw(runs, games, seed), manifest)
    else:
        played = read_battles(battles) if battles else from_runs(runs)
        if runs:
            replace_file(folder / "battles.jsonl", "".join(to_json(game) + "\n" for game in played))
    result = rank(played, bootstrap, orders, seed) | judging
    if listeners is not None:
        result["listeners"] = agreement_of(played, read_battles(listeners), bootstrap, seed)
    replace_file(folder / "arena.json", json.dumps(result, indent=1) + "\n")
    return result


def read_battles(path: str) -> list[Battle]:
    if path.endswith(".json"):
        return read_trace(path)
    games = from_listeners(path) if is_of_listeners(path) else read_jsonl(path, Battle)
    for number, game in enumerate(games, 1):
        if game.verdict not in VERDICTS or game.order not in ORDERS or game.a == game.b:
            raise UserError(
                f"{path}: battle {number} must be between two systems, its order one of {', '.join(ORDERS)} and its "
                f"verdict one of {', '.join(VERDICTS)}; got {game}; mend the line"
            )
    if not games:
        raise UserError(f"{path} must hold at least one battle; got none")
    return games


def read_trace(path: str, dimension: str = "overall") -> list[Battle]:
    """TRACE's human labels of S2S-Arena pairs (content, voice_quality, paralinguistics, overall), as battles."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            Battle(row["instruction_id"], row["model_a"], row["model_b"], "ab", TRACE[row["label"][dimension]], "trace")
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        labels = ", ".join(TRACE)
        raise UserError(f"{path} must be TRACE's s2sarena.json, its labels {labels}; got {error!r}") from None


def is_of_listeners(path: str) -> bool:
    """Does a file hold `Human` records?"""
    with Path(path).open(encoding="utf-8") if Path(path).is_file() else nullcontext(()) as lines:
        return '"annotator"' in next(iter(lines), "")


def from_listeners(path: str) -> list[Battle]:
    """Listeners' choices between two responses, "a/query/0 | b/query/0", the first heard first."""
    games = []
    for choice in read_jsonl(path, Human):
        if choice.verdict is not None:
            (a, query, _), (b, _, _) = (name.strip().split("/") for name in choice.item_id.split("|"))
            games.append(Battle(query, a, b, "ab", choice.verdict, choice.annotator))
    return games


def from_runs(runs: Sequence[str]) -> list[Battle]:
    """Battles from the scores of `evaluate`, all by one judge; a response without a score has no battle."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    judges = set()
    for run in runs:
        judging, verdicts = verdicts_of(Path(run))
        judges.add(judging)
        for v in verdicts:
            system, query = v.response_id.split("/", 1)
            if v.status == "ok" and v.score is not None:
                scores[query.rsplit("/", 1)[0]][system].append(v.score)
    if len(judges) > 1:
        raise UserError(f"all runs must have one judge; got {', '.join(sorted(j.judge for j in judges))}")
    games = []
    for query, by_system in sorted(scores.items()):
        means = {system: float(np.mean(values)) for system, values in sorted(by_system.items())}
        for a, b in combinations(means, 2):
            games.append(Battle(query, a, b, "ab", compare(means[a], means[b]), "scores"))
    if not games:
        raise UserError(f"runs must hold scores of two systems for a query; got none in {', '.join(runs)}")
    return games


def compare(first: float, second: float) -> str:
    if first != second:
        return "a" if first > second else "b"
    return "both_good" if first >= GOOD else "both_bad"


def rank(games: list[Battle], bootstrap: int = 200, orders: int = 200, seed: int = 0) -> dict:
    """All that `arena` reports."""
    random = np.random.default_rng(seed)
    systems = sorted({name for g in games for name in (g.a, g.b)})
    wins, ties, queries = tables(games, systems)
    strength, tie = davidson(wins.sum(0), ties.sum(0))
    draws = [random.integers(len(queries), size=len(queries)) for _ in range(bootstrap)]
    resampled = np.array([davidson(wins[d].sum(0), ties[d].sum(0))[0] for d in draws]) if draws else strength[None]
    order = [random.permutation(len(games)) for _ in range(orders)]
    ratings = np.array([elo([games[i] for i in o], systems) for o in order]) if order else elo(games, systems)[None]
    rows = []
    for i, name in enumerate(systems):
        row = {"system": name, "strength": on_elo_scale(strength)[i], "ci95": interval(on_elo_scale(resampled)[:, i])}
        row |= {"elo": float(ratings[:, i].mean()), "elo_spread95": interval(ratings[:, i]), **record(games, name)}
        rows.append(row)
    return {
        "systems": sorted(rows, key=lambda row: -row["strength"]),
        "games": len(games),
        "queries": len(queries),
        "tie_parameter": tie,
        "verdicts": dict(Counter(g.verdict for g in games)),
        "first_heard_wins": first_heard_wins(games),
        "order_consistency": order_consistency(games),
    }


def tables(games: list[Battle], systems: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Wins [Q, S, S] (row beats column) and ties [Q, S, S] (symmetric) of each query."""
    queries, index = sorted({g.query_id for g in games}), {name: i for i, name in enumerate(systems)}
    place = {query: i for i, query in enumerate(queries)}
    wins = np.zeros((len(queries), len(systems), len(systems)))
    ties = np.zeros_like(wins)
    for g in games:
        q, a, b = place[g.query_id], index[g.a], index[g.b]
        if g.verdict in ("a", "b"):
            wins[q][(a, b) if g.verdict == "a" else (b, a)] += 1
        else:
            ties[q, a, b] += 1
            ties[q, b, a] += 1
    return wins, ties, queries


def davidson(wins: np.ndarray, ties: np.ndarray, ridge: float = 1e-6) -> tuple[np.ndarray, float]:
    """Maximum likelihood of Davidson's model -> log strengths [S] (mean 0), v (0 without ties).

    Args:
        wins: [S, S], row beats column. ties: [S, S], symmetric.
        ridge: keeps a system that only wins finite.
    """
    size, tied = len(wins), bool(ties.sum())

    def loss(x: np.ndarray) -> float:
        s = x[:size]
        log_v = x[size] if tied else -np.inf
        first, second = s[:, None], s[None, :]
        middle = log_v + (first + second) / 2
        total = np.logaddexp(np.logaddexp(first, second), middle)
        beaten = (wins * (total - first)).sum()
        drawn = (ties * (total - middle)).sum() / 2 if tied else 0.0
        return float(beaten + drawn + ridge * np.square(x).sum())

    found = minimize(loss, np.zeros(size + tied), method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8}).x
    return found[:size] - found[:size].mean(), float(np.exp(found[size])) if tied else 0.0


def elo(games: Sequence[Battle], systems: list[str]) -> np.ndarray:
    """Online Elo after all games, in the order given [S]; a tie is half a win. The sum of ratings stays."""
    ratings = dict.fromkeys(systems, ELO_START)
    for g in games:
        expected = 1 / (1 + 10 ** ((ratings[g.b] - ratings[g.a]) / ELO_SCALE))
        gain = ELO_K * ({"a": 1.0, "b": 0.0}.get(g.verdict, 0.5) - expected)
        ratings[g.a] += gain
        ratings[g.b] -= gain
    return np.array([ratings[name] for name in systems])


def on_elo_scale(log_strength: np.ndarray) -> np.ndarray:
    return ELO_START + ELO_SCALE * log_strength / np.log(10)


def agreement_of(games: list[Battle], others: list[Battle], repeats: int, seed: int) -> dict:
    """How often two judges of the same pairs agree, with Cohen's kappa over the four verdicts (interval by query), and
    how often where both named a winner (S2S-Arena's figure, which forced one)."""
    theirs: dict[tuple, list[int]] = defaultdict(list)
    for game in others:
        theirs[game.query_id, *sorted((game.a, game.b))].append(place_of(game))
    met = [(game.query_id, game, other) for game in games for other in theirs[game.query_id, *sorted((game.a, game.b))]]
    if not met:
        return {"n": 0}
    first, second = np.array([place_of(game) for _, game, _ in met]), np.array([other for _, _, other in met])

    def kappa(rows: np.ndarray) -> float:
        return cohen_kappa(first[rows], second[rows], quadratic=False, scale=range(len(VERDICTS)))

    decided = (first < 2) & (second < 2)
    ends = resample(kappa, [query for query, _, _ in met], repeats, seed)
    return {
        "n": len(met),
        "agreement": float((first == second).mean()),
        "kappa": kappa(np.arange(len(met))),
        "kappa_ci95": list(ends),
        "n_decided": int(decided.sum()),
        "decided_agreement": float((first == second)[decided].mean()) if decided.any() else None,
    }


def place_of(game: Battle) -> int:
    """A verdict's place in VERDICTS, the systems in alphabetical order."""
    turned = {"a": "b", "b": "a"}.get(game.verdict, game.verdict) if game.a > game.b else game.verdict
    return VERDICTS.index(turned)


def interval(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]


def record(games: list[Battle], name: str) -> dict[str, int]:
    """Wins, losses and ties by type of a system."""
    own = [g for g in games if name in (g.a, g.b)]
    won = sum(g.verdict == ("a" if g.a == name else "b") for g in own)
    typed = {verdict: sum(g.verdict == verdict for g in own) for verdict in VERDICTS[2:]}
    return {"wins": won, "losses": len(own) - won - sum(typed.values()), **typed}


def first_heard_wins(games: list[Battle]) -> float | None:
    """Share of decided games won by the response heard first: 0.5 without bias, if all are judged in both orders."""
    decided = [g for g in games if g.verdict in ("a", "b")]
    first = [(g.verdict == "a") == (g.order == "ab") for g in decided]
    return float(np.mean(first)) if first else None


def order_consistency(games: list[Battle]) -> float | None:
    """Share of pairs judged in both orders that got one verdict."""
    seen: dict[tuple, dict[str, int]] = defaultdict(dict)
    for g in games:
        order = ORDERS[1 - ORDERS.index(g.order)] if g.a > g.b else g.order
        seen[g.query_id, *sorted((g.a, g.b)), g.judge][order] = place_of(g)
    both = [v["ab"] == v["ba"] for v in seen.values() if len(v) == 2]
    return float(np.mean(both)) if both else None
