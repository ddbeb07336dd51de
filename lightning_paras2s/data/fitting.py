"""Subjects of the embedded training set exchanged for others: for any, or for one that fits its sentence, with replies
that fit it.

A training query's subject (`text/subjects.jsonl`) has a class and a number in its own sentence ("place.home",
"singular"); the same noun may have another class elsewhere. A subject is exchanged for one of its class and number
alone, and is `kept` where no other noun fits ("How often should I go in for a *haircut*?"). A reply frame of
`text/frames.jsonl` fits any subject, or those whose class (or its first part, the kind) it names in `fits`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lightning_paras2s.data.embedded import TextQuery, authored, frames

# Words after the slot that a plural can't stand before: verbs of the third person, and nouns that it would qualify.
AFTER_ONE = "is|was|comes|complaint|details|form|list|options|page|pain|plan|request|smell|sorrow|steps|twist"
ONE = re.compile(rf"\bthat {{subject}}|{{subject}} (?:{AFTER_ONE})\b", re.I)
YOURS = re.compile(r"\byour {subject}", re.I)
# What isn't the speaker's unless they say so: "your restaurant" to someone who spoke of a restaurant.
NOT_YOURS = frozenset(
    "animal.beast animal.bird animal.critter other person.profession person.stranger place.business place.institution "
    "place.nature place.settlement place.venue place.way show.performance thing.metal time".split()
)


@dataclass(frozen=True)
class Slot:
    """The place of a training query's subject in its sentence."""

    id: str
    subject: str
    cls: str  # kind, or kind.class
    number: Literal["singular", "plural", "mass"]
    kept: bool  # no other noun fits

    def names(self, fits: list[str] | None) -> bool:
        """Is it of one of the classes or kinds? None stands for any."""
        return fits is None or self.cls in fits or self.cls.split(".")[0] in fits


@functools.lru_cache
def slots() -> dict[str, Slot]:
    """By the query's id."""
    rows = authored("subjects")
    return {r["id"]: Slot(r["id"], r["subject"], r["class"], r["number"], r["kept"]) for r in rows}


@functools.lru_cache
def _frames(factor: str, style: str) -> tuple[dict[str, Any], ...]:
    return tuple(r for r in frames() if (r["split"], r["factor"], r["style"]) == ("train", factor, style))


@functools.lru_cache
def lenders(cls: str, number: str) -> tuple[str, ...]:
    """The training subjects of a class and number, sorted."""
    return tuple(sorted({s.subject for s in slots().values() if (s.cls, s.number) == (cls, number)}))


def about_another(query: TextQuery, queries: Sequence[TextQuery], random: np.random.Generator) -> TextQuery:
    """The query with the subject of another one in its place: "We sold the *piano* I grew up in."

    An answer has to copy what is new; its style doesn't change. The other query may be of any factor, or the subject
    would tell the factor, and what a new subject is about would be guessed. It need not make sense: "We sold the *rash*
    I grew up in."
    """
    subject = queries[random.integers(len(queries))].subject
    return _about(query, subject)


def about_fitting(query: TextQuery, random: np.random.Generator) -> TextQuery:
    """The training query with another subject of its slot's class and number: "We sold the *cottage* I grew up in."

    The subject stays where no other fits. One that stands behind "a" or "an" is exchanged for one that takes the same.
    """
    slot = slots()[query.id]
    if slot.kept:
        return query
    fit = lenders(slot.cls, slot.number)
    if re.search(rf"\ban? {query.subject}\b", query.text, re.I):
        fit = tuple(s for s in fit if (s[0] in "aeiou") == (query.subject[0] in "aeiou"))
    return _about(query, fit[random.integers(len(fit))])


def _about(query: TextQuery, subject: str) -> TextQuery:
    return replace(query, subject=subject, text=re.sub(rf"\b{re.escape(query.subject)}\b", subject, query.text))


def fitting_frames(query: TextQuery, style: str) -> tuple[str, ...]:
    """The training frames of a style ("generic" is one) that fit the query's subject, own or exchanged."""
    slot, factor = slots()[query.id], "generic" if style == "generic" else query.factor
    mine = slot.cls not in NOT_YOURS or re.search(rf"\b(?:my|our) (?:\w+ )?{query.subject}\b", query.text, re.I)
    return tuple(
        row["frame"]
        for row in _frames(factor, style)
        if slot.names(row.get("fits"))
        and not (slot.number == "plural" and ONE.search(row["frame"]))
        and (mine or not YOURS.search(row["frame"]))
    )


def fitting_reply(query: TextQuery, style: str, random: np.random.Generator) -> str:
    """As `embedded.reply` for training queries, of the frames that fit."""
    found = fitting_frames(query, style)
    return found[random.integers(len(found))].format(subject=query.subject)
