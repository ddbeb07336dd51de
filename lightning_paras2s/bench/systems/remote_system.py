"""Systems behind a server that is paid by the token: bounded, patient, with a price before, a cap, and all that was
spent."""

from __future__ import annotations

import json
import math
import re
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lightning_paras2s.audio import resample
from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer, S2SSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.remote import Answer as Got
from lightning_paras2s.servers.remote import Gate, Patience, ask, gather
from lightning_paras2s.servers.replies import Account
from lightning_paras2s.servers.spoken import Spoken, Usage
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query

AUDIO_TOKENS_A_SECOND = 33.0  # of what is sent; no server here counts more (OpenAI 10, Gemini 25 to 32)
TEXT_TOKENS = 200.0  # of a request's frame that its bytes don't show, at most


@dataclass(frozen=True)
class Prices:
    """USD a million tokens.

    Args:
        text_in: of text that is sent.
        audio_in: of speech that is sent.
        text_out: of text that comes back.
        audio_out: of speech that comes back.
    """

    text_in: float
    audio_in: float
    text_out: float
    audio_out: float

    def of(self, usage: Usage) -> float:
        """USD."""
        text = usage.text_in * self.text_in + usage.text_out * self.text_out
        return (text + usage.audio_in * self.audio_in + usage.audio_out * self.audio_out) / 1e6


class RemoteSystem(S2SSystem):
    """A system behind HTTP; what one family of servers speaks is a subclass's. No bad answer raises: it has a status.

    After an answer that shows that all others would fail as well (a wrong key, an unknown model, an empty account), the
    others of the batch are not asked; where none was answered, that is a `UserError`. The next batch is asked again: an
    account may have been topped up.

    Args:
        api_key_env: the environment variable that holds the key; a server without keys needs none.
        patience: retries, timeout, waits.
        max_usd: no request is sent that could take this object's spending above it.
        prices: where they are not known by the model's name.
    """

    speech = re.compile(rb'"data":\s*"[^"]')  # where speech begins in what is streamed

    def __init__(
        self,
        url: str,
        api_key_env: str,
        concurrency: int,
        patience: Patience,
        max_usd: float | None,
        prices: Prices | None,
        max_tokens: int,
        streams: bool,
    ) -> None:
        if max_usd is not None and prices is None:
            raise UserError(f"max_usd needs the model's price; got {url} without one; give prices")
        self.url, self.account, self.concurrency, self.patience = url, Account(url, api_key_env), concurrency, patience
        self.max_usd, self.prices, self.max_tokens, self.streams = max_usd, prices, max_tokens, streams
        self.spent_usd, self.reserved_usd = 0.0, 0.0
        self.broken, self.fingerprint = "", ""  # `broken`: why every further request of a batch would fail

    @abstractmethod
    def request(self, turns: Sequence[Turn], audio: Audio, sample: int) -> dict[str, Any]:
        """The keywords of a POST that asks about a recording, `turns` having been said before."""

    @abstractmethod
    def read(self, said: Any) -> Spoken:
        """What an answer's body says (of a conversation: its events); raises ValueError for one that is cut or
        malformed."""

    @property
    @abstractmethod
    def sent(self) -> dict[str, Any]:
        """What every request holds beside turns and recording: instructions, options."""

    def carries(self, turns: Sequence[Turn]) -> bool:
        return True

    def at_most_usd(self, seconds: list[float], turns: Sequence[Sequence[Turn]] = ()) -> float:
        if self.prices is None:
            say_once(f"the price of {self.url} is not known, its answers count as free; give prices")
            return 0.0
        return sum(self._at_most(s, said) for s, said in zip_longest(seconds, turns, fillvalue=()))

    def _at_most(self, seconds: float, turns: Sequence[Turn]) -> float:
        heard = math.ceil((seconds + sum(turn.seconds for turn in turns)) * AUDIO_TOKENS_A_SECOND)
        written = len(json.dumps(self.sent))  # no token is less than a byte
        written += sum(len(turn.text.encode()) for turn in turns)
        said = max(self.prices.text_out, self.prices.audio_out) * self.max_tokens / 1e6
        return self.prices.of(Usage(text_in=TEXT_TOKENS + written, audio_in=heard)) + said

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        self.broken, gate = "", Gate()

        async def work(session: Any, asked: tuple[Sequence[Turn], Audio]) -> Answer:
            return await self._ask(session, gate, *asked, sample)

        asked = [(query.turns, audio) for query, audio in zip(queries, audios, strict=True)]
        answers = gather(asked, work, self.concurrency, self.patience)
        if self.broken and not any(answer.audio for answer in answers):
            raise UserError(self.broken)
        if self.broken:
            say_once(self.broken)
        return answers

    async def exchange(self, session: Any, gate: Gate, tries: Tries) -> Got:
        """Ask about one query until there is an answer, or patience ends."""
        return await ask(session, tries.request, tries.read, self.patience, gate, tries.watch)

    async def _ask(self, session: Any, gate: Gate, turns: Sequence[Turn], audio: Audio, sample: int) -> Answer:
        if self.broken:
            return Answer(None, status="not_asked")
        reserved = 0.0 if self.prices is None else self._at_most(audio.seconds, turns)
        if self.max_usd is not None and self.spent_usd + self.reserved_usd + reserved > self.max_usd:
            return Answer(None, status="max_usd")
        self.reserved_usd += reserved
        tries = Tries(self, turns, audio, sample, reserved)
        got = await self.exchange(session, gate, tries)
        self.reserved_usd -= reserved
        cost = tries.cost(got.status == "ok")
        self.spent_usd += cost
        self.broken = self.account.hopeless(got) or self.broken
        cost_usd = None if self.prices is None else cost
        if got.status != "ok":
            return Answer(None, status=got.status, cost_usd=cost_usd)
        said: Spoken = got.value
        self._know(said.fingerprint)
        speech = None if said.audio is None else resample(said.audio, SAMPLE_RATE)
        return Answer(speech, said.text, said.status, tries.latency(), cost_usd)

    def _know(self, fingerprint: str) -> None:
        """Tell where a server's answers come from another model than before."""
        if fingerprint and self.fingerprint and fingerprint != self.fingerprint:
            say_once(f"{self.url} answers with {fingerprint}, before with {self.fingerprint}: another model or set-up")
        self.fingerprint = fingerprint or self.fingerprint


