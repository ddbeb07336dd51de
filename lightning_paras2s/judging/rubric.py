"""The scoring guideline r of ParaS2S (appendix A.11.5): its prompt, its strict parser, and its rules for a judge
without a chat model.

The prompt is the paper's, word for word. `score_act` turns the same guideline into a function of four things that were
*heard*: what the response does (its act), its tone, whether it names the query's topic, and failures. Each table names
the sentence it comes from.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words, said_numbers
from lightning_paras2s.judging.turns import with_turns
from lightning_paras2s.types import FACTORS, Evidence, Query, Style

PAPER = Path(__file__).with_name("rubric.txt")  # A.11.5; its two slots are what was heard of user and agent
PROMPT = PAPER.read_text(encoding="utf-8")
SLOTS = ("{user}", "{agent}")
PARSER_VERSION = 2
_SCORE = re.compile(
    r"score\s+is[^\w\u2212+~<>\u2264\u2265\u2248-]{0,4}([-+\u2212]?\d+(?:\.\d+)?)(?![A-Za-z0-9])", re.IGNORECASE
)
_GAP = r"[ \t*_]*"
_DIGITS = "zero|one|two|three|four|five|six|seven|eight|nine"
# What may follow a number and makes it another: "4-5" and "4 or 5"; "4,5", "4 and a half" and "4+"; "4/10" and "80%".
_AFTER = {
    "several_scores": rf"{_GAP}(?:(?:[-~&\u2013\u2014]|to\b|and\b|or\b(?:\s+maybe\b)?)[ \t*_]*|[ \t]+)\d",
    "score_not_whole": rf"[.,]\d|{_GAP}[\u00bc-\u00be]|[*_]*\+|{_GAP}point\s+(?:\d|{_DIGITS})"
    rf"|{_GAP}[- \t]*and[- \t]+(?:\w+[- \t]+)?(?:half|halves|thirds?|quarters?|bit)\b",
    "other_scale": rf"{_GAP}(?:%|per ?cent\b|/\s*(?!5(?![\d.]*\d))\d|\(?\s*out\s+of\s+(?!5(?![\d.]*\d)|five\b)\w)",
}


def rubric_sha(prompt: str) -> str:
    """Of the guideline's words and of the parser that reads its scores: it is in every verdict."""
    return hashlib.sha256(f"{PARSER_VERSION}\n{prompt}".encode()).hexdigest()


RUBRIC_SHA = rubric_sha(PROMPT)

# "When the user is happy, the agent can share that happiness; when the user is sad, the agent should be sad and
# empathic" (rule 3); "high-EQ reassurance" to sarcasm, "thankful" to a sincere compliment (5 points); "caution" with a
# child (rule 4); "friendly, helpful" (rule 1).
BEST_TONES: dict[str, frozenset[str]] = {
    "happy": frozenset({"cheerful", "excited"}),
    "surprised": frozenset({"excited"}),
    "sad": frozenset({"empathetic"}),
    "angry": frozenset({"calm"}),
    "fear": frozenset({"calm", "empathetic"}),
    "disgust": frozenset({"empathetic"}),
    "sincere": frozenset({"cheerful", "excited"}),
    "sarcastic": frozenset({"apologetic"}),
    "adult": frozenset({"cheerful", "calm"}),
    "child": frozenset({"calm"}),
    "male": frozenset({"cheerful", "calm"}),
    "female": frozenset({"cheerful", "calm"}),
}
# "A cheerful response to a sad user" (1 point); "it would be weird if the agent feels happy for the [sarcastic]
# compliment" (rule 7); "reverse empathy" (1 point); a child is answered "with caution" (rule 4).
_GLOOMY, _MERRY = frozenset({"apologetic", "empathetic"}), frozenset({"cheerful", "excited"})
CLASHING_TONES: dict[str, frozenset[str]] = {
    "happy": _GLOOMY,
    "surprised": _GLOOMY,
    "sincere": _GLOOMY,
    "sad": _MERRY,
    "angry": _MERRY,
    "fear": _MERRY,
    "disgust": _MERRY,
    "sarcastic": _MERRY,
    "child": frozenset({"excited"}),
    "adult": frozenset(),
    "male": frozenset(),
    "female": frozenset(),
}
# "Reply to a sad user as if he/she is happy" (1 point) against "Reply to a fearful user as if he/she is sad" (2
# points).
PLEASANT = frozenset({"happy", "surprised"})
UNPLEASANT = frozenset({"sad", "angry", "fear", "disgust"})
GENERIC, OTHER, GIBBERISH = "generic", "other", "gibberish"
# What a listener notices before any style; each scores 1.
FAILURES = {
    "silent": "nothing is to be heard",
    "truncated": "the answer breaks off",
    "mismatch": "the voice does not say what the text says",
    GIBBERISH: "the words make no sense",
}
STOPWORDS = frozenset(
    (
        "a about above after again all also am an and any are as at be because been before being but by can could did "
        "do does doing done down each every few for from get gets give go goes going gone got had has have having he "
        "her here him his how i i'd i'll i'm i've if in into is it it's its just let like look made make many may me "
        "might more most much must my need new no not now of off on once one or other our out over own please put "
        "really right said same say see she should so some still such take tell than thank thanks that that's the "
        "their them then there these they thing things think this those to today too tonight tomorrow up use very "
        "want was way we were what when where which while who why will with would yes yet you your "
    ).split()
)

