"""The notebook runs from nothing, from a tiny run, and draws every run that it finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks/ablations.ipynb"


def execute(folder: Path) -> str:
    """Run the notebook in `folder`; -> the text of all outputs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


def write_run(folder: Path, beta: float) -> None:
    path = folder / f"runs/grpo/beta={beta}"
    path.mkdir(parents=True)
    lines = [
        {"step": i, "train/reward": 2 + beta + i / 100, "train/kl": 0.1 * i, "train/zero_std_groups": 0.0}
        for i in range(20)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20, "train/re')
    config = {"model": {"init_args": {"beta": beta, "group_size": 8}}, "data": {"init_args": {"batch_size": 4}}}
    (path / "config.yaml").write_text(json.dumps(config))


def test_notebook_holds_no_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_notebook_runs_when_there_are_no_runs(tmp_path):
    (tmp_path / "runs").mkdir()
    assert "Empty DataFrame" in execute(tmp_path)


def test_notebook_draws_tiny_runs_and_results(tmp_path):
    for beta in (0.05, 0.2):
        write_run(tmp_path, beta)
    (tmp_path / "results").mkdir()
    row = {"group_size": 4, "mean": 3.25, "ci95": [3.0, 3.5], "n": 10}
    (tmp_path / "results/g.jsonl").write_text(json.dumps(row) + "\n")
    shown = execute(tmp_path)
    assert "grpo/beta=0.05" in shown and "grpo/beta=0.2" in shown and "3.25" in shown
    assert "2.235" in shown  # mean of the last two of 2.05 + i / 100, i = 0..19
    assert shown.count("image/png") == 3
