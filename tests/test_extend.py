"""The examples of docs/extend.md are whole files of at most 15 lines, and their commands run."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.cli import dispatch
from lightning_paras2s.types import Audio

PAGE = (Path(__file__).parents[1] / "docs/extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.S))
# What makes a command short enough for a test, and what it needs first.
SHORT = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.batch_size=2"]


def commands(name: str) -> list[list[str]]:
    after = PAGE[PAGE.index(f"# {name}") :]
    block = re.search(r"```\n(python -m.*?)```", after, re.S)[1]
    return [shlex.split(line)[3:] for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
        sys.modules.pop(name.removesuffix(".py"), None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_examples_are_short_whole_files():
    assert set(FILES) == {f"my_{part}.py" for part in ("reward", "judge", "system", "model", "recordings", "ears")}
    assert all(len([line for line in text.splitlines() if line.strip()]) <= 15 for text in FILES.values())


def record(folder: Path, count: int) -> None:
    """Hisses as queries and answers, and the manifests that the example writes of them."""
    random = np.random.default_rng(0)
    for i in range(count):
        for part in ("query", "answer"):
            samples = (random.standard_normal(16_000) * 0.1).astype(np.float32)
            write_audio(folder / "recordings" / f"r{i}.{part}.wav", Audio(samples, 16_000))
    exec(FILES["my_recordings.py"], {})


def test_unlabelled_recordings_serve_every_stage(folder):
    record(folder, 2)
    (folder / "queries.jsonl").unlink()
    imported, *stages, evaluated = commands("my_ears.py")
    dispatch(imported)
    for arguments in stages:
        dispatch([*arguments, *(SHORT if arguments[0] == "fit" else ["--model.samples=2", "--model.others=1"])])
    dispatch([*evaluated, "--audit_recognizer=null"])
    assert list((folder / "runs/grpo").glob("*/policy.safetensors"))
    assert (folder / "runs/preferences/data/train.jsonl").read_text().count("\n") >= 4
    assert '"unlabelled"' in (folder / "runs/unlabelled/summary.json").read_text()


def sources(arguments: list[str]) -> list[str]:
    """With recordings in place of the embedded text set, which takes minutes to speak."""
    given = any(a.startswith("--data.source") for a in arguments)
    return [] if given else ["--data.source=ManifestDialogues", "--data.source.manifest=queries.jsonl"]


@pytest.mark.parametrize("name", ["my_reward.py", "my_recordings.py"])
def test_stages_take_own_parts(name, folder):
    record(folder, 2)
    for arguments in commands(name):
        dispatch([*arguments, *sources(arguments), *SHORT])
        stage = "sft" if "sft.yaml" in arguments else "grpo"
        assert list((folder / "runs" / stage).glob("*/policy.safetensors"))


def test_own_base_model_is_built(folder):
    record(folder, 2)
    answers = ["--data.source=ManifestDialogues", "--data.source.manifest=queries.jsonl"]
    answers += ["--data.source.answers=answers.jsonl"]
    answers += ["--data.processor.transcriber=checkpoints/embedded/transcriber.safetensors"]
    (arguments,) = commands("my_model.py")
    dispatch([*arguments, *answers, *SHORT])
    assert list((folder / "runs/base").glob("*/policy.safetensors"))


@pytest.mark.parametrize("name", ["my_judge.py", "my_system.py"])
def test_evaluate_takes_own_parts(name, folder):
    record(folder, 2)
    (arguments,) = commands(name)
    few = ["--manifest=queries.jsonl", "--audit_recognizer=null", "--foreign_speech=judge"]
    parrot = [] if any("parrot" in a for a in arguments) else ["--systems={parrot: my_system.Parrot}"]
    dispatch([*arguments, *few, *parrot])
    (summary,) = folder.glob("runs/*/summary.json")
    assert '"parrot"' in summary.read_text()


def test_the_readmes_example_says_what_the_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    exec(example, {})
    said = [line.removeprefix("# ") for line in example.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == said and len(said) == 2
