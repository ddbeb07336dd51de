"""Do judges of the same meetings agree? A meeting is two systems at a query, in whatever order they were heard; a game
is a meeting in one order, which a judge decides once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lightning_paras2s.bench.pairs.runs import cluster_of
from lightning_paras2s.bench.people.reliability import cohen_kappa, krippendorff_alpha, krippendorff_interval
from lightning_paras2s.bench.people.resampling import DISAGREEMENT, jackknife
from lightning_paras2s.bench.people.votes import rater
from lightning_paras2s.bench.summary import rounded
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say
from lightning_paras2s.types import Battle

VERDICTS = ("a", "b", "both_good", "both_bad")


def agreement_of(games: list[Battle], others: list[Battle], pairs: Mapping[str, str] = MappingProxyType({})) -> dict:
    """How often two judges of the same meetings agree, with Cohen's kappa over the four verdicts (interval by contrast
    pair, or query), and how often where both named a winner (S2S-Arena's figure, which forced one).

    A meeting is two systems at a query (`n`). Each of its verdicts, one an order, is compared with each vote of the
    others (`n_votes`): so many times (`n_compared`), over which the figures are.
    """
    theirs: dict[tuple, list[int]] = defaultdict(list)
    for game in others:
        theirs[meeting(game)].append(place_of(game))
    met = [(meeting(game), place_of(game), other) for game in games for other in theirs.get(meeting(game), ())]
    if not met:
        return {"n": 0}
    meetings = [who for who, _, _ in met]
    first, second = np.array([one for _, one, _ in met]), np.array([other for _, _, other in met])

    def kappa(rows: np.ndarray) -> float:
        return cohen_kappa(first[rows], second[rows], quadratic=False, scale=range(len(VERDICTS)))

    decided = (first < 2) & (second < 2)
    low, high, _ = jackknife(kappa, [cluster_of(query, pairs) for query, *_ in meetings], DISAGREEMENT)
    return {
        "n": len(set(meetings)),
        "n_votes": sum(len(theirs[who]) for who in set(meetings)),
        "n_compared": len(met),
        "agreement": float((first == second).mean()),
        "kappa": kappa(np.arange(len(met))),
        "kappa_ci95": [rounded(low), rounded(high)],
        "n_decided": len({who for who, both in zip(meetings, decided, strict=True) if both}),
        "decided_agreement": float((first == second)[decided].mean()) if decided.any() else None,
    }


def compared(games: list[Battle], others: list[Battle], pairs: Mapping[str, str], path: str) -> dict:
    """`agreement_of` games and the votes of PATH, and the alpha of those who gave them.

    Raises:
        UserError: they are the same votes.
    """
    require_others(games, others, path)
    found = agreement_of(games, others, pairs)
    if not found["n"]:
        mine, theirs = (", ".join(sorted({n for g in some for n in (g.a, g.b)})) for some in (games, others))
        say(
            f"{path} should hold meetings of the games' systems at their queries; got none of the games' ({mine}), but "
            f"others ({theirs}); name them alike"
        )
        return found
    return found | {"between_judges": between_judges(others, pairs)}


def between_judges(games: list[Battle], pairs: Mapping[str, str] = MappingProxyType({})) -> dict | None:
    """Krippendorff's alpha (nominal, over the four verdicts) of judges who decided the same meetings, its interval by
    contrast pair, or query; None where no two of them did. A meeting that one judge heard in both orders is two units,
    one an order, so that nobody is compared with himself.
    """
    twice = {who for (who, _), n in Counter((meeting(g), rater(g.judge)) for g in games).items() if n > 1}
    units = [(meeting(g), heard_first(g) if meeting(g) in twice else "") for g in games]
    columns = {unit: column for column, unit in enumerate(dict.fromkeys(units))}
    rows = {who: row for row, who in enumerate(dict.fromkeys(rater(g.judge) for g in games))}
    votes = np.full((len(rows), len(columns)), np.nan)
    for game, unit in zip(games, units, strict=True):
        votes[rows[rater(game.judge)], columns[unit]] = place_of(game)
    met = np.isfinite(votes).sum(0) >= 2
    if not met.any():
        return None
    alpha = krippendorff_alpha(votes, "nominal")
    low, high, _ = krippendorff_interval(votes, [cluster_of(query, pairs) for (query, *_), _ in columns], "nominal")
    judged = np.isfinite(votes[:, met])
    return {
        "judges": int(judged.any(1).sum()),
        "n": int(met.sum()),
        "n_votes": int(judged.sum()),
        "alpha": rounded(alpha),
        "alpha_ci95": [rounded(low), rounded(high)],
    }


def once(games: list[Battle], path: str) -> list[Battle]:
    """Each game of a judge once, whichever system it names first; one that PATH holds twice counts once, which is told.

    Raises:
        UserError: a judge decided one game twice and otherwise.
    """
    kept: dict[tuple, Battle] = {}
    for game in games:
        first = kept.setdefault(decided_by(game), game)
        if place_of(first) != place_of(game):
            (query, one, other), both = meeting(game), " and ".join((winner(first), winner(game)))
            raise UserError(
                f"{path}: {game.judge!r} must have decided {one} against {other} at {query!r}, {heard_first(game)} "
                f"heard first, once; got {both}; keep one of the lines, or give each judge a name of its own"
            )
    if repeated := len(games) - len(kept):
        say(f"{path}: {repeated} battles are there more than once and count once")
    return list(kept.values())


def require_others(games: list[Battle], others: list[Battle], path: str) -> None:
    """Refuse to compare votes with themselves, whatever file they are in; say how many of them are in both.

    Raises:
        UserError: all of either are among the others.
    """
    ours, theirs = ({(*decided_by(g), place_of(g)) for g in some} for some in (games, others))
    if not (both := ours & theirs):
        return
    if len(both) in (len(ours), len(theirs)):
        raise UserError(
            f"listeners must be other votes than those that they are compared with; got {path}, {len(both)} of whose "
            f"{len(theirs)} are the same; take another judge's or other listeners'"
        )
    say(f"{path}: {len(both)} of {len(theirs)} votes are among the battles, too, and agree with themselves")


def meeting(game: Battle) -> tuple[str, str, str]:
    """Who met where: the query, and the systems in alphabetical order."""
    return game.query_id, *sorted((game.a, game.b))


def place_of(game: Battle) -> int:
    """A verdict's place in VERDICTS, the systems in alphabetical order."""
    turned = {"a": "b", "b": "a"}.get(game.verdict, game.verdict) if game.a > game.b else game.verdict
    return VERDICTS.index(turned)


def heard_first(game: Battle) -> str:
    return game.a if game.order == "ab" else game.b


def decided_by(game: Battle) -> tuple:
    """What a judge decides once: a meeting, in the order heard."""
    return *meeting(game), heard_first(game), rater(game.judge)


def winner(game: Battle) -> str:
    return {"a": game.a, "b": game.b}.get(game.verdict, game.verdict)
