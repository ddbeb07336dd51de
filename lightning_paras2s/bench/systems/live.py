"""Systems behind a websocket: a conversation of its own for each query, over a connection of its own.

GPT-4o's realtime voice and Gemini's native audio speak such protocols; what differs between them is a subclass's.
"""

from __future__ import annotations

import asyncio
import base64
import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_paras2s.audio import resample
from lightning_paras2s.bench.systems.remote_system import RemoteSystem, Tries
from lightning_paras2s.running.fields import json_object
from lightning_paras2s.servers.remote import Answer as Got
from lightning_paras2s.servers.remote import Gate, patiently, retry_after
from lightning_paras2s.servers.spoken import EXACT, Spoken
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio

REFUSED = {1007: "http_400", 1008: "http_403"}  # close codes: what was sent is wrong, or not allowed


class EventError(Exception):
    """A server's event says that it failed: with the HTTP status that means the same."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class LiveSystem(RemoteSystem):
    """A server with a protocol of JSON events: set up, ready, ask, pieces of an answer, done.

    Args:
        max_usd: no conversation is begun that could take this object's spending above it.
    """

    @abstractmethod
    def connection(self) -> dict[str, Any]:
        """The keywords of a websocket's opening."""

    @abstractmethod
    def setup(self) -> dict[str, Any]:
        """The first event that is sent."""

    @abstractmethod
    def ready(self, event: dict[str, Any]) -> bool:
        """Does this event say that one may ask?"""

    @abstractmethod
    def ask(self, turns: Sequence[Turn], audio: Audio) -> list[dict[str, Any]]:
        """The events that tell what was said before, and ask about a recording."""

    @abstractmethod
    def done(self, event: dict[str, Any]) -> bool:
        """Does this event end the answer? Raises `EventError` for one that says that it failed."""

    @abstractmethod
    def read(self, said: list[dict[str, Any]]) -> Spoken:
        """What an answer's events say; raises ValueError for one that is cut or malformed."""

    @property
    def sent(self) -> dict[str, Any]:
        return self.setup()

    def request(self, turns: Sequence[Turn], audio: Audio, sample: int) -> dict[str, Any]:
        return self.connection()

    async def exchange(self, session: Any, gate: Gate, tries: Tries) -> Got:
        return await patiently(lambda attempt: self._once(session, tries, attempt), self.patience, gate)

    async def _once(self, session: Any, tries: Tries, attempt: int) -> tuple[Got, float | None]:
        """One conversation -> the answer, and the seconds of a Retry-After at its opening."""
        import aiohttp

        options = tries.request()
        try:
            async with asyncio.timeout(self.patience.timeout_seconds):
                async with session.ws_connect(**options, max_msg_size=0) as socket:
                    events = await self._converse(socket, tries)
        except TimeoutError:
            return Got("timeout", attempts=attempt), None
        except EventError as error:
            return Got(error.status, None, json.dumps({"message": str(error)}).encode(), attempt), None
        except aiohttp.WSServerHandshakeError as error:
            after = retry_after((error.headers or {}).get("Retry-After"))
            return Got(f"http_{error.status}", None, error.message.encode(), attempt), after
        except aiohttp.ClientError as error:
            return Got("connection", None, repr(error).encode()[:2000], attempt), None
        last = json.dumps(events[-1]).encode()[:2000]
        try:
            if None in events:
                raise ValueError("a message must be a JSON object")
            return Got("ok", tries.read(events), last, attempt), None
        except ValueError:
            return Got("malformed", None, last, attempt), None

    async def _converse(self, socket: Any, tries: Tries) -> list[dict[str, Any] | None]:
        """Set up, ask, and take events until the last; those of the answer. A message is an event, of however many
        lines."""
        await socket.send_json(self.setup())
        asked, events = False, []
        async for message in socket:
            sent = message.data if isinstance(message.data, bytes) else str(message.data).encode()
            event = json_object(sent)  # None, for what is no event, ends nothing
            if not asked and self.ready(event or {}):
                asked = True
                for sent in self.ask(tries.turns, tries.audio):
                    await socket.send_json(sent)
                continue
            ends = self.done(event or {})
            if asked:
                tries.watch(sent)
                events.append(event)
                if ends:
                    return events
        reason = f"the server closed ({socket.close_code}) before the answer's end"
        raise EventError(REFUSED.get(socket.close_code, "connection"), reason)


def pcm(audio: Audio, rate: int) -> str:
    """16-bit samples at a rate, as base64."""
    samples = np.clip(np.rint(resample(audio, rate).samples * EXACT), -EXACT, EXACT - 1)
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()
