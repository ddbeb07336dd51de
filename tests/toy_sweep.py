"""A toy grid for `sweep`, whose subcommands are stood in for by a program that writes what the real ones write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.summary import Judged, summarise_system
from lightning_paras2s.running.logs import json_text
from lightning_paras2s.sweeping import runs as sweep_runs
from lightning_paras2s.types import FACTORS, Audio, Query, Verdict, append_jsonl, response_id

ROOT = Path(__file__).parents[1]
STYLES = {"emotion": ("happy", "sad"), "sarcasm": ("sarcastic", "sincere"), "age": ("adult", "child"),
          "gender": ("female", "male")}  # fmt: skip
# Four steps of training with rewards lr, lr + 1, lr + 2, lr + 3; both halves of every pair score 3.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open("calls.txt", "a") as file:
    file.write(command + " " + str(os.getpid()) + "\\n")
if command in ("fit", "predict"):
    lr = float(options.get("--model.lr", 0.1))
    if lr > 1:
        sys.exit("error: lr must be small; got " + str(lr))
    folder = Path(*(options["--trainer.logger." + part] for part in ("save_dir", "name", "version")))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("trainer: {precision: bf16-mixed}")
    (folder / "result.json").write_text(json.dumps({"steps": 4, "batches": 4, "ranks": 1}))
    time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
    shared = {"train/zero_std_groups": 0.25, "seconds/step": 2.0}
    logged = range(0, 4, int(options.get("--trainer.log_every_n_steps", 1)))
    lines = [{"step": i, "train/reward": lr + i, "train/kl": 0.1 * i} | shared for i in logged]
    lines += [{"step": i, "probe/judge": 2.0 + i, "probe/wer": 0.1, "val/pearson": i / 10} for i in (0, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
elif command == "synthesize":
    if options["--seed"] == "9":
        sys.exit("error: the control voice needs the package piper-tts; got none")
    out = Path(options["--out"])
    out.mkdir(parents=True)
    for name in ("queries.jsonl", "a.wav"):
        (out / name).write_bytes(Path("queries", name).read_bytes())
elif command == "audit":
    heard = {"systems": {"grpo": {"wer_outside": 0.25}}, "notes": ["DNSMOS is not installed"], "pairs_a_factor": 1}
    (Path(options["--run"]) / "outside.json").write_text(json.dumps(heard))
else:
    out = Path(options["--output"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdicts.jsonl").write_text(Path("verdicts.jsonl").read_text())
    summary = json.loads(Path("summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"manifest": options["--manifest"]}))
"""
GRID = {
    "name": "toy",
    "stages": {
        "grpo": "--config grpo.yaml --trainer.max_steps 4 --data.batch_size 2 --model.group_size 4 --model.lr {lr}"
    },
    "points": [{"lr": 0.1}, {"lr": 0.5}],
    "evaluate": "--config sweeps/evaluate.yaml --systems '{grpo: {class_path: PolicySystem, init_args: {policy: "
    '"{grpo}/policy.safetensors", processor: TinyProcessor}}}\'',
    "seeds": [1, 2],
    "manifest": "queries/queries.jsonl",
    "pairs": 2,
    "workers": 2,
}
CHAIN = {
    "samples": "predict --config preferences.yaml --model.folder {samples}/data",
    "grpo": GRID["stages"]["grpo"],
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with three pairs a factor and the stand-in for the subcommands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queries").mkdir()
    write_audio(tmp_path / "queries/a.wav", Audio(np.zeros(1600, np.float32), 16000))
    made = [Query(f"{f}-{i}-{s}", f"{f}-{i}", f, "test", f"text {i}", {f: s}, "topic", "a.wav")
            for f in FACTORS for i in range(3) for s in STYLES[f]]  # fmt: skip
    append_jsonl(tmp_path / "queries/queries.jsonl", made)
    (tmp_path / "program.py").write_text(PROGRAM)
    scores = {response_id("grpo", q.id, 0): 3.0 for q in made}
    append_jsonl(tmp_path / "verdicts.jsonl", [Verdict(i, "toy", score) for i, score in scores.items()])
    items = [Judged(q.id, q.pair_id, q.factor, q.styles[q.factor], 3.0, 3.0, "", "calm", 0.0, True) for q in made
             if not q.pair_id.endswith("2")]  # two pairs of each factor  # fmt: skip
    about = {"judge": "toy", "rubric_sha": "", "label_source": "gold", "queries_sha": "x", "samples": 1}
    (tmp_path / "summary.json").write_text(json_text({"systems": {"grpo": summarise_system(items)}} | about))
    monkeypatch.setattr(sweep_runs, "PROGRAM", (sys.executable, str(tmp_path / "program.py")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def calls(place: Path) -> list[str]:
    return [line.split()[0] for line in (place / "calls.txt").read_text().splitlines()]


def rows(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "results/toy.jsonl").read_text().splitlines()]
