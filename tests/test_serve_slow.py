"""Clients that are slow, many, cut or malformed: each is answered or ended in time, counted, and told of; others don't
notice."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import pytest

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from test_serve import CLIENT, LIMITS, Halver, Running, body, level, post  # noqa: E402  it needs what may be missing

import lightning_paras2s.serving.guard as guard  # noqa: E402

SLOW = replace(LIMITS, connections=8, head_seconds=0.5, body_seconds=0.5, read_seconds=0.5, bytes=4_000_000)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def running(monkeypatch):
    monkeypatch.setattr(guard, "GRACE_SECONDS", 0.3)
    with Running({"half": Halver()}, SLOW) as server:
        server.place = ("127.0.0.1", server.socket.getsockname()[1])
        yield server


def until_end(sock: socket.socket, drip: bytes = b"", every: float = 0.1) -> tuple[bytes, float]:
    """All that comes till the connection ends, and how long that takes; `drip` is sent all the while, byte by byte."""
    started, got = time.monotonic(), b""
    sock.settimeout(every)
    sent = iter(drip)
    while time.monotonic() - started < 10:
        with contextlib.suppress(OSError):
            if (byte := next(sent, None)) is not None:
                sock.sendall(bytes([byte]))
        try:
            piece = sock.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not piece:
            break
        got += piece
    return got, time.monotonic() - started


def dropped(server) -> dict[str, int]:
    return server.server.metrics.summary()["dropped"]


def test_a_head_that_drips_is_408_in_time(running, capsys):
    with socket.create_connection(running.place) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
        got, seconds = until_end(slow, b"X-Padding: " + b"a" * 200)
    assert got.startswith(b"HTTP/1.1 408") and b"head must come within 0.5 s" in got and 0.4 < seconds < 3
    assert dropped(running) == {"slow_head": 1} and "127.0.0.1 (slow head) 408" in capsys.readouterr().err


def test_a_second_head_that_drips_is_408_too(running):
    """uvicorn's own limit on idle connections ends with the first byte of the next request."""
    with socket.create_connection(running.place) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        got, seconds = until_end(slow, b"GET /health HTTP/1.1\r\n" + b"a" * 200)
    assert got.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in got and seconds < 3


def test_a_connection_that_says_nothing_is_ended_without_a_word(running, capsys):
    with socket.create_connection(running.place) as idle:
        got, seconds = until_end(idle)
    assert got == b"" and 0.4 < seconds < 3 and dropped(running) == {"unused": 1}
    assert capsys.readouterr().err == ""


def test_a_body_that_drips_is_408_and_its_rest_is_not_awaited(running):
    with socket.create_connection(running.place) as slow:
        slow.sendall(HEAD % 1000)
        got, seconds = until_end(slow, b"a" * 500)
    assert got.startswith(b"HTTP/1.1 408") and b"must come within 0.5 s" in got and seconds < 4


def test_a_body_that_nobody_reads_is_not_awaited(running):
    """/health is answered at its head; what the client still announces must not hold the connection."""
    with socket.create_connection(running.place) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        got, seconds = until_end(slow, b"a" * 500)
    assert got.startswith(b"HTTP/1.1 200") and seconds < 4 and dropped(running) == {"slow_body": 1}


def test_a_client_that_stops_reading_is_ended(running, capsys):
    """Twelve seconds of speech are 0.5 MB in base64; the system's buffers are made too small for it."""
    running.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with Running({"half": Halver()}, replace(SLOW, query_seconds=60.0)) as server, socket.socket() as stuck:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", server.socket.getsockname()[1]))
        request = httpx.Request("POST", "http://x/v1/chat/completions", json=body(level(1, seconds=40.0)))
        stuck.sendall(HEAD % len(request.content) + request.content)
        until = time.monotonic() + 10
        while dropped(server) != {"unread": 1} and time.monotonic() < until:
            time.sleep(0.05)
        assert dropped(server) == {"unread": 1} and "(unread) the connection is ended" in capsys.readouterr().err
        assert not server.program.server_state.connections


def test_connections_beyond_the_limit_are_503_and_come_free_again(running):
    with contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(socket.create_connection(running.place))
        time.sleep(0.1)
        fresh = httpx.Client(timeout=10)
        refused = fresh.get(f"{running.url}/health")
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert refused.json()["error"]["message"] == "8 connections are open already; come again"
        time.sleep(0.8)  # the idle ones are ended
        assert fresh.get(f"{running.url}/health").status_code == 200
    assert dropped(running)["too_many"] == 1 and dropped(running)["unused"] == 8


def test_no_more_than_the_spare_ones_wait_to_be_refused(running, monkeypatch):
    monkeypatch.setattr(guard, "SPARE", 2)
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(socket.create_connection(running.place)) for _ in range(12)]
        time.sleep(0.2)
        assert dropped(running) == {"too_many": 2}  # 8 may speak, 2 may hear why not
        assert len(running.program.server_state.connections) == 10
        assert until_end(socks[-1])[0] == b""


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
    "a huge head": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000,
    "two lengths": b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "a negative length": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a broken chunk": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk after its answer": b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_request_is_400_and_the_server_goes_on(running, name, capsys):
    with socket.create_connection(running.place) as wrong:
        with contextlib.suppress(ConnectionError):
            wrong.sendall(MALFORMED[name])
        got, seconds = until_end(wrong)
    assert b"400" in got.splitlines()[0] or (name.endswith("answer") and got.startswith(b"HTTP/1.1 200"))
    assert seconds < 3 and post(running.url, body(level(1))).status_code == 200
    told = capsys.readouterr().err
    assert "Traceback" not in told and "malformed" in told and dropped(running)["malformed"] == 1


def test_huge_bodies_are_413_whether_they_say_so_or_not(running):
    with socket.create_connection(running.place) as huge:
        huge.sendall(HEAD % 10**12)
        assert b" 413 " in huge.recv(65536).splitlines()[0]
    chunks = (b"a" * 100_000 for _ in range(100))
    found = CLIENT.post(f"{running.url}/v1/chat/completions", content=chunks)
    assert found.status_code == 413 and found.json()["error"]["message"].endswith("got more")


def test_cut_requests_are_told_of_and_leave_nothing(running, capsys):
    for part in (b"POST /v1/ch", HEAD % 1000, HEAD % 1000 + b"{"):
        with socket.create_connection(running.place) as cut:
            cut.sendall(part)
    until = time.monotonic() + 5
    while running.server.metrics.statuses[400] < 2 and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.1)
    assert not running.program.server_state.connections and not running.program.server_state.tasks
    assert capsys.readouterr().err.count("400: the request ended before its end") == 2
    assert post(running.url, body(level(1))).status_code == 200


def test_a_stop_does_not_wait_for_slow_clients(running):
    with contextlib.ExitStack() as held:
        for start in (b"", b"GET /hea", HEAD % 1000 + b"{"):
            held.enter_context(socket.create_connection(running.place)).sendall(start)
        time.sleep(0.2)
        started = time.monotonic()
        running.program.should_exit = True
        running.thread.join(10)
        assert not running.thread.is_alive() and time.monotonic() - started < 3
