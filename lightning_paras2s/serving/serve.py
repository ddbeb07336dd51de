"""`serve`: systems behind an OpenAI-compatible server, for the openai client, `OpenAIAudioSystem` and anything like
them."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lightning_paras2s.bench.systems.base import SAMPLE_RATE, S2SSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.running.logs import say
from lightning_paras2s.serving.app import Limits, Server
from lightning_paras2s.serving.talk import PageEars
from lightning_paras2s.serving.votes import Votes
from lightning_paras2s.types import Audio, Query


def serve(
    systems: dict[str, S2SSystem],
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str = "PARAS2S_API_KEY",
    rows: int = 16,
    wait_seconds: float = 0.01,
    queue: int = 256,
    query_seconds: float = 30.0,
    max_megabytes: float = 16.0,
    body_seconds: float = 30.0,
    answer_seconds: float = 300.0,
    connections: int = 512,
    head_seconds: float = 10.0,
    read_seconds: float = 30.0,
    transcriber: Transcriber | None = None,
    recognizer: StyleRecognizer | None = None,
    battles: str | None = None,
) -> dict[str, Any]:
    """Serve systems over HTTP as OpenAI serves its models that hear and speak, and a page to talk to them, until it is
    stopped; then tell latency and real-time factor.

    /v1/chat/completions takes a user message of one input_audio part and answers with speech and its words, whole or as
    a stream; /v1/models, /health, /metrics (Prometheus). Earlier messages of user and assistant go before it where the
    system has a place for them, else they are refused. Ctrl-C and SIGTERM stop it once all requests that it accepted
    are answered. Sampling is the server's: a request with a temperature or instructions is refused.
    / is the page: record or upload, hear one system or two side by side, read what was heard, vote blind.

    Args:
        systems: name -> system; the name is the model's. A request may ask for NAME@FINGERPRINT (see /v1/models) to be
            sure of the weights.
        host: address to listen on; another than loopback needs a key.
        port: 0 takes a free one.
        api_key_env: the environment variable that holds the key that requests must bring; unset, none is asked for.
        rows: requests answered at once.
        wait_seconds: how long a request waits for others.
        queue: requests that may wait for one model; more are refused with 429.
        query_seconds: the longest recording.
        max_megabytes: the largest request.
        body_seconds: for a request to arrive whole.
        answer_seconds: for an answer, waiting included; then 503.
        connections: open at once; requests on further ones are refused with 503.
        head_seconds: for a request's head to arrive, and for a connection to be used at all; then 408.
        read_seconds: for a client that has stopped reading its answer; then its connection is ended.
        transcriber: writes on the page what was said; without one the page tells the systems' own words alone.
        recognizer: tells on the page how it was said.
        battles: JSON lines that grow by a record a blind vote (`arena --battles`); without it the page offers none.

    Raises:
        UserError: no key where one is needed, an address that is taken, a system that needs more than a recording,
            battles that are none.
    """
    key = os.environ.get(api_key_env, "")
    check(systems, host, key, api_key_env)
    if connections < 1:
        raise UserError(f"connections must be at least 1; got {connections}; leave it out for 512")
    votes = Votes(Path(battles)) if battles else None
    listening = bound(host, port)
    size, waits = int(max_megabytes * 1e6), (connections, head_seconds, read_seconds)
    limits = Limits(rows, wait_seconds, queue, query_seconds, size, body_seconds, answer_seconds, *waits)
    warm(systems)
    server = Server(systems, limits, key, PageEars(transcriber, recognizer), votes)
    name, number = listening.getsockname()[:2]
    at = f"http://{f'[{name}]' if ':' in name else name}:{number}"
    say(f"serving {', '.join(systems)} at {at}/v1, and a page to talk to them at {at}/; Ctrl-C or SIGTERM stops it")
    run(server, listening)
    return {"models": {n: system.config_sha for n, system in systems.items()}, **server.metrics.summary()}


def check(systems: dict[str, S2SSystem], host: str, key: str, api_key_env: str) -> None:
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"serve needs {' and '.join(missing)}; got none; pip install 'lightning_paras2s[serve]'")
    if not systems:
        raise UserError("there must be a system to serve; got none; name one in `systems`")
    for name, system in systems.items():
        if "@" in name or not name:
            raise UserError(f"a model's name must be a text without @; got {name!r}; rename it in `systems`")
        if not system.hears_alone:
            raise UserError(
                f"a system that is served must need a recording alone; got {name}, a {type(system).__name__}, which is "
                "told the query"
            )
    if not key and not is_loopback(host):
        raise UserError(
            f"a server on {host} must have a key, since others can reach it; got none in ${api_key_env}; set the "
            "variable or use --host 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is taken, or not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"host and port must be free and here; got {host}:{port} ({error}); choose another") from None


def warm(systems: dict[str, S2SSystem]) -> None:
    """Read all weights, so that the first request need not wait for it, and what can't be read ends here."""
    noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
    for system in systems.values():
        system.respond([Query("warm", "warm", "emotion", "test", "", {}, "", "")], [Audio(noise, SAMPLE_RATE)], 0)


def settings(server: Server) -> dict[str, Any]:
    """How uvicorn is to run it."""
    from lightning_paras2s.serving.guard import guarded

    protocol = guarded(server.limits, server.metrics)
    return {"log_level": "warning", "access_log": False, "http": protocol, "ws": "none", "lifespan": "on"}


def run(server: Server, listening: socket.socket) -> None:
    """Until it is told to stop."""
    import uvicorn

    config = uvicorn.Config(server.app(), **settings(server))
    program = uvicorn.Server(config)
    if threading.current_thread() is not threading.main_thread():
        program.run([listening])
        return
    # uvicorn raises the signal again once it has stopped; the command then still has a result to tell.
    kept = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        program.run([listening])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
