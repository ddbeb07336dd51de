"""Realtime and Live protocols against a loopback websocket that fails on purpose."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from aiohttp import web
from test_openai_audio import PRICES, QUICK, asked, pitch, tone

from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.systems.gemini import GeminiSystem
from lightning_paras2s.bench.systems.openai_realtime import OpenAIRealtimeSystem
from lightning_paras2s.errors import UserError


class Websocket:
    """`talk(socket, times)` is one connection; `times` counts the connections about one query's sound."""

    def __init__(self, talk: Callable, opening: Callable[[int], web.Response | None] = lambda count: None) -> None:
        self.talk, self.opening, self.headers, self.count, self.seen = talk, opening, [], 0, Counter()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.count += 1
        self.headers.append((request.path_qs, dict(request.headers)))
        if (refusal := self.opening(self.count)) is not None:
            return refusal
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        await self.talk(self, socket)
        await socket.close()
        return socket

    def __enter__(self):
        self.loop, started = asyncio.new_event_loop(), threading.Event()

        async def start() -> None:
            app = web.Application()
            app.router.add_get("/{path:.*}", self._serve)
            self.runner = web.AppRunner(app)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"ws://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
            started.set()

        self.loop.create_task(start())
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        started.wait()
        return self

    def __exit__(self, *error) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def number_of(data: str) -> int:
    samples = np.frombuffer(base64.b64decode(data), "<i2")
    return round(100 * float(samples[len(samples) // 2]) / 32768) - 1  # a filter rings at the ends alone


def pieces(number: int) -> list[str]:
    raw = (tone(number) * 32767).astype("<i2").tobytes()
    return [base64.b64encode(raw[i : i + 4000]).decode() for i in range(0, len(raw), 4000)]


FAULTS = {1: "cut", 2: "rate limit", 3: "late", 4: "server error"}
USAGE = {
    "input_tokens": 100,
    "output_tokens": 60,
    "input_token_details": {"audio_tokens": 40},
    "output_token_details": {"audio_tokens": 50},
}
ENDS = {  # before all was said
    8: {"status": "cancelled", "status_details": {"type": "cancelled", "reason": "turn_detected"}},
    9: {"status": "incomplete", "status_details": {"type": "incomplete", "reason": "unheard_of"}},
}
COST = (60 * 10 + 40 * 40 + 50 * 100 + 10 * 20) / 1e6


async def openai_turn(server: Websocket, socket: web.WebSocketResponse) -> None:
    """As OpenAI's server: its session first, then what it is asked for."""
    await socket.send_json({"type": "session.created", "session": {}})
    update = await socket.receive_json()
    assert update["type"] == "session.update" and update["session"]["audio"]["input"]["turn_detection"] is None
    await socket.send_json({"type": "session.updated", "session": update["session"]})
    item = (await socket.receive_json())["item"]
    assert (await socket.receive_json()) == {"type": "response.create"}
    number = number_of(item["content"][0]["audio"])
    server.seen[number] += 1
    fault = FAULTS.get(number) if server.seen[number] == 1 else None
    if fault == "rate limit":
        return await socket.send_json({"type": "error", "error": {"code": "rate_limit_exceeded", "message": "slow"}})
    if fault == "server error":
        failed = {"status": "failed", "status_details": {"error": {"type": "server_error", "message": "oops"}}}
        return await socket.send_json({"type": "response.done", "response": failed})
    if fault == "late":
        await asyncio.sleep(2)
    await socket.send_json({"type": "response.created"})
    if number != 5:
        for piece in pieces(number):
            await socket.send_json({"type": "response.output_audio.delta", "delta": piece})
            if fault == "cut":
                return None
    await socket.send_json({"type": "response.output_audio_transcript.delta", "delta": f"answer {number}"})
    if number in ENDS:
        return await socket.send_json({"type": "response.done", "response": ENDS[number] | {"usage": USAGE}})
    reason = {6: "max_output_tokens", 7: "content_filter"}.get(number)
    response = {"status": "incomplete" if reason else "completed", "usage": USAGE}
    await socket.send_json({"type": "response.done", "response": response | {"status_details": {"reason": reason}}})


def test_realtime_answers_are_each_querys_own_and_each_dollar_is_counted(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Websocket(openai_turn) as server:
        system = OpenAIRealtimeSystem("m", server.url + "/v1", patience=QUICK, prices=PRICES)
        answers = system.respond(*asked(10), 0)
        assert server.headers[0][0] == "/v1/realtime?model=m"
        assert server.headers[0][1]["Authorization"] == "Bearer secret"
        assert server.count == 14  # ten, and four again
    wanted = {5: "text_only", 6: "truncated", 7: "refused", 8: "interrupted", 9: "interrupted"}
    assert [a.status for a in answers] == [wanted.get(n, "ok") for n in range(10)]
    assert answers[8].audio is None and answers[8].cost_usd == pytest.approx(COST)
    for number in (0, 1, 2, 3, 4, 6):
        answer = answers[number]
        assert pitch(answer.audio) == number and answer.text == f"answer {number}"
        assert len(answer.audio.samples) == SAMPLE_RATE // 4
        assert 0 < answer.latency["first_audio_seconds"] <= answer.latency["total_seconds"]
    assert answers[0].cost_usd == pytest.approx(COST)
    assert answers[1].cost_usd == pytest.approx(COST + system.at_most_usd([0.1]))  # its first try came back cut
    assert system.spent_usd == pytest.approx(sum(a.cost_usd for a in answers))


@pytest.mark.parametrize("status, what", [(401, "must accept the key"), (404, "know the model")])
def test_a_realtime_server_that_refuses_is_one_line(status, what):
    with Websocket(openai_turn, lambda count: web.Response(status=status)) as server:
        with pytest.raises(UserError, match=what):
            OpenAIRealtimeSystem("m", server.url, patience=QUICK, concurrency=1).respond(*asked(9), 0)
        assert server.count == 1


def test_a_realtime_server_that_asks_to_wait_is_asked_later():
    busy = web.Response(status=429, headers={"Retry-After": "0.2"})
    with Websocket(openai_turn, lambda count: busy if count == 1 else None) as server:
        answers = OpenAIRealtimeSystem("m", server.url, patience=QUICK).respond(*asked(1), 0)
    assert answers[0].status == "ok" and server.count == 2


async def gemini_turn(server: Websocket, socket: web.WebSocketResponse) -> None:
    """As Google's server: JSON over several lines in binary frames; usage beside the turn's end."""

    async def send(event) -> None:
        await socket.send_bytes((json.dumps(event, indent=2) + "\n").encode())

    setup = (await socket.receive_json())["setup"]
    assert setup["model"] == "models/m" and setup["generationConfig"]["responseModalities"] == ["AUDIO"]
    await send({"setupComplete": {}})
    told = [(await socket.receive_json())["realtimeInput"] for _ in range(3)]
    assert "activityStart" in told[0] and "activityEnd" in told[2]
    assert told[1]["audio"]["mimeType"] == "audio/pcm;rate=16000"
    number = number_of(told[1]["audio"]["data"])
    server.seen[number] += 1
    if number == 1 and server.seen[1] == 1:
        await socket.close(code=1011, message=b"internal")
        return
    if number == 4:
        await socket.close(code=1007, message=b"invalid")
        return
    if number == 5 and server.seen[5] == 1:
        await socket.send_bytes(b'{"serverContent": {"modelT')
    if number != 2:
        for piece in pieces(number):
            part = {"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": piece}}
            await send({"serverContent": {"modelTurn": {"parts": [part]}}})
    await send({"serverContent": {"outputTranscription": {"text": f"answer {number}"}}})
    if number == 3:
        await send({"serverContent": {"interrupted": True}})
        return
    usage = {"promptTokenCount": 100, "responseTokenCount": 60}
    usage |= {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 40}]}
    usage |= {"responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}]}
    await send({"serverContent": {"generationComplete": True}})
    await send({"serverContent": {"turnComplete": True}, "usageMetadata": usage})


def test_gemini_answers_are_each_querys_own_and_each_dollar_is_counted(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    with Websocket(gemini_turn) as server:
        system = GeminiSystem("m", server.url, patience=QUICK, prices=PRICES)
        answers = system.respond(*asked(6), 0)
        assert server.headers[0][1]["x-goog-api-key"] == "secret" and "secret" not in server.headers[0][0]
        assert server.headers[0][0].endswith("GenerativeService.BidiGenerateContent")
    assert [a.status for a in answers] == ["ok", "ok", "text_only", "interrupted", "http_400", "ok"]
    for number in (0, 1, 5):
        answer = answers[number]
        assert pitch(answer.audio) == number and answer.text == f"answer {number}"
        assert 0 < answer.latency["first_audio_seconds"] <= answer.latency["total_seconds"]
    assert answers[0].cost_usd == pytest.approx(COST)
    assert answers[3].cost_usd == pytest.approx(system.at_most_usd([0.1]))  # it says no usage
    assert server.seen == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 2}  # the fifth's first answer held what is no JSON
    assert system.spent_usd == pytest.approx(sum(a.cost_usd for a in answers))


@pytest.mark.parametrize("kind", [OpenAIRealtimeSystem, GeminiSystem])
def test_a_session_is_in_the_price_and_in_the_cap(kind):
    """50,000 bytes of instructions at 10 USD a million tokens, a byte a token at most: 0.5 USD."""
    plain, told = (kind("m", prices=PRICES, instructions=text).at_most_usd([0.1]) for text in ("", "word " * 10_000))
    assert plain + 0.5 < told < plain + 0.501
    with Websocket(lambda server, socket: None) as server:
        system = kind("m", server.url, prices=PRICES, instructions="word " * 10_000, max_usd=0.5, patience=QUICK)
        assert [a.status for a in system.respond(*asked(2), 0)] == ["max_usd"] * 2 and server.count == 0
