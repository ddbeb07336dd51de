"""What `sweep` runs, prices and submits, on a toy grid (`toy_sweep.py`): what it is known by, and how long it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import toy_sweep
import yaml
from toy_sweep import CHAIN, GRID, ROOT, STYLES, calls, rows

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.errors import UserError
from lightning_paras2s.shown.show import show
from lightning_paras2s.sweeping import runs as sweep_runs
from lightning_paras2s.sweeping.planning import files_of
from lightning_paras2s.sweeping.points import points_of, read_rows
from lightning_paras2s.sweeping.price import step_of
from lightning_paras2s.sweeping.rows import Rows
from lightning_paras2s.sweeping.sweep import plan, subset, sweep
from lightning_paras2s.types import FACTORS, Audio, Query, append_jsonl

place = toy_sweep.place  # a fixture


def test_run_is_another_when_what_it_is_made_from_changes(place):
    weights = place / "start.safetensors"
    weights.write_bytes(b"a")
    options = {"stages": {"grpo": GRID["stages"]["grpo"] + " --model.init_from start.safetensors"},
               "evaluate": GRID["evaluate"], "skills": "", "threads": 1}  # fmt: skip

    def shas(**changed) -> list[str]:
        queries = subset(GRID["manifest"], Path(changed.pop("folder", "runs/toy")), changed.pop("pairs", 2), 0)
        return [run.sha for run in plan(GRID["points"], [1, 2], options | changed, Path("runs/toy"), queries)]

    before = shas()
    assert len(set(before)) == 4 and shas() == before
    assert shas(folder="elsewhere") == before  # a place is no part of what a run is
    assert not set(shas(pairs=1)) & set(before)
    assert not set(shas(threads=2)) & set(before)
    assert not set(shas(stages={"grpo": options["stages"]["grpo"] + " --model.clip_low 0.1"})) & set(before)
    same = options["stages"]["grpo"] + " --model.micro_batch_tokens 100 --checkpoint.every_n_batches 7"
    assert shas(stages={"grpo": same}) == before  # they decide memory and safety alone
    ears = place / "checkpoints/embedded/transcriber.safetensors"  # a default of evaluate's transcriber
    ears.parent.mkdir(parents=True)
    ears.write_bytes(b"a")
    assert not set(shas()) & set(before)
    ears.unlink()
    weights.write_bytes(b"b")
    assert not set(shas()) & set(before)
    weights.write_bytes(b"a")
    write_audio(place / "queries/a.wav", Audio(np.ones(1600, np.float32) / 2, 16000))
    assert not set(shas()) & set(before)


def test_whole_pairs_are_drawn_by_seed(place):
    def drawn(seed: int) -> list[tuple[str, str]]:
        lines = subset(GRID["manifest"], Path("runs/toy"), 1, seed).read_text().splitlines()
        return [(q["factor"], q["pair_id"]) for q in map(json.loads, lines)]

    assert drawn(0) == drawn(0) and len(drawn(0)) == 8 and len(set(drawn(0))) == 4  # both halves of a pair a factor
    assert len({tuple(drawn(seed)) for seed in range(10)}) > 1
    with pytest.raises(UserError, match="each factor must have 4 contrast pairs; got age 3"):
        subset(GRID["manifest"], Path("runs/toy"), 4, 0)


def test_dry_run_counts_hours_and_dollars(place):
    points = [{"G": 4, "lr": 0.1}, {"G": 8, "lr": 0.1}]
    stages = {"grpo": GRID["stages"]["grpo"].replace("group_size 4", "group_size {G}")}
    grid = GRID | {"points": points, "stages": stages, "dry_run": True, "usd_per_hour": 3.0}
    result = sweep(**grid, step_seconds=90.0)
    # 4 steps of 90 s, then twice as many responses a step; two seeds: 2 * (360 + 720) s = 0.6 h
    assert result["hours"] == pytest.approx(0.6) and result["usd"] == pytest.approx(1.8) and result["todo"] == 4
    assert not (place / "results").exists() and not (place / "calls.txt").exists()
    assert sweep(**grid)["hours"] == pytest.approx(2 * (4 + 8) * 2.0 / 3600, abs=1e-5)  # measured: 2 s a step
    assert calls(place) == ["fit"] and not (place / "results").exists()
    assert "0.6" in str(result) and show("sweep", result, grid, "P", True) == ""


def test_step_without_seconds_lasts_from_loss_to_loss(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    (tmp_path / "sft.done").write_text("120.0 0a1b2c3-dirty\n")  # most of it is the start
    assert step_of(tmp_path, "sft") == 40.0  # three steps, of which nothing else is known
    writer = SummaryWriter(tmp_path / "sft")
    for step, second in enumerate((100.0, 100.5, 101.0)):
        writer.add_scalar("train/loss", 1.0, step, walltime=second)
    writer.close()
    assert step_of(tmp_path, "sft") == pytest.approx(0.5)


def test_dry_run_after_runs_goes_by_their_rows(place):
    sweep(**GRID | {"seeds": [1]})
    rows_ = Rows(place / "results/toy.jsonl", place / "lock")
    for sha, row in rows_.read().items():
        rows_._add(row | {"config_sha": sha, "seconds": {"grpo": 32.0, "evaluate": 4.0}})
    result = sweep(**GRID, dry_run=True)
    # 32 responses in 32 s and 4 s more: two runs are left
    assert result["todo"] == 2 and result["hours"] == pytest.approx(72 / 3600) and "2 rows" in result["how"]


def test_array_has_a_task_for_each_run_that_is_left(place):
    sweep(**GRID | {"seeds": [1]})
    done = len(calls(place))
    result = sweep(**GRID, submit="slurm", slurm=["--gres=gpu:8"])
    script = Path(result["script"]).read_text()
    assert "#SBATCH --array=2,3\n" in script and "#SBATCH --gres=gpu:8\n" in script and result["tasks"] == 2
    assert len(calls(place)) == done
    (config,) = Path("runs/toy").glob("sweep-*.yaml")
    again = yaml.safe_load(config.read_text())
    sweep(**again, only=3)
    assert {(row["point"]["lr"], row["seed"]) for row in rows(place)} == {(0.1, 1), (0.5, 1), (0.5, 2)}
    subprocess.run(["bash", "-n", result["script"]], check=True)
    sweep(**again, only=2)
    result = sweep(**GRID, submit="slurm")
    assert result["tasks"] == 0 and show("sweep", result, GRID, "P", True) == ""


def test_tasks_run_what_was_submitted_whatever_is_submitted_after(place):
    """A second submit rewrote the config that the first one's queued tasks read: an index was another run."""
    first = sweep(**GRID, submit="slurm")
    script = Path(first["script"]).read_text()
    assert sweep(**GRID, submit="slurm")["script"] == first["script"]
    assert sweep(**GRID | {"points": [{"lr": 0.9}, {"lr": 0.1}]}, submit="slurm")["script"] != first["script"]
    asked = r'printf "%s\n"'
    words = script.replace("exec " + sys.executable, f"{asked} {sys.executable}")
    for task in ("1", "2"):
        done = subprocess.run(["bash", "-c", words], env=os.environ | {"SLURM_ARRAY_TASK_ID": task},
                              capture_output=True, text=True, check=True)  # fmt: skip
        *_, flag, config, one, count, only, run = done.stdout.split()
        assert (flag, one, count, only) == ("--config", "--workers", "1", "--only")
        sweep(**yaml.safe_load(Path(config).read_text()), only=run)
    assert {(row["point"]["lr"], row["seed"]) for row in rows(place)} == {(0.5, 1), (0.1, 2)}


