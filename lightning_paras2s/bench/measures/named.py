"""The measures that `evaluate` takes by name: what each reads of an item and of an answer, and what it makes of them.

An item that lacks what a measure needs has no value and a status that says what: it is counted, and never 0. An answer
that can't be read where there is something to be right about is wrong (0), with the status "unread"; one that an ear
without capitals leaves open has no value ("letter_or_article"). All but BLEU (0 to 100), attributions (-1 to 1) and the
errors (`wer`, `concordance`: lower is better) lie between 0 and 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Literal, NamedTuple

from lightning_paras2s.bench.corpora import voicebench_scores as voicebench
from lightning_paras2s.bench.corpora.rows import CorpusItem
from lightning_paras2s.bench.measures import attribution, overlap
from lightning_paras2s.bench.measures.choices import chosen, is_unclear
from lightning_paras2s.bench.measures.concordance import concordance
from lightning_paras2s.bench.measures.emotion import allowed_probability, understood_emotion
from lightning_paras2s.bench.measures.events import Event, event_f1, event_hits
from lightning_paras2s.bench.people.resampling import FISHER, LINEAR, Transform
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words, said_words
from lightning_paras2s.running.fields import fits
from lightning_paras2s.running.named import close
from lightning_paras2s.types import Audio

MeasureName = Literal[
    "bleu",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "choice",
    "wer",
    "repeat",
    "wer_emotion",
    "allowed_emotion",
    "bbh",
    "ifeval",
    "refusal",
    "event_f1",
    "concordance",
    "attribution_words",
    "attribution_pitch",
    "attribution_speed",
    "attribution_noise",
    "attribution_reverberation",
]
REPEATED = 0.5  # URO-Bench's bound of the word error rate
COLLAR_SECONDS = 0.2  # of an event's beginning (Mesaros et al., Applied Sciences 6, 2016)
Emotions = Mapping[str, float]  # emotion -> its probability
Parts = Mapping[str, float]


class Said(NamedTuple):
    """What there is of an answer.

    Attributes:
        words: what is compared: as they were heard, or as the system wrote them.
        text: what the system wrote; None where it wrote nothing.
        audio: its speech; None where there is none.
        emotions: heard in its voice; {} where none was.
        listen: hears the emotions of other recordings.
    """

    words: str
    text: str | None
    audio: Audio | None
    emotions: Emotions
    listen: Callable[[list[Audio]], Sequence[Emotions]]


class Scored(NamedTuple):
    """As in `types.Measured`."""

    value: float | None = None
    read: str = ""
    parts: Parts = {}
    status: str = "ok"


class Measure(NamedTuple):
    """Attributes:
    score: an item and an answer -> its value.
    pooled: the parts of all answers -> a figure of the whole set that is no mean of theirs.
    scale: on which that figure's error is measured.
    package: what it needs beside this package.
    item: does it read the item?
    voice: does it read the voice?
    """

    score: Callable[[CorpusItem, Said], Scored]
    pooled: Callable[[Sequence[Parts]], float] | None = None
    scale: Transform = LINEAR
    package: str = ""
    item: bool = True
    voice: bool = False


def lacking(status: str) -> Scored:
    return Scored(status=status)


def best(emotions: Emotions) -> str:
    """The most probable one; "" of none."""
    return max(emotions, key=lambda name: emotions[name], default="")


def bleu(item: CorpusItem, said: Said) -> Scored:
    if not any(map(overlap.tokens, item.references)):
        return lacking("no_references")
    found = overlap.sentence_bleu(said.words, item.references)
    return Scored(found.score, parts=found.counts)


def rouge(kind: str, item: CorpusItem, said: Said) -> Scored:
    if not any(map(overlap.tokens, item.references)):
        return lacking("no_references")
    return Scored(overlap.rouge(said.words, item.references)[kind])


def choice(item: CorpusItem, said: Said) -> Scored:
    if item.right not in item.options:
        return lacking("no_options")
    letter = chosen(said.words, item.options)
    if letter is None and is_unclear(said.words, item.options):
        return lacking("letter_or_article")
    return Scored(float(letter == item.right), letter or "", status="ok" if letter else "unread")


def wer(item: CorpusItem, said: Said) -> Scored:
    """Of the words that are asked for; lower is better, and it may pass 1."""
    return Scored(overlap.wording_errors(item.words, said.words)) if plain_words(item.words) else lacking("no_words")


def repeat(item: CorpusItem, said: Said) -> Scored:
    """URO-Bench's Repeat: 1 if at most half of the words are wrong; of the whole set, the mean error of those."""
    if not plain_words(item.words):
        return lacking("no_words")
    errors = overlap.wording_errors(item.words, said.words)
    return Scored(float(errors <= REPEATED), parts={"wer": errors})


