"""What an answer to VoiceBench's BBH comes to: option A or B, yes or no, or nothing that can be read.

Letters are read as in every multiple choice (`measures/choices.py`), once the phrases of answers about the order of
adjectives are written as it knows them. What an answer calls its answer comes before what else it names, and of several
the last one. The original looks for whole phrases, some two hundred, and else draws (src/evaluator/bbh.py at 5338154).
"""

from __future__ import annotations

import re

from lightning_paras2s.bench.measures.choices import chosen

SIDES = {"A": "", "B": ""}
# What stands behind no article and no "no" of a noun: "a because" is a letter, and "no problem" is no answer.
BEHIND = (
    "i it its he she they you we the this that these those there here a an in on at to for from by if as so because "
    "since when after and but is isn't are was has seems follows uses does doesn't do don't did didn't my your his her "
    "their"
).replace(" ", "|")
LETTER = re.compile(rf"\ba(?=\s*(?:[.,;:!?)\]]|$)|\s+(?:{BEHIND})\b(?!-))")
EMPTY = re.compile(r"[*\"“”]|,?\s*without any modification\b,?", re.I)
OPTION = re.compile(
    r"\b(?i:option|choice|sentence)\s+([AbB])\b(?!')|\b(?i:option)\s+(a)\b"
    r"|(?:\b(?i:option|choice|sentence)\s+)?\(([AaBb])\)"
)
RIGHT = re.compile(r"\boption ([AB]) (?:is|has|follows|uses) (?:(?!not\b|less\b)\w+ ){0,2}(?=(?:correct|right)\b)")
CORRECT = re.compile(r"\b(?:correct|right|proper)(?:\s+(?!option\b)\w+){1,4}?\s+(?:is|would be)\b", re.I)
IS = re.compile(r"\bis(?=\s+[AbB]\b(?!'))")
CALLED = re.compile(r"\banswer\b[^.;!?\n]{0,40}?\b[ab]\b(?:\W+\w+)?", re.I)  # the word behind tells an article
NO = rf"no(?!-\w)(?=[ \t]*(?:[^\w \t]|$)|[ \t]+(?:{BEHIND}|not|can|can't|cannot|following|according|based)\b)"
YES_OR_NO = rf"\b(yes\b|{NO})"
CONCLUDED = re.compile(rf"\b(?:answer|conclusion)\b[^.;!?\n]{{0,80}}?{YES_OR_NO}")


def letter_of(answer: str) -> str | None:
    """The option, A or B, that an answer comes to; None for none, or both."""
    text = LETTER.sub("A", EMPTY.sub(" ", answer))
    text = OPTION.sub(lambda m: f"option {m[m.lastindex].upper()}", text)
    text = CORRECT.sub("answer is", RIGHT.sub(r"the answer is \1, ", text))
    text = IS.sub("answer is", text)
    called = [letter for m in CALLED.finditer(text) if (letter := chosen(m[0], SIDES))]
    return called[-1] if called else chosen(text, SIDES)


def yes_or_no(answer: str) -> str | None:
    """What an answer calls its answer, else a yes or no that it begins with, else its last one."""
    text = answer.replace("’", "'").lower()
    if called := CONCLUDED.findall(text):
        return called[-1]
    first = re.match(rf"\W*{YES_OR_NO}", text)
    found = [first[1]] if first else re.findall(YES_OR_NO, text)
    return found[-1] if found else None