def test_tasks_that_start_together_share_a_manifest(place):
    """Each writes it: one renamed the half-written file of another, which then found none."""
    many = [Query(f"{f}-{i}-{s}", f"{f}-{i}", f, "test", f"text {i}", {f: s}, "topic", "a.wav")
            for f in FACTORS for i in range(50) for s in STYLES[f]]  # fmt: skip
    append_jsonl(place / "queries/many.jsonl", many)
    with ThreadPoolExecutor(8) as tasks:
        drawn = [tasks.submit(subset, "queries/many.jsonl", Path("runs/toy"), 50, 0) for _ in range(40)]
        assert {len(read_queries(str(one.result()), None)) for one in drawn} == {400}
    assert [path.name for path in Path("runs/toy").iterdir()] == [drawn[0].result().name]


@pytest.mark.parametrize(("stage", "limits", "told"), [
    ("sft", "--trainer.max_steps -1 --trainer.max_epochs 3", "max_steps -1 and max_epochs 3 of sft"),
    ("sft", "--trainer.max_epochs 3", "max_steps 800 and max_epochs 3 of sft"),
    ("reward", "--trainer.max_steps null", "max_steps -1 and max_epochs -1 of reward"),
])  # fmt: skip
def test_stage_that_does_not_end_by_steps_has_no_price(place, stage, limits, told):
    """It cost less than nothing, or as many steps as the config has, although epochs end it."""
    config = {"sft": "sft_fifth.yaml", "reward": "reward.yaml"}[stage]
    grid = GRID | {"stages": {stage: f"--config {config} {limits} --model.lr {{lr}}"}}
    grid["evaluate"] = GRID["evaluate"].replace("{grpo}", f"{{{stage}}}")
    with pytest.raises(UserError, match=f"by trainer.max_steps alone to be priced; got {told}"):
        sweep(**grid, dry_run=True, step_seconds=2.0)
    assert not (place / "calls.txt").exists()