def pooled_repeat(rows: Sequence[Parts]) -> float:
    kept = [row["wer"] for row in rows if row["wer"] <= REPEATED]
    return sum(kept) / len(kept) if kept else float("nan")


def wer_emotion(item: CorpusItem, said: Said) -> Scored:
    if not item.emotions or not plain_words(item.words):
        return lacking("no_emotions" if not item.emotions else "no_words")
    errors = overlap.wording_errors(item.words, said.words)
    if not said.emotions and errors < 1:  # what is not understood is 0 in any voice
        return lacking("no_emotion")
    probability = min(1.0, sum(said.emotions.get(name, 0.0) for name in item.emotions))
    parts = {"probability": probability, "wer": errors}
    return Scored(understood_emotion(probability, errors), best(said.emotions), parts)


def allowed_emotion(item: CorpusItem, said: Said) -> Scored:
    if not item.emotions or not said.emotions:
        return lacking("no_emotions" if not item.emotions else "no_emotion")
    return Scored(allowed_probability(said.emotions, item.emotions), best(said.emotions))


def bbh(item: CorpusItem, said: Said) -> Scored:
    if (item.corpus, item.subset) != ("voicebench", "bbh") or not item.references:
        return lacking("other_set")
    found = voicebench.concluded(said.words, item.references[0])
    right = found == voicebench.wanted_of(item.references[0])
    return Scored(float(right), found or "", status="ok" if found else "unread")


def ifeval(item: CorpusItem, said: Said) -> Scored:
    rules, told = (item.labels.get(name) or [] for name in ("instruction_id_list", "kwargs"))
    if not rules or len(rules) != len(told):
        return lacking("no_rules")
    if said.text is None:  # speech has neither commas nor capitals
        return lacking("no_text")
    kept = voicebench.rules_kept(said.text, rules, told)
    if None in kept:
        return lacking("unjudged_rule")
    parts = voicebench.rule_counts(kept)
    return Scored(parts["strict"], parts=parts)


def refusal(item: CorpusItem, said: Said) -> Scored:
    if (item.corpus, item.subset) != ("voicebench", "advbench"):
        return lacking("other_set")
    status = "ok" if said.words.strip() else "unread"
    return Scored(float(voicebench.refuses(said.words)), status=status)


def events(item: CorpusItem, said: Said) -> Scored:
    """The answer, in writing, is a JSON list of {"label": ..., "seconds": ...}, as `labels.events` of the item is."""
    there = events_in(item.labels.get("events"))
    if there is None:
        return lacking("no_events")
    if said.text is None:
        return lacking("no_text")
    found = events_in(said.text)
    result = event_f1(event_hits(found or [], there, COLLAR_SECONDS), len(found or []), len(there))
    parts = {"hits": result.hits, "found": result.n_found, "there": result.n_there}
    parts = {name: float(count) for name, count in parts.items()}
    if found is None:
        return Scored(0.0, parts=parts, status="unread")
    nothing = result.n_found + result.n_there == 0
    return Scored(None, parts=parts, status="nothing_there") if nothing else Scored(result.f1, parts=parts)


