"""Written figures as a voice says them: "1/2" is "half", "20-30" is "twenty to thirty", "$1.50" "one dollar fifty".

What OpenAI Whisper's normaliser does not read (fractions, ranges, signs, units, "half past ten") gets one form, on both
sides of a comparison, before and after it. Left alone is what can't be told from the text: "3-1" and "9-5" (a score?
from nine to five?), "24/7", "No 5" (the word no?), Roman numerals.
"""

from __future__ import annotations

import re
from collections.abc import Callable

ONES = "zero one two three four five six seven eight nine ten eleven twelve".split()
PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 8: "eighth"}
VULGAR = {"\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3", "\u215b": "1/8"}
PAST = {"five": "05", "ten": "10", "quarter": "15", "a quarter": "15", "twenty": "20", "half": "30"}
UNITS = {"kg": "kilogram", "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "lb": "pound", "oz": "ounce"}
SCALES = {"k": "thousand", "m": "million", "b": "billion"}
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONE, _TEEN, _TEN = ("|".join(words) for words in (ONES[1:10], TEENS.split(), TENS.split()))
_CENTS = rf"(?:oh (?P<few>{_ONE})|(?P<many>{_TEEN}|(?:{_TEN})(?:[- ](?:{_ONE}))?+))"
_NUMBER = r"\d+(?:[.:]\d+)?"


def _fraction(found: re.Match) -> str:
    whole, over, under = found[1], int(found[2]), int(found[3])
    if under not in PARTS or not 0 < over < under:
        return found[0]  # "24/7", a date
    if under == 2:
        return f"{whole}.5" if whole else "half"
    part = f"{ONES[over]} {PARTS[under]}" + ("s" if over > 1 else "")
    return f"{whole} and {part}" if whole else part


def _time(found: re.Match) -> str:
    """ "half past ten" is "10:30", "quarter to ten" "9:45"."""
    hour = int(found[3]) if found[3].isdigit() else ONES.index(found[3])
    return f"{(hour - 2) % 12 + 1}:45" if found[2] == "to" else f"{hour}:{PAST[found[1]]}"


def _range(found: re.Match) -> str:
    """Two numbers with a dash are a range if they rise and are no telephone number."""
    first, second = found[2], found[4]
    telephone = len(first) == 3 and len(second) == 4
    rises = float(first.replace(":", ".")) < float(second.replace(":", "."))
    return f"{found[1]}{first}{found[3]} to {found[1] or ''}{second}" if rises and not telephone else found[0]


def _numeral(word: str) -> bool:
    """Is it a number, to which what follows "point" belongs?"""
    return bool(re.fullmatch(rf"\d+|zero|oh|{_ONE}|{_TEEN}|{_TEN}|hundred|thousand|million|billion", word.strip(" -")))


def _unit(found: re.Match) -> str:
    return f"{found[1]} {UNITS[found[2]]}" + ("" if found[1] == "1" else "s")


# In this order; text is in lower case, its apostrophes are straight.
_BEFORE: tuple[tuple[re.Pattern, str | Callable[[re.Match], str]], ...] = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"(?<![\w.])\.(?=\d)", "0."),
        (
            rf"(\w+[ -])?\bpoint (?=(?:zero|oh|{_ONE})\b)",
            lambda m: m[0] if _numeral(m[1] or "") else f"{m[1] or ''}zero point ",
        ),
        ("|".join(VULGAR), lambda m: f" {VULGAR[m[0]]} "),
        (r"(?<![\d/.,-])(?:(\d+)[ -]+)?(\d)/(\d)(?![\d/-])", _fraction),
        (rf"\b({'|'.join(PAST)}) (past) ({'|'.join(ONES[1:])}|[1-9]|1[0-2])\b", _time),
        (rf"\b(a quarter|quarter) (to) ({'|'.join(ONES[1:])}|[1-9]|1[0-2])\b", _time),
        (r"\s*\bo'? ?clock\b", ""),
        (r"\band one half\b", "and a half"),
        (r"(?<!and )\b(?:a|one) half\b", "half"),
        (r"\bhalf an?\b", "half"),
        (r"\b(one|three) fourth(s?)\b", r"\1 quarter\2"),
        (r"\ba quarter\b|\ba fourth(?= of\b)", "one quarter"),
        (r"\ba (?=(?:third|fifth|sixth|eighth) of\b)", "one "),
        (
            rf"(?<![\d.,:/-])([$\u20ac\u00a3]?)({_NUMBER})(%?)\s*[-\u2013\u2014]\s*[$\u20ac\u00a3]?({_NUMBER})(?![\d:/]|[-,.]\d)",
            _range,
        ),
        (r"(?<=[ap]m)\s*[-\u2013\u2014]\s*(?=\d)|(?<=[ap]\.m\.)\s*[-\u2013\u2014]\s*(?=\d)", " to "),
        (r"([$\u20ac\u00a3]\d[\d.,]*)\s?([kmb])\b", lambda m: f"{m[1]} {SCALES[m[2]]}"),
        (r"\ba (?=(?:dollar|euro|pound|cent)\b)", "one "),
        (
            rf"\b(dollars?|euros?|pounds?) (?:and )?{_CENTS}"
            r"\b(?! (?:hundred|thousand|million|billion|percent|per cent|cents?|pence|dollars?|euros?|pounds?)\b)",
            lambda m: f"{m[1]} and {m['few'] or m['many']} cents",
        ),
        (r"#\s*(?=\d)", "number "),
        (r"(?<=\d)\s*\+\s*(?=\d)|(?<![\w.+])\+(?=\d)", " plus "),
        (r"(?<=\d)\s*=\s*(?=\d)", " equals "),
        (rf"\b(\d+(?:\.\d+)?)\s?({'|'.join(UNITS)})s?\b(?!')", _unit),
        (r"(?<=\d)\s?mph\b", " miles per hour"),
        (r"(?<=\d)\s(?:ft\b\.?|foot\b)", " feet"),
    )
)
_AFTER = (
    # The unit of a range is said once or twice.
    (re.compile(r"([$\u20ac\u00a3])(\d[\d.]*) to \1(?=\d)"), r"\2 to \1"),
    (re.compile(r"(\d)% to (?=\d[\d.]*%)"), r"\1 to "),
)


def before(text: str) -> str:
    """A text in lower case, for the normaliser."""
    for pattern, said in _BEFORE:
        text = pattern.sub(said, text)
    return text


def after(normal: str) -> str:
    """What the normaliser made of it."""
    for pattern, said in _AFTER:
        normal = pattern.sub(said, normal)
    return normal
