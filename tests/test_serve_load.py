"""`serve` under load: more requests than it has room for, answers that are late, an end while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import pytest

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from test_serve import CLIENT, Halver, Running, body, level, metrics, post  # noqa: E402  it needs what may be missing

from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem  # noqa: E402
from lightning_paras2s.servers.remote import Patience  # noqa: E402
from lightning_paras2s.serving.app import Limits  # noqa: E402
from lightning_paras2s.types import Query  # noqa: E402


def test_of_200_requests_at_once_none_is_lost_or_mixed_up():
    system = Halver(seconds=0.02)
    with Running({"half": system}) as running:
        asks = OpenAIAudioSystem("half", f"{running.url}/v1", concurrency=200)
        queries = [Query(f"q{i}", "p", "age", "test", "hi", {}, "", "") for i in range(200)]
        answers = asks.respond(queries, [level(i) for i in range(200)], 0)
        summary = running.server.metrics.summary()
    for i, answer in enumerate(answers):
        assert answer.status == "ok" and np.array_equal(answer.audio.samples, level(i).samples / 2)
    assert sum(system.sizes) == 200 and max(system.sizes) == 16 and len(system.sizes) < 60
    assert (summary["accepted"], summary["statuses"]) == (200, {"200": 200})
    assert summary["latency_p50_seconds"] > 0 and summary["real_time_factor"] > 0


def test_a_full_queue_is_429_until_there_is_room():
    """One is answered, two wait, and five or six of eight find no room, as long as the one takes; nobody is told
    nothing, and a patient client comes again.
    """
    slow = Halver()
    slow.free = threading.Event()
    with (
        Running({"half": slow}, Limits(1, 0.0, 2, 5.0, 400_000, 30.0, 60.0)) as running,
        ThreadPoolExecutor(8) as threads,
    ):
        asked = as_completed([threads.submit(post, running.url, body(level(i))) for i in range(8)])
        refused = [next(asked).result() for _ in range(5)]
        assert [f.status_code for f in refused] == [429] * 5 and {f.headers["Retry-After"] for f in refused} == {"1"}
        slow.free.set()
        assert sorted({f.result().status_code for f in asked}) in ([200], [200, 429])
        asks = OpenAIAudioSystem("half", f"{running.url}/v1", patience=Patience(5, 5.0, 0.01, 2.0), concurrency=1)
        queries = [Query(f"q{i}", "p", "age", "test", "hi", {}, "", "") for i in range(3)]
        assert [a.status for a in asks.respond(queries, [level(i) for i in range(3)], 0)] == ["ok"] * 3


def test_a_late_answer_is_503():
    late = Halver()
    late.free = threading.Event()
    with Running({"half": late}, Limits(1, 0.0, 2, 5.0, 400_000, 30.0, 0.3)) as running:
        found = post(running.url, body(level(1)))
        late.free.set()
    assert (found.status_code, found.headers["Retry-After"]) == (503, "1")


TERM = """
import sys, time
sys.path.insert(0, {tests!r})
from test_serve import LIMITS, Halver
from lightning_paras2s.serving.app import Server
from lightning_paras2s.serving.serve import bound, run
server = Server({{"half": Halver(seconds=0.3)}}, LIMITS, "")
listening = bound("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
run(server, listening)
print(server.metrics.summary()["statuses"])
"""


def test_sigterm_under_load_loses_no_accepted_request():
    code = TERM.format(tests=os.path.dirname(__file__))
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{int(program.stdout.readline())}"
    with ThreadPoolExecutor(60) as threads:
        found = [threads.submit(post, url, body(level(i))) for i in range(60)]
        until = time.monotonic() + 30
        while "paras2s_accepted_total 60" not in metrics(url) and time.monotonic() < until:
            time.sleep(0.01)
        program.send_signal(signal.SIGTERM)
        for i, future in enumerate(found):
            answer = future.result()
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["audio"]["transcript"] == f"{(i + 1) * 16 / 32768:.4f} 0"
    assert program.wait(20) == 0 and program.stdout.read().strip() == "{'200': 60}"
    with pytest.raises(httpx.ConnectError):
        CLIENT.get(f"{url}/health")