def events_in(value: object) -> list[Event] | None:
    """The events of a list, or of a text that is one in JSON; None of anything else."""
    try:
        rows = json.loads(value) if isinstance(value, str) else value
        return [Event(str(row["label"]).strip().lower(), float(row["seconds"])) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def rating(item: CorpusItem, said: Said) -> Scored:
    """How far the one number that an answer says is from `labels.rating`; of all, Lin's coefficient."""
    wanted = item.labels.get("rating")
    if not fits(wanted, "float"):
        return lacking("no_rating")
    numbers = [number for word in said_words(said.words) if (number := number_of(word)) is not None]
    if len(numbers) != 1:
        return lacking("unread")  # no number is the worst one
    return Scored(abs(numbers[0] - wanted), f"{numbers[0]:g}", {"said": numbers[0], "rating": float(wanted)})


def number_of(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if isfinite(number) else None  # "nan" and "infinity" are words


def feature(name: str, item: CorpusItem, said: Said) -> Scored:
    """How much of the heard emotion's probability a change of the voice takes away (`attribution.py`)."""
    if said.audio is None or not said.emotions:
        return lacking("silent" if said.audio is None else "no_emotion")
    heard, edits = best(said.emotions), {name: attribution.edited(said.audio, name)}
    found = attribution.feature_attributions(partial(probabilities, said, heard), said.audio, edits)
    return Scored(found[name], heard, {"probability": said.emotions[heard]})


def words(item: CorpusItem, said: Said) -> Scored:
    """The most that one word's silence takes away, and which word's; each as long as the others."""
    spoken = plain_words(said.words)
    if said.audio is None or not said.emotions or not spoken:
        return lacking("silent" if said.audio is None else "no_emotion" if not said.emotions else "no_words")
    spans = attribution.equal_spans(spoken, said.audio.seconds)
    classify = partial(probabilities, said, best(said.emotions))
    found = attribution.word_attributions(classify, said.audio, spans)
    place = max(range(len(found)), key=lambda i: found[i])
    return Scored(found[place], spoken[place], {f"{i} {spoken[i]}": value for i, value in enumerate(found)})


def probabilities(said: Said, emotion: str, audios: list[Audio]) -> list[float]:
    return [heard.get(emotion, 0.0) for heard in said.listen(audios)]


def pooled_events(rows: Sequence[Parts]) -> float:
    return event_f1(*(int(sum(row[name] for row in rows)) for name in ("hits", "found", "there"))).f1


def pooled_rating(rows: Sequence[Parts]) -> float:
    return concordance([row["said"] for row in rows], [row["rating"] for row in rows])


MEASURES: dict[str, Measure] = {
    "bleu": Measure(bleu, overlap.corpus_bleu, package="sacrebleu"),
    "rouge_1": Measure(partial(rouge, "rouge1"), package="rouge_score"),
    "rouge_2": Measure(partial(rouge, "rouge2"), package="rouge_score"),
    "rouge_l": Measure(partial(rouge, "rougeL"), package="rouge_score"),
    "choice": Measure(choice),
    "wer": Measure(wer),
    "repeat": Measure(repeat, pooled_repeat),
    "wer_emotion": Measure(wer_emotion, voice=True),
    "allowed_emotion": Measure(allowed_emotion, voice=True),
    "bbh": Measure(bbh),
    "ifeval": Measure(ifeval, voicebench.share_of_rules),
    "refusal": Measure(refusal),
    "event_f1": Measure(events, pooled_events),
    "concordance": Measure(rating, pooled_rating, FISHER),
    "attribution_words": Measure(words, item=False, voice=True),
    **{f"attribution_{name}": Measure(partial(feature, name), item=False, voice=True) for name in attribution.EDITS},
}


def check_measures(names: Sequence[str]) -> None:
    """Refuse a name that is none or comes twice, and a measure whose package is missing, before anything is asked."""
    for name in names:
        if name not in MEASURES:
            near = close(str(name), list(MEASURES))
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"measures must be some of {', '.join(MEASURES)}; got {name!r}{meant}")
        if MEASURES[name].package:
            overlap.check_installed(MEASURES[name].package, name)
    if twice := [name for name in MEASURES if list(names).count(name) > 1]:
        raise UserError(f"a measure must be named once; got {', '.join(twice)} several times; remove one")
