"""Cascades that hear the manner: the chat model reads how the words were said (DeSTA2's captions), and may think about
it before it answers (OSUM-EChat). Beside the deaf cascade they tell what hearing alone, and thinking alone, bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from lightning_paras2s.bench.measures.captions import answer_after_thinking, speech_caption
from lightning_paras2s.bench.systems.base import digest
from lightning_paras2s.bench.systems.chat_speech import CASCADE_PROMPT, ChatCascadeSystem, voice_of
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.replies import Reply
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, Synthesizer
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query

CAPTION_PROMPT = (
    f"{CASCADE_PROMPT} Each message is a recording in words: when, what was said, and in brackets how it sounded. "
    "Answer the person, so that it fits how they sound; don't mention the brackets."
)
THINKING_PROMPT = (
    f"{CAPTION_PROMPT} First think, between <think> and </think>: what do the words say, how does the person sound, "
    "and what do they need? Then write the answer alone."
)


class CaptionCascadeSystem(ChatCascadeSystem):
    """A transcriber's words with a recogniser's styles as one line of text, any chat model's reply, any voice in one
    tone (DeSTA2's captions, arXiv 2409.20007).

    Args:
        recognizer: hears how they were said.
        llm: answers the caption.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        recognizer: StyleRecognizer,
        llm: ChatLLM,
        synthesizer: Synthesizer,
        voice: str = AGENT_VOICE,
        instructions: str = CAPTION_PROMPT,
        tone: str = "neutral",
        max_usd: float | None = None,
    ) -> None:
        super().__init__(transcriber, llm, synthesizer, voice, instructions, tone, max_usd)
        self.recognizer = recognizer
        parts = [part for one in (transcriber, recognizer, llm) for part in (one.name, part_sha(one))]
        parts += [*voice_of(synthesizer, voice), instructions, tone]
        self.config_sha = digest([type(self).__name__, *parts], [])

    def carries(self, turns: Sequence[Turn]) -> bool:
        return False

    def asked(self, queries: list[Query], audios: list[Audio]) -> list[list[dict[str, str]]]:
        said = self.transcriber.write_down(audios)
        styles = self.recognizer.recognize(audios, "query")
        captions = [
            speech_caption(words, asdict(style), 0.0, audio.seconds)
            for words, style, audio in zip(said, styles, audios, strict=True)
        ]
        return [
            [{"role": "system", "content": self.instructions}, {"role": "user", "content": caption}]
            for caption in captions
        ]


class ThinkingCascadeSystem(CaptionCascadeSystem):
    """As `CaptionCascadeSystem`; the chat model thinks about words and manner before it answers, and only the answer is
    spoken (OSUM-EChat's dual thinking, arXiv 2508.09600). A reply that never leaves its thought is "unparsed".

    Args:
        llm: thinks, and answers.
        synthesizer: speaks the answer.
        tone: in which every answer is spoken.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        recognizer: StyleRecognizer,
        llm: ChatLLM,
        synthesizer: Synthesizer,
        voice: str = AGENT_VOICE,
        instructions: str = THINKING_PROMPT,
        tone: str = "neutral",
        max_usd: float | None = None,
    ) -> None:
        super().__init__(transcriber, recognizer, llm, synthesizer, voice, instructions, tone, max_usd)

    def answer_of(self, reply: Reply) -> Reply:
        if not reply.text:
            return reply
        answer = answer_after_thinking(reply.text).answer
        return replace(reply, text=answer, status=reply.status if answer else "unparsed")
