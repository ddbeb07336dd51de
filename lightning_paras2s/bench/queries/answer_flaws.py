"""What is wrong with an answer that a chat model wrote, before any of it is spoken (paper, section 4.1: the answers of
stage 1 are "synthesized ... filtered").

A flaw is a status, which is counted and never mended. Languages are told by their letters and by the little words of
six that share English letters; another one in plain ASCII passes here, and fails by its word error rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from lightning_paras2s.bench.queries.duplicates import alike
from lightning_paras2s.bench.queries.lists import SYNONYMS, clean_item, has_foreign_letters, parse_response
from lightning_paras2s.hearing.words import plain_text, plain_words
from lightning_paras2s.judging.rubric import STOPWORDS
from lightning_paras2s.types import FACTORS, TONES, Query

MIN_WORDS, MAX_WORDS = 2, 60  # an answer of 60 words lasts some 24 s
REPEATED = 4  # words of a query that an answer may not hold in a row, if they are all of it
REFUSAL = re.compile(
    r"\b(?:as an ai|as a (?:large )?language model|i(?:'m| am) (?:just )?an? (?:ai|language model)|"
    r"(?:can(?:'t|not| not)|won't|unable to|not able to) (?:assist|comply|fulfill|help) (?:you )?with (?:that|this)"
    r"(?: request)?\b|against my (?:guidelines|policy|programming)|i must decline)",
    re.IGNORECASE,
)
FOREIGN = frozenset(  # little words of German, Dutch, French, Spanish, Portuguese and Italian that English has not
    "das ist nicht ich wir sie und der dein deine mir dir dich sehr fuer für mit auch gern auf bin dem den wie "
    "het een ik je jij niet graag dat zal ons voor met van "
    "je le les des vous est une suis pour avec votre et mais nous c'est "
    "el los que lo para con muy por estoy usted siento mucho todo tu eso "
    "que para com muito voce você estou sinto isso "
    "che il mi sono molto questo tuo".split()
)
UNSPOKEN = re.compile(rf"[\[\]{{}}<>]|\([^)]*\b(?:tone|voice|{'|'.join(TONES)})\b", re.IGNORECASE)  # stage directions
SENSED = (  # what is said of the speaker
    r"(?:you're|(?:you|your voice|your tone) (?:are|is|sounds?|seems?|feel|look|being|feeling))"
    r"(?: (?:an?|so|very|quite))*"
)


class Answer(NamedTuple):
    """What a chat model's reply holds: the words and their tone, or a `status` that says why it has none."""

    text: str | None
    tone: str
    status: str = "ok"


def read_answer(reply: str, query: Query) -> Answer:
    """The answer in a chat model's reply; its status is ok, refused, unparsed, other_tone, or a flaw of its words."""
    found = parse_response(reply)
    if found is None:
        return Answer(None, "", "refused" if is_refusal(reply) else "unparsed")
    text, tone = clean_item(found[0]), found[1].strip(" \t*_`\"'.!").lower()
    flaw = flaw_of(text, found[0], query)
    if flaw is None and tone not in TONES:
        return Answer(None, tone, "other_tone")
    return Answer(None, tone, flaw) if flaw else Answer(text, tone)


def flaw_of(text: str, raw: str, query: Query) -> str | None:
    """Why an answer can't be a demonstration; None if nothing is wrong with its words."""
    if is_refusal(text):
        return "refused"
    if is_foreign(text):
        return "other_language"
    if repeats(text, query.text):
        return "repeats_query"
    if UNSPOKEN.search(raw) or leaked(text, query.styles):
        return "leaks_label"
    return None if MIN_WORDS <= len(text.split()) <= MAX_WORDS else "length"


def is_refusal(text: str) -> bool:
    """Whether a model speaks of itself instead of answering; "I can't do that without a grown-up" is an answer."""
    plain = text.translate(str.maketrans({"’": "'", "‘": "'"}))
    return bool(REFUSAL.search(plain)) or bool(re.match(r"\W*i(?:'m| am) sorry,? but i can(?:'t|not)\W*$", plain, re.I))


def is_foreign(text: str) -> bool:
    """Whether a text is in another language than English."""
    words = plain_words(text)
    letters = [c for c in text if c.isalpha()]
    if sum(map(has_foreign_letters, letters)) > 0.03 * len(letters):  # one French word is English still
        return True
    foreign = set(words) & FOREIGN - STOPWORDS
    return len(foreign) >= 2 and len(foreign) > len(set(words) & STOPWORDS - FOREIGN)


def repeats(answer: str, query: str) -> bool:
    """Whether an answer says the query again, as a whole or within other words."""
    said, asked = plain_text(answer), plain_text(query)
    return alike(answer, query) or (len(asked.split()) >= REPEATED and f" {asked} " in f" {said} ")


def leaked(text: str, styles: Mapping[str, str]) -> str:
    """The label that an answer tells its listener: "you sound sad", "as a female", "sarcasm"; "" if none.

    To be happy for somebody is no leak: a label has to be said *of* the speaker.
    """
    said = plain_text(text)
    for value in styles.values():
        names = "|".join({value, *(name for name, style in SYNONYMS.items() if style == value)})
        of_them = rf"\b{SENSED} (?:{names})\b|\b(?:as|since|because|being) (?:you (?:are )?)?an? (?:{names})\b"
        named = rf"\b(?:{'|'.join(FACTORS)}|tone) (?:is |of )?(?:{names})\b"
        if re.search(rf"{of_them}|{named}|\b(?:{names}) (?:tone|voice|speaker|user)\b", said):
            return value
    return "sarcasm" if "sarcasm" in styles and re.search(r"\bsarcas", said) else ""
