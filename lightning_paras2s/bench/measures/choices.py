"""Multiple choice without guessing (MMSU, VoiceBench): the option that a spoken answer names, or none.

VoiceBench's own evaluator draws a random option where its templates fail, unseeded; a figure then moves by itself, and
a system that answers nothing scores a quarter. Here what can't be read is wrong, and counted; but an ear that writes no
capitals leaves "the answer is a because" open, a letter or an article, and that is left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words

ALONE = re.compile(r"[\s*(\[]*([A-Z])[\s*.):\]]*", re.I)
NAMED = re.compile(
    r"\b(?:answer|option|choice)(?:\s+(?:is|would be|should be|must be))?\s*(?:option|choice)?\s*[:\s]\s*[*(\[\"']*"
    r"([A-Z])\b(?!')",
    re.I,
)
FIRST = re.compile(r"^[\s*]*(?:\(([A-Z])\)|([A-Z])[.):])", re.I)
ARTICLE = re.compile(r"\s+[a-z]")  # "the answer is a kind of bird" names no option
LABEL = re.compile(r"(?:option|choice)\W*$", re.I)  # "option a metal conducts heat", which has no capitals, does


class Choices(NamedTuple):
    """Attributes:
    accuracy: right of all but the unclear.
    n: all.
    n_unread: answers that name no option, or several.
    n_unclear: answers in which "a" may be the letter or the article.
    """

    accuracy: float
    n: int
    n_unread: int
    n_unclear: int


class Named(NamedTuple):
    """Attributes:
    letters: that are named for certain.
    labels: "a" behind "option" or "choice", without capitals.
    unclear: is there an "a" behind "the answer is", without capitals, that may be an article?
    """

    letters: list[str]
    labels: list[str]
    unclear: bool


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that an answer names; None for none, or several.

    In this order: a letter alone; "the answer is B"; "B." at the beginning; the words of one option, of one only.

    Args:
        answer: text, or a transcript.
        options: letter -> words.
    """
    if match := ALONE.fullmatch(answer):
        return _of([match[1]], options)
    named = _named(answer)
    if letters := named.letters or named.labels:
        return _of(letters, options)
    if match := FIRST.match(answer):
        return _of([match[1] or match[2]], options)
    said = f" {' '.join(plain_words(answer))} "
    words = {letter: f" {' '.join(plain_words(text))} " for letter, text in options.items()}
    found = [letter for letter, text in words.items() if text.strip() and text in said]
    # "not red" holds "red": an option within another one that was said is not meant
    whole = [x for x in found if not any(x != y and words[x] in words[y] for y in found)]
    return whole[0] if len(whole) == 1 else None


def is_unclear(answer: str, options: Mapping[str, str]) -> bool:
    """Has an answer without capitals "the answer is a because", where nothing else names an option?"""
    return "A" in options and chosen(answer, options) is None and _named(answer) == Named([], [], True)


def _named(answer: str) -> Named:
    found = list(NAMED.finditer(answer))
    articles = [m for m in found if m[1] == "a" and ARTICLE.match(answer, m.end())]
    labels = [m[1] for m in articles if LABEL.search(answer, 0, m.start(1))]
    letters, bare = [m[1] for m in found if m not in articles], answer.islower()
    return Named(letters, labels if bare else [], bare and len(labels) < len(articles))


def _of(letters: Sequence[str], options: Mapping[str, str]) -> str | None:
    found = {letter.upper() for letter in letters}
    return next(iter(found)) if len(found) == 1 and found <= set(options) else None


def choice_accuracy(answers: Sequence[str], options: Sequence[Mapping[str, str]], right: Sequence[str]) -> Choices:
    """How many answers name the right option.

    Raises:
        UserError: lists of different lengths, or a right option that is none.
    """
    if not len(answers) == len(options) == len(right):
        raise UserError(
            f"each answer needs its options and the right one; got {len(answers)}, {len(options)}, {len(right)}"
        )
    if wrong := [r for r, o in zip(right, options, strict=True) if r not in o]:
        raise UserError(f"the right option must be one of them; got {wrong[0]!r}")
    read = [chosen(answer, option) for answer, option in zip(answers, options, strict=True)]
    hits = sum(letter == r for letter, r in zip(read, right, strict=True))
    unclear = sum(is_unclear(answer, option) for answer, option in zip(answers, options, strict=True))
    told = len(read) - unclear
    return Choices(hits / told if told else float("nan"), len(read), read.count(None) - unclear, unclear)
