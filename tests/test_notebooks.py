"""The notebooks run from nothing, from tiny runs, and from the committed results, and draw what they find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("ablations", "headline")


def execute(name: str, folder: Path) -> str:
    """Run a notebook in `folder`; -> the text of all outputs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
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
    lines += [{"step": i, "probe/judge": 2.0, "probe/audit": 2.0, "probe/wer": 0.1} for i in (0, 9, 19)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 20, "train/re')
    config = {"model": {"init_args": {"beta": beta, "group_size": 8}}, "data": {"init_args": {"batch_size": 4}}}
    (path / "config.yaml").write_text(json.dumps(config))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_holds_no_outputs(name):
    cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_ablations_run_when_there_are_no_runs(tmp_path):
    (tmp_path / "runs").mkdir()
    assert "Empty DataFrame" in execute("ablations", tmp_path)


def test_ablations_draw_tiny_runs_and_the_committed_results(tmp_path):
    for beta in (0.05, 0.2):
        write_run(tmp_path, beta)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    row = {"group_size": 4, "mean": 3.25, "ci95": [3.0, 3.5], "n": 10}
    (tmp_path / "results/g.jsonl").write_text(json.dumps(row) + "\n")
    shown = execute("ablations", tmp_path)
    assert "grpo/beta=0.05" in shown and "grpo/beta=0.2" in shown and "3.25" in shown
    assert "2.235" in shown  # mean of the last two of 2.05 + i / 100, i = 0..19
    assert shown.count("image/png") == 3


def test_headline_draws_rows_and_curves(tmp_path):
    write_run(tmp_path, 0.05)
    (tmp_path / "results").mkdir()
    rest = {"ci95": [1.5, 3.0], "audit_ci95": None, "wer": 0.1, "label_swap_gain": 1.0, "pair_accuracy": 0.5, "n": 8}
    rows = [
        {"system": system, "seed": seed, "mean": mean + seed / 10, "audit_mean": audit, "n_failed": 0, **rest}
        for system, mean, audit in (("sft_fifth", 2.0, 2.0), ("grpo", 2.5, None))
        for seed in range(2)
    ]
    (tmp_path / "results/headline.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = execute("headline", tmp_path)
    assert "GRPO / sft_fifth: 1.244, over 2 seeds" in shown  # (2.5 + 2.6) / (2.0 + 2.1)
    assert shown.count("image/png") == 2


def test_headline_draws_the_committed_rows(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    assert execute("headline", tmp_path).count("image/png") == 2
