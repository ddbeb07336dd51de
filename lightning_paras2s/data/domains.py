"""Two domains of the embedded texts, for RL on one and tests on the other (the design of the paper's Table 8, whose
domains are two corpora of real speech): the topics of each factor, in alphabetical order, are dealt out by turns.

The texts to test on are training texts that nobody is shown: RL has every second one (`UnlabelledQueries`), and
`sft_fifth` the demonstrations of a fifth of the others.
"""

from __future__ import annotations

import functools
from typing import Literal

from lightning_paras2s.data.embedded import TextQuery, text_queries

Domain = Literal["first", "second"]


@functools.cache
def topics_of(factor: str) -> tuple[str, ...]:
    """Of the training texts, in alphabetical order."""
    return tuple(sorted({query.topic for query in text_queries("train") if query.factor == factor}))


def domain_of(factor: str, topic: str) -> Domain:
    """Of a training topic."""
    return "second" if topics_of(factor).index(topic) % 2 else "first"


def spare_queries(shown: list[TextQuery]) -> list[TextQuery]:
    """Training texts that are neither RL's nor among the `shown` demonstrations."""
    seen = {query.id for query in shown}
    return [q for i, q in enumerate(text_queries("train")) if i % 2 == 0 and q.id not in seen]
