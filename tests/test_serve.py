"""Systems behind a server: the openai client talks to it, no request is lost or mixed up, limits are answers."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from rich.console import Console

from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer, RecordedSystem, S2SSystem
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.servers.spoken import wav_bytes
from lightning_paras2s.serving.app import Limits, Server
from lightning_paras2s.serving.metrics import Metrics
from lightning_paras2s.serving.serve import bound, check, settings
from lightning_paras2s.shown.show import SHOWN
from lightning_paras2s.types import Audio, Query

pytest.importorskip("uvicorn")
pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
CLIENT = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_connections=100))
LIMITS = Limits(
    rows=16, wait_seconds=0.01, queue=256, query_seconds=5.0, bytes=400_000, body_seconds=1.0, answer_seconds=20.0
)


class Halver(S2SSystem):
    """Answers with the query's sound at half the level, and its level in words; a level of 0.5 is too much for it."""

    config_sha = "f1"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.sizes, self.free = seconds, [], None

    def respond(self, queries, audios, sample):
        self.sizes.append(len(audios))
        time.sleep(self.seconds)
        assert self.free is None or self.free.wait(60)
        if any(np.isclose(audio.samples.max(), 0.5) for audio in audios):
            raise RuntimeError("out of memory")
        return [Answer(Audio(a.samples / 2, SAMPLE_RATE), f"{a.samples.max():.4f} {sample}") for a in audios]


class Running:
    """A server in a thread of this process."""

    def __init__(self, systems, limits=LIMITS, key="", **page) -> None:
        self.server, self.socket = Server(systems, limits, key, **page), bound("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self):
        import uvicorn

        config = uvicorn.Config(self.server.app(), **settings(self.server))
        self.program = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.program.run, args=([self.socket],))
        self.thread.start()
        while not self.program.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *error) -> None:
        self.program.should_exit = True
        self.thread.join()
        self.socket.close()


def level(number: int, seconds: float = 0.05) -> Audio:
    """A sound whose level, of 16 bits, tells which request it is from."""
    return Audio(np.full(int(seconds * SAMPLE_RATE), (number + 1) * 16 / 32768, np.float32), SAMPLE_RATE)


def body(sound: Audio, **fields) -> dict:
    data = base64.b64encode(wav_bytes(sound)).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    asked = {"model": "half", "modalities": ["text", "audio"], "audio": {"voice": "any", "format": "wav"}}
    return {**asked, "messages": [{"role": "user", "content": [part]}], **fields}


def post(url: str, sent: dict, **options) -> httpx.Response:
    return CLIENT.post(f"{url}/v1/chat/completions", json=sent, **options)


def metrics(url: str) -> str:
    try:
        return CLIENT.get(f"{url}/metrics").text
    except httpx.ConnectError:
        return ""


@pytest.fixture(scope="module")
def half():
    with Running({"half": Halver()}) as running:
        yield running


def test_the_openai_client_hears_an_answer_and_lists_the_model(half):
    from openai import OpenAI

    client = OpenAI(base_url=f"{half.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["half"]
    found = client.chat.completions.create(**body(level(100)))
    message = found.choices[0].message
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message.audio.data)), dtype="float32")
    assert rate == SAMPLE_RATE and np.array_equal(samples, level(100).samples / 2)
    assert (message.audio.transcript, message.content, found.system_fingerprint) == ("0.0493 0", None, "f1")
    assert found.choices[0].finish_reason == "stop"