@pytest.mark.parametrize(("more", "times"), [
    ("--trainer.devices 2 --trainer.num_nodes 3", 6),
    ("--trainer.devices [0,1]", 2),
    ("--trainer.devices 0,3,4", 3),
    ("--trainer.devices auto", 1),
    ("--model.mu 2 --model.minibatches 2", 0.25),
])  # fmt: skip
def test_responses_are_those_of_all_ranks(place, more, times):
    options = PLANNED | {"stages": {"grpo": f"{GRID['stages']['grpo']} {more}"}, "evaluate": GRID["evaluate"]}
    (run,) = plan([{"lr": 0.1}], [1], options, Path("runs/toy"), None)
    assert run.responses == {"grpo": 4 * 2 * 4 * times}  # 4 steps of 2 queries x 4
    sft = "--config sft_fifth.yaml --trainer.max_steps 4 --trainer.accumulate_grad_batches 3 --data.batch_size 5"
    (run,) = plan([{}], [1], options | {"stages": {"sft": sft}, "evaluate": ""}, Path("runs/toy"), None)
    assert run.responses == {"sft": 4 * 5 * 3}


def test_dry_run_of_a_stage_that_logs_no_seconds_goes_by_its_stamp(place, monkeypatch):
    """The stamp tells the source's version, too."""
    monkeypatch.setattr(sweep_runs, "commit", lambda: "0a1b2c3-dirty")
    program = (place / "program.py").read_text()
    (place / "program.py").write_text(program.replace('"seconds/step": 2.0', '"x": 2.0'))
    result = sweep(**GRID, dry_run=True)
    assert result["todo"] == 4 and result["hours"] > 0 and "s a step of grpo of the first point" in result["how"]


def test_only_one_run_is_priced_and_submitted(place):
    sweep(**GRID | {"seeds": [1]})
    found = sweep(**GRID, only=3, dry_run=True)
    assert (found["runs"], found["todo"]) == (1, 1) and "2 rows" in found["how"]
    assert [(one["run"], one["point"], one["seed"]) for one in found["each"]] == [(3, "lr 0.5", 2)]
    assert show("sweep", found, GRID, "P", True) == ""
    assert sweep(**GRID, only=0, dry_run=True)["todo"] == 0
    script = Path(sweep(**GRID, only=3, submit="slurm")["script"]).read_text()
    assert "#SBATCH --array=3\n" in script and sweep(**GRID, only=1, submit="slurm")["tasks"] == 0


