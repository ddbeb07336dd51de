"""The shipped policy behind `serve`: its verdicts through the server are those that it has in this process."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.hearing.recognizers import AcousticStyleRecognizer
from lightning_paras2s.hearing.transcribers import TinyTranscriber
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.types import FACTORS, Query, Response, Verdict, answered, read_jsonl

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    command = [sys.executable, "-m", "lightning_paras2s", "serve", "--config", "serve.yaml", "--port", "0", "--json"]
    out = tmp_path_factory.mktemp("serve")
    with (out / "out").open("w") as told:
        program = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=subprocess.PIPE, text=True)
        line = program.stderr.readline()
        yield re.search(r"http://\S+/v1", line)[0], program, out / "out"
        if program.poll() is None:
            program.terminate()
            program.wait(20)


def test_a_policy_behind_the_server_has_the_verdicts_that_it_has_here(server, tmp_path):
    url, program, told = server
    synthesize(str(tmp_path / "queries"), split="test", limit=1)
    policy = PolicySystem("checkpoints/embedded/grpo.safetensors", TinyProcessor())
    systems = {"here": policy, "there": OpenAIAudioSystem(f"grpo@{policy.config_sha}", url)}
    parts = {"judge": EmbeddedJudge(), "transcriber": TinyTranscriber(batch_size=1)}
    parts["recognizer"] = AcousticStyleRecognizer(batch_size=1)
    evaluate(str(tmp_path / "queries/queries.jsonl"), systems, **parts, output=str(tmp_path / "run"), label_swap=False)
    scores, texts = {}, {}
    for verdict in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict):
        who = answered(verdict.response_id)
        scores.setdefault(who.query_id, {})[who.system] = (verdict.score, verdict.status)
    for response in read_jsonl(tmp_path / "run/responses.jsonl", Response):
        texts.setdefault(response.query_id, {})[response.system] = (response.text, response.status, response.seconds)
    assert len(scores) == 8 and len({score for found in scores.values() for score, _ in found.values()}) > 1
    assert all(found["here"] == found["there"] for found in scores.values()), scores
    assert all(found["here"] == found["there"] for found in texts.values()), texts

    query = read_jsonl(tmp_path / "queries/queries.jsonl", Query)[0]
    raw = (tmp_path / "queries" / query.audio).read_bytes()
    sent = {"data": base64.b64encode(raw).decode(), "models": ["grpo", "sft_fifth"]}
    page = httpx.post(f"{url.removesuffix('/v1')}/talk/ask", json=sent, timeout=60).json()
    audio = read_audio(tmp_path / "queries" / query.audio, 16_000)
    assert page["query"]["transcript"] == parts["transcriber"].transcribe([audio])[0]
    assert set(page["query"]["style"]) == set(FACTORS) and page["answers"][0]["text"] == texts[query.id]["here"][0]
    assert [answer["model"].split("@")[0] for answer in page["answers"]] == ["grpo", "sft_fifth"]
    assert all(set(answer["style"]) == {"tone"} and answer["audio"] for answer in page["answers"])

    program.send_signal(signal.SIGTERM)
    assert program.wait(20) == 0
    result = json.loads(told.read_text())
    assert result["statuses"] == {"200": 9} and result["real_time_factor"] > 0
    assert result["models"]["grpo"] == policy.config_sha != result["models"]["sft_fifth"]
