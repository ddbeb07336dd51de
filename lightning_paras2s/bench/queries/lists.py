"""Reading what a chat model wrote: numbered lists of queries as they really come, and answers in a fixed format."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning_paras2s.bench.queries.styles import BANNED, EXAMPLES
from lightning_paras2s.hearing.words import plain_text

MIN_WORDS, MAX_WORDS = 3, 40
SYNONYMS = {  # as chat models write styles
    "joy": "happy",
    "joyful": "happy",
    "happiness": "happy",
    "surprise": "surprised",
    "shocked": "surprised",
    "sadness": "sad",
    "anger": "angry",
    "fearful": "fear",
    "scared": "fear",
    "afraid": "fear",
    "disgusted": "disgust",
}
ITEM = re.compile(r"^[\s>*_`#•-]*(\d{1,4})[\s*_]*(?:[.)](?!\d)|:\s)[\s*_]*(.*)$")
INLINE = re.compile(r"(?:^|\s)(\d{1,4})[.)]\s+")
STYLES_AT_END = re.compile(r"\s*[(\[]\s*([\w -]+?)\s*(?:[,/&]|\band\b)\s*([\w -]+?)\s*[)\]]\s*[.!]?\s*$")
PLACEHOLDER = re.compile(
    r"<?\s*(?:item|user[_ ]?chat|request|query)\s*[_#]?\d*\s*>?|[.…\s]*|\[.*\]|<.*>", re.IGNORECASE
)
LABEL = re.compile(r"^(?:user|chat|user[_ ]?chat|request|query)\s*\d*\s*:\s*", re.IGNORECASE)


class ItemList(NamedTuple):
    """A list that was asked for; `status` is ok, short (fewer than nine tenths of what was wanted) or no_list."""

    items: list[str]
    status: str


def parse_numbered_list(text: str, wanted: int) -> ItemList:
    """Items of a numbered list in any usual dress: markdown, quotes, code fences, chatter around, wrapped lines.

    A number opens an item if it continues the count (small gaps allowed) or starts it again at 1; an item goes on in
    indented lines and inside an open bracket. A list in one line is split at its numbers. Without numbers, no list.
    """
    items: list[str] = []
    last, is_open = 0, False
    for line in text.splitlines():
        match = ITEM.match(line)
        if match and (last < int(match[1]) <= last + 5 or int(match[1]) == 1):
            items.append(match[2])
            last, is_open = int(match[1]), True
        elif is_open and line.strip() and (line[0].isspace() or items[-1].count("(") > items[-1].count(")")):
            items[-1] += " " + line.strip()
        else:
            is_open = False
    if len(items) <= 1:
        items = _inline(text) or items
    cleaned = [clean for item in items if (clean := clean_item(item))]
    if len(cleaned) < min(2, wanted):
        return ItemList([], "no_list")
    return ItemList(cleaned, "ok" if len(cleaned) >= 0.9 * wanted else "short")


def _inline(text: str) -> list[str]:
    """Items of a list in one line, cut where the numbers count 1, 2, 3, ..."""
    cuts: list[re.Match[str]] = []
    for match in INLINE.finditer(text):
        if int(match[1]) == len(cuts) + 1:
            cuts.append(match)
    ends = [cut.start() for cut in cuts[1:]] + [len(text)]
    return [text[cut.end() : end] for cut, end in zip(cuts, ends, strict=True)] if len(cuts) > 1 else []


def clean_item(item: str) -> str:
    """Without markdown, labels, surrounding quotes and curly punctuation."""
    text = item.translate(str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."}))
    text = re.sub(r"[*`]+|(?<!\w)_+|_+(?!\w)", "", text)
    text = LABEL.sub("", " ".join(text.split()))
    quoted = re.fullmatch(r'"([^"]*)"(\s*[(\[].*[)\]])?\.?', text)
    return ((quoted[1] + (quoted[2] or "")) if quoted else text).strip()


def split_styles(item: str) -> tuple[str, tuple[str, str] | None]:
    """An item "Text (happy, sad)" -> the text, and its styles in our names; None where it ends otherwise."""
    match = STYLES_AT_END.search(item)
    if match is None:
        return item, None
    first, second = (SYNONYMS.get(name.lower(), name.lower()) for name in (match[1], match[2]))
    return clean_item(item[: match.start()]), (first, second)


def flaw(text: str, factor: str) -> str | None:
    """Why a text can't be a query of the factor, before any model is asked; None if nothing is wrong with it."""
    count, plain = len(text.split()), plain_text(text)
    if PLACEHOLDER.fullmatch(text):
        return "placeholder"
    if any(plain == plain_text(example) for example in EXAMPLES[factor]):
        return "repeats_example"
    if not MIN_WORDS <= count <= MAX_WORDS:
        return "length"
    if has_foreign_letters(text):
        return "not_english"
    banned = [word for word in BANNED[factor] if f" {word} " in f" {plain} "]
    return f"banned_word: {banned[0]}" if banned else None


def has_foreign_letters(text: str) -> bool:
    """Whether a text has letters that English does not write, in its own words or in those that it borrows."""
    return any(c.isalpha() and not c.isascii() and c.lower() not in "éèêñçöüïáí" for c in text)


def parse_answer(text: str, allowed: tuple[str, ...]) -> tuple[str | None, str]:
    """Answer and reason; the answer is None unless there is one "Answer:" line and it holds an allowed word."""
    answers = [line.strip(" \t*_`\"'.!").lower() for line in _field(text, "answer")]
    reason = " ".join(_field(text, "reason"))
    return (answers[0] if len(answers) == 1 and answers[0] in allowed else None), reason


def parse_response(text: str) -> tuple[str, str] | None:
    """The words and the tone of "Response: ..., Tone: ..."; None unless there is one of each."""
    words, tones = _field(text, "response"), _field(text, "tone")
    return (words[0], tones[0]) if len(words) == len(tones) == 1 and words[0] and tones[0] else None


def _field(text: str, name: str) -> list[str]:
    return [m.strip() for m in re.findall(rf"^[\s>*_#-]*{name}[*_]*\s*:[*_]*(.*)$", text, re.IGNORECASE | re.MULTILINE)]
