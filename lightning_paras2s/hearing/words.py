"""Words as they are compared: the plain words of a text, and the word error rate between a text and what was heard.

Text writes "$80" where a voice says "eighty dollars", so both sides of a word error rate go through one normaliser,
OpenAI Whisper's for English as `transformers` keeps it (Radford et al. 2022, appendix C): numbers, currency, percent,
contractions, titles, accents; and what it does not read gets one form before (`spoken_forms.py`).

Importing this module must stay cheap: `transformers` comes with the first comparison.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

import jiwer

from lightning_paras2s.hearing import spoken_forms

_QUOTES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\uff07", "'"))
# What the normaliser reads in one order or spelling only, and a voice says alike.
_ALIKE = (
    (re.compile(r"(?<=\d):00\b"), ""),  # "10:00" is "ten"
    (re.compile(r"\b([ap])\.? ?m\b\.?"), r"\1m"),  # "10:30 a.m." is "ten thirty a m"
    (re.compile("(?<=\\d)\s*\u00b0"), " degrees"),
    (re.compile(r"\bok\b"), "okay"),
    (re.compile(r"(?<![\d.,])0+(?=\d)"), lambda m: " oh " * len(m[0])),  # "12:05" is "twelve oh five"
    (re.compile("(\\d+)\\s*\u00a2"), "\u00a2\\1"),
    (re.compile(r"(?<=\d)\s+%"), "%"),
    (re.compile(r"\bno\.\s*(?=\d)"), "number "),
    (re.compile(r"\bvs\b\.?"), "versus"),
    (re.compile(r"\ba (?=(?:hundred|thousand|million|billion)\b)"), "one "),
    (re.compile(r"&"), " and "),
    (re.compile(r"\bninth(?=s?\b)"), "nineth"),  # as the normaliser spells it
    (re.compile(r"(?<![\w.])-(?=\d)"), "minus "),
)


def plain_words(text: str) -> list[str]:
    """Lower-case words: letters (without accents), digits, and apostrophes within a word."""
    plain = unicodedata.normalize("NFKD", text.translate(_QUOTES).lower())
    kept = "".join(c if c.isalnum() or c in "' " else " " for c in plain if not unicodedata.combining(c))
    return [word for piece in kept.split() if (word := _unquoted(piece))]


def _unquoted(word: str) -> str:
    return word if word.endswith("s'") and word[0] != "'" else word.strip("'")  # "my parents' house" is no quotation


def plain_text(text: str) -> str:
    """`plain_words` as one string."""
    return " ".join(plain_words(text))


@functools.lru_cache(maxsize=20_000)
def said_words(text: str) -> tuple[str, ...]:
    """The words of a text such that its written and its spoken form have the same: "that's 42" and "that is forty two"
    are that, is, 42."""
    text = spoken_forms.before(text.translate(_QUOTES).lower())
    for pattern, alike in _ALIKE:
        text = pattern.sub(alike, text)
    normal = re.sub(r"\bone\b", "1", _normalizer()(text))  # which it writes as a word, but "21" in digits
    normal = spoken_forms.after(normal)
    normal = re.sub(r"(?<=\d) (?=\d)", "", normal)  # "nine one one", "twelve thirty": one number or several
    return tuple(normal.split())


def said_numbers(text: str) -> set[str]:
    """The numbers in a text, in digits, however they are written; without 0 and 1, as which "oh" and "that one" are
    read."""
    return {word for word in said_words(text) if any(c.isdigit() for c in word)} - {"0", "1"}


def word_error_rate(text: str, heard: str) -> float:
    """Of the words that were heard against a text; where the text has no words: 1 if any were heard, else 0."""
    reference, hypothesis = said_words(text), said_words(heard)
    if not reference:
        return float(bool(hypothesis))
    return float(jiwer.wer(" ".join(reference), " ".join(hypothesis)))


@functools.lru_cache(maxsize=1)
def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # the table of British spellings does not come with the package
