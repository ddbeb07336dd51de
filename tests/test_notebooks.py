"""The notebooks run from nothing, from tiny runs, and from the committed results, and draw what they find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lightning_paras2s.data.domains import domain_of
from lightning_paras2s.data.embedded import text_queries

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("ablations", "generalisation", "hacking", "headline", "labels")


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
    # twelve figures of sweeps, two of the short recipe's rows, one of the one kind of reward
    assert shown.count("image/png") == 15
    assert "seeds, 100 pairs" in shown  # of the shipped rows


def test_ablations_draw_own_rows_with_their_verdict(tmp_path):
    (tmp_path / "results").mkdir()
    lines = [sweep_row(beta, seed, 3.0 + beta + seed / 100) for beta in (0.0, 0.2, 0.8) for seed in (1, 2, 3)]
    (tmp_path / "results/sweep_beta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = execute("ablations", tmp_path)
    # pairs differ alike; each point's seeds are 0.01 apart: half width t(4) * sqrt(2 * 0.0001 / 3) = 0.02
    assert "judge: 0.2 - 0.0 = +0.20 [+0.18, +0.22], higher; 3 seeds, 40 pairs" in shown
    assert "judge: 0.2 - 0.8 = -0.60 [-0.62, -0.58], lower; 3 seeds, 40 pairs" in shown
    assert "8 against 2: open, not run" in shown
    # the verdicts at the end are of these rows
    disagreed = shown.split("**Did not agree**")[1].split("**Open**")[0]
    assert "| With too large a beta the score falls |" in disagreed and "disagrees, 3 seeds" in disagreed
    assert "| A larger batch is better at equal steps: 4 to 8 queries a step |" in shown.split("**Open**")[1]


@pytest.mark.parametrize(("name", "figures"), [("labels", 3), ("generalisation", 2)])
def test_figure_groups_say_in_a_fresh_clone_what_was_not_run(tmp_path, name, figures):
    shown = execute(name, tmp_path)
    assert shown.count("image/png") >= figures
    assert "open, not run" in shown


def test_hacking_tells_of_the_shipped_rows_which_ear_hears_it_when(tmp_path):
    shown = execute("hacking", tmp_path)
    assert shown.count("image/png") == 2 and "open, not run" not in shown and "Warning" not in shown
    assert "judge: whole - neither = +0.40 [+0.13, +0.66], higher; 3 seeds, 100 pairs" in shown
    assert "| Whisper's words score less after neither |" in shown.replace("\\'", "'")


def test_hacking_tells_in_other_rows_what_was_not_run(tmp_path):
    shown = execute_with(tmp_path, "hacking", [], "hacking")
    assert "open, not run" in shown


def test_labels_draw_the_reward_models_correlation(tmp_path):
    lines = [
        sweep_row(0.0, seed, 3.0 + share + seed / 100)
        | {"point": {"share": share}, "columns": {"correlation": 0.8 - share / 2}}
        for share in (0.1, 0.7)
        for seed in (1, 2, 3)
    ]
    for line in lines:
        line["systems"]["sft"] = sweep_row(0.0, 1, 3.0)["systems"]["grpo"]
    shown = execute_with(tmp_path, "budget", lines, "labels")
    assert "judge: 0.7 - 0.1 = +0.60 [+0.58, +0.62], higher; 3 seeds, 40 pairs" in shown
    assert "0.7: grpo - sft = +0.7" in shown and "0.75" in shown and shown.count("image/png") == 4


def label_rows(seeds: dict[float, int]) -> list[dict]:
    """SFT gains 0.1 with each amount; RL 0.2 more than that, and a little by seed."""
    made = []
    for i, share in enumerate((0.05, 0.1, 0.2, 0.5, 1.0)):
        for seed in range(1, seeds.get(share, 0) + 1):
            line = sweep_row(0.0, seed, 3.0 + i / 10) | {"point": {"share": share, "labels": int(2040 * share)}}
            rl = sweep_row(0.0, seed, 3.2 + i / 10 + seed / 1000)["systems"]["grpo"]
            systems = dict.fromkeys(("grpo", "grpo_constrained", "grpo_unconstrained"), rl)
            line["systems"] = {"sft": line["systems"]["grpo"]} | systems
            line |= {"stage": "grpo_unconstrained", "columns": {"constrained": 0.7, "unconstrained": 0.8}}
            made.append(line)
    return made


def test_labels_draw_all_curves_with_times(tmp_path):
    (tmp_path / "results").mkdir()
    none = sweep_row(0.0, 1, 2.5) | {"point": {"share": 0.0}}
    none["systems"] = {name: none["systems"]["grpo"] for name in ("base", "rejection", "grpo")}
    (tmp_path / "results/sweep_unlabelled.jsonl").write_text(json.dumps(none) + "\n")
    rows = label_rows(dict.fromkeys((0.05, 0.1, 0.2, 0.5, 1.0), 3))
    for sweep in ("labels", "labels_reward"):
        (tmp_path / f"results/sweep_{sweep}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    shown = execute("labels", tmp_path)
    for name in ("RL, reward model of as many labels", "RL, reward model of all labels", "RL, judge in the loop"):
        # SFT has 0.2 more two amounts on: at 20 % for the 5 % of RL
        assert f"5%, {name} - SFT = +0.20 [" in shown and f"20%, {name} - SFT = +0.20 [" in shown
    # seeds lift it by .002 on average: 0.05 * 4 * 2.5 ** .02 of it is 4.07 times
    assert "higher; SFT needs x 4.1 [" in shown and "SFT needs x 5 or more [" in shown
    assert "0.0: rejection - base = +0.00, open: one seed" in shown and "in the loop: open" not in shown


def test_labels_are_open_where_few_rows_are_there(tmp_path):
    shown = execute_with(tmp_path, "labels", label_rows({0.05: 3, 0.2: 1}), "labels")
    name = "RL, judge in the loop"
    assert f"20%, {name} - SFT = +0.20, open: one seed" in shown and f"5%, {name} - SFT = +0.20 [" in shown
    assert shown.count("times: open, fewer than 2 seeds or amounts") == 2
    assert "RL, reward model of all labels: open, not run" in shown
    assert "rejection - base: open, not run" in shown


def test_generalisation_takes_each_half_of_the_topics(tmp_path):
    topics = {q.id: domain_of(q.factor, q.topic) for q in text_queries("train") if q.factor in ("age", "gender")}
    pairs = [f"{name.split('-')[0]}/{name}" for name in topics]
    lines = []
    for domain, seed in [(d, s) for d in ("first", "second", "all") for s in (1, 2)]:
        # what is learned of one half is worth 1 there, and 0.5 on the other half
        gain = {d: 1.0 if domain in (d, "all") else 0.5 for d in ("first", "second")}
        line = sweep_row(0.0, seed, 3.0) | {"point": {"domain": domain}}
        grpo = {pair: [3.0 + seed / 1000 + gain[topics[pair.split("/")[1]]]] * 2 for pair in pairs}
        start = {pair: [3.0] * 2 for pair in pairs}
        line["systems"] = {name: {"n": 2 * len(pairs), "pairs": of, "audit_pairs": of}
                           for name, of in (("grpo", grpo), ("sft_fifth", start))}  # fmt: skip
        lines.append(line)
    shown = execute_with(tmp_path, "domains", lines, "generalisation")
    tested_second = shown.split("tested on the second half of the topics")[1]
    assert "first: grpo - sft_fifth = +0.50" in tested_second and "second: grpo - sft_fifth = +1.00" in tested_second


def test_hacking_tells_when_an_ear_hears_it(tmp_path):
    lines = []
    for name, fall in (("whole", 0.0), ("neither", 1.0)):
        for seed in (1, 2, 3):
            probes = {"step": [0, 19, 39], "judge": [3.0 + seed / 100, 3.0 - seed / 100, 3.0 - fall + seed / 100],
                      "audit": [3.0 + seed / 100] * 3, "wer": [0.1] * 3, "wer_outside": [None] * 3}  # fmt: skip
            line = sweep_row(0.0, seed, 3.0 - fall + seed / 100) | {"point": {"judge": name, "lacks": []}}
            line |= {"probes": probes, "curves": {"reward": [3.0, 3.5, 4.0]}}
            lines.append(line)
    shown = execute_with(tmp_path, "hacking", lines, "hacking")
    assert "judge: whole - neither = +1.00 [" in shown and "no gibberish rule: open, not run" in shown
    assert "judge from step" in shown and ">39<" in shown  # seen at the third probe, by the judge alone
    assert shown.count("image/png") == 2


def execute_with(folder: Path, sweep: str, lines: list[dict], name: str) -> str:
    (folder / "results").mkdir()
    (folder / f"results/sweep_{sweep}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return execute(name, folder)


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
    assert shown.count("image/png") == 3  # one of them of the shipped rows by today's judge


def test_headline_shows_the_shipped_rows_beside_runs_of_ones_own(tmp_path):
    """A folder with runs of its own hid them."""
    write_run(tmp_path, 0.05)
    shown = execute("headline", tmp_path)
    assert shown.count("image/png") == 3 and "judge: x 1.10 [1.01, 1.20], 3 seeds: GRPO is better" in shown
    assert "GRPO / sft_fifth: 1.112, over 3 seeds" in shown


def test_headline_draws_the_committed_rows(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    assert execute("headline", tmp_path).count("image/png") == 2
