"""The command line: what a user types, and what a user's mistakes look like."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from test_runs import cli, toy_config

from lightning_paras2s import cli as command_line
from lightning_paras2s.errors import UserError


def one_line(result) -> str:
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    return errors[0]


def test_import_when_no_stage_is_run(tmp_path: Path) -> None:
    code = "import sys, lightning_paras2s.cli; print('lightning' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


@pytest.mark.parametrize("asked", [["--help"], ["headline", "--help"], ["doctor"]])
def test_end_when_nobody_reads_what_is_printed(asked: list[str]) -> None:
    """As `| head` leaves it: no traceback, and the exit code that the system's own signal has."""
    command = subprocess.Popen(
        [sys.executable, "-m", "lightning_paras2s", *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command.stdout.close()
    said = command.stderr.read()
    assert command.wait() == 141 and "Traceback" not in said and "Exception" not in said, said


def test_error_when_the_config_is_missing(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_line, "PACKAGED_CONFIGS", tmp_path)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "grpo.yaml").touch()
    with pytest.raises(SystemExit) as stop:
        command_line.main(["fit", "--config", "grop.yaml"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "paper/grpo.yaml" in error and "'grop.yaml'" in error


def test_config_when_named_packaged_or_local(monkeypatch, tmp_path: Path) -> None:
    packaged, here = tmp_path / "packaged", tmp_path / "here"
    for folder in (packaged, here / "configs"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(command_line, "PACKAGED_CONFIGS", packaged)
    monkeypatch.chdir(here)
    (here / "configs" / "a.yaml").touch()
    assert command_line.resolve_config("a.yaml") == "configs/a.yaml"
    (packaged / "a.yaml").touch()
    assert command_line.resolve_config("a.yaml") == str(packaged / "a.yaml")
    (here / "a.yaml").touch()
    assert command_line.resolve_configs(["fit", "--config", "a.yaml"]) == ["fit", "--config", "a.yaml"]


def test_command_when_it_returns_a_record(capsys, monkeypatch, tmp_path: Path) -> None:
    module = types.ModuleType("toy_bench")

    def plan(size: int, name: str = "x") -> dict:
        """Plan a benchmark.

        Args:
            size: how many.
        """
        print("working")
        return {"size": size, "name": name}

    module.plan = plan
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "toy_bench", module)
    monkeypatch.setitem(command_line.COMMANDS, "plan", "toy_bench:plan")
    (tmp_path / "plan.yaml").write_text("size: 3\n")
    command_line.main(["plan", "--config", str(tmp_path / "plan.yaml"), "--name", "y", "--json"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "working" and json.loads(lines[-1]) == {"size": 3, "name": "y"}
    with pytest.raises(SystemExit) as stop:
        command_line.main(["plan", "--size", "many"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_error_when_a_command_is_not_there(monkeypatch) -> None:
    monkeypatch.setitem(command_line.COMMANDS, "plan", "lightning_paras2s.bench.nowhere:plan")
    with pytest.raises(UserError, match="lacks"):
        command_line.load_command("plan")


def test_errors_when_a_stage_is_asked_for_nonsense(tmp_path: Path) -> None:
    """An unknown option (the parser), and a refused one (inside Lightning)."""
    (tmp_path / "grpo.yaml").write_text(toy_config("grpo"))
    assert "groupsize" in one_line(cli(tmp_path, "fit", "--config", "grpo.yaml", "--model.groupsize", "4"))
    assert "got 1" in one_line(cli(tmp_path, "fit", "--config", "grpo.yaml", "--model.group_size", "1"))
    assert not (tmp_path / "runs").exists()


def test_options_when_resumed_with_others(tmp_path: Path) -> None:
    """A checkpoint's learning rate must not win over the command line's."""
    (tmp_path / "sft.yaml").write_text(toy_config("sft", steps=3))
    run = ("fit", "--config", "sft.yaml", "--trainer.logger.version", "lr=0.1")
    assert cli(tmp_path, *run).returncode == 0
    again = cli(tmp_path, *run, "--ckpt_path", "last", "--trainer.max_steps", "4", "--model.lr", "0.5")
    assert again.returncode == 0, again.stderr
    folder = tmp_path / "runs" / "sft" / "lr=0.1"
    assert "lr: 0.5" in (folder / "config.yaml").read_text()
    state = torch.load(folder / "checkpoints" / "step-00000004.ckpt", weights_only=True)
    # Step 3 of 4 with 2 of warm-up is half-way down the cosine from 1 to .1: .55 of .5.
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.55 * 0.5)


def test_a_limit_of_1_is_one_batch_and_of_1_0_all_whoever_wrote_the_union_of_both_first():
    code = (
        "from typing import Optional, Union; Optional[Union[float, int]]\n"
        "from lightning_paras2s.cli import main\n"
        "given = dict(train='1', val='1.0', test='1', predict='3')\n"
        "limits = [f'--trainer.limit_{name}_batches={n}' for name, n in given.items()]\n"
        "main(['fit', *limits, '--print_config'])"
    )
    printed = yaml.safe_load(subprocess.check_output([sys.executable, "-c", code], text=True))["trainer"]
    found = [printed[f"limit_{name}_batches"] for name in ("train", "val", "test", "predict")]
    assert [(type(value), value) for value in found] == [(int, 1), (float, 1.0), (int, 1), (int, 3)]


@pytest.mark.parametrize("place", ["folder", "file/table.md", "x" * 300])
def test_what_cannot_be_written_is_one_line(place: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """A folder where a file should be, a file where a folder should be, a name that is too long."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    cell = {"mean": 3.0, "ci95": [None, None], "n": 1, "n_failed": 0}
    summary = {"systems": {"a": {"overall": cell}}, "judge": "j", "rubric_sha": "r", "label_source": "gold"}
    Path("summary.json").write_text(json.dumps(summary))
    with pytest.raises(SystemExit) as ended:
        command_line.main(["leaderboard", "--runs", "[summary.json]", "--format", "json", "--output", place])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "must be able to write its files" in said and len(said.splitlines()) == 1
