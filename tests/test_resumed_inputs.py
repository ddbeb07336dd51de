"""A run goes on from the files that it began with, or is refused in one line that says which is another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from test_runs import toy_config
from toy_runs import run
from toys import ToyLM

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.inputs import inputs_of_run, paths_in, require_same, write_inputs
from lightning_paras2s.running.origins import content_sha, weights_sha

VERSION = "--trainer.logger.version=a"
FROM = ("--model.init_from=first.safetensors", VERSION)
PLAIN = "--model.policy.init_args.dropout=0.0"  # the toy's file says so


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(1, "first.safetensors")
    return tmp_path


def save(seed: int, name: str) -> None:
    torch.manual_seed(seed)
    ToyLM().save(Path(name))


@pytest.mark.parametrize("stage, step", [("grpo", 4), ("sft", 1)])
def test_run_is_refused_when_its_first_weights_are_others(stage, step):
    """Of RL they are the KL's reference, of which checkpoints hold nothing."""
    run(stage, *FROM, PLAIN, f"--trainer.max_steps={2 * step}")
    kept = sorted(Path("runs").rglob("*"))
    save(7, "first.safetensors")
    with pytest.raises(UserError) as refused:
        run(stage, *FROM, PLAIN, f"--trainer.max_steps={3 * step}")
    told = "model.init_from must hold what it held when this run began; got other contents at first.safetensors ("
    assert str(refused.value).startswith(told) and "--trainer.logger.version" in str(refused.value)
    assert sorted(Path("runs").rglob("*")) == kept
    save(1, "first.safetensors")  # put back
    run(stage, *FROM, PLAIN, f"--trainer.max_steps={3 * step}")


def test_run_goes_on_from_another_file_when_it_is_asked_to(caplog):
    """That is an option which was changed, and told."""
    run("sft", *FROM, PLAIN, "--trainer.max_steps=2")
    save(7, "second.safetensors")
    run("sft", "--model.init_from=second.safetensors", VERSION, PLAIN, "--trainer.max_steps=3")
    assert "init_from second.safetensors (was first.safetensors)" in caplog.text


def test_run_goes_on_when_it_began_before_inputs_were_kept(caplog):
    run("sft", *FROM, PLAIN, "--trainer.max_steps=2")
    record = Path("runs/sft/a/inputs.json")
    assert "does not tell what it began with" not in caplog.text
    record.unlink()
    run("sft", *FROM, PLAIN, "--trainer.max_steps=3")
    told = "runs/sft/a does not tell what it began with; it goes on with first.safetensors as now there"
    assert told in caplog.text and list(json.loads(record.read_text())) == ["first.safetensors"]


def test_run_that_began_anew_takes_what_is_there():
    """Without a checkpoint there is nothing to go on from."""
    run("sft", *FROM, PLAIN, "--trainer.max_steps=2")
    shutil.rmtree("runs/sft/a/checkpoints")
    save(7, "first.safetensors")
    run("sft", *FROM, PLAIN, "--trainer.max_steps=2")


def test_paths_are_those_of_all_parts_of_a_run():
    """Manifests in lists, a scorer's weights within a reward, a base's folder; not folders that a run writes, nor
    what a server's replies fill while it waits.
    """
    package = "lightning_paras2s"
    judge = {"class_path": "LLMJudge", "init_args": {"rubric": "r.txt", "llm": {"class_path": "ChatLLM"}}}
    judge["init_args"]["llm"]["init_args"] = {"batch_results": ["b.jsonl"], "cache_dir": "cache"}
    scorer = {"class_path": f"{package}.models.qwen_omni.scorer.TrainedOmniScorer"}
    scorer["init_args"] = {"path": "scorer", "base": "omni"}
    tree = {
        "model": {
            "class_path": f"{package}.modules.grpo.GRPOModule",
            "init_args": {
                "init_from": None,
                "policy": {"class_path": "KimiAudio", "init_args": {"path": "kimi"}},
                "reward": {"class_path": "JudgeReward", "init_args": {"judge": judge}},
                "other": {"class_path": "ScorerReward", "init_args": {"scorer": scorer}},
            },
        },
        "data": {
            "class_path": f"{package}.data.preferences.PreferenceDataModule",
            "init_args": {"train": ["a.jsonl", "b.jsonl"], "val": "v.jsonl", "cache_dir": "cache"},
        },
    }
    found = dict.fromkeys(path for _, path in paths_in(tree))
    assert list(found) == ["kimi", "r.txt", "scorer", "omni", "a.jsonl", "b.jsonl", "v.jsonl"]
    assert ("data.train", "a.jsonl") in paths_in(tree)


def test_folder_is_another_when_a_shard_of_it_is(tmp_path):
    """Both ends of a file count: 15 GB need not be read through."""
    config = {"model": {"class_path": "KimiAudio", "init_args": {"path": "kimi"}}}
    Path("kimi").mkdir()
    Path("kimi/model-1.safetensors").write_bytes(b"a" * 300_000)
    write_inputs(tmp_path, before := inputs_of_run(config))
    assert before["kimi"]["option"] == "model.path"
    Path("kimi/model-1.safetensors").write_bytes(b"a" * 299_999 + b"b")
    with pytest.raises(UserError, match="model.path must hold what it held when this run began; got other contents"):
        require_same(tmp_path, inputs_of_run(config))


def test_weights_written_twice_are_the_same():
    """safetensors writes a header's entries in another order each time: a dozen files of the same weights have several
    sums, and one content. What is no safetensors, or cut, is known by its bytes.
    """
    folders = [Path(str(i)) for i in range(12)]
    for folder in folders:
        save(1, f"{folder}/a.safetensors")
    assert len({hashlib.sha256((f / "a.safetensors").read_bytes()).digest() for f in folders}) > 1
    assert len({content_sha(f) for f in folders}) == len({content_sha(f / "a.safetensors") for f in folders}) == 1
    save(2, "0/a.safetensors")
    assert content_sha(folders[0] / "a.safetensors") != content_sha(folders[1] / "a.safetensors")
    for cut in (b"", b"short", b"x" * 20):
        Path("cut.safetensors").write_bytes(cut)
        assert content_sha(Path("cut.safetensors")) == hashlib.sha256(cut).hexdigest()[:16]


def test_hashes_of_files_and_folders_are_what_they_were(tmp_path):
    """Answers, sweeps' rows and runs' inputs are stored under them. Lengths: within both ends, where they overlap, and
    beyond; the header's order counts for one, and what changes by use for the other."""
    counted = bytes(i * 7 % 251 for i in range(300_000))
    header = json.dumps({"b": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]}, "__metadata__": {"x": "1"}})
    files = {"small.bin": counted[:1000], "middle.bin": counted[:100_000], "in/large.bin": counted, ".git/HEAD": b"ref"}
    files["a.safetensors"] = len(header).to_bytes(8, "little") + header.encode() + counted[:100]
    root = tmp_path / "policy"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    tensors = root / "a.safetensors"
    assert (content_sha(root), content_sha(tensors)) == ("f18c5b0b1b9a34d3", "4f555a6015d64fbb")
    assert (weights_sha(root), weights_sha(tensors)) == ("c43f2f2de0f342c6", "b7d65760605d8bfb")


def test_toy_config_names_no_paths():
    assert list(paths_in(json.loads(toy_config("sft")))) == []
