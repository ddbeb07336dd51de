"""`skills`: can a policy still do what it could before it was aligned? Held-out texts and voices, greedy answers.

Alignment rewards one thing, and may cost others. Four skills, each scored between 0 and 1 an item:

- *answer*: a question in a plain voice (neutral, adult) is answered clearly, about its topic, and with an act that fits
  one of the two styles of its pair, or any style: no style was heard, so either may be meant.
- *repeat*: "repeat after me"; the share of words that are right.
- *name*: the speaker's emotion or sarcasm, age and gender; the share of names that are said.
- *read*: a text read aloud in a tone; the share of words that are right.

Questions keep their transcripts from the embedded transcriber, voices are judged by what it hears in the waveform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from lightning_paras2s.bench.statistics import MIN_SHARED, clustered_mean, compare_systems, holm
from lightning_paras2s.bench.summary import rounded, with_interval
from lightning_paras2s.bench.systems.base import Answer
from lightning_paras2s.bench.systems.policy import answer_items
from lightning_paras2s.data.embedded import Line, TextQuery, reply, text_queries, user_line
from lightning_paras2s.data.sources import Dialogue, spoken_names
from lightning_paras2s.data.spoken import corpus
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import plain_words, word_error_rate
from lightning_paras2s.judging import rubric
from lightning_paras2s.judging.acts import ActClassifier
from lightning_paras2s.judging.judges import MAX_WER, heard_failure
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.types import FACTORS, SPLITS, TONES, Evidence


class Item(NamedTuple):
    """What is asked of a policy: the exchange, the text it is about, and the words that it should say ("" = any)."""

    skill: str
    dialogue: Dialogue
    query: TextQuery
    words: str = ""


def skills(
    policies: dict[str, InputPath],
    processor: Processor,
    transcriber: Transcriber,
    n: int = 40,
    split: Literal["train", "val", "test"] = "test",
    seed: int = 0,
    acts: InputPath = "checkpoints/embedded/acts.safetensors",
    cache_dir: str = "cache",
) -> dict:
    """Print what each policy does of four ordinary skills, paired with the first policy.

    Args:
        policies: names and weights (.safetensors), the one to compare with first.
        processor: the policies' ears, voice and words.
        transcriber: hears what they answer; one recording a pass (`batch_size: 1`).
        n: texts a factor; each is asked for once a skill.
        split: whose texts and voices.
        seed: of the choice of texts, voices, tones.
        acts: weights of the classifier of what a reply does.
        cache_dir: where speech is kept between runs.
    """
    if split not in SPLITS or n < 1 or not policies:
        raise UserError(
            f"skills need a split of {', '.join(SPLITS)}, n of at least 1 and a policy; "
            f"got split={split!r}, n={n}, {len(policies)} policies"
        )
    models = {name: processor.load_policy(path, "cpu", "float32") for name, path in policies.items()}
    asked = items(split, n, seed, cache_dir)
    data = processor.prepare([i.dialogue for i in asked], False, cache_dir)
    examples, classifier = [data[i] for i in range(len(data))], ActClassifier(acts)
    scores: dict[str, dict[str, dict[str, float]]] = {skill: {} for skill in SCORES}
    for name, model in models.items():
        answers = answer_items(model, processor, examples)
        heard = transcriber.write_down([answer.audio for answer in answers])
        for index, (item, answer, words) in enumerate(zip(asked, answers, heard, strict=True)):
            found = SCORES[item.skill](item, answer, words, classifier)
            scores[item.skill].setdefault(name, {})[str(index)] = found
    result = {"split": split, "n_texts": len({(i.query.factor, i.query.id) for i in asked}), "seed": seed}
    result["skills"] = {skill: figures(found, next(iter(policies))) for skill, found in scores.items()}
    adjust(result["skills"])
    return result


def items(split: str, n: int, seed: int, cache_dir: str) -> list[Item]:
    """The same texts for every skill; voices, styles and tones are drawn."""
    random = np.random.default_rng(seed)
    made: list[tuple[str, TextQuery, Line | str, str]] = []  # what is spoken by a user, or written
    for factor in FACTORS:
        queries = [q for q in text_queries(split) if q.factor == factor]
        for index in random.permutation(len(queries))[:n]:
            query = queries[index]
            plain = replace(query, factor="emotion")  # of which neutral is a style: any adult's voice
            style = query.styles[random.integers(2)]
            tone = TONES[random.integers(len(TONES))]
            user = user_line(query, style, split, random)
            text = reply(query, style, split, random)
            made.append(("answer", query, user_line(plain, "neutral", split, random), ""))
            made.append(("repeat", query, user_line(plain, "neutral", split, random), query.text))
            made.append(("name", query, user, spoken_names(user.style)))
            made.append(("read", query, f"{tone} {text}", text))
    heard = iter(corpus([given for _, _, given, _ in made if isinstance(given, Line)], cache_dir))
    found = []
    for skill, query, given, words in made:
        task = {"answer": "chat", "repeat": "echo"}.get(skill, skill)
        written = isinstance(given, str)
        found.append(Item(skill, Dialogue(task, given) if written else Dialogue(task, None, next(heard)), query, words))
    return found


def score_answer(item: Item, answer: Answer, heard: str, classifier: ActClassifier) -> float:
    """1 where a question without a style is answered well."""
    evidence = Evidence("", heard, word_error_rate(answer.text or "", heard), "neutral", status=answer.status)
    if heard_failure(evidence, MAX_WER) is not None or not rubric.names_topic(item.query.text, heard):
        return 0.0
    act = classifier.classify(heard, item.query.factor, item.query.text).name
    return float(act == rubric.GENERIC or act.rpartition(":")[2] in item.query.styles)


def score_words(item: Item, answer: Answer, heard: str, classifier: ActClassifier) -> float:
    """The share of words that are right: 1 - WER, at least 0."""
    return max(0.0, 1 - word_error_rate(item.words, heard))


def score_names(item: Item, answer: Answer, heard: str, classifier: ActClassifier) -> float:
    """The share of the speaker's attributes that are named."""
    names, said = item.words.split(), set(plain_words(heard))
    return sum(name in said for name in names) / len(names)


SCORES: dict[str, Callable[[Item, Answer, str, ActClassifier], float]] = {
    "answer": score_answer,
    "repeat": score_words,
    "name": score_names,
    "read": score_words,
}


def figures(scores: dict[str, dict[str, float]], first: str) -> dict:
    """A skill's means with 95 % intervals, and each policy's difference from the first, paired by item."""
    found = {}
    for name, values in scores.items():
        mean = clustered_mean(list(values.values()), list(values), MIN_SHARED)
        found[name] = {"mean": rounded(mean.value), "ci95": [rounded(x) for x in mean.ci95], "n": mean.n}
        if name != first:
            other = compare_systems({name: values, first: scores[first]}, {i: i for i in values})[0]
            found[name] |= {**with_interval("change", other.difference), "p": other.p}
    return found


def adjust(skills: dict[str, dict[str, dict]]) -> None:
    """Adds `p_holm`: each change's p, adjusted over the changes of all skills and policies. Of four skills without any
    change, one has a p below .05 in 19 of 100 runs."""
    changes = [row for found in skills.values() for row in found.values() if np.isfinite(row.get("p", np.nan))]
    for row, p in zip(changes, holm([row["p"] for row in changes]), strict=True):
        row["p_holm"] = p
