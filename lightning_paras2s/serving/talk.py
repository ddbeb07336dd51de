"""The page to talk to the served systems: record or upload, hear one or two answers, read what was heard, vote blind.

Its own small protocol stands beside OpenAI's, since a vote needs what that has no place for: which answers were shown,
and that they were heard. A blind turn tells neither the systems nor their words before its vote.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lightning_paras2s.audio import is_silent
from lightning_paras2s.bench.systems.base import Answer
from lightning_paras2s.hearing.evidence import listen
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.servers.spoken import decoded, wav_bytes
from lightning_paras2s.serving.chats import Asked, BadRequestError, heard
from lightning_paras2s.serving.replies import as_json
from lightning_paras2s.serving.votes import Votes, name_of
from lightning_paras2s.types import Audio, Query

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from lightning_paras2s.serving.app import Server

FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
# The page loads nothing from elsewhere, and no other site may frame it.
GUARDS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
SIDES = 2


@dataclass(frozen=True)
class PageEars:
    """Who tells on the page what was said and how; either may be missing."""

    transcriber: Transcriber | None
    recognizer: StyleRecognizer | None

    def tell(self, sounds: dict[str, Audio], role: str) -> dict[str, dict[str, Any]]:
        """Name -> transcript, style (those of its fields that were heard) and whether the words may be wrong; None of
        what nobody listened for."""
        found = listen(sounds, self.transcriber, self.recognizer, role)
        strange = self.transcriber.strange(list(sounds.values())) if self.transcriber else [False] * len(sounds)
        told = {}
        for (name, _), unsure in zip(sounds.items(), strange, strict=True):
            words, style = found.get(name, (None, None))
            fields = {field: value for field, value in asdict(style).items() if value} if style else None
            told[name] = {"transcript": words, "style": fields, "unsure": unsure}
        return told


class Talk:
    """The page's routes on a server."""

    def __init__(self, server: Server, ears: PageEars, votes: Votes | None) -> None:
        self.server, self.ears, self.votes = server, ears, votes

    def routes(self) -> list[Route]:
        from starlette.routing import Route

        answered = {"/talk/settings": (self._settings, "GET"), "/talk/ask": (self._ask, "POST")}
        answered |= {"/talk/heard": (self._heard, "POST"), "/talk/vote": (self._vote, "POST")}
        found = [Route(path, self._file, methods=["GET"]) for path in FILES]
        for path, (work, method) in answered.items():
            answer = partial(self.server.answered, work=work, timed=path == "/talk/ask")
            found.append(Route(path, answer, methods=[method]))
        return found

    async def _file(self, request: Request) -> Response:
        from starlette.responses import Response

        name, kind = FILES[request.url.path]
        return Response((files("lightning_paras2s") / "serving" / name).read_bytes(), headers=GUARDS, media_type=kind)

    async def _settings(self, request: Request, name: str) -> Response:
        """What the page offers."""
        models = list(self.server.systems)
        votes = self.votes is not None and len(models) >= SIDES
        return as_json({"models": models, "votes": votes, "query_seconds": self.server.limits.query_seconds})

    async def _ask(self, request: Request, name: str) -> Response:
        found = await self._fields(request)
        query, audio = self._query(found)
        blind = found.get("blind") is True
        rater = name_of(found.get("rater")) if blind else ""
        models = self._drawn(rater, query) if blind else self._named(found.get("models"))
        answers = await self._answers(models, query, audio)
        if blind and not all(isinstance(answer, Answer) for answer in answers):
            raise BadRequestError("one of the two gave no answer, so there is nothing to compare; ask again", 503)
        sounds = {str(i): answer.audio for i, answer in enumerate(answers) if isinstance(answer, Answer)}
        heard_query = await self._in_thread({"query": audio}, "query")
        heard_answers = await self._in_thread(sounds, "response") if sounds else {}
        told = [self._told(model, answers[i], heard_answers.get(str(i))) for i, model in enumerate(models)]
        shown = [spoken(answer) for answer in answers]
        turn = None
        if blind:
            sides = tuple(self._exactly(model) for model in models)
            turn = self.votes.open(rater, query.id, sides, tuple(a.audio.seconds for a in answers), tuple(told))
        else:
            shown = [sound | words for sound, words in zip(shown, told, strict=True)]
        asked = {"id": query.id, "seconds": round(audio.seconds, 2), **heard_query["query"]}
        return as_json({"turn": turn, "query": asked, "answers": shown})

    async def _heard(self, request: Request, name: str) -> Response:
        found = await self._fields(request)
        return as_json({"heard": self._open_votes().hear(found.get("turn"), found.get("side"))})

    async def _vote(self, request: Request, name: str) -> Response:
        found = await self._fields(request)
        battle, turn = self._open_votes().vote(found.get("turn"), found.get("verdict"))
        self.server.metrics.votes += 1
        return as_json({"battle": asdict(battle), "answers": list(turn.told)})

    async def _fields(self, request: Request) -> dict[str, Any]:
        """A request's JSON object. Its type must be said: another site's page can't send that without asking."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise BadRequestError("a request must be of type application/json", 415)
        body = await self.server.body(request)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"a request must be one JSON object; got {body[:60]!r} ({error})") from None
        if not isinstance(found, dict):
            raise BadRequestError(f"a request must be one JSON object; got {type(found).__name__}")
        return found

    def _query(self, found: dict[str, Any]) -> tuple[Query, Audio]:
        """The recording, named after its content."""
        data = found.get("data")
        if not isinstance(data, str):
            raise BadRequestError("data must be a recording in base64; got none")
        try:
            raw = decoded([data])
        except ValueError as error:
            raise BadRequestError(f"data must be base64; got {data[:20]!r} ({error})") from None
        audio = heard("wav", raw, self.server.limits.query_seconds)
        if is_silent(audio):
            raise BadRequestError("there must be something to hear in the recording; got silence; speak closer", 422)
        name = hashlib.sha256(raw).hexdigest()[:16]
        return Query(name, name, "emotion", "test", "", {}, "", ""), audio

    def _drawn(self, rater: str, query: Query) -> list[str]:
        sides = self._open_votes().draw(rater, query.id, [self._exactly(name) for name in self.server.systems])
        return [side.partition("@")[0] for side in sides]

    def _named(self, models: Any) -> list[str]:
        known = isinstance(models, list) and 1 <= len(models) <= SIDES
        if not known or not all(isinstance(m, str) and m in self.server.systems for m in models):
            there = ", ".join(self.server.systems)
            raise BadRequestError(f"models must be one or two of {there}; got {models!r:.100}", 404)
        return models

    def _exactly(self, model: str) -> str:
        """The model with its weights, as a battle names it."""
        return f"{model}@{self.server.systems[model].config_sha}"

    def _open_votes(self) -> Votes:
        if self.votes is None:
            raise BadRequestError("this server takes no votes; start it with --battles FILE.jsonl", 404)
        return self.votes

    async def _answers(self, models: list[str], query: Query, audio: Audio) -> list[Answer | BadRequestError]:
        """Each system's answer, or why there is none; where none has one, that is raised."""
        asked = [Asked(model, query, audio, True, "wav", False, 0) for model in models]
        made = (self.server.answer(one.model, one) for one in asked)
        found = await asyncio.gather(*made, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, BadRequestError):
                raise one
        if all(isinstance(one, BadRequestError) for one in found):
            raise found[0]
        return found

    async def _in_thread(self, sounds: dict[str, Audio], role: str) -> dict[str, dict[str, Any]]:
        """The ears share the systems' thread: the loop must not wait for them."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.server.thread, lambda: self.ears.tell(sounds, role))

    def _told(self, model: str, answer: Answer | BadRequestError, ears: dict[str, Any] | None) -> dict[str, Any]:
        text = answer.text if isinstance(answer, Answer) else None
        return {"model": self._exactly(model), "text": text, **(ears or {})}


def spoken(answer: Answer | BadRequestError) -> dict[str, Any]:
    """An answer's sound, or why there is none."""
    if isinstance(answer, BadRequestError):
        return {"error": str(answer)}
    return {"audio": base64.b64encode(wav_bytes(answer.audio)).decode(), "seconds": round(answer.audio.seconds, 2)}
