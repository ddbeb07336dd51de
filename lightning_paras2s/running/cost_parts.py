"""The cost model of a rollout in parts (`model.rollout_parts`, `modules/beside.py`): what overlap hides.

Each part is sampled after the one before it, and spoken and scored beside the sampling of the next. The two are taken
not to slow each other, so what is hidden is a bound: on one GPU both want the same units. Against it stands what parts
cost: each reads the policy's weights anew at every step, so that fewer rows are hardly sampled faster.
"""

from __future__ import annotations


def cut(queries: int, parts: int) -> list[float]:
    """Each part's share of the queries, the larger parts first, as `Tensor.tensor_split` cuts them."""
    parts = min(parts, queries)
    whole, left = divmod(queries, parts)
    return [(whole + (i < left)) / queries for i in range(parts)]


def rollout_seconds(
    sampled: dict[str, list[float]], followed: dict[str, float], shares: list[float], overlap: bool
) -> dict[str, float]:
    """Seconds by name, and as `overlap`, at most 0, those that are hidden.

    Args:
        sampled: of each part's sampling.
        followed: of speaking and scoring all answers.
        shares: each part's, of these.
    """
    drawn, after = [sum(one) for one in zip(*sampled.values(), strict=True)], sum(followed.values())
    saved = hidden(drawn, [s * after for s in shares]) if overlap else 0.0
    return {name: sum(seconds) for name, seconds in sampled.items()} | followed | {"overlap": 0.0 - saved}


def hidden(sampled: list[float], followed: list[float]) -> float:
    """Seconds that overlap takes off: all parts' sampling and what follows it, less the time until the last is scored.

    Args:
        sampled: seconds of each part's sampling.
        followed: of speaking and scoring it.
    """
    drawn = scored = 0.0
    for sample, follow in zip(sampled, followed, strict=True):
        drawn += sample
        scored = max(drawn, scored) + follow
    return sum(sampled) + sum(followed) - scored