class Tries:
    """The attempts at one query: what each cost, and how long the good one took."""

    def __init__(self, system: RemoteSystem, turns: Sequence[Turn], audio: Audio, sample: int, at_most: float) -> None:
        self.system, self.turns, self.audio, self.sample, self.at_most = system, turns, audio, sample, at_most
        self.spent, self.pending = 0.0, 0.0  # pending: of a body that began and was not read to its end
        self.started = self.ended = time.perf_counter()
        self.first: float | None = None
        self.tail = b""

    def request(self) -> dict[str, Any]:
        self.spent, self.pending, self.first, self.tail = self.spent + self.pending, 0.0, None, b""
        self.started = time.perf_counter()
        return self.system.request(self.turns, self.audio, self.sample)

    def watch(self, piece: bytes) -> None:
        """A piece of the answer came."""
        self.pending = self.at_most
        if self.system.streams and self.first is None:
            self.tail = self.tail[-64:] + piece
            if self.system.speech.search(self.tail):
                self.first = time.perf_counter() - self.started

    def read(self, answer: Any) -> Spoken:
        said = self.system.read(answer)
        self.ended = time.perf_counter()
        self.pending = 0.0
        if self.system.prices is not None:
            self.spent += self.at_most if said.usage is None else self.system.prices.of(said.usage)
        return said

    def cost(self, answered: bool) -> float:
        """USD of all attempts; one whose answer was cut counts as the most that it can have cost."""
        return self.spent if answered else self.spent + self.pending

    def latency(self) -> dict[str, float]:
        first = {} if self.first is None else {"first_audio_seconds": self.first}
        return {**first, "total_seconds": self.ended - self.started}
