"""The chain of docs/onegpu.md whole, on a CPU, from an empty folder and tiny random weights laid out as released. The
machine, the lengths, the local chat model and the ears are replaced.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml
from omni_release import write_release
from test_paper_configs import ROOT, STYLE
from test_plan_omni import read
from test_qwen_family_stages import COUNTED, HERE, PRECISE, SHORT, logged

from lightning_paras2s.cli import dispatch
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.running import chain
from lightning_paras2s.running.gpus import GPUS
from lightning_paras2s.running.plan_omni import Terms, plan_stage
from lightning_paras2s.types import Response, read_jsonl

EARS = ["--transcriber", "TinyTranscriber", "--max_wer", "9"]


def here() -> dict[str, str]:
    """What each stage is given beside its own options."""
    config = yaml.safe_load((ROOT / "configs/onegpu/evaluate.yaml").read_text())
    embedded = yaml.safe_load((ROOT / "configs/evaluate.yaml").read_text())
    config |= {"judge": embedded["judge"], "transcriber": embedded["transcriber"], "foreign_speech": "judge"}
    config["recognizer"] = {"class_path": "AcousticStyleRecognizer", "init_args": {"path": STYLE}}
    del config["manifest"]
    for system in config["systems"].values():
        system["init_args"]["sampling"]["max_steps"] = 12
    Path("here.yaml").write_text(yaml.safe_dump(config))
    precise = ["--model.policy.init_args.dtype=float32", "--data.processor.init_args.dtype=float32"]
    sampled = ["--model.samples=6", "--data.batch_size=2", "--model.sampling.max_steps=100"]
    sampled += ["--model.sampling.text_temperature=3", *precise, *COUNTED]
    learned = ["--trainer.max_steps=1", "--trainer.max_epochs=-1", "--data.floor=0", "--data.balance=0"]
    told = {
        "mine": ["--llm", "ScriptedLLM", "--factors", "[age, sarcasm]"],
        "synthesize": ["--factors", "[age, sarcasm]", "--limit", "5"],
        "filter": EARS,
        "preferences": [*HERE[:2], *sampled],
        "sft": [*HERE, *PRECISE, *learned],
        "grpo": [*HERE, *SHORT, *PRECISE, *COUNTED, "--model.state_bits=32", "--trainer.max_steps=1"],
        "evaluate": ["--config", "here.yaml", "--limit", "1"],
    }
    return {name: shlex.join(words) for name, words in told.items()}


@pytest.mark.slow
def test_the_chain_of_the_guide_runs_from_an_empty_folder(tmp_path, monkeypatch):
    write_release(tmp_path / "models/Qwen2.5-Omni-3B", context=1024)
    (tmp_path / "models/Qwen2.5-7B-Instruct").mkdir()
    for name in ("checkpoints", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(chain, "run", lambda words: (asked.append(words[0]), dispatch(list(words))))
    dispatch(["chain", "--config", "onegpu/chain.yaml", "--more", json.dumps(here())])
    before = len(asked)
    dispatch(["chain", "--config", "onegpu/chain.yaml", "--more", json.dumps(here())])
    assert before == 1 + 3 + 3 + 2 + 5 and len(asked) == before
    # RL began at what SFT had learned: its reference
    assert abs(logged("runs/onegpu_grpo/version_0", "train/kl")[0]) < 1e-5
    assert all(p.isfinite().all() for p in QwenOmni("runs/onegpu_grpo/version_0/policy").parameters())
    responses = read_jsonl("runs/onegpu_evaluate/responses.jsonl", Response)
    assert sorted({r.system for r in responses}) == ["grpo", "release"]
    assert "grpo" in Path("runs/onegpu_leaderboard.md").read_text()


def test_hours_are_those_of_plan_for_the_open_set():
    """Every text has two halves. 40 % of those of train and val are judged, 4 a step; GRPO takes its 500 steps; two
    systems answer the halves of test, 8 a step.
    """
    texts = Counter()
    for path in (ROOT / "lightning_paras2s/data/open").glob("*.jsonl"):
        texts[path.name.split(".")[1]] += len(path.read_text(encoding="utf-8").splitlines())
    judged, asked = 0.4 * 2 * (texts["train"] + texts["val"]), 2 * texts["test"]
    steps = {"preferences preferences_24": judged / 4, "grpo card_24": 500, "evaluate": 2 * asked / 8}
    stages = yaml.safe_load((ROOT / "configs/onegpu/chain.yaml").read_text())["stages"]
    for names, count in steps.items():
        seconds = sum(plan_stage(read(names), Terms(GPUS["rtx4090"])).seconds.values())
        assert stages[names.split()[0]]["hours"] == pytest.approx(count * seconds / 3600, rel=0.02)
    guide = " ".join((ROOT / "docs/onegpu.md").read_text(encoding="utf-8").split())
    assert f"({sum(stage.get('hours', 0) for stage in stages.values()):.0f} on an RTX 4090)" in guide


def test_what_does_not_fit_24_gb_names_its_overlay():
    """By `plan`; and what is evaluated are adapters, which no rounding to bfloat16 has touched."""
    stages = yaml.safe_load((ROOT / "configs/onegpu/chain.yaml").read_text())["stages"]
    for names in ("preferences", "sft", "grpo card_24", "evaluate"):
        stage = names.split()[0]
        told = f"onegpu/{stage}_24.yaml" in stages[stage].get("note", "")
        assert plan_stage(read(names), Terms(GPUS["rtx4090"])).fits != told, names
    assert not any("merged" in command for stage in stages.values() for command in stage["commands"])
