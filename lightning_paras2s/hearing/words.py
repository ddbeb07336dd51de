"""Words as they are compared: the plain words of a text, and the word error rate between a text and what was heard.

Text writes "$80" where a voice says "eighty dollars", so both sides of a word error rate go through one normaliser,
OpenAI Whisper's for English as `transformers` keeps it (Radford et al. 2022, appendix C): numbers, currency, percent,
contractions, titles, accents; and what it does not read gets one form before (`spoken_forms.py`). Of a script that puts
no spaces between words each character counts as a word (the mixed error rate of speech that switches languages).

Importing this module must stay cheap: `transformers` comes with the first comparison.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable

import jiwer

from lightning_paras2s.hearing import spoken_forms

# Thai and Lao, Burmese, Khmer, kana, Han, half-width kana. Hangul has spaces; Tibetan has a mark after each syllable.
UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+)"
)
_QUOTES = dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u0060\uff07", "'")
_UNSEEN = dict.fromkeys("\u00ad\u200c\u200d\u200e\u200f\u2060\ufeff", "") | {"\u200b": " "}  # joiners, spaces
_TYPED = str.maketrans(_QUOTES | _UNSEEN)
# The normaliser drops what stands in brackets, which a voice says, and takes the dots of an ellipsis for a word.
_SAID = str.maketrans(_QUOTES | _UNSEEN | dict.fromkeys("()[]<>\u2026", " "))
# Marks without which a word is the same: accents (with those of Greek and Cyrillic), the points of Hebrew and Arabic,
# what encircles a character or tells its variant. All others are of their script: vowels, and what voices a kana.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef]"
)
_PRIVATE = 0xF0000  # characters that the normaliser leaves alone, where it drops marks
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
    """Lower-case words: letters (without accents, with the marks that are of their script), digits, and apostrophes
    within a word."""
    plain = "".join(map(_plain, unicodedata.normalize("NFKD", text.translate(_TYPED).lower())))
    return [word for piece in unicodedata.normalize("NFC", plain).split() if (word := _unquoted(piece))]


def _plain(c: str) -> str:
    if c.isalnum() or c == "'" or _is_of_its_script(c):
        return c
    return "" if _ACCENTS.match(c) and unicodedata.category(c)[0] == "M" else " "


def _is_of_its_script(c: str) -> bool:
    """Is it a mark without which the word is another?"""
    return unicodedata.category(c)[0] == "M" and not _ACCENTS.match(c)


def _unquoted(word: str) -> str:
    return word if word.endswith("s'") and word[0] != "'" else word.strip("'")  # "my parents' house" is no quotation


def plain_text(text: str) -> str:
    """`plain_words` as one string."""
    return " ".join(plain_words(text))


def plain_units(text: str) -> list[str]:
    """`plain_words`; each character of a script without spaces by itself."""
    return _units(text, plain_words)


def _units(text: str, words: Callable[[str], Iterable[str]]) -> list[str]:
    """The characters of scripts without spaces one by one (letters, marks and digits, of one width), and the words of
    what stands between them."""
    found: list[str] = []
    for i, piece in enumerate(UNSPACED.split(text)):  # by turns what has spaces and what has none
        found += _characters(piece) if i % 2 else words(piece)
    return found


def _characters(piece: str) -> list[str]:
    return [c for c in unicodedata.normalize("NFKC", piece) if unicodedata.category(c)[0] in "LMN"]


@functools.lru_cache(maxsize=20_000)
def said_words(text: str) -> tuple[str, ...]:
    """The words of a text such that its written and its spoken form have the same: "that's 42" and "that is forty two"
    are that, is, 42."""
    text = spoken_forms.before(text.translate(_SAID).lower())
    for pattern, alike in _ALIKE:
        text = pattern.sub(alike, text)
    normal = re.sub(r"\bone\b", "1", _normalized(text))  # which it writes as a word, but "21" in digits
    normal = spoken_forms.after(normal)
    normal = re.sub(r"(?<=\d) (?=\d)", "", normal)  # "nine one one", "twelve thirty": one number or several
    return tuple(normal.split())


def _normalized(text: str) -> str:
    """A text as the normaliser writes it, with the marks that are of their script (it drops them, and cuts words at
    those that take up room)."""
    apart = unicodedata.normalize("NFKD", text)
    marks = {c: chr(_PRIVATE + ord(c)) for c in apart if _is_of_its_script(c)}
    if not marks:
        return _normalizer()(text)
    normal = _normalizer()(apart.translate(str.maketrans(marks)))
    return normal.translate(str.maketrans({hidden: mark for mark, hidden in marks.items()}))


def said_numbers(text: str) -> set[str]:
    """The numbers in a text, in digits, however they are written; without 0 and 1, as which "oh" and "that one" are
    read."""
    return {word for word in said_words(text) if any(c.isdigit() for c in word)} - {"0", "1"}


def compared(text: str, alike: str | None = None) -> tuple[str, ...]:
    """What an error rate counts in a text: its `said_words`, and each character of a script without spaces, if the text
    it is compared with (`alike`, itself if not given) has any."""
    has_unspaced = UNSPACED.search(text if alike is None else alike)
    return tuple(_units(text, said_words)) if has_unspaced else said_words(text)


def word_error_rate(text: str, heard: str) -> float:
    """Of the words that were heard against a text, or characters where a script has no spaces (Han that is written in
    its other form, simplified or traditional, is another character); where the text has no words: 1 if any were heard,
    else 0."""
    reference, hypothesis = compared(text), compared(heard, text)
    if not reference:
        return float(bool(hypothesis))
    return float(jiwer.wer(" ".join(reference), " ".join(hypothesis)))


@functools.lru_cache(maxsize=1)
def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # the table of British spellings does not come with the package
