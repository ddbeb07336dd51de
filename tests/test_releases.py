"""All commands of docs/paper.md, on a CPU, from releases that are written as upstream writes them. Only the machine,
the lengths and what costs money (the judge of words, OpenAI's Whisper) are replaced.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from releases import write_releases
from test_paper_configs import HERE, ROOT, SHORT, logged, write_lab

from lightning_paras2s.cli import dispatch
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.kimi.text import KimiText
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.types import Response, read_jsonl

EMBEDDED = {n: yaml.safe_load((ROOT / f"configs/{n}.yaml").read_text()) for n in ("preferences", "evaluate")}
JUDGED = json.dumps(EMBEDDED["preferences"]["model"]["init_args"]["reward"])
ONE_STEP = [*HERE, "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
HERE_OF = {
    "sft": [*ONE_STEP, "--data.batch_size=2"],
    "preferences": [*HERE[:3], *SHORT, "--model.samples=2", f"--model.reward={JUDGED}", "--data.batch_size=2"],
    "reward": [*HERE, "--data.batch_size=2", "--trainer.limit_train_batches=1"],
    "grpo": [*ONE_STEP, *SHORT, "--model.group_size=2", "--data.batch_size=2", "--model.max_unscored=1.0"],
}


def commands() -> list[list[str]]:
    """`fit --config paper/sft.yaml ...` of each row of the table, in its order."""
    found = re.findall(r"^\|[^|`]*\| `((?:fit|predict|evaluate) [^`]*)` \|", (ROOT / "docs/paper.md").read_text(), re.M)
    return [shlex.split(command) for command in found]


def shortened(path: Path) -> str:
    """A benchmark config with a judge that is here, and the released ear for tone on the CPU."""
    config = yaml.safe_load(path.read_text())
    config |= {name: EMBEDDED["evaluate"][name] for name in ("judge", "transcriber")}
    config["recognizer"]["init_args"] = {"path": "models/Audio-Reasoner", "device": "cpu", "max_tokens": 4}
    for system in config["systems"].values():
        system["init_args"]["sampling"]["max_steps"] = 10
    Path(path.name).write_text(yaml.safe_dump(config))
    return path.name


def run(words: list[str]) -> None:
    configs = [words[i + 1] for i, word in enumerate(words) if word == "--config" and "fsdp" not in words[i + 1]]
    (config,) = configs
    name = Path(config).stem
    if words[0] == "evaluate":
        dispatch(["evaluate", "--config", shortened(ROOT / "configs" / config)])
    else:
        dispatch([words[0], "--config", config, *HERE_OF[name]])


@pytest.mark.slow
def test_every_command_of_the_guide_runs_from_the_releases(tmp_path, monkeypatch):
    write_releases(tmp_path / "models")
    write_lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    # a byte is a token to the tiny models, and the real prompts are thousands of bytes
    monkeypatch.setattr(qwen_omni, "GUIDELINE", "Fit?")
    every = commands()
    names = [Path(words[2]).stem for words in every]
    assert names == ["sft", "preferences", "reward", "grpo", "evaluate", "evaluate_demo"]
    for words in every:
        run(words)
    (kl,) = logged(Path("runs/paper_grpo/version_0"), "train/kl")
    assert abs(kl) < 1e-5  # the first update starts at the reference
    policy = KimiAudio("runs/paper_grpo/version_0/policy")
    assert policy.lm_head.weight.shape == (168_448, 16) and policy.lm_head.weight.isfinite().all()
    assert policy.config.msg_end == 151_645 and len(KimiText("runs/paper_grpo/version_0/policy")) == 152_064
    judged = {"runs/paper_evaluate": ["grpo", "kimi", "sft"], "runs/paper_evaluate_demo": ["kimi_demo"]}
    for folder, systems in judged.items():
        responses = read_jsonl(Path(folder, "responses.jsonl"), Response)
        assert sorted({r.system for r in responses}) == systems
        assert all(Path(folder, r.audio).is_file() for r in responses if r.audio)
