"""The server's routes: chat completions with audio, models, health, metrics, and the page to talk to it. No request is
answered by silence."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_paras2s.bench.systems.base import Answer, S2SSystem, usable
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say, say_once, unanswered
from lightning_paras2s.serving.batches import Batches, FullError
from lightning_paras2s.serving.chats import Asked, BadRequestError, completion, events, read_request
from lightning_paras2s.serving.metrics import Metrics
from lightning_paras2s.serving.replies import as_json, refused
from lightning_paras2s.serving.talk import PageEars, Talk
from lightning_paras2s.serving.votes import Votes

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

REJECTED = ("http_400", "http_403", "http_413", "http_422")  # what a server behind a system says of one request


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        rows: requests answered at once.
        wait_seconds: for others to come.
        queue: requests that may wait.
        query_seconds: of a recording.
        bytes: of a request.
        body_seconds: for it to come.
        answer_seconds: for an answer to be made.
        connections: open at once; requests on further ones are refused.
        head_seconds: for a request's first part, from its connection or its first byte on.
        read_seconds: for a client to go on reading its answer.
    """

    rows: int
    wait_seconds: float
    queue: int
    query_seconds: float
    bytes: int
    body_seconds: float
    answer_seconds: float
    connections: int = 512
    head_seconds: float = 10.0
    read_seconds: float = 30.0


