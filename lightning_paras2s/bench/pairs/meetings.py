"""Do two judges of the same meetings agree? A meeting is two systems at a query, in whatever order they were heard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from lightning_paras2s.bench.pairs.runs import cluster_of
from lightning_paras2s.bench.people.reliability import cohen_kappa
from lightning_paras2s.bench.people.resampling import DISAGREEMENT, jackknife
from lightning_paras2s.bench.summary import rounded
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


def meeting(game: Battle) -> tuple[str, str, str]:
    """Who met where: the query, and the systems in alphabetical order."""
    return game.query_id, *sorted((game.a, game.b))


def place_of(game: Battle) -> int:
    """A verdict's place in VERDICTS, the systems in alphabetical order."""
    turned = {"a": "b", "b": "a"}.get(game.verdict, game.verdict) if game.a > game.b else game.verdict
    return VERDICTS.index(turned)