def test_dry_run_prices_each_stage_by_its_own_steps(place):
    reward = "--config reward.yaml --trainer.max_steps 100 --data.batch_size 10"
    stages = {"samples": CHAIN["samples"], "reward": reward, **GRID["stages"]}
    result = sweep(**GRID | {"stages": stages, "seeds": [1]}, dry_run=True)
    # 2 s a step, as the stand-in logs: (100 + 4) steps, two points; one step was measured of each
    assert result["hours"] == pytest.approx(2 * 104 * 2.0 / 3600, abs=1e-5)
    assert calls(place) == ["predict", "fit", "fit"]


def test_runs_that_differ_in_nothing_are_refused(place):
    """They were one row, counted as several; of two at a time, one was lost."""
    policies = GRID["evaluate"].replace("{grpo}", "checkpoints/embedded/{which}")
    still = {"stages": {}, "points": [{"which": "a"}], "evaluate": policies}
    tokens = GRID["stages"]["grpo"].replace("{lr}", "0.1") + " --model.micro_batch_tokens {tokens}"
    for changed, told in (
        (still | {"seeds": [1, 2, 3]}, r"got which a, seed 1 and which a, seed 2, which .*--seeds \[1\]"),
        ({"stages": {"grpo": GRID["stages"]["grpo"].replace("{lr}", "0.1")}}, "lr 0.1, seed 1 and lr 0.5, seed 1"),
        ({"stages": {"grpo": tokens}, "points": [{"tokens": 1024}, {"tokens": 4096}]}, "got tokens 1024, seed 1 and"),
    ):
        with pytest.raises(UserError, match=f"runs must differ; .*{told}"):
            sweep(**GRID | changed)
    assert not (place / "calls.txt").exists() and not (place / "results").exists()
    assert sweep(**GRID | still | {"seeds": [1]})["ok"] == 1


def test_mistakes_are_told_before_anything_runs(place):
    for changed, told in (
        ({"points": []}, "must have a point"),
        ({"points": [{"lr": 0.1}, {"lr": 0.1}]}, "must differ"),
        ({"points": [{"seed": 1}]}, "name of its own"),
        ({"points": [{"rate": 1}]}, "must be one of"),
        ({"only": 4}, "0 to 3, or its hash; got 4"),
        ({"only": "0123456789abcdef"}, "got 0123456789abcdef; a run's hash is another since"),
        ({"stages": {"grpo": "--config grpo.yaml --model.lrr {lr}"}}, "did you mean"),
        ({"manifest": "made"}, "needs a stage of this name; got grpo"),
        ({"stages": {"grpo": "fitt --config grpo.yaml"}}, "a subcommand, .* got 'fitt'"),
        ({"stages": {"audit": "--config grpo.yaml"}}, "not be named as one that follows"),
        ({"columns": {"correlation": "reward"}}, "columns must name a stage"),
    ):
        with pytest.raises(UserError, match=told):
            sweep(**GRID | changed)
    assert not (place / "calls.txt").exists()


PLANNED = {"stages": {}, "evaluate": "", "skills": "", "audit": "", "columns": {}, "threads": 1}
GRIDS = sorted(p.name for p in (ROOT / "configs/sweeps").glob("*.yaml") if p.name != "evaluate.yaml")


@pytest.mark.parametrize("name", GRIDS)
def test_shipped_grid_can_be_built(place, name):
    config = yaml.safe_load((ROOT / "configs/sweeps" / name).read_text())
    queries = {} if config.get("manifest") == "made" else {"manifest": GRID["manifest"], "pairs": 1}
    result = sweep(**config | queries, dry_run=True, step_seconds=1.0)
    assert result["todo"] == result["runs"] == len(config["points"]) * len(config["seeds"])
    assert not (place / "calls.txt").exists()
    options = {key: config.get(key, default) for key, default in PLANNED.items()}
    made = plan(config["points"], config["seeds"], options, Path("runs/toy"), None)
    assert len({run.sha for run in made}) == result["runs"]
    for run in made:  # a row says which arithmetic a figure is of
        assert all(tree["trainer"]["precision"] == "32-true" for tree in run.stages.values())


