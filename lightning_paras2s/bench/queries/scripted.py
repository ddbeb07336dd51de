"""A chat model that runs offline: it answers the mining prompts from the authored text set, the three tests by rules.

It exists so that the whole pipeline can be run, and watched rejecting, without a key: its lists hold the authored
queries of the topic and, among them, decoys that a test must catch. Its judgement is a few telling words; it certifies
no text.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from lightning_paras2s.bench.queries import styles
from lightning_paras2s.data.embedded import TextQuery, reply_frames, text_queries
from lightning_paras2s.data.open_text import read_open
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.rubric import BEST_TONES
from lightning_paras2s.servers.chat import ChatLLM, Reply
from lightning_paras2s.servers.parts import Conversation
from lightning_paras2s.types import FACTORS, SPLITS

TELLING = {  # words that give a style away
    "happy": "wonderful hooray yay delighted",
    "surprised": "wow unbelievable suddenly",
    "sad": "sadly miss cried crying funeral",
    "angry": "furious outrageous unacceptable",
    "fear": "terrified scared frightened",
    "disgust": "gross disgusting nasty",
    "sincere": "honestly truly",
    "sarcastic": "sure yeah",
    "adult": "mortgage retirement husband wife",
    "child": "mommy daddy homework crayons",
    "male": "beard prostate mustache",
    "female": "period pregnant bra",
}
ODD = {  # words that a speaker of the style would hardly say
    "male": "cervical pregnancy ovaries",
    "female": "testicular prostate",
    "child": "pension divorce payroll",
    "adult": "kindergarten recess",
    "sarcastic": "condolences",
    "happy": "died",
}
DECOYS = {
    "emotion": (
        "Wow that is such unbelievable news about the move.",  # not neutral
        "I cried all night after the call.",  # not neutral
        "My neighbor died in the garden last week.",  # odd when happy
        "The capital of France is Paris.",  # any style, one answer
        "ChatGPT moved my meeting to Monday.",  # a banned word
    ),
    "sarcasm": (
        "Yeah right you fixed everything so well today.",
        "My condolences were written so well by you.",
        "You told me the time in London just now.",
    ),
    "age": (
        "Help me pay the mortgage on the house tonight.",
        "Move my pension into another fund this week.",
        "How many days are there in one week?",
    ),
    "gender": (
        "Tell me how to trim my beard for Friday.",
        "I need to get screened for cervical cancer.",
        "Who was the first president of America?",
        "Should I wear the red one or the blue one?",
    ),
}
PREAMBLES = ("Sure! Here are {count} requests:\n\n", "", "Here's the list you asked for.\n\n")


class ScriptedLLM(ChatLLM):
    """Answers the prompts of `bench.queries.styles` and nothing else.

    Args:
        seed: of the order of the items, and of the wording of responses.
        decoys: in each list.
    """

    def __init__(self, seed: int = 0, decoys: int = 1) -> None:
        self.seed, self.decoys = seed, decoys
        self.name = f"scripted-1-s{seed}"

    def complete(self, conversations: list[Conversation], samples: Sequence[str] | None = None) -> list[Reply]:
        return [self._answer(conversation[-1]["content"]) for conversation in conversations]

    def _answer(self, prompt: str) -> Reply:
        for factor, template in styles.GENERATION_PROMPTS.items():
            if (found := styles.fields_of(template, prompt)) is not None:
                pair = (found.get("first", ""), found.get("second", ""))
                return Reply(self._list(factor, found["topic"], pair, int(found["count"]), prompt))
        tests = {
            styles.NEUTRALITY_PROMPT: neutrality,
            styles.REASONABILITY_PROMPT: reasonability,
            styles.RESPONSE_PROMPT: self._respond,
            styles.DEMONSTRATION_PROMPT: self._demonstrate,
            styles.RELEVANCE_PROMPT: relevance,
        }
        for template, answer in tests.items():
            if (found := styles.fields_of(template, prompt)) is not None:
                return Reply(answer(**found))
        return Reply(None, "not_scripted")

    def _random(self, *key: str) -> np.random.Generator:
        digest = hashlib.sha256("/".join([str(self.seed), *key]).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def _list(self, factor: str, topic: str, pair: tuple[str, str], count: int, prompt: str) -> str:
        """At most `count` authored queries of the topic (and contrast), with decoys, in one of the usual dresses."""
        random = self._random(prompt)
        known = [q for s in SPLITS for q in text_queries(s) if q.factor == factor and q.topic == topic]
        texts = [q.text for q in known if factor != "emotion" or q.styles == pair]
        decoys = [DECOYS[factor][i] for i in random.permutation(len(DECOYS[factor]))[: self.decoys]]
        chosen = [texts[i] for i in random.permutation(len(texts))][: max(0, count - len(decoys))] + decoys
        items = [chosen[i] for i in random.permutation(len(chosen))]
        suffix = f" ({pair[0]}, {pair[1]})" if factor == "emotion" else ""
        mark = (". ", ") ", ". **")[random.integers(3)]
        lines = [f"{i}{mark}{text}{'**' if '*' in mark else ''}{suffix}" for i, text in enumerate(items, 1)]
        return PREAMBLES[random.integers(len(PREAMBLES))].format(count=count) + "\n".join(lines)

    def _respond(self, text: str, factor: str, style: str) -> str:
        tone = sorted(BEST_TONES[style])[0]
        if (written := _open().get(text, {}).get(style)) is not None:
            return f"Response: {written}\nTone: {tone}"
        query = _known().get(text)
        if query is None:
            return "Response: Here is what I found about that.\nTone: neutral"
        frames = reply_frames(query.split, factor, style)
        frame = frames[self._random(text, style).integers(len(frames))]
        return f"Response: {frame.format(subject=query.subject)}\nTone: {tone}"

    def _demonstrate(self, text: str, labels: str, factor: str, style: str, tones: str) -> str:
        return self._respond(text, factor, style)


@functools.cache
def _known() -> dict[str, TextQuery]:
    return {q.text: q for split in SPLITS for q in text_queries(split)}


@functools.cache
def _open() -> dict[str, dict[str, str]]:
    """Text of the open set -> style -> what its authors answer."""
    prompts = [p for factor in FACTORS for split in SPLITS for p in read_open(factor, split)]
    return {p.text: {style: answer.text for style, answer in p.answers.items()} for p in prompts}


def neutrality(text: str, factor: str, first: str, second: str) -> str:
    for style in (first, second):
        telling = set(plain_words(text)) & set(TELLING[style].split())
        if telling:
            return f"Answer: {style}\nReason: The word {sorted(telling)[0]!r} gives the {factor} away."
    return "Answer: neutral\nReason: No word tells one style from the other."


def reasonability(text: str, factor: str, style: str) -> str:
    odd = set(plain_words(text)) & set(ODD.get(style, "").split())
    if odd:
        return f"Answer: odd\nReason: A speaker with this {factor} would hardly say {sorted(odd)[0]!r}."
    return "Answer: reasonable\nReason: Nothing in the words speaks against it."


def relevance(
    text: str, factor: str, first_tone: str, first_response: str, second_tone: str, second_response: str
) -> str:
    if plain_words(first_response) == plain_words(second_response) and first_tone == second_tone:
        return "Answer: similar\nReason: Words and tone are the same."
    return "Answer: different\nReason: They answer to different speakers."
