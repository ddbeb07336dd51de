"""A server on loopback that misbehaves on purpose, for whatever speaks HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.servers.remote import Patience


class Sent(NamedTuple):
    """What the server answers: a body cut after `cut` bytes, `after` seconds of delay."""

    status: int
    body: bytes
    headers: dict[str, str] = {}
    cut: int | None = None
    after: float = 0.0


def completion(text: str | None, finish: str = "stop", prompt_tokens: int = 10, completion_tokens: int = 5) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()


def audio_chat(url: str, folder: Path, **options) -> OpenAIChat:
    """A chat model that hears, asked once."""
    patience = Patience(0, 5, 0.01, 0.02)
    return OpenAIChat("gpt-audio", url, patience=patience, cache_dir=str(folder / "cache"), **options)


class Loopback:
    """`answer(path, body, times)` decides what is sent; `times` counts how often this body came (from 1).

    Attributes:
        requests: (path, body, headers) of all requests; `busiest` is the most that were open at a time.
    """

    def __init__(self, answer: Callable[[str, bytes, int], Sent]) -> None:
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        self.times: list[float] = []
        self.seen: Counter[bytes] = Counter()
        self.open, self.busiest, self.lock = 0, 0, threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.lock:
                    outer.open += 1
                    outer.busiest = max(outer.busiest, outer.open)
                    outer.requests.append((self.path, body, dict(self.headers)))
                    outer.times.append(time.monotonic())
                    outer.seen[body] += 1
                    times = outer.seen[body]
                sent = answer(self.path, body, times)
                time.sleep(sent.after)
                with outer.lock:
                    outer.open -= 1
                try:
                    self.send_response(sent.status)
                    self.send_header("Content-Length", str(len(sent.body)))
                    for name, value in sent.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(sent.body if sent.cut is None else sent.body[: sent.cut])
                except (BrokenPipeError, ConnectionResetError):
                    pass
                self.close_connection = True

            def log_message(self, *args) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256  # a burst of connections must not wait for the kernel
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()
