"""Systems under test: spoken queries in, spoken responses out.

`CascadeSystem` and `ToplineSystem` are the paper's baseline (the words alone, a neutral voice) and upper bound (gold
labels) of section 5.6; `RecordedSystem` brings responses that exist already. Programs, servers and trained policies
are beside this file (docs/systems.md tells which is for what). What a system answers to a query depends on that query
alone, never on the batch, so that a run can be cut and resumed anywhere.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lightning_paras2s.audio import MAX_SECONDS, read_audio, seconds_of
from lightning_paras2s.bench.queries.manifest import unheard_of
from lightning_paras2s.bench.systems.recordings import recorded_in, responses_of
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.data.embedded import authored, frames
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.acts import SLOT
from lightning_paras2s.judging.rubric import BEST_TONES, GENERIC, STOPWORDS
from lightning_paras2s.running.fields import is_text
from lightning_paras2s.running.logs import say, say_once
from lightning_paras2s.running.origins import file_sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.shipped import shipped
from lightning_paras2s.speaking.codec import load_codec, through_codec
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, Synthesizer
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query, Response, Style

SAMPLE_RATE = 16_000
NO_TURNS = "no_turns"  # the status of an answer to a query whose earlier turns its system can't carry
REMEMBERED = 64  # texts whose speech the agent's voice need not make again


@dataclass(frozen=True)
class Answer:
    """What a system gave for one query: speech (None if `status` says why there is none), its own text where it has
    one. The text "" says that nothing was meant: speech with words is then another thing than its text, and scores 1.
    """

    audio: Audio | None
    text: str | None = None
    status: str = "ok"
    latency: dict[str, float] = field(default_factory=dict)
    cost_usd: float | None = None


class S2SSystem(ABC):
    """A speech-to-speech system."""

    config_sha: str  # of everything that its answers depend on
    hears_alone: bool = True  # a recording is all it needs of a query
    told_all: bool = False  # its answers may be to what a query asks in writing, too, which nobody gives it here
    knows_turns: bool = True  # `carries` is sure before anything is asked
    off: str = ""  # why nothing will be answered any more, where that is so
    read_anew: bool = False  # answers of another config are asked for again, since that costs nothing, not refused

    def check(self, queries: list[Query], seconds: list[float]) -> None:  # noqa: B027
        """Refuse queries of these lengths before any is answered: a `UserError` that names the first.

        Most systems take any.
        """

    def carries(self, turns: Sequence[Turn]) -> bool:
        """Are these earlier turns (`Query.turns`, with their sound) part of what it answers? It is not asked about a
        query whose turns it would drop: that has the status "no_turns"."""
        return False

    def at_most_usd(self, seconds: list[float], turns: Sequence[Sequence[Turn]] = ()) -> float:
        """What answers to queries of these lengths can cost, with the earlier turns of each where any has some; most
        systems cost nothing."""
        return 0.0

    @abstractmethod
    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        """Answer each query; `sample` counts repeated answers to one query."""

    def release(self) -> None:  # noqa: B027
        """Give back the memory of weights; they are read again when the next answer is asked for. Most hold none."""


class CascadeSystem(S2SSystem):
    """Deaf to style: transcribe, answer the words with a generic reply, speak in a neutral voice (the paper's
    Whisper-GPT-TTS).

    Args:
        transcriber: hears the query's words.
        synthesizer: speaks the reply.
        tokenizer: weights of a codec to send the voice through, as a policy's is; none = as synthesised.
    """

    def __init__(self, transcriber: Transcriber, synthesizer: Synthesizer, tokenizer: InputPath | None = None) -> None:
        self.transcriber, self.voice = transcriber, _AgentVoice(synthesizer, tokenizer)
        self.replies = [f["frame"] for f in frames() if (f["factor"], f["split"]) == (GENERIC, "train")]
        parts = [transcriber.name, part_sha(transcriber), synthesizer.name, part_sha(synthesizer)]
        self.config_sha = digest([type(self).__name__, *parts, self.replies], [tokenizer])

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        heard = self.transcriber.transcribe(audios)
        replies = [choose(self.replies, words, sample).replace(SLOT, subject_of(words)) for words in heard]
        return [Answer(self.voice.speak(text, "neutral"), text) for text in replies]


class ToplineSystem(S2SSystem):
    """Told the gold label: the authored answer to that style in a tone that fits it (the paper's topline).

    Args:
        synthesizer: speaks the answer.
        tokenizer: as in `CascadeSystem`.
        split: whose reply frames it uses.
    """

    hears_alone = False

    def __init__(self, synthesizer: Synthesizer, tokenizer: str | None = None, split: str = "train") -> None:
        self.voice, self.frames = _AgentVoice(synthesizer, tokenizer), {}
        for frame in frames():
            if frame["split"] == split:
                self.frames.setdefault(frame["style"], []).append(frame["frame"])
        self.subjects = {q["text"]: q["subject"] for name in ("train", "val", "test") for q in authored(name)}
        self.config_sha = digest(
            [type(self).__name__, synthesizer.name, part_sha(synthesizer), self.frames, sorted(self.subjects)],
            [tokenizer],
        )

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        answers = []
        for query in queries:
            style = query.label
            if style not in self.frames:
                raise UserError(f"the topline answers to {', '.join(self.frames)}; got {style!r} in {query.id}")
            subject = self.subjects.get(query.text) or subject_of(query.text)
            text = choose(self.frames[style], query.id, sample).replace(SLOT, subject)
            tone = choose(sorted(BEST_TONES[style]), query.id, sample)
            answers.append(Answer(self.voice.speak(text, tone), text))
        return answers


class RecordedSystem(S2SSystem):
    """Responses that exist already; one that can't be read as audio has the status "bad_audio", one of more than 60 s
    "too_long".

    Args:
        responses: a JSON-lines file of response records (audio paths relative to it), or a folder of `<query
            id>.wav`, or .flac, .ogg, .opus, .mp3.
        system: which system's responses of a file that holds those of several.
    """

    hears_alone = False
    told_all = True
    read_anew = True

    def carries(self, turns: Sequence[Turn]) -> bool:
        say_once("recorded answers are taken as answers to the whole dialogue; what their system heard is not known")
        return True

    def __init__(self, responses: InputPath, system: str | None = None) -> None:
        path = Path(responses)
        self.root = path if path.is_dir() else path.parent
        rows = recorded_in(path) if path.is_dir() else responses_of(path, system)
        self.found = {(r.query_id, r.sample): r for r in rows}
        said = [(r.query_id, r.sample, r.text, r.status, file_sha(self._place(r)) if r.audio else "") for r in rows]
        self.config_sha = digest([type(self).__name__, said], [])

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        return [self._answer(self.found.get((query.id, sample))) for query in queries]

    def _place(self, response: Response) -> Path:
        inside = self.root / response.audio
        return inside if inside.is_file() else Path(response.audio)

    def _answer(self, response: Response | None) -> Answer:
        if response is None:
            return Answer(None, status="missing")
        if not response.audio or not self._place(response).is_file():
            return Answer(None, response.text, response.status if response.status != "ok" else "missing")
        answer = read_answer(self._place(response), response.text)
        if answer.status != "ok":
            return answer
        return replace(answer, status=response.status, latency=response.latency, cost_usd=response.cost_usd)


class _AgentVoice:
    """The agent's voice in a tone, through the codec if there is one."""

    def __init__(self, synthesizer: Synthesizer, tokenizer: str | None) -> None:
        self.synthesizer, self.tokenizer = synthesizer, None if tokenizer is None else load_codec(tokenizer)
        self.speak = lru_cache(REMEMBERED)(self._speak)  # the halves of a pair are often given the same answer

    def _speak(self, text: str, tone: str) -> Audio:
        audio = self.synthesizer.synthesize(text, Style(tone=tone), AGENT_VOICE)
        return audio if self.tokenizer is None else through_codec([audio], self.tokenizer)[0]


def read_answer(place: Path, text: str | None) -> Answer:
    """A recording as an answer; a status where it can't be read."""
    if text is not None and not (isinstance(text, str) and is_text(text)):
        return Answer(None, status="bad_text")
    try:
        if seconds_of(place) > MAX_SECONDS:
            return Answer(None, text or None, "too_long")
        return Answer(read_audio(place, SAMPLE_RATE), text or None)  # "" is no text to be compared with
    except (UserError, ValueError, OSError):  # ValueError: a NUL in the path
        return Answer(None, text, "bad_audio")


def usable(answer: Answer, max_seconds: float) -> Answer:
    """An answer that can be written and heard, else its status: speech that is not finite, or too long.

    Raises:
        UserError: its samples are no array [N] (but a tensor, or torchaudio's [1, N]).
    """
    if answer.audio is None:
        return answer
    samples = answer.audio.samples
    if not isinstance(samples, np.ndarray) or samples.ndim > 2 or samples.ndim == 2 and len(samples) < samples.shape[1]:
        got = f"{type(samples).__name__} {list(np.shape(samples))}"
        raise UserError(
            f"an answer's samples must be a NumPy array [N]; got {got}; mix its channels, make an array of a tensor"
        )
    if not len(samples):
        return answer
    if not np.isfinite(samples).all():
        return replace(answer, audio=None, status="bad_audio")
    return replace(answer, audio=None, status="too_long") if answer.audio.seconds > max_seconds else answer


def carried(system: S2SSystem, query: Query) -> bool:
    """Is a system asked about a query, all of it? (Its turns as they are heard.)"""
    return not query.turns or system.carries(query.turns)


def tell_turns(systems: Mapping[str, S2SSystem | None], queries: Sequence[Query], root: Path) -> None:
    """Say, before anything is asked, which systems are not asked about queries (of a manifest in `root`) with earlier
    turns."""
    there = [heard_turns(q, root) for q in queries if q.turns and not unheard_of(q, root)]
    for name, system in systems.items():
        if system is not None and (left := sum(not carried(system, q) for q in there)):
            say(
                f"{name}: {type(system).__name__} can't carry the earlier turns of {left} of {len(queries)} queries; "
                f"it is not asked about them (status {NO_TURNS})"
            )


def choose(options: list[str], key: str, sample: int) -> str:
    """One of the options, always the same for the same key and sample."""
    return options[int.from_bytes(hashlib.sha256(f"{key}/{sample}".encode()).digest()[:6]) % len(options)]


def subject_of(text: str) -> str:
    """A guess at what a sentence is about: its longest content word, the later of two."""
    words = [w for w in plain_words(text) if w not in STOPWORDS]
    return max(reversed(words), key=len) if words else "question"


def digest(settings: list, paths: Iterable[str | None]) -> str:
    """Short hash of settings and of the contents of files."""
    whole = hashlib.sha256(repr(settings).encode("utf-8", "backslashreplace"))
    for path in filter(None, paths):
        whole.update(shipped(path).read_bytes())
    return whole.hexdigest()[:16]
