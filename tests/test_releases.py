"""The chain of docs/paper.md whole, on a CPU, from an empty folder and releases that are written as upstream writes
them; then the guide's other commands. Only the machine, the lengths and what costs money are replaced: servers are on
loopback, the judge and the ears are embedded.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from lab_servers import LabServers, write_voices
from releases import write_releases
from test_paper_configs import HERE, ROOT, SHORT, STYLE, logged

from lightning_paras2s.cli import dispatch
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.kimi.text import KimiText
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.running import chain
from lightning_paras2s.types import FACTORS, Query, Response, read_jsonl

EMBEDDED = {n: yaml.safe_load((ROOT / f"configs/{n}.yaml").read_text()) for n in ("preferences", "evaluate")}
ONE_STEP = [*HERE, "--trainer.strategy=auto", "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]
# said with its weights, because the config's other recogniser has a path, too
TONE = {"class_path": "AcousticStyleRecognizer", "init_args": {"path": STYLE}}
JUDGE = EMBEDDED["preferences"]["model"]["init_args"]["reward"]
JUDGED = json.dumps(JUDGE | {"init_args": JUDGE["init_args"] | {"style": TONE}})
EARS = ["--transcriber", "TinyTranscriber", "--recognizer", json.dumps(TONE), "--max_wer", "9"]


def commands() -> list[list[str]]:
    """`fit --config paper/sft.yaml ...` of each row of the guide's last table, in its order."""
    found = re.findall(r"^\|[^|`]*\| `((?:fit|predict|evaluate) [^`]*)` \|", (ROOT / "docs/paper.md").read_text(), re.M)
    return [shlex.split(command) for command in found]


def shortened(path: Path) -> str:
    """A benchmark config with a judge that is here, and the released ear for tone on the CPU; its queries are named
    elsewhere."""
    config = yaml.safe_load(path.read_text())
    del config["manifest"]
    config |= {name: EMBEDDED["evaluate"][name] for name in ("judge", "transcriber")} | {"foreign_speech": "judge"}
    config["recognizer"]["init_args"] = {"path": "models/Audio-Reasoner", "processor": None}
    config["recognizer"]["init_args"] |= {"device": "cpu", "max_tokens": 4}
    for system in config["systems"].values():
        system["init_args"]["sampling"]["max_steps"] = 10
    Path(path.name).write_text(yaml.safe_dump(config))
    return path.name


def here(url: str) -> dict[str, str]:
    """What each stage of `paper/chain.yaml` is given beside its own options, so that it runs on this machine."""
    patience = {"first_wait_seconds": 0.01, "longest_wait_seconds": 0.05}
    llm = {"model": "gpt-4.1", "base_url": url, "cache_dir": "cache/llm", "patience": patience}
    chat = ["--llm", json.dumps({"class_path": "OpenAIChat", "init_args": llm})]
    voice = {"class_path": "OpenAITTS", "init_args": {"base_url": url, "describer": None, "patience": patience}}
    told = {
        "mine": [*chat, "--count", "2", "--rounds", "1"],
        "synthesize": ["--synthesizer.base_url", url, "--limit", "4"],
        "filter": [*EARS, "--factors_heard", "[]"],
        "demonstrate": [*chat, "--synthesizer", json.dumps(voice), *EARS],
        "sft": [*ONE_STEP, "--data.batch_size=2"],
        "preferences": [*HERE[:3], *SHORT, "--model.samples=2", f"--model.reward={JUDGED}", "--data.batch_size=2"],
        "reward": [*HERE, "--data.batch_size=2", "--trainer.limit_train_batches=1"],
        "grpo": [*ONE_STEP, *SHORT, "--model.group_size=2", "--data.batch_size=2", "--model.max_unscored=1.0"],
        "evaluate": ["--config", shortened(ROOT / "configs/paper/evaluate.yaml"), "--limit", "1"],
    }
    return {name: shlex.join(words) for name, words in told.items()}


def run_chain(url: str, *options: str) -> None:
    dispatch(["chain", "--config", "paper/chain.yaml", "--more", json.dumps(here(url)), *options])


@pytest.mark.slow
def test_the_chain_and_every_command_of_the_guide_run_from_an_empty_folder(tmp_path, monkeypatch, capfd):
    write_releases(tmp_path / "models")
    write_voices(tmp_path / "data/voices")
    for name in ("checkpoints", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    # a byte is a token to the tiny models, and the real prompts are thousands of bytes
    monkeypatch.setattr(qwen_omni, "GUIDELINE", "Fit?")
    asked, describer = [], ["--synthesizer.describer.patience.first_wait_seconds", "0.01"]

    def run(words):
        asked.append(words[0])
        if asked.count("evaluate") == 1 and words[0] == "evaluate":
            raise KeyboardInterrupt  # in its last but one stage
        dispatch([*words, *describer] if "--synthesizer.describer" in words else list(words))

    monkeypatch.setattr(chain, "run", run)
    with LabServers() as servers:
        describer += ["--synthesizer.describer.base_url", servers.url]
        with pytest.raises(KeyboardInterrupt):
            run_chain(servers.url)
        paid, before = dict(servers.asked), len(asked)
        run_chain(servers.url)
        assert (
            asked[before:] == ["evaluate", "leaderboard"] and servers.asked == paid
        )  # what was done is not done again
    assert all(paid.values())
    demonstrated = read_jsonl("data/demonstrations/train.jsonl", Query)
    answers = {r.query_id: r for r in read_jsonl("data/demonstrations/answers.jsonl", Response)}
    assert demonstrated and {q.id for q in demonstrated} <= set(answers)
    parts = {
        p: {q.text for q in read_jsonl(f"data/{p}/train.jsonl", Query)} for p in ("prompts", "preferences", "queries")
    }
    assert all(parts.values()) and len(set.union(*parts.values())) == sum(map(len, parts.values()))
    assert {q.factor for q in read_jsonl("data/queries/train.jsonl", Query)} == set(FACTORS)
    (kl,) = logged(Path("runs/paper_grpo/version_0"), "train/kl")
    assert abs(kl) < 1e-5  # the first update starts at the reference
    policy = KimiAudio("runs/paper_grpo/version_0/policy")
    assert policy.lm_head.weight.shape == (168_448, 16) and policy.lm_head.weight.isfinite().all()
    assert policy.config.msg_end == 151_645 and len(KimiText("runs/paper_grpo/version_0/policy")) == 152_064
    every = commands()
    names = [Path(words[2]).stem for words in every]
    assert names == ["sft", "preferences", "reward", "grpo", "evaluate", "evaluate_demo"]
    demo = shortened(ROOT / "configs/paper/evaluate_demo.yaml")
    dispatch(["evaluate", "--config", demo, "--manifest", "data/paras2sbench/test.jsonl", "--limit", "1"])
    judged = {"runs/paper_evaluate": ["grpo", "kimi", "sft"], "runs/paper_evaluate_demo": ["kimi_demo"]}
    for folder, systems in judged.items():
        responses = read_jsonl(Path(folder, "responses.jsonl"), Response)
        assert sorted({r.system for r in responses}) == systems
        assert all(Path(folder, r.audio).is_file() for r in responses if r.audio)
    table = Path("runs/paper_leaderboard.md").read_text()
    assert all(system in table for system in judged["runs/paper_evaluate"])
