"""Other queries for an answer to be judged for, or a scorer could learn which answers are good, and not for whom."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import check_choice
from lightning_paras2s.running.logs import say_once

Draw = Literal["repeated", "distinct"]


def swapped(batch: DualStreamBatch, others: int, seed: int = 0, draw: Draw = "repeated") -> list[DualStreamBatch]:
    """`others` batches in which each query's place is taken by another one: by turns one of the same factor and another
    style (the answer to a sad user, judged for a happy one), and any.

    Args:
        draw: "repeated" may draw a query for a response more than once, which counts once: of a batch of 32 about nine
            in twelve remain. The shipped reward model's data were drawn so. "distinct" draws each at most once.
    """
    check_choice("draw", draw, get_args(Draw))
    random = np.random.default_rng([seed, number_of(batch.queries[0].id)])
    if len(batch) - 1 < others:
        say_once(
            f"a batch of {len(batch)} has too few queries for others={others}: its answers are judged for "
            f"{len(batch) - 1} other queries at most; raise data.batch_size"
        )
    turns = others if draw == "repeated" and len(batch) > 1 else min(others, len(batch) - 1)
    batches, drawn = [], [{i} for i in range(len(batch))]
    for turn in range(turns):
        taken = []
        for i, query in enumerate(batch.queries):
            any_other = [j for j in range(len(batch)) if j not in drawn[i]]
            contrast = [
                j
                for j in any_other
                if batch.queries[j].factor == query.factor and batch.queries[j].style != query.style
            ]
            pool = contrast if contrast and turn % 2 == 0 else any_other
            taken.append(pool[random.integers(len(pool))])
            if draw == "distinct":
                drawn[i].add(taken[-1])
        queries, audios = ([items[j] for j in taken] for items in (batch.queries, batch.audios))
        batches.append(replace(batch, queries=queries, audios=audios))
    return batches


def number_of(name: str) -> int:
    """A number below 2^40 that stands for an id."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:5])
