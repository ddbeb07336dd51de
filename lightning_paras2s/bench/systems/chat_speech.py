"""The paper's systems from parts by name: Whisper-GPT-TTS and the GPT-TTS topline (section 5.6, Tables 3 and 9), and
a deliberately bad voice, after Table 1."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from lightning_paras2s.bench.queries.lists import parse_response
from lightning_paras2s.bench.queries.styles import RESPONSE_PROMPT
from lightning_paras2s.bench.systems.base import Answer, S2SSystem, choose, digest
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.rubric import BEST_TONES, CLASHING_TONES
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.parts import Conversation
from lightning_paras2s.servers.replies import Reply
from lightning_paras2s.servers.spending import tell_unpriced
from lightning_paras2s.speaking.remote import RemoteSynthesizer
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, Synthesizer
from lightning_paras2s.turns import Turn, after, all_written
from lightning_paras2s.types import TONES, Audio, Query, Style

CASCADE_PROMPT = (
    "You are a voice assistant. Answer what the user says in one or two sentences that can be spoken aloud: no lists, "
    "no markup."
)
# Bounds from above, for what an answer can cost: `servers.chat.CHARACTERS_A_TOKEN` is one from below.
MOST_CHARACTERS_A_SECOND = 30.0  # of what is said in a recording; fast English has about 20
MOST_CHARACTERS_A_TOKEN = 6.0  # of what a chat model writes; English has about 4


class SpokenChatSystem(S2SSystem):
    """A chat model's words, spoken by a synthesizer. An answer costs what both cost.

    Args:
        llm: writes what is spoken.
        synthesizer: speaks it.
        voice: the synthesizer's name for it.
        max_usd: no query is answered that could take this object's spending, on words and speech, above it.
    """

    def __init__(self, llm: ChatLLM, synthesizer: Synthesizer, voice: str, max_usd: float | None) -> None:
        if max_usd is not None and not llm.priced:
            raise UserError(f"max_usd needs the chat model's price; got {llm.name!r}; give llm.usd_per_million")
        self.llm, self.synthesizer, self.voice = llm, synthesizer, voice
        self.max_usd, self.spent_usd = max_usd, 0.0

    @abstractmethod
    def answers(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        """An answer a query, all of which may be paid for."""

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        asked = range(len(queries)) if self.max_usd is None else self.affordable(queries, audios, self.max_usd)
        found = self.answers([queries[i] for i in asked], [audios[i] for i in asked], sample)
        self.spent_usd += sum(answer.cost_usd or 0.0 for answer in found)
        answered = dict(zip(asked, found, strict=True))
        return [answered.get(i) or Answer(None, status="max_usd") for i in range(len(queries))]

    def affordable(self, queries: list[Query], audios: list[Audio], max_usd: float) -> list[int]:
        """Places of the queries that can be answered, whatever it costs, within what may be spent."""
        found, reserved = [], self.spent_usd
        for i, (query, audio) in enumerate(zip(queries, audios, strict=True)):
            most = self.at_most_usd([audio.seconds], [query.turns])
            if reserved + most <= max_usd:
                found.append(i)
                reserved += most
        return found


class ChatCascadeSystem(SpokenChatSystem):
    """Deaf to style: a transcriber's words, any chat model's reply, any voice in one tone (the paper's
    Whisper-GPT-TTS). Earlier turns are messages: a user's as the transcriber hears it where there is a recording, else
    as it is written; an assistant's as it is written.

    Args:
        transcriber: hears the query's words.
        llm: answers them.
        synthesizer: speaks the reply.
        voice: the synthesizer's name for it.
        instructions: the chat model's system message.
        tone: in which every reply is spoken.
        max_usd: no query is answered that could take this object's spending, on words and speech, above it.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        llm: ChatLLM,
        synthesizer: Synthesizer,
        voice: str = AGENT_VOICE,
        instructions: str = CASCADE_PROMPT,
        tone: str = "neutral",
        max_usd: float | None = None,
    ) -> None:
        super().__init__(llm, synthesizer, voice, max_usd)
        self.transcriber, self.instructions, self.tone = transcriber, instructions, tone
        parts = [transcriber.name, part_sha(transcriber), llm.name, part_sha(llm), *voice_of(synthesizer, voice)]
        self.config_sha = digest([type(self).__name__, *parts, instructions, tone], [])

    def carries(self, turns: Sequence[Turn]) -> bool:
        return True

    def at_most_usd(self, seconds: list[float], turns: Sequence[Sequence[Turn]] = ()) -> float:
        asked = []
        for length, before in zip_longest(seconds, turns, fillvalue=()):
            said = [longest(t.seconds) if t.role == "user" and t.sound is not None else t.text for t in before]
            words = [self.instructions, *said, longest(length)]
            asked.append([{"role": "user", "content": text} for text in words])
        return at_most_usd(self.llm, self.synthesizer, asked)

    def answers(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        found = replies_to(self.llm, queries, self.asked(queries, audios), sample)
        replies = [self.answer_of(reply) for reply in found]
        return [spoken(self.synthesizer, self.voice, reply, reply.text, self.tone) for reply in replies]

    def asked(self, queries: list[Query], audios: list[Audio]) -> list[list[dict[str, str]]]:
        """The conversation about each query that the chat model goes on with."""
        sounds = [[t.sound for t in q.turns if t.role == "user" and t.sound is not None] for q in queries]
        said = iter(self.transcriber.write_down([*audios, *(sound for before in sounds for sound in before)]))
        heard = [next(said) for _ in audios]
        return [
            [
                {"role": "system", "content": self.instructions},
                *[{"role": t.role, "content": words_of(t, said)} for t in q.turns],
                {"role": "user", "content": words or "(silence)"},
            ]
            for q, words in zip(queries, heard, strict=True)
        ]

    def answer_of(self, reply: Reply) -> Reply:
        """What of a reply is spoken."""
        return reply


class ChatToplineSystem(SpokenChatSystem):
    """Told the words and the gold label: a chat model writes the reply and its tone, any voice speaks it so (the
    paper's GPT-TTS topline; with CsmTTS, CosyVoice or YourTTS the good voices of Table 1). Earlier turns are told
    before, with their styles as far as they are known.

    Args:
        llm: writes reply and tone.
        synthesizer: speaks the reply.
        voice: the synthesizer's name for it.
        max_usd: no query is answered that could take this object's spending, on words and speech, above it.
    """

    hears_alone = False

    def __init__(
        self, llm: ChatLLM, synthesizer: Synthesizer, voice: str = AGENT_VOICE, max_usd: float | None = None
    ) -> None:
        super().__init__(llm, synthesizer, voice, max_usd)
        parts = [llm.name, part_sha(llm), *voice_of(synthesizer, voice)]
        self.config_sha = digest([type(self).__name__, *parts, RESPONSE_PROMPT], [])

    def carries(self, turns: Sequence[Turn]) -> bool:
        return all_written(turns)

    def at_most_usd(self, seconds: list[float], turns: Sequence[Sequence[Turn]] = ()) -> float:
        asked = []
        for length, before in zip_longest(seconds, turns, fillvalue=()):
            prompt = RESPONSE_PROMPT.format(text=longest(length), factor=longest(1.0), style=longest(1.0))
            asked.append([{"role": "user", "content": after(before, prompt)}])
        return at_most_usd(self.llm, self.synthesizer, asked)

    def answers(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        for query in queries:
            if query.factor not in query.styles:
                raise UserError(f"the topline needs each query's {query.factor} label; got none in {query.id}")
        asked = [
            [
                {
                    "role": "user",
                    "content": after(
                        q.turns, RESPONSE_PROMPT.format(text=q.text, factor=q.factor, style=q.styles[q.factor])
                    ),
                }
            ]
            for q in queries
        ]
        answers = []
        for query, reply in zip(queries, replies_to(self.llm, queries, asked, sample), strict=True):
            found = parse_response(reply.text) if reply.text else None
            if reply.text and found is None:
                reply = replace(reply, text=None, status="unparsed")
            words, tone = found or (None, "")
            answers.append(spoken(self.synthesizer, self.voice, reply, words, self.tone_of(query, tone, sample)))
        return answers

    def tone_of(self, query: Query, tone: str, sample: int) -> str:
        """In which tone the reply is spoken."""
        return tone


class MisfitVoiceSystem(ChatToplineSystem):
    """The topline's words in a tone that does not fit the speaker: a judge that hears must score it lower. The paper's
    gpt-4o-mini-tts (bad), Table 1, also has words that do not fit (section 5.1: "suboptimal content or style").

    Args:
        llm: writes the reply.
        synthesizer: speaks it.
    """

    def tone_of(self, query: Query, tone: str, sample: int) -> str:
        style = query.styles[query.factor]
        others = set(TONES) - BEST_TONES[style] - {"neutral"}  # for a style with which no tone clashes
        return choose(sorted(CLASHING_TONES[style] or others), query.id, sample)


def words_of(turn: Turn, heard: Iterator[str]) -> str:
    """A turn's words; those of a user's recording are the next that were heard."""
    if turn.role == "user" and turn.sound is not None:
        return next(heard) or "(silence)"
    return turn.text


def replies_to(llm: ChatLLM, queries: list[Query], asked: list[Conversation], sample: int) -> list[Reply]:
    """A chat model's replies of a sample: each is its query's own, though another query may have the same words."""
    return llm.complete(asked, [f"{query.id}/{sample}" for query in queries])


def longest(seconds: float) -> str:
    """As many characters as can be said in a recording."""
    return "x" * math.ceil(seconds * MOST_CHARACTERS_A_SECOND)


def at_most_usd(llm: ChatLLM, synthesizer: Synthesizer, asked: Sequence[Conversation]) -> float:
    """What replies to conversations, and their speech, can cost."""
    tell_unpriced(llm)
    spoken = synthesizer.at_most_usd(llm.max_tokens * MOST_CHARACTERS_A_TOKEN)
    return sum(map(llm.at_most, asked)) + len(asked) * spoken


def voice_of(synthesizer: Synthesizer, voice: str) -> list[str]:
    return [synthesizer.name, part_sha(synthesizer), voice]


def spoken(synthesizer: Synthesizer, voice: str, reply: Reply, words: str | None, tone: str) -> Answer:
    """A reply as an answer with speech, its status where there is none, and what both cost."""
    if words is None:
        return Answer(None, status=reply.status, cost_usd=reply.cost_usd)
    style = Style(tone=tone)
    if not isinstance(synthesizer, RemoteSynthesizer):
        return Answer(synthesizer.synthesize(words, style, voice), words, cost_usd=reply.cost_usd)
    before = synthesizer.beside_usd
    audio, status = synthesizer.try_synthesize(words, style, voice)
    cost = 0.0 if audio is None else audio.seconds / 60 * synthesizer.usd_per_minute
    return Answer(audio, words, status, cost_usd=reply.cost_usd + cost + synthesizer.beside_usd - before)