# What `is_broken` reads: words that a person may say twice in a row; what joins a word to itself ("step by step");
# words at which no sentence ends; words that can't follow "the", "a" or "my".
TWICE = frozenset("very so no yes yeah there really much more that had now please bye ha hey well".split())
JOINTS = frozenset("by and after for to upon or".split())
NEAR = 5
DETERMINERS = frozenset("a an the my your our their its".split())
UNENDED = DETERMINERS | frozenset("and or but because if than i'm i'd i'll i've we're you're they're".split())
UNDETERMINED = UNENDED | frozenset(
    "am is are was were be been have has to for from with at by in on about into do does did could would should he "
    "she it we they you me him them us i it's that's who what where why how again also".split()
)


class Score(NamedTuple):
    """A score 1..5, or None with the reason's `status`."""

    score: float | None
    reason: str
    status: str = "ok"


def read_rubric(path: str | Path) -> str:
    """A guideline of one's own.

    Raises:
        UserError: it lacks a slot for what was heard, has one twice, does not ask for the score as it is read, or is no
            UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"a rubric must be UTF-8; got other bytes in {path} ({error}); save it as UTF-8") from None
    for slot in SLOTS:
        if text.count(slot) != 1:
            raise UserError(f"a rubric must hold {slot} once; got it {text.count(slot)} times in {path}; put it there")
    if "the score is" not in text.lower():
        raise UserError(f'a rubric must ask for "The score is _"; got no such words in {path}; add them')
    return text


def factor_of(query: Query, style: Style) -> str:
    """What a query is about. Where nobody said, that is the trait which stands out in how it was said: an emotion, else
    a child's voice, else sarcasm; else the voice's gender, which every voice has."""
    if query.factor:
        return query.factor
    marked = {"emotion": style.emotion not in (None, "neutral"), "age": style.age == "child"}
    marked["sarcasm"] = style.sarcasm == "sarcastic"
    return next((factor for factor, stands_out in marked.items() if stands_out), "gender")


def build_prompt(query: Query, style: Style, evidence: Evidence, prompt: str = PROMPT) -> str:
    """The guideline with the user's transcript and labels (behind earlier turns, where there are any), and the agent's
    transcript and tone, filled in."""
    labels = {factor: getattr(style, factor) for factor in FACTORS}
    user = [f"transcription: {query.text}", *(f"{name}: {value}" for name, value in labels.items() if value)]
    agent = [f"transcription: {evidence.transcript}", f"tone: {evidence.tone_raw or evidence.tone or 'unknown'}"]
    found = {"{user}": with_turns(query.turns, "\n".join(user)), "{agent}": "\n".join(agent)}
    return re.sub("|".join(map(re.escape, SLOTS)), lambda slot: found[slot[0]], prompt)  # words may look like a slot


def parse_score(reply: str) -> Score:
    """Read "The reason is _; The score is _". No score, several, a fraction, another scale than 1..5, or one outside it
    is a status and never a guess."""
    found = list(_SCORE.finditer(reply))
    reasons = re.findall(r"reason\s+is\s*:?\s*(.*?)\s*(?:;|\bthe\s+score\b|$)", reply, re.IGNORECASE | re.DOTALL)
    reason = " ".join(reasons[0].split()) if reasons else ""
    if not found:
        return Score(None, reason, "no_score")
    if len(found) > 1:
        return Score(None, reason, "several_scores")
    rest = reply[found[0].end() :]
    status = next((s for s, pattern in _AFTER.items() if re.match(pattern, rest, re.IGNORECASE)), "")
    if status:
        return Score(None, reason, status)
    value = float(found[0][1].replace("\u2212", "-"))
    if not 1 <= value <= 5:
        return Score(None, reason, "score_out_of_range")
    if value != int(value):
        return Score(None, reason, "score_not_whole")
    return Score(value, reason)


def score_failure(failure: str) -> Score:
    """`failure` is a key of FAILURES."""
    return Score(1.0, FAILURES[failure])


def score_act(style: str, act: str, tone: str, names_topic: bool) -> Score:
    """The guideline as rules.

    Args:
        style: the query's style in its factor, such as "sad".
        act: what the response does: "<factor>:<style>" that it answers, "generic" (no style), "other" (a trait of
            another factor), "gibberish".
        tone: one of types.TONES.
        names_topic: the response names what the query is about; if not, one point less.
    """
    if act == GIBBERISH:
        return score_failure(GIBBERISH)
    score, reason = _fit(style, act, tone)
    if names_topic:
        return Score(score, reason)
    return Score(max(1.0, score - 1), f"{reason}; the topic is not named")


def _fit(style: str, act: str, tone: str) -> tuple[float, str]:
    answered = act.rpartition(":")[2]
    if act == OTHER:  # "Style partially mismatched" (2 points)
        return 2.0, f"answers another trait than {style}"
    if act == GENERIC:  # "not jarring" (3), "a flat response to a sad question" (2)
        if style in UNPLEASANT and (tone == "neutral" or tone in CLASHING_TONES[style]):
            return 2.0, f"flat answer to {style}"
        return 3.0, f"does not answer to {style}, without jarring"
    if answered == style:
        return _tone_fit(style, tone)
    same = any({style, answered} <= valence for valence in (PLEASANT, UNPLEASANT))
    if same:  # "Reply to a fearful user as if he/she is sad" (2 points)
        return 2.0, f"answers {answered} to {style}: the wrong emotion"
    # "Addressed incorrectly. Reverse empathy" (1 point)
    return 1.0, f"answers {answered} to {style}: the reverse"


def _tone_fit(style: str, tone: str) -> tuple[float, str]:
    if tone in BEST_TONES[style]:
        return 5.0, f"answers to {style} in a fitting {tone} tone"
    if tone == "neutral":  # "the response's vocal tone does not enhance the user's experience" (4 points)
        return 4.0, f"answers to {style}, but the tone is neutral"
    # Stricter than the guideline, whose 4 points also hold "content picks up the user's sarcastic comment, but the tone
    # is not appropriate"; its 1 point holds "a cheerful response to a sad user".
    if tone in CLASHING_TONES[style]:
        return 2.0, f"answers to {style}, but the {tone} tone clashes"
    return 3.0, f"answers to {style}, but the {tone} tone does not fit"


def is_broken(words: list[str]) -> bool:
    """Is this no sentence, whatever its words are? (FAILURES: "the words make no sense".)

    Four marks, each of which a well-formed sentence hardly ever has: a word said twice in a row; the same content word
    again within `NEAR` words ("about that room take the room"), but for "step by step"; an end where no sentence ends
    ("and your"); a determiner before what can't follow one ("in the about").
    """
    for place, word in enumerate(words):
        before = words[max(0, place - NEAR) : place]
        if before and before[-1] == word and word not in TWICE:
            return True
        if word in before and word not in STOPWORDS and word not in TWICE and before[-1] not in JOINTS:
            return True
        if before and before[-1] in DETERMINERS and word in UNDETERMINED:
            return True
    return bool(words) and words[-1] in UNENDED


def names_topic(query_text: str, transcript: str) -> bool:
    """Does the response share a content word or a number with the query? A plural, or one wrong letter in a word of
    five or more, still counts, and so does a number written otherwise."""
    if said_numbers(query_text) & said_numbers(transcript):
        return True
    asked = {w for w in plain_words(query_text) if w not in STOPWORDS and len(w) > 2}
    heard = {w for w in plain_words(transcript) if w not in STOPWORDS and len(w) > 2}
    return any(
        a == h or _stem(a) == _stem(h) or (min(len(a), len(h)) >= 5 and one_letter_apart(a, h))
        for a in asked
        for h in heard
    )


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def one_letter_apart(a: str, b: str) -> bool:
    """At most one insertion, deletion or substitution lies between the words."""
    return Levenshtein.distance(a, b, score_cutoff=1) <= 1
