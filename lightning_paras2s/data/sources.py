"""Where dialogues come from: the embedded text set (spoken by eSpeak NG), or a manifest of recordings.

The embedded policy is raised as Kimi-Audio was: a base is pre-trained to hear and to speak (read aloud in a tone, echo,
name the speaker's attributes, style-blind dialogue); SFT then shows demonstrations; RL sees new queries without labels
or answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_paras2s.data.dialogue import Dialogue, RecordedUtterance, heard_turns
from lightning_paras2s.data.domains import domain_of
from lightning_paras2s.data.embedded import (
    Line,
    TextQuery,
    agent_lines,
    demonstration_tone,
    query_lines,
    reply,
    text_queries,
    user_line,
)
from lightning_paras2s.data.fitting import about_another, about_fitting, fitting_reply
from lightning_paras2s.data.spoken import corpus
from lightning_paras2s.data.style_blind import style_blind
from lightning_paras2s.errors import InputPath, UserError, check_choice, check_share
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE
from lightning_paras2s.types import SPLITS, STYLES, Query, Response, Style, read_jsonl


class DialogueSource(ABC):
    """Gives the dialogues of a split, always the same ones in the same order."""

    @abstractmethod
    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]: ...


class PretrainingDialogues(DialogueSource):
    """Tasks that teach the base to hear and to speak, but no manners.

    Args:
        read: text and a tone in, the words read aloud in that tone out.
        echo: user speech in, the same words out, neutral.
        name: user speech in, the names of the speaker's attributes out, neutral.
        chat: user speech in, a reply to a *random* style in a random tone out; every second query about another
            query's subject (`about_another`).
        seed: of texts, voices and tones.
    """

    def __init__(
        self, read: int = 10000, echo: int = 3000, name: int = 8000, chat: int = 5000, seed: int = 100
    ) -> None:
        self.sizes, self.seed = {"read": read, "echo": echo, "name": name, "chat": chat}, seed

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        share, voices = (1.0, "train") if split == "train" else (0.02, "val")
        seed = self.seed if split == "train" else self.seed + 50
        size = {task: int(count * share) for task, count in self.sizes.items()}
        made = []
        for line in agent_lines(size["read"], seed, "train", 0.6 if split == "train" else 0.0):
            made.append(("read", f"{line.style.tone} {line.text}", None, line))
        for line in query_lines(size["echo"], seed + 1, voices, 0.5):
            made.append(("echo", line.text, line, Line(line.text, Style(tone="neutral"), AGENT_VOICE, 0)))
        for line in query_lines(size["name"], seed + 2, voices, 0.5):
            names = Line(spoken_names(line.style), Style(tone="neutral"), AGENT_VOICE, 0)
            made.append(("name", line.text, line, names))
        made += [("chat", line.text, line, answer) for line, answer in style_blind(size["chat"], seed + 3, voices)]
        return _spoken(made, cache_dir)


class Demonstrations(DialogueSource):
    """Queries in both styles with fitting answers in fitting tones (paper, section 4.1).

    Args:
        share: of the queries that have demonstrations (every second training query; the others are left to RL).
        renditions: recordings (voice, variation, answer) of each query and style.
        exchanged: share of renditions that are about the subject of another training query, so that the answer's
            subject has to be copied and can't be remembered. The other query lends one noun; its answers are not seen.
        subjects: "fitting" exchanges a subject only for one that its sentence can hold, and answers only with replies
            that can name it (`data/fitting.py`); "any" takes any noun and any reply of the style, whether that makes
            sense or not: the shipped weights were made so. Validation shows queries as they are, with any reply.
        rehearsal: number of echoes, and of namings, mixed in (pre-training's tasks), so that neither copying nor the
            hearing of styles fades.
        reading: number of texts read aloud, mixed in likewise: the voice for words that no demonstration has.
        shuffled: controls from which no style can be learnt: answers are dealt out at random among all "queries", or go
            to either of the two "styles" of their query. "" is no control.
        seed: of voices, variations and answers.
    """

    def __init__(
        self,
        share: float = 1.0,
        renditions: int = 4,
        exchanged: float = 0.9,
        rehearsal: int = 0,
        reading: int = 0,
        shuffled: Literal["", "queries", "styles"] = "",
        seed: int = 200,
        subjects: Literal["fitting", "any"] = "fitting",
    ) -> None:
        check_share("share", share)
        check_share("exchanged", exchanged)
        if subjects not in ("fitting", "any"):
            raise UserError(f"subjects must be fitting or any; got {subjects!r}")
        if shuffled not in ("", "queries", "styles"):
            raise UserError(f"shuffled must be queries, styles or empty; got {shuffled!r}")
        self.share, self.renditions, self.exchanged, self.shuffled = share, renditions, exchanged, shuffled
        self.rehearsal, self.reading, self.seed, self.subjects = rehearsal, reading, seed, subjects

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        lines = self.lines(split)
        shown = [replace(d, transcript=None) for d in _spoken([("chat", u.text, u, a) for u, a in lines], cache_dir)]
        return shown + self._rehearsed(cache_dir) if split == "train" else shown

    def lines(self, split: str) -> list[tuple[Line, Line]]:
        """What users and the agent say, before it is spoken."""
        random = np.random.default_rng(self.seed + len(split))
        queries = demonstrated_queries(self.share) if split == "train" else text_queries("val")
        renditions = self.renditions if split == "train" else 1
        lines = []
        for query, style in [(q, s) for q in queries for s in q.styles for _ in range(renditions)]:
            if split == "train" and random.random() < self.exchanged:
                query = self._exchanged(query, random)
            user = user_line(query, style, split, random)
            if self.shuffled == "styles":
                style = query.styles[random.integers(2)]
            tone = demonstration_tone(style, random)
            fitting = split == "train" and self.subjects == "fitting"
            text = fitting_reply(query, style, random) if fitting else reply(query, style, split, random)
            lines.append((user, Line(text, Style(tone=tone), AGENT_VOICE, 0)))
        if self.shuffled == "queries":
            order = random.permutation(len(lines))
            lines = [(user, lines[i][1]) for (user, _), i in zip(lines, order, strict=True)]
        return lines

    def _exchanged(self, query: TextQuery, random: np.random.Generator) -> TextQuery:
        if self.subjects == "fitting":
            return about_fitting(query, random)
        return about_another(query, text_queries("train"), random)

    def _rehearsed(self, cache_dir: str) -> list[Dialogue]:
        if not self.rehearsal + self.reading:
            return []
        sizes = {"read": self.reading, "echo": self.rehearsal, "name": self.rehearsal, "chat": 0}
        return PretrainingDialogues(**sizes, seed=self.seed).dialogues("train", cache_dir)


class UnlabelledQueries(DialogueSource):
    """Queries for RL: the training queries without demonstrations, in both styles; `query` holds labels for judges
    only.

    Args:
        renditions: recordings of each training query and style: a number, or one for each factor or style named, and 1
            for the others.
        demonstrated: `Demonstrations.share` of the supervised policy; the queries whose demonstrations it never saw are
            for RL too.
        seed: of voices and variations.
        limit: recordings to train on, drawn at random; 0 = all. A short run need not wait until all are spoken.
        domain: train on the topics of one domain alone, "first" or "second" (`data/domains.py`); "all" = on both.
    """

    def __init__(
        self,
        renditions: int | dict[str, int] = 1,
        demonstrated: float = 1.0,
        seed: int = 300,
        limit: int = 0,
        domain: Literal["all", "first", "second"] = "all",
    ) -> None:
        check_share("demonstrated", demonstrated)
        if limit < 0:
            raise UserError(f"limit must be 0 (all) or above; got {limit}; change it")
        self.counts = renditions if isinstance(renditions, dict) else dict.fromkeys(STYLES, renditions)
        if unknown := set(self.counts).difference(STYLES, *STYLES.values()):
            raise UserError(f"renditions must be a number or name factors and styles; got {', '.join(sorted(unknown))}")
        self.renditions, self.demonstrated, self.seed, self.limit = renditions, demonstrated, seed, limit
        self.domain = domain

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        random = np.random.default_rng(self.seed + len(split))
        shown = set(demonstrated_queries(self.demonstrated))
        queries = [q for q in text_queries("train") if q not in shown] if split == "train" else text_queries("val")
        if split == "train" and self.domain != "all":
            queries = [q for q in queries if domain_of(q.factor, q.topic) == self.domain]
        counts = self.counts if split == "train" else {}
        pairs = [(q, s) for q in queries for s in q.styles for _ in range(counts.get(s, counts.get(q.factor, 1)))]
        limit = self.limit if split == "train" else 0
        order = random.permutation(len(pairs))[: limit or None]
        return spoken_queries([pairs[i] for i in order], split, cache_dir, random)


class ManifestDialogues(DialogueSource):
    """Recordings listed in manifests: of queries for RL, reward data and prediction, and of answers for SFT.

    Args:
        manifest: JSON lines of `Query` records, for training, none of the split test; audio paths are relative to the
            file.
        val: the same for validation; None = there is none.
        answers: JSON lines of `Response` records (`query_id`, `audio`, `text`), one a query of both, for SFT; None =
            queries alone.
    """

    def __init__(self, manifest: InputPath, val: InputPath | None = None, answers: InputPath | None = None) -> None:
        self.manifests, self.answers = {"train": manifest, "val": val}, answers

    def dialogues(self, split: str, cache_dir: str) -> list[Dialogue]:
        path = self.manifests[split]
        if path is None:
            return []
        queries, root = read_jsonl(path, Query), Path(path).parent
        if not queries:
            raise UserError(f"a manifest must list at least one query; got none in {path}; write it with `synthesize`")
        answers = self._answers(path, queries)
        found = []
        for number, query in enumerate(queries, 1):
            check_choice(f"{path}:{number}: the split of {query.id!r}", query.split, SPLITS)
            if split == "train" and query.split == "test":
                raise UserError(
                    f"{path}:{number}: a query to train on must not be of the split test; got {query.id!r}; take "
                    "others, or make its manifest with --split train"
                )
            try:
                user = RecordedUtterance(root / query.audio, query.text, query.style)
                user.seconds  # noqa: B018  refuses what can't be read
                query = heard_turns(query, root)
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from None
            found.append(Dialogue("chat", None, user, answers.get(query.id), query))
        return found

    def _answers(self, path: str, queries: list[Query]) -> dict[str, RecordedUtterance]:
        if self.answers is None:
            return {}
        root, found = Path(self.answers).parent, {}
        for number, row in enumerate(read_jsonl(self.answers, Response), 1):
            if why := unfit(row, found):
                raise UserError(f"{self.answers}:{number}: {why}; mend the line or leave it out")
            found[row.query_id] = row
        if missing := next((q.id for q in queries if q.id not in found), None):
            raise UserError(f"{self.answers} must answer every query of {path}; {missing!r} has no answer; add it")
        return {i: RecordedUtterance(root / r.audio, r.text, Style()) for i, r in found.items()}


def unfit(answer: Response, others: dict[str, Response]) -> str:
    """Why an answer is none to learn; "" where it is. `others` are those before it, by their query."""
    if answer.status != "ok":
        return f"an answer to learn must have the status ok; got {answer.status!r}"
    if not plain_words(answer.text or ""):
        return f"an answer to learn must have its words as text; got {answer.text!r}"
    if answer.query_id in others:
        return f"a query must have one answer to learn; got a second one to {answer.query_id!r}"
    return ""


def demonstrated_queries(share: float) -> list[TextQuery]:
    """Every second training query, thinned evenly to `share`."""
    every = [q for i, q in enumerate(text_queries("train")) if i % 2 == 0]
    count = max(1, round(share * len(every)))
    return [every[int(i * len(every) / count)] for i in range(count)]


def spoken_queries(
    pairs: list[tuple[TextQuery, str]], split: str, cache_dir: str, random: np.random.Generator
) -> list[Dialogue]:
    """Queries with their records and waveforms, without answers."""
    lines = [user_line(query, style, split, random, True) for query, style in pairs]
    dialogues = []
    for index, ((query, style), line, utterance) in enumerate(zip(pairs, lines, corpus(lines, cache_dir), strict=True)):
        styles = {k: v for k, v in asdict(line.style).items() if v and k != "tone"}
        about = (query.id, query.factor, query.split, query.text, styles, query.topic)
        record = Query(f"{query.id}-{style}-{index}", *about, "", line.voice)
        dialogues.append(Dialogue("chat", None, utterance, None, record))
    return dialogues


def spoken_names(style: Style) -> str:
    """What can be told of a speaker, as words."""
    known = (style.emotion or style.sarcasm, style.age, style.gender if style.age == "adult" else None)
    return " ".join(name for name in known if name)


def _spoken(made: list[tuple[str, str, Line | None, Line]], cache_dir: str) -> list[Dialogue]:
    users = iter(corpus([user for _, _, user, _ in made if user], cache_dir) if any(m[2] for m in made) else [])
    agents = corpus([agent for *_, agent in made], cache_dir)
    return [
        Dialogue(task, transcript, next(users) if user else None, agent)
        for (task, transcript, user, _), agent in zip(made, agents, strict=True)
    ]
