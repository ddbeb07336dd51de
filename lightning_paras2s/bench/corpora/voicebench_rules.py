"""The rules of IFEval (arXiv 2311.07911), which VoiceBench's ifeval asks for aloud: does an answer keep one?

22 of 25. The other three need a tokenizer or a detector of languages, whose versions would decide: number_sentences,
response_language and capital_word_frequency are not judged (None). The two rules of case don't ask for the language.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Callable[[str, Mapping[str, Any]], bool]


def related(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def times(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.I))


def paragraphs(text: str, k: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    return all(p.strip() for p in parts[1:-1]) and sum(bool(p.strip()) for p in parts) == k["num_paragraphs"]


def first_word(text: str, k: Mapping[str, Any]) -> bool:
    parts = [p.strip() for p in re.split(r"\n\n", text)]
    if sum(map(bool, parts)) != k["num_paragraphs"] or len(parts) < k["nth_paragraph"]:
        return False
    words = parts[k["nth_paragraph"] - 1].split()
    return bool(words) and re.split(r"[.,?!'\"]", words[0].lstrip("'\""))[0].lower() == k["first_word"].lower()


def highlights(text: str, k: Mapping[str, Any]) -> bool:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(one.strip("*").strip()) for one in found) >= k["num_highlights"]


def is_json(text: str, _: Mapping[str, Any]) -> bool:
    try:
        json.loads(re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.I).strip())
    except ValueError:
        return False
    return True


def two(text: str, _: Mapping[str, Any]) -> bool:
    parts = [p.strip() for p in text.split("******")]
    kept = [p for p in parts if p]
    return all(parts[1:-1]) and len(kept) == 2 and kept[0] != kept[1]


def postscript(text: str, k: Mapping[str, Any]) -> bool:
    marks = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(marks.get(k["postscript_marker"], re.escape(k["postscript_marker"])), text, re.I))


RULES: dict[str, Rule] = {
    "keywords:existence": lambda t, k: all(re.search(w, t, re.I) for w in k["keywords"]),
    "keywords:frequency": lambda t, k: related(times(k["keyword"], t), k["relation"], k["frequency"]),
    "keywords:forbidden_words": lambda t, k: not any(times(rf"\b{w}\b", t) for w in k["forbidden_words"]),
    "keywords:letter_frequency": lambda t, k: related(
        t.lower().count(k["letter"].lower()), k["let_relation"], k["let_frequency"]
    ),
    "length_constraints:number_paragraphs": paragraphs,
    "length_constraints:number_words": lambda t, k: related(times(r"\w+", t), k["relation"], k["num_words"]),
    "length_constraints:nth_paragraph_first_word": first_word,
    "detectable_content:number_placeholders": lambda t, k: times(r"\[.*?\]", t) >= k["num_placeholders"],
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": lambda t, k: (
        len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", t, re.M)) == k["num_bullets"]
    ),
    "detectable_format:constrained_response": lambda t, _: any(
        f"My answer is {w}." in t for w in ("yes", "no", "maybe")
    ),
    "detectable_format:number_highlighted_sections": highlights,
    "detectable_format:multiple_sections": lambda t, k: (
        len(re.split(rf"\s?{k['section_spliter']}\s?\d+\s?", t)) - 1 >= k["num_sections"]
    ),
    "detectable_format:json_format": is_json,
    "detectable_format:title": lambda t, _: bool(re.search(r"<<[^\n<>]*\S[^\n<>]*>>", t)),
    "combination:two_responses": two,
    "combination:repeat_prompt": lambda t, k: t.strip().lower().startswith(k["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": lambda t, k: t.strip().strip('"').lower().endswith(k["end_phrase"].strip().lower()),
    "startend:quotation": lambda t, _: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "change_case:english_capital": lambda t, _: t.isupper(),
    "change_case:english_lowercase": lambda t, _: t.islower(),
    "punctuation:no_comma": lambda t, _: "," not in t,
}


def follows(rule: str, told: Mapping[str, Any], answer: str) -> tuple[bool, bool] | None:
    """Does an answer keep a rule: strictly, and loosely (without its first line, its last, or its asterisks)?

    Args:
        rule: its name in IFEval.
        told: what it is set to; null means not set.
        answer: the whole of it.

    Returns:
        None for a rule that is not judged here.
    """
    if rule not in RULES:
        return None
    values = {key: value for key, value in told.items() if value is not None}
    lines = answer.split("\n")
    cuts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    cuts += [cut.replace("*", "") for cut in cuts]
    kept = [bool(cut.strip()) and bool(RULES[rule](cut, values)) for cut in cuts]
    return kept[0], any(kept)