def test_run_is_another_when_the_answers_in_a_folder_change(place):
    judged, overlay = place / "judged", "--config controls/anchor_audio.yaml --data.judged judged"
    judged.mkdir()
    for name in ("train.jsonl", "train_completions.jsonl"):
        (judged / name).write_text("{}")
    stage = {"grpo": f"--config grpo.yaml {overlay} --model.lr {{lr}}"}
    options = {"stages": stage, "evaluate": GRID["evaluate"], "skills": "", "threads": 1}
    queries = subset(GRID["manifest"], Path("runs/toy"), 1, 0)
    before, again = (plan([{"lr": 0.1}], [1], options, Path("runs/toy"), queries)[0].sha for _ in range(2))
    tree = plan([{"lr": 0.1}], [1], options, Path("runs/toy"), queries)[0].stages["grpo"]["data"]
    # what another data module knows, too, stays
    assert (tree["class_path"], tree["init_args"]["source"]) == ("RejectionDataModule", "UnlabelledQueries")
    (judged / "train_completions.jsonl").write_text("{ }")
    assert before == again != plan([{"lr": 0.1}], [1], options, Path("runs/toy"), queries)[0].sha


@pytest.mark.parametrize("name", ["sft", "sft weights"])
def test_run_is_another_when_the_weights_in_a_folder_change(place, name):
    """A policy of the paper's size is a folder: trained again in its place, it left nothing to do."""
    policy = json.dumps({"init_args": {"policy": {"class_path": "KimiAudio", "init_args": {"path": name}}}})
    grid = GRID | {"stages": {"grpo": f"{GRID['stages']['grpo']} --model '{policy}'"}}
    grid["skills"] = f"--policies '{json.dumps({'grpo': f'{name} too'})}' --processor TinyProcessor"
    kept = [place / name / "model.safetensors", place / f"{name} too" / "model.safetensors"]
    for path in kept:
        path.parent.mkdir()
        path.write_bytes(b"first")

    def planned() -> dict[str, str]:
        options = PLANNED | {key: grid[key] for key in ("stages", "evaluate", "skills")}
        run = plan([{"lr": 0.1}], [1], options, Path("runs/toy"), None)[0]
        return run.parts | {"sha": run.sha}

    before = planned()
    assert planned() == before
    for path, changed in zip(kept, ("policy", "skills"), strict=True):
        path.write_bytes(b"other")
        after = planned()
        assert {part for part in before if before[part] != after[part]} == {changed, "sha"}
        before = after


def test_seeds_of_one_point_are_of_one_recipe(place):
    """Two seeds, then a third after an option of the stage was changed."""
    seeded = f"{GRID['stages']['grpo'].replace('{lr}', '0.1')} --model.seed {{seed}} --model.rollout_seed 40{{seed}}"
    grid = GRID | {"points": [{"batch": 2}], "stages": {"grpo": seeded}}
    sweep(**grid)
    ((_, of),) = points_of(read_rows(place / "results/toy.jsonl"))
    assert {row["seed"] for row in of} == {1, 2} and len({row["config_sha"] for row in of}) == 2
    sweep(**grid | {"stages": {"grpo": seeded.replace("lr 0.1", "lr 0.9")}, "seeds": [3]})
    with pytest.raises(UserError, match=r"one recipe; .* of policy \w+ \(seeds [1-3, ]+\); .* of policy \w+ \(seeds"):
        points_of(read_rows(place / "results/toy.jsonl"))


@pytest.mark.parametrize("name", ["plain.jsonl", "two words.jsonl", "donn\u00e9es/\u97f3\u58f0.jsonl", "a:b,c#d.jsonl"])
def test_a_file_of_any_name_is_part_of_what_a_run_is_known_by(tmp_path, name):
    """A manifest whose path held a blank or an accent could change, and a sweep took its old rows."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    long = "x" * 5000
    assert files_of({"data": {"init_args": {"manifests": [str(path)], "said": f"{long}\0"}}, long: None}) == [path]
