"""What does the embedded benchmark spend its time on? Items a CPU-second for each part of `bench`, on one thread.

CPU time rather than wall time, so that other work on the machine matters little. Weights and policy are the shipped
ones; the first pass of each part is not counted.

    python -m lightning_paras2s synthesize --out runs/bench/few --split test --limit 8
    OMP_NUM_THREADS=1 python speed/bench_parts.py runs/bench/few/queries.jsonl [--audit] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.listening import encode
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.systems.base import SAMPLE_RATE, ToplineSystem
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.hearing.audit import EGemapsRecognizer
from lightning_paras2s.hearing.recognizers import AcousticStyleRecognizer
from lightning_paras2s.hearing.transcribers import TinyTranscriber
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.models.tiny import features
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.models.tiny.streams import collate
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Evidence

WEIGHTS = Path("checkpoints/embedded")


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--policy", default=str(WEIGHTS / "grpo.safetensors"))
    parser.add_argument("--audit", action="store_true", help="openSMILE, too (extra `audit`)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rates = measure(options)
    print(json.dumps(rates) if options.json else table(rates))
    return rates


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Part -> items a CPU-second."""
    queries = read_queries(options.manifest, None)
    audios = [read_audio(Path(options.manifest).parent / q.audio, SAMPLE_RATE) for q in queries]
    tokenizer, ear = str(WEIGHTS / "tokenizer.safetensors"), str(WEIGHTS / "transcriber.safetensors")
    system, voice = PolicySystem(options.policy, TinyProcessor(tokenizer, ear)), EspeakSynthesizer()
    ears = system.processor.ears
    examples = system.processor.hear(audios)
    answers = system.respond(queries, audios, 0)
    spoken = [a.audio for a in answers if a.audio is not None and len(a.audio.samples)]
    transcriber, style = TinyTranscriber(ear, batch_size=1), AcousticStyleRecognizer(str(WEIGHTS / "style.safetensors"))
    style.batch_size = 1
    judge, topline = EmbeddedJudge(), ToplineSystem(voice, tokenizer, "test")
    evidence = [Evidence(q.id, a.text or "", 0.0, "neutral") for q, a in zip(queries, answers, strict=True)]

    def decode() -> None:
        order = sorted(examples, key=lambda e: e.prompt.shape[1])
        for start in range(0, len(order), system.rows):
            system.policy.generate(collate(order[start : start + system.rows]).prompt, system.sampling)

    def uncached(run: Callable[[], object]) -> Callable[[], object]:
        def fresh() -> None:
            for cache in (features._acoustics_of, ears.remembered, topline.voice.speak):
                cache.cache_clear()
            run()

        return fresh

    parts = {
        "query spoken (eSpeak)": lambda: [voice.synthesize(q.text, q.style, q.voice, 1) for q in queries],
        "query heard (acoustics, words, codes)": uncached(lambda: system.processor.hear(audios)),
        "query filtered (words and style)": uncached(
            lambda: (transcriber.transcribe(audios), style.recognize(audios, "query"))
        ),
        "policy's answer (two streams)": decode,
        "policy's answer with the codec's waveform, query heard": lambda: system.respond(queries, audios, 0),
        "topline's answer (eSpeak, codec)": uncached(lambda: topline.respond(queries, audios, 0)),
        "answer heard (words and tone)": uncached(
            lambda: (transcriber.transcribe(spoken), style.recognize(spoken, "response"))
        ),
        "answer judged": lambda: judge.judge_all(queries, [q.style for q in queries], evidence),
        "clip of the report (mp3)": lambda: [encode(audio, "mp3") for audio in spoken],
    }
    if options.audit:
        audit = EGemapsRecognizer(str(WEIGHTS / "audit.json"))
        parts["answer heard by the audit (eGeMAPS)"] = lambda: audit.recognize(spoken, "response")
    return {name: len(queries) / cpu_seconds(run) for name, run in parts.items()}


def cpu_seconds(run: Callable[[], object]) -> float:
    run()
    started = time.process_time()
    run()
    return time.process_time() - started


def table(rates: dict[str, float]) -> str:
    rows = [f"| {name} | {rate:.1f} | {1000 / rate:.1f} |" for name, rate in rates.items()]
    return "\n".join(["| part | items a CPU-second | ms |", "|---|---:|---:|", *rows])


if __name__ == "__main__":
    main()
