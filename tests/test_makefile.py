"""`make reproduce`: every shipped weight, each step after those whose weights it reads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_paras2s.running.source import class_options

ROOT = Path(__file__).parents[1]
SHIPPED = re.compile(r"checkpoints/embedded/([\w-]+(?:\.\w+)+)")


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> list[str]:
    """What `make reproduce` would do in a fresh clone."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".ci").mkdir()
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "requirements.lock", ".ci/install.py"):
        shutil.copy(ROOT / name, folder / name)
    done = subprocess.run(["make", "--dry-run", "reproduce"], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def read_by(config: str) -> set[str]:
    """Shipped files that a config names, or its classes by default, but for those that it writes."""
    text = re.sub(r"export: [\w./-]+", "", (ROOT / "configs" / config).read_text())
    defaults = [o.default or "" for word in re.findall(r"\w+", text) for o in class_options(word) or ()]
    return {name for part in (text, *defaults) for name in SHIPPED.findall(part)}


def test_steps_come_after_those_whose_weights_they_read(commands):
    made: set[str] = set()
    runs: list[str] = []  # a config and its version, or the folder of its answers
    for command in commands:
        for config in re.findall(r"--config ([\w/]+\.yaml)", command):
            assert read_by(config) <= made, f"{config} reads {read_by(config) - made} before it is made"
            for policy in re.findall(r"runs/(\w+/\w+)/policy", command):
                assert policy in runs
        if " --config" in command:
            named = re.search(r"--(?:trainer\.logger\.version|model\.folder) (\S+)", command)
            runs.append(f"{Path(config).stem}/{named[1] if named else ''}")  # of the last config: the one on top
        if re.search(r"-m lightning_paras2s\.[\w.]*\b(acts|audit) |&& mv ", command):
            made |= {name for name in SHIPPED.findall(command) if not name.startswith(".")}
    assert len(runs) == len(set(runs)) >= 9
    listed = {line.split()[1] for line in (ROOT / "checkpoints/embedded/SHA256SUMS").read_text().splitlines()}
    assert listed <= made


def test_interrupted_steps_go_on_and_done_ones_leave_a_stamp(commands):
    steps = [command for command in commands if " fit --config" in command]
    assert all("--trainer.logger.version reproduce" in step for step in steps)
    stamps = [re.sub("^touch ", "", command) for command in commands if command.startswith("touch runs/reproduce/")]
    assert len(stamps) == len(set(stamps)) >= len(steps) + 2


def test_an_older_python_is_refused_in_one_line(tmp_path):
    """A stand-in that answers as Python 3.10 does."""
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.13\n[ "$1" = --version ]\n')
    old.chmod(0o755)
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    done = subprocess.run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    assert done.returncode == 2 and errors == [
        "error: Python must be 3.11 or newer; got Python 3.10.13; set PYTHON=/path/to/python3.11"
    ]
    assert not (tmp_path / ".venv").exists()
