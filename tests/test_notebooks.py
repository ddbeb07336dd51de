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


def test_ablations_show_the_shipped_rows_in_a_fresh_clone(tmp_path):
    """In a folder with runs of one's own, too: the rows are the checkout's then."""
    for beta in (0.05, 0.2):
        write_run(tmp_path, beta)
    shown = execute("ablations", tmp_path)
    rows = [json.loads(line) for line in (ROOT / "results/sweep_start.jsonl").read_text().splitlines()]
    assert {row["point"]["policy"] for row in rows} == {"base", "sft_fifth"}
    assert "grpo/beta=0.05: beta 0.05" in shown and "grpo/beta=0.2: beta 0.2" in shown
    assert "2.195" in shown  # mean of the last ten of 2.05 + i / 100, i = 0..19
    assert shown.count("image/png") == 10  # nine figures of sweeps, one of the one kind of reward


def test_ablations_draw_own_rows_with_their_verdict(tmp_path):
    (tmp_path / "results").mkdir()
    lines = [sweep_row(beta, seed, 3.0 + beta + seed / 100) for beta in (0.0, 0.2, 0.8) for seed in (1, 2)]
    (tmp_path / "results/sweep_beta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = execute("ablations", tmp_path)
    # pairs differ alike; each point's seeds are 0.01 apart: half width t(2) * sqrt(2 * 0.00005 / 2) = 0.03
    assert "judge: 0.2 - 0.0 = +0.20 [+0.17, +0.23], higher; 2 seeds, 40 pairs" in shown
    assert "judge: 0.2 - 0.8 = -0.60 [-0.63, -0.57], lower; 2 seeds, 40 pairs" in shown
    assert "8 against 2: open, not run" in shown


def sweep_row(beta: float, seed: int, mean: float) -> dict:
    pairs = {f"{f}/{i}": [mean + (i % 2 - 0.5)] * 2 for f in ("age", "gender") for i in range(20)}
    curves = {"reward": mean, "kl": 0.1, "zero_variance": 0.2}
    about = {
        "status": "ok",
        "queries_sha": "x",
        "judge": "toy",
        "label_source": "gold",
        "precision": "32-true",
        "cpu": "C",
    }
    about |= {"steps": 4, "responses": 32, "last_quarter": curves, "zero_variance_share": 0.2}
    return {
        "point": {"beta": beta},
        "seed": seed,
        "systems": {"grpo": {"n": 80, "pairs": pairs, "audit_pairs": pairs}},
    } | about


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
