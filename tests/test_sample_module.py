"""`predict --config preferences.yaml`, killed with `kill -9` in the middle and called again: the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from test_runs import cli
from toys import DeadlyReward

from lightning_paras2s.cli import main
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.types import read_jsonl


def write_config(path: Path, folder: str, call: int, half_line: bool) -> None:
    deadly = {"token": 2, "call": call, "marker": "killed", "half_line": half_line}
    model = {
        "policy": {"class_path": "toys.ToyLM"},
        "reward": {"class_path": "toys.DeadlyReward", "init_args": deadly},
        "folder": folder,
        "samples": 3,
        "sampling": {"max_steps": 20},
    }
    trainer = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_model_summary": False}
    config = {
        "trainer": trainer,
        "model": {"class_path": "SampleModule", "init_args": model},
        "data": {"class_path": "toys.ToyData", "init_args": {"labelled": False}},
        "progress": {"refresh_rate": 0},
    }
    path.write_text(json.dumps(config))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_samples_when_asked_to_stop(tmp_path: Path, monkeypatch) -> None:
    """SIGTERM, as a scheduler sends it: the batch at hand is finished, and no other begun."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "cut.yaml", "cut", 0, False)
    judge = DeadlyReward.score

    def score(self, batch, responses):
        os.kill(os.getpid(), signal.SIGTERM)
        return judge(self, batch, responses)

    monkeypatch.setattr(DeadlyReward, "score", score)
    with pytest.raises(SystemExit):
        main(["predict", "--config", "cut.yaml"])
    cut = contents(tmp_path / "cut")
    assert cut["train-0/done.txt"].count(b"\n") == 4 and "train.jsonl" not in cut


@pytest.mark.parametrize("half_line", [False, True], ids=["while judging", "while writing"])
def test_samples_when_killed_and_called_again(half_line: bool, tmp_path: Path, monkeypatch) -> None:
    """16 training queries in batches of 4, then 6 of validation; killed in the third batch."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "cut.yaml", "cut", 3, half_line)
    write_config(tmp_path / "whole.yaml", "whole", 0, False)
    killed = cli(tmp_path, "predict", "--config", "cut.yaml")
    assert killed.returncode == -9, killed.stderr
    cut = contents(tmp_path / "cut")
    assert cut["train-0/done.txt"].count(b"\n") == 8 and "train.jsonl" not in cut
    assert cut["train-0/preferences.jsonl"].endswith(b"\n") != half_line
    main(["predict", "--config", "cut.yaml"])
    main(["predict", "--config", "whole.yaml"])
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "cut") == whole
    rows = read_jsonl(tmp_path / "whole/train.jsonl", Preference)
    assert len({r.query_id for r in rows}) == 16 and len(rows) == len({(r.query_id, r.sample) for r in rows})