class Server:
    """Systems by name, behind one set of limits; `key` "" asks for none. `ears` tell on the page what they hear, and
    `votes` take its votes; either may be missing."""

    def __init__(
        self,
        systems: dict[str, S2SSystem],
        limits: Limits,
        key: str,
        ears: PageEars | None = None,
        votes: Votes | None = None,
    ) -> None:
        self.systems, self.limits, self.key, self.metrics = systems, limits, key, Metrics()
        self.thread = ThreadPoolExecutor(1, "system")
        self.batches = {
            name: Batches(system, self.thread, limits.rows, limits.wait_seconds, limits.queue, self.metrics)
            for name, system in systems.items()
        }
        self.created = int(time.time())
        self.talk = Talk(self, ears or PageEars(None, None), votes)

    def app(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
            Route("/metrics", self.prometheus),
            *self.talk.routes(),
        ]
        return Starlette(routes=routes, lifespan=self._alive)

    @contextlib.asynccontextmanager
    async def _alive(self, app: Any) -> AsyncIterator[None]:
        """The systems answer from the first request on until the last one is answered."""
        tasks = [asyncio.create_task(batches.run()) for batches in self.batches.values()]
        yield
        for task in tasks:
            task.cancel()
        self.thread.shutdown(wait=True)

    async def chat(self, request: Request) -> Response:
        return await self.answered(request, self._chat, timed=True)

    async def _chat(self, request: Request, name: str) -> Response:
        from starlette.responses import StreamingResponse

        asked = read_request(await self.body(request), self.limits.query_seconds)
        model = self._model(asked.model)
        answer = await self.answer(model, asked)
        fingerprint = self.systems[model].config_sha
        if asked.stream:
            return StreamingResponse(events(asked, answer, fingerprint, name), media_type="text/event-stream")
        return as_json(completion(asked, answer, fingerprint, name))

    async def answered(
        self, request: Request, work: Callable[[Request, str], Awaitable[Response]], timed: bool
    ) -> Response:
        """What `work` makes of an admitted request and its name, or the refusal that it raises; counted, and told of.
        `timed`: a system answers."""
        from starlette.requests import ClientDisconnect

        started, name = time.perf_counter(), uuid.uuid4().hex[:24]
        try:
            self._admit(request)
            response = await work(request, name)
        except BadRequestError as error:
            response = refused(str(error), error.status)
        except ClientDisconnect:
            response = refused("the request ended before its end", 400)
        except Exception as error:
            traceback.print_exc()
            response = refused(f"the server failed: {type(error).__name__}", 500)
        self.metrics.answered(response.status_code, time.perf_counter() - started if timed else None)
        if response.status_code != 200:
            say(f"{name} {response.status_code}: {json.loads(response.body)['error']['message']}")
        return response

    async def models(self, request: Request) -> Response:
        try:
            self._admit(request)
        except BadRequestError as error:
            return refused(str(error), error.status)
        whole = {"object": "model", "created": self.created, "owned_by": "lightning_paras2s"}
        found = [{"id": n, **whole, "fingerprint": system.config_sha} for n, system in self.systems.items()]
        return as_json({"object": "list", "data": found})

    async def health(self, request: Request) -> Response:
        """503 once no model answers any more; "off" names those that don't."""
        off = [name for name, system in self.systems.items() if system.off]
        status = "ok" if not off else "off" if len(off) == len(self.systems) else "some off"
        told = {"status": status, "models": list(self.systems), "waiting": self._waiting()}
        return as_json(told | ({"off": off} if off else {}), 503 if status == "off" else 200)

    async def prometheus(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        kind = "text/plain; version=0.0.4"
        return PlainTextResponse(self.metrics.prometheus(self._waiting()), media_type=kind)

    def _waiting(self) -> int:
        return sum(batches.queue.qsize() for batches in self.batches.values())

    def _admit(self, request: Request) -> None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and not hmac.compare_digest(sent.encode(), self.key.encode()):
            raise BadRequestError("a request must bring the server's API key (Authorization: Bearer ...)", 401)

    async def body(self, request: Request) -> bytes:
        """A request's body, up to the limits of size and time."""
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.limits.bytes:
            raise BadRequestError(f"a request must hold up to {self.limits.bytes} bytes; got {stated}", 413)
        body = b""
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self.limits.bytes:
                        raise BadRequestError(f"a request must hold up to {self.limits.bytes} bytes; got more", 413)
        except TimeoutError:
            raise BadRequestError(f"a request must come within {self.limits.body_seconds:g} s", 408) from None
        return body

    def _model(self, asked: str) -> str:
        """The name of the model that is asked for: NAME, or NAME@FINGERPRINT where it must be that very one."""
        name, _, fingerprint = asked.partition("@")
        if name not in self.systems or fingerprint not in ("", self.systems[name].config_sha):
            there = ", ".join(f"{n}@{system.config_sha}" for n, system in self.systems.items())
            raise BadRequestError(f"the model must be one of {there}; got {asked!r}", 404)
        return name

    def _refuse_off(self, model: str) -> None:
        """Asking again is in vain; the reason is for who runs the server."""
        if why := self.systems[model].off:
            say_once(f"{model} is switched off until the server is started anew: {why}")
            raise BadRequestError(
                f"{model} is switched off, since its program failed too often; who runs the server must start it anew; "
                "its log tells why",
                503,
            )

    async def answer(self, model: str, asked: Asked) -> Answer:
        """The system's answer with speech, or the error that says why there is none."""
        turns = asked.query.turns
        self._refuse_off(model)
        if turns and not self.systems[model].carries(turns):
            raise BadRequestError(
                f"{model} hears one utterance; got {len(turns)} earlier messages, which it can't carry; send the last"
            )
        try:
            self.systems[model].check([asked.query], [asked.audio.seconds])
        except UserError as error:
            raise BadRequestError(str(error)) from None
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                answer = await self.batches[model].answer(asked.query, asked.audio, asked.sample)
        except UserError:
            self._refuse_off(model)
            # whom it tells of keys and accounts is who runs the server: `Batches` told it
            raise BadRequestError("the model can't answer now; the server's log tells why; come again", 503) from None
        except FullError:
            raise BadRequestError(f"{self.limits.queue} requests wait already; come again", 429) from None
        except TimeoutError:
            raise BadRequestError(f"no answer within {self.limits.answer_seconds:g} s; come again", 503) from None
        except Exception as error:
            raise BadRequestError(f"the model failed: {type(error).__name__}", 500) from error
        answer = usable(answer, math.inf)
        if answer.audio is None and (asked.speaks or not answer.text):
            self._refuse_off(model)
            again = unanswered(answer.status) and answer.status not in REJECTED
            raise BadRequestError(f"the model gave no answer: {answer.status}", 503 if again else 422)
        return answer
