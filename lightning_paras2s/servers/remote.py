"""Requests to servers that fail: bounded, patient, and honest about what did not come back.

Timeouts, refused connections, 408, 409, 429, 5xx and answers that are cut or malformed are asked again with growing
waits; a server's Retry-After holds back every request. Other errors are an answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from lightning_paras2s.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIED = (408, 409, 425, 429)


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Waits double from `first_wait_seconds` to `longest_wait_seconds`, with up to a quarter of jitter. A server that asks
    for a longer wait than that is taken at its word: its refusal is the answer.

    Args:
        retries: how often a request is sent again.
        timeout_seconds: after which a request counts as failed.
        first_wait_seconds: before it is sent again; doubled each time.
        longest_wait_seconds: bound of that wait.
    """

    config_sha = ""  # how long one waits changes no answer

    retries: int = 6
    timeout_seconds: float = 120.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0

    def wait_seconds(self, attempt: int) -> float:
        """Before attempt number `attempt` + 1 (attempts count from 0)."""
        return min(self.first_wait_seconds * 2**attempt, self.longest_wait_seconds) * (1 + random.random() / 4)


@dataclass(frozen=True)
class Answer:
    """What a server said in the end; `value` is None unless `status` is "ok", `body` is the last one's start."""

    status: str
    value: Any = None
    body: bytes = b""
    attempts: int = 1


class Gate:
    """Holds all requests back until a server is willing again."""

    def __init__(self) -> None:
        self.opens = 0.0

    def close(self, seconds: float) -> None:
        self.opens = max(self.opens, time.monotonic() + seconds)

    async def passed(self) -> None:
        while (wait := self.opens - time.monotonic()) > 0:
            await asyncio.sleep(wait)


def unwatched(piece: bytes) -> None:
    """What comes of a body as it comes is of no interest."""


async def ask(
    session: Any,
    request: Callable[[], dict],
    read: Callable[[bytes], Any],
    patience: Patience,
    gate: Gate,
    watch: Callable[[bytes], None] = unwatched,
) -> Answer:
    """POST until there is an answer that `read` accepts, or patience ends.

    Args:
        session: an aiohttp.ClientSession.
        request: gives the keywords of `session.post`, afresh for each attempt.
        read: the value of a body; raises ValueError for one that is cut or malformed.
        watch: is given each piece of a good answer's body when it comes.
    """
    return await patiently(lambda attempt: ask_once(session, request, read, attempt, watch), patience, gate)


async def patiently(
    once: Callable[[int], Awaitable[tuple[Answer, float | None]]], patience: Patience, gate: Gate
) -> Answer:
    """One attempt after the other, until an answer is no passing failure, or patience ends.

    Args:
        once: the number of an attempt, from 1 -> its answer, and the seconds that the server asks to wait, if any.
    """
    answer = Answer("not_asked")
    for attempt in range(patience.retries + 1):
        await gate.passed()
        answer, after = await once(attempt + 1)
        if answer.status == "ok" or not is_transient(answer.status):
            return answer
        wait = patience.wait_seconds(attempt) if after is None else after
        if attempt == patience.retries or wait > 1.25 * patience.longest_wait_seconds:
            return answer
        if after is not None:
            gate.close(after)
        await asyncio.sleep(wait)
    return answer


async def ask_once(
    session: Any,
    request: Callable[[], dict],
    read: Callable[[bytes], Any],
    attempts: int,
    watch: Callable[[bytes], None] = unwatched,
) -> tuple[Answer, float | None]:
    """One attempt -> the answer, and the seconds of its Retry-After."""
    import aiohttp

    try:
        async with session.post(**request()) as response:
            body = b""
            async for piece in response.content.iter_any():
                body += piece
                if response.status == 200:
                    watch(piece)
            after = retry_after(response.headers.get("Retry-After"))
            if response.status != 200:
                return Answer(f"http_{response.status}", None, body[:2000], attempts), after
    except TimeoutError:
        return Answer("timeout", attempts=attempts), None
    except aiohttp.ClientError as error:
        return Answer("connection", None, repr(error).encode()[:2000], attempts), None
    try:
        return Answer("ok", read(body), body[:2000], attempts), None
    except ValueError:
        return Answer("malformed", None, body[:2000], attempts), None


def is_transient(status: str) -> bool:
    """Whether it is worth asking again."""
    code = int(status.removeprefix("http_")) if status.startswith("http_") else 0
    return status in ("timeout", "connection", "malformed") or code in RETRIED or code >= 500


def retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header (seconds or a date); None where there is none or it makes no sense."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+(\.[0-9]*)?\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def gather(
    items: Sequence[Item], work: Callable[[Any, Item], Awaitable[Result]], concurrency: int, patience: Patience
) -> list[Result]:
    """`work(session, item)` for all items, at most `concurrency` at a time; also inside a running loop (a notebook)."""
    try:
        import aiohttp
    except ImportError:
        raise UserError("servers need the package aiohttp; got none; pip install 'lightning_paras2s[openai]'") from None

    async def run() -> list[Result]:
        slots = asyncio.Semaphore(concurrency)
        timeout = aiohttp.ClientTimeout(total=patience.timeout_seconds)

        async def one(session: Any, item: Item) -> Result:
            async with slots:
                return await work(session, item)

        # The slots are the bound: a pool with one of its own (100) would hold requests back while their time runs.
        pool = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=pool) as session:
            return await asyncio.gather(*(one(session, item) for item in items))

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()