def test_the_openai_client_hears_a_stream(half):
    from openai import OpenAI

    client = OpenAI(base_url=f"{half.url}/v1", api_key="none", max_retries=0)
    sent = body(level(100, seconds=1.0), audio={"voice": "any", "format": "pcm16"}, stream=True)
    chunks = list(client.chat.completions.create(**sent))
    sounds = [c.choices[0].delta.audio for c in chunks if getattr(c.choices[0].delta, "audio", None)]
    pieces = [base64.b64decode(s.data) for s in sounds if s.data]
    samples = np.frombuffer(b"".join(pieces), "<i2") / 32768
    assert len(pieces) == 5 and len(samples) == 24_000  # one second at OpenAI's rate, in pieces of 0.2 s
    assert np.abs(samples[500:-500] - 101 * 8 / 32768).max() < 1e-3  # a filter's ripple
    assert "".join(s.transcript or "" for s in sounds) == "0.0493 0"
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("kind", ["wav", "pcm16", "flac", "mp3", "opus"])
def test_our_own_client_hears_every_format(half, kind):
    tone = Audio((0.4 * np.sin(np.arange(SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)).astype(np.float32), SAMPLE_RATE)
    for stream in (False, True):
        system = OpenAIAudioSystem("half", f"{half.url}/v1", audio_format=kind, stream=stream)
        found = system.respond([Query("q", "p", "age", "test", "hi", {}, "", "")], [tone], 0)[0]
        assert (found.status, found.text) == ("ok", "0.4000 0") and system.fingerprint == "f1"
        spectrum = np.abs(np.fft.rfft(found.audio.samples[:SAMPLE_RATE]))
        assert np.argmax(spectrum) == pytest.approx(440, abs=1)
        assert found.audio.seconds == pytest.approx(1.0, abs=0.15)  # mp3 and opus pad


WRONG = {
    "no JSON": (b"{", 400, "one JSON object"),
    "no model": (b"{}", 400, "with a model"),
    "another model": ({"model": "gpt-audio"}, 404, "must be one of half@f1"),
    "another checkpoint": ({"model": "half@f2"}, 404, "must be one of half@f1"),
    "a temperature": ({"temperature": 0.7}, 400, "takes neither instructions nor tools; got temperature"),
    "what shapes an answer": ({"logit_bias": {"1": 5}, "tool_choice": "required", "instructions": "be sad", "top_k": 1},
                              400, "got logit_bias, tool_choice, instructions, top_k; leave it out"),
    "a few tokens": ({"max_tokens": 1}, 400, "max_tokens must be an integer from 1024 on"),
    "no number of tokens": ({"max_completion_tokens": "9999"}, 400, "must be an integer from 1024 on"),
    "several answers": ({"n": 2}, 400, "n must be 1"),
    "a system's message": ({"messages": [{"role": "system", "content": "x"}]}, 400, "got system: text"),
    "no base64": ({"messages": [{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": "***", "format": "wav"}}]}]}, 400, "must be base64"),
    "no sound": ({"messages": [{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": "bm8gc291bmQ=", "format": "wav"}}]}]}, 400, "readable wav"),
    "another format": ({"audio": {"format": "aac"}}, 400, "audio.format must be one of wav"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_must_hold(half, name):
    sent, status, what = WRONG[name]
    content = sent if isinstance(sent, bytes) else json.dumps(body(level(1)) | sent).encode()
    found = CLIENT.post(f"{half.url}/v1/chat/completions", content=content)
    assert found.status_code == status and what in found.json()["error"]["message"]


def test_what_changes_nothing_may_be_asked_for(half):
    harmless = {"logprobs": False, "top_logprobs": 0, "tools": [], "tool_choice": "auto", "logit_bias": {}}
    harmless |= {"response_format": {"type": "text"}, "max_tokens": 4096, "user": "me", "metadata": {"a": "b"}}
    assert post(half.url, body(level(1), **harmless)).status_code == 200


class Refusing(S2SSystem):
    """Answers as whoever stands behind it says: with a `UserError` about its own account, or a status."""

    config_sha = "f2"

    def __init__(self) -> None:
        self.says = ""

    def check(self, queries, seconds):
        if max(seconds) > 1:
            raise UserError("a query must last up to 1 s")

    def respond(self, queries, audios, sample):
        if self.says == "no credit":
            raise UserError("the account must have credit; check $SECRET_KEY")
        return [Answer(None, status=self.says) if self.says else Answer(audio, "x") for audio in audios]


def test_what_is_the_servers_own_fault_is_not_its_clients(capsys):
    system = Refusing()
    with Running({"half": system}) as running:
        long = post(running.url, body(level(1, seconds=2.0)))
        assert long.status_code == 400 and long.json()["error"]["message"] == "a query must last up to 1 s"
        wanted = {"no credit": 503, "http_402": 503, "http_500": 503, "http_403": 422, "http_400": 422, "": 200}
        for number, (system.says, status) in enumerate(wanted.items()):
            found = post(running.url, body(level(number)))
            assert found.status_code == status and "SECRET_KEY" not in found.text
            kind = "server_error" if status == 503 else "invalid_request_error"
            assert status == 200 or found.json()["error"]["type"] == kind
    assert "check $SECRET_KEY" in capsys.readouterr().err  # who runs the server is told


def test_a_remote_system_is_asked_again_after_its_account_was_empty():
    from loopback import Loopback, Sent
    from test_openai_audio import completion

    empty = [False]
    with Loopback(lambda *_: Sent(402, b"{}") if empty[0] else Sent(200, completion(0))) as upstream:
        with Running({"half": OpenAIAudioSystem("m", upstream.url, patience=Patience(0, 5.0))}) as running:
            statuses = []
            for number, empty[0] in enumerate((False, True, True, False)):
                statuses.append(post(running.url, body(level(number))).status_code)
    assert statuses == [200, 503, 503, 200] and len(upstream.requests) == 4


class Speaker(S2SSystem):
    """Speaks a second of 440 Hz at a rate of its own; without one, on more channels than a file can have."""

    config_sha = "f3"

    def __init__(self, rate: int | None) -> None:
        self.rate = rate

    def respond(self, queries, audios, sample):
        if self.rate is None:
            return [Answer(Audio(np.zeros((800, 2000), np.float32), SAMPLE_RATE), "x") for _ in audios]
        sound = 0.4 * np.sin(np.arange(self.rate) * 2 * np.pi * 440 / self.rate)
        return [Answer(Audio(sound.astype(np.float32), self.rate), "x") for _ in audios]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rate", [22_050, 44_100, 96_000])
def test_a_voice_of_any_rate_is_heard_in_every_format(rate, stream):
    with Running({"half": Speaker(rate)}) as running:
        for kind in ("wav", "pcm16", "flac", "mp3", "opus"):
            system = OpenAIAudioSystem("half", f"{running.url}/v1", audio_format=kind, stream=stream)
            found = system.respond([Query("q", "p", "age", "test", "hi", {}, "", "")], [level(1)], 0)[0]
            assert found.status == "ok" and found.audio.seconds == pytest.approx(1.0, abs=0.15)
            assert np.argmax(np.abs(np.fft.rfft(found.audio.samples[:SAMPLE_RATE]))) == pytest.approx(440, abs=1)


class Broken(S2SSystem):
    """A voice that gives no numbers, as one in a type that is too narrow does."""

    config_sha = "f4"

    def respond(self, queries, audios, sample):
        return [Answer(Audio(np.full(1600, np.nan, np.float32), SAMPLE_RATE), "x") for _ in audios]


@pytest.mark.parametrize("kind", ["wav", "pcm16", "flac"])
def test_an_answer_that_is_no_sound_is_none(kind):
    with Running({"half": Broken()}) as running:
        found = post(running.url, body(level(1), audio={"voice": "any", "format": kind}))
    assert found.status_code == 422 and "no answer: bad_audio" in found.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_written_is_an_error_and_counts_as_one(stream):
    with Running({"half": Speaker(None)}) as running:
        found = post(running.url, body(level(1), stream=stream))
        assert found.status_code == 500 and found.json()["error"]["type"] == "server_error"
        assert 'paras2s_responses_total{status="500"} 1' in metrics(running.url)
        assert "paras2s_latency_seconds_count 0" in metrics(running.url)


def test_long_large_and_slow_requests_are_refused_and_cut_ones_hurt_nobody(half):
    assert post(half.url, body(level(1, seconds=6.0))).status_code == 413  # 5 s at most
    assert post(half.url, body(level(1, seconds=20.0))).status_code == 413  # 400 kB at most
    host, port = half.url.removeprefix("http://").split(":")
    for sent, answer in ((b"{", b"408"), (b"", b"408")):
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n" + sent)
            slow.settimeout(10)
            assert answer in slow.recv(1000)
    with socket.create_connection((host, int(port))) as cut:
        cut.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{")
    assert post(half.url, body(level(1))).status_code == 200


def test_a_request_that_the_system_fails_at_costs_no_other():
    system = Halver(seconds=0.05)
    with Running({"half": system}) as running, ThreadPoolExecutor(8) as threads:
        levels = [level(i) for i in range(7)] + [Audio(np.full(800, 0.5, np.float32), SAMPLE_RATE)]
        found = list(threads.map(lambda audio: post(running.url, body(audio)), levels))
    assert [f.status_code for f in found] == [200] * 7 + [500] and max(system.sizes) > 1
    assert found[-1].json()["error"]["message"] == "the model failed: RuntimeError"  # its inner words stay here


def test_a_program_that_was_switched_off_is_told_by_answers_log_and_health(tmp_path, capfd):
    """Clients were told to come again, and /health said ok, for as long as the server ran."""
    (tmp_path / "dies.py").write_text(
        'import sys\nprint(\'{"ready": "x"}\', flush=True)\nsys.stdin.readline()\nsys.exit("no memory left")\n'
    )
    command = f"{sys.executable} {tmp_path}/dies.py"
    dying = CommandSystem(command, restarts=1, stderr=str(tmp_path / "log"))
    off = "dies is switched off, since its program failed too often; who runs the server must start it anew"
    with Running({"dies": dying, "half": Halver()}) as running:
        found = [post(running.url, body(level(i), model="dies")) for i in range(3)]
        assert [f.status_code for f in found] == [503] * 3
        said = [f.json()["error"]["message"] for f in found]
        assert said[0] == "the model gave no answer: exit_1" and all(one.startswith(off) for one in said[1:])
        assert post(running.url, body(level(1))).status_code == 200
        told = CLIENT.get(f"{running.url}/health")
        assert told.status_code == 200 and told.json() == {
            "status": "some off", "models": ["dies", "half"], "waiting": 0, "off": ["dies"]}  # fmt: skip
    log = capfd.readouterr().err
    assert log.count("; started again for the next query") == 1 and log.count("; not started again; see") == 1
    assert log.count("dies is switched off until the server is started anew: a program must answer") == 1
    assert "no memory left" in log and "no memory left" not in "".join(said)
    with Running({"dies": dying}) as running:
        told = CLIENT.get(f"{running.url}/health")
        assert (told.status_code, told.json()["status"]) == (503, "off")


def test_a_key_is_needed_where_others_can_reach_the_server(tmp_path):
    with Running({"half": Halver()}, key="secret") as running:
        assert post(running.url, body(level(1))).status_code == 401
        assert CLIENT.get(f"{running.url}/v1/models").status_code == 401
        assert post(running.url, body(level(1)), headers={"Authorization": "Bearer secret"}).status_code == 200
        assert CLIENT.get(f"{running.url}/health").json() == {"status": "ok", "models": ["half"], "waiting": 0}
    for host in ("0.0.0.0", "192.168.0.1", "::", "example.org"):
        with pytest.raises(UserError, match=f"a server on {host} must have a key"):
            check({"half": Halver()}, host, "", "KEY")
    check({"half": Halver()}, "0.0.0.0", "secret", "KEY")
    check({"half": Halver()}, "::1", "", "KEY")
    with pytest.raises(UserError, match="must need a recording alone; got told, a RecordedSystem"):
        check({"told": RecordedSystem(str(tmp_path))}, "127.0.0.1", "", "KEY")


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="must be free and here"):
        bound("127.0.0.1", taken.getsockname()[1])


def test_metrics_are_what_prometheus_reads(half):
    post(half.url, body(level(1)))
    lines = CLIENT.get(f"{half.url}/metrics").text.splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(samples['paras2s_responses_total{status="200"}']) == int(samples["paras2s_latency_seconds_count"]) >= 1
    assert samples['paras2s_latency_seconds_bucket{le="+Inf"}'] == samples["paras2s_latency_seconds_count"]
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.split("{")[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in samples
            } <= named  # fmt: skip


def test_counters_count_beyond_a_million():
    counted = Metrics()
    counted.accepted, counted.heard_seconds, counted.latency_sum = 1_234_567, 7_654_321.25, 1_234_567.5
    lines = counted.prometheus(0).splitlines()
    assert "paras2s_accepted_total 1234567" in lines and "paras2s_heard_seconds_total 7654321.25" in lines
    assert "paras2s_latency_seconds_sum 1234567.5" in lines


def test_the_result_tells_latency_factor_votes_and_ended_connections(capsys):
    metrics = Metrics()
    metrics.batch(1, 0.5, [level(1, 1.0)], [Answer(level(1, 2.0))])
    metrics.answered(200, 0.75)
    metrics.votes, metrics.dropped["slow_head"] = 3, 2
    shown = SHOWN["serve"]({"models": {"half": "f1"}, **metrics.summary()}, {"battles": "b.jsonl"})
    Console(width=80).print(*shown.parts)
    rows = dict(re.findall(r"^\W*(\S.*?\S) {2,}(\S+)", capsys.readouterr().out, re.MULTILINE))
    assert {name: rows[name] for name in ("votes", "connections ended: slow head", "responses with 200")} == {
        "votes": "3",
        "connections ended: slow head": "2",
        "responses with 200": "1",
    }
    assert (float(rows["latency p50 seconds"]), float(rows["real time factor"])) == (0.75, 0.25)
    assert shown.next == "arena --battles b.jsonl --out runs/serve/arena"
