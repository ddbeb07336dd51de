"""How `serve` bears many requests at once: are its answers those of the same policy here, and how long do they take?

`python speed/serve.py [--requests 200]`: spoken test queries, all sent at once, to the shipped policy behind
`serve --config serve.yaml`; one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer
from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.types import Query, read_jsonl

CLOSE = 1e-3  # of samples: a row's arithmetic differs a little with the batch that it is in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder:
        synthesize(folder, split="test", limit=-(-count // 8))
        queries = read_jsonl(Path(folder) / "queries.jsonl", Query)[:count]
        audios = [read_audio(Path(folder) / q.audio, SAMPLE_RATE) for q in queries]
    policy = PolicySystem("checkpoints/embedded/grpo.safetensors", TinyProcessor())
    here = policy.respond(queries, audios, 0)
    command = [sys.executable, "-m", "lightning_paras2s", "serve", "--config", "serve.yaml", "--port", "0", "--json"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = re.search(r"http://\S+/v1", program.stderr.readline())[0]
    started = time.perf_counter()
    there = OpenAIAudioSystem(f"grpo@{policy.config_sha}", url, concurrency=count).respond(queries, audios, 0)
    seconds = time.perf_counter() - started
    program.send_signal(signal.SIGTERM)
    told = json.loads(program.communicate(timeout=60)[0])
    lost = sum(answer.audio is None for answer in there)
    mixed = sum(not alike(a, b) for a, b in zip(here, there, strict=True)) - lost
    print(json.dumps({"requests": len(queries), "lost": lost, "mixed_up": mixed, "seconds": round(seconds, 2), **told}))


def alike(a: Answer, b: Answer) -> bool:
    """The same words, and the same sound but for rounding."""
    if b.audio is None or (a.text, a.status, len(a.audio.samples)) != (b.text, b.status, len(b.audio.samples)):
        return False
    return float(np.abs(a.audio.samples - b.audio.samples).max(initial=0.0)) < CLOSE


if __name__ == "__main__":
    main()
