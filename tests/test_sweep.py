"""`sweep` on a toy grid (`toy_sweep.py`): every run is a row, whatever kills, fails or is done already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import toy_sweep
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from toy_sweep import CHAIN, GRID, ROOT, calls, rows

from lightning_paras2s.shown.show import show
from lightning_paras2s.sweeping import runs as sweep_runs
from lightning_paras2s.sweeping.points import trained
from lightning_paras2s.sweeping.sweep import sweep

place = toy_sweep.place  # a fixture


def test_every_run_is_a_row_and_none_is_run_twice(place):
    result = sweep(**GRID)
    assert (result["runs"], result["ok"], result["failed"]) == (4, 4, [])
    found = {(row["point"]["lr"], row["seed"]): row for row in rows(place)}
    assert set(found) == {(0.1, 1), (0.1, 2), (0.5, 1), (0.5, 2)}
    row = found[0.5, 1]
    assert row["systems"]["grpo"]["n"] == 16 and row["systems"]["grpo"]["mean"] == 3.0  # 2 pairs of 4 factors
    pairs = row["systems"]["grpo"]["pairs"]
    assert len(pairs) == 8 and set(map(tuple, pairs.values())) == {(3.0, 3.0)}
    # rewards 0.5 .. 3.5 and KL 0 .. 0.3: the last quarter of four steps is the fourth
    assert row["last_quarter"] == {"reward": 3.5, "kl": 0.3, "zero_variance": 0.25} and row["steps"] == 4
    assert row["train_seconds"] == 8.0 and row["responses"] == 4 * 2 * 4 and row["zero_variance_share"] == 0.25
    assert row["precision"] == "bf16-mixed" and row["threads"] == 1 and row["cpu"]
    assert not list((place / "runs/toy").glob("*/*/checkpoints"))
    shown = "".join(path.read_bytes().decode(errors="ignore") for path in place.glob("runs/toy/*/scores/events*.sweep"))
    assert shown.count("sweep/grpo/score") == 4 and "hparams" in shown  # in TensorBoard's tab
    done = calls(place)
    assert sorted(done) == ["evaluate"] * 4 + ["fit"] * 4
    sweep(**GRID)
    assert calls(place) == done and len(rows(place)) == 4


def test_sweep_goes_on_where_it_was_killed(place):
    program = f"""
from lightning_paras2s.sweeping import runs as sweep_runs
from lightning_paras2s.running.logs import json_text
from lightning_paras2s.sweeping.sweep import sweep
sweep_runs.PROGRAM = {(sys.executable, str(place / "program.py"))!r}
sweep(**{GRID | {"workers": 1}!r})
"""
    environment = os.environ | {"TOY_SECONDS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    until(lambda: (place / "results/toy.jsonl").is_file() and calls(place).count("fit") == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    child = int((place / "calls.txt").read_text().splitlines()[-1].split()[1])
    until(lambda: not Path(f"/proc/{child}").exists())  # no run goes on without its sweep
    assert len(rows(place)) == 1
    result = sweep(**GRID)
    assert result["ok"] == 4 and len({row["config_sha"] for row in rows(place)}) == 4
    assert calls(place).count("fit") == 5  # only the one that was cut runs again
    assert calls(place).count("evaluate") == 4


def until(holds) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_failed_point_is_a_row_with_its_reason(place, capsys):
    grid = GRID | {"points": [{"lr": 2.0}, {"lr": 0.5}], "seeds": [1]}
    result = sweep(**grid)
    assert result["ok"] == 1 and [path.name for path in (place / "results").iterdir()] == ["toy.jsonl"]
    reason = "grpo: lr must be small; got 2.0 (exit code 1)"
    assert result["failed"] == [{"point": {"lr": 2.0}, "seed": 1, "reason": reason}]
    assert show("sweep", result, grid, "P", False) == ""
    out = capsys.readouterr().out
    assert "lr must be small; got 2.0" in out and "1 of 2 runs done, 1 failed" in out
    assert max(map(len, out.splitlines())) <= 120
    sweep(**grid)
    assert calls(place).count("fit") == 2  # a failure stays, until it is asked for again
    sweep(**grid, retry=True)
    assert calls(place).count("fit") == 3 and len(rows(place)) == 2


def test_run_that_another_sweep_has_done_gives_its_row(place):
    sweep(**GRID | {"seeds": [1], "audit": "--pairs 1"})
    done = calls(place)
    other = GRID | {"name": "other", "points": [{"rate": 0.5}, {"rate": 0.7}], "seeds": [1],
                    "stages": {"grpo": GRID["stages"]["grpo"].replace("{lr}", "{rate}")}}  # fmt: skip
    assert sweep(**other, dry_run=True, step_seconds=1.0)["todo"] == 1
    assert not (place / "results/other.jsonl").exists()
    assert sweep(**other)["ok"] == 2 and len(calls(place)) == len(done) + 2  # 0.7 alone is trained
    taken = {row["point"]["rate"]: row for row in map(json.loads, Path("results/other.jsonl").open())}[0.5]
    (given,) = (row for row in rows(place) if row["point"]["lr"] == 0.5)
    assert taken["taken_from"] == f"toy {given['config_sha']}" and taken["systems"] == given["systems"]
    assert (taken["sweep"], taken["config_sha"]) != (given["sweep"], given["config_sha"])
    assert "outside" in given and "outside" not in taken  # which was not asked for
    # what that row does not tell, or tells of another policy, is run
    assert sweep(**other | {"name": "more", "audit": "--pairs 2"}, dry_run=True, step_seconds=1.0)["todo"] == 2
    assert sweep(**other | {"name": "pairs", "pairs": 1}, dry_run=True, step_seconds=1.0)["todo"] == 2


def test_row_says_with_which_source_its_steps_ended(place, monkeypatch):
    monkeypatch.setattr(sweep_runs, "commit", lambda: "0a1b2c3")
    sweep(**GRID | {"seeds": [1], "points": [{"lr": 0.1}]})
    assert rows(place)[0]["commits"] == ["0a1b2c3"] and rows(place)[0]["seconds"]["grpo"] >= 0
    stamp = next((place / "runs/toy").glob("*/evaluate.done"))
    stamp.write_text("1.5 4d5e6f7\n")
    Path("results/toy.jsonl").unlink()
    sweep(**GRID | {"seeds": [1], "points": [{"lr": 0.1}]})  # what is stamped is not done again
    (row,) = rows(place)
    assert row["commits"] == ["0a1b2c3", "4d5e6f7"] and row["seconds"]["evaluate"] == 1.5


def test_sweep_of_failures_alone_says_that_nothing_came_out(place):
    result = sweep(**GRID | {"points": [{"lr": 2.0}]})
    assert "no run that was asked for ended well" in show("sweep", result, GRID, "P", True)


def test_the_one_run_that_was_asked_for_fails_the_command(place):
    """As of an array's task: others that ended well do not make it one that did."""
    sweep(**GRID | {"seeds": [1]})
    result = sweep(**GRID | {"points": [*GRID["points"], {"lr": 2.0}], "seeds": [1]}, only=2)
    assert (result["runs"], result["ok"], len(result["failed"])) == (1, 0, 1)
    assert "no run that was asked for ended well; failed: lr 2.0" in show("sweep", result, GRID, "P", True)


def test_each_stage_has_its_hyper_parameters_in_tensorboard(place):
    """The point's values alone were there, and a hundred curves before the scores."""
    sft = "--config sft_fifth.yaml --trainer.max_steps 4 --model.lr {lr}"
    sweep(**GRID | {"stages": {"sft": sft} | GRID["stages"], "points": [{"lr": 0.1}], "seeds": [3]})
    (path,) = place.glob("runs/toy/*/*/events*.sweep")
    values, tags = hparams_of(path)
    # of configs/sft_fifth.yaml, and of GRID's options over configs/grpo.yaml
    shown = {"lr": 0.1, "seed": 3.0, "{sft}.max_steps": 4.0, "{sft}.batch_size": 32.0, "{sft}.share": 0.2,
             "{sft}.source": "Demonstrations", "{grpo}.batch_size": 2.0, "{grpo}.group_size": 4.0,
             "{grpo}.reward": "JudgeReward", "{grpo}.beta": '{"text": 0.04, "audio": 0.1}'}  # fmt: skip
    assert shown.items() <= values.items() and not any("/" in str(value) for value in values.values())
    assert not any(key.endswith(".lr") for key in values)  # the point has it
    assert tags == ["sweep/grpo/score"]  # the toy has no audit; no curve comes before


def hparams_of(path: Path) -> tuple[dict, list[str]]:
    """A session's values, and the tags of its scalars."""
    events = [event for event in EventFileLoader(str(path)).Load() if event.HasField("summary")]
    values = [value for event in events for value in event.summary.value]
    (start,) = (value for value in values if value.tag == "_hparams_/session_start_info")
    told = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info.hparams
    plain = {key: getattr(value, value.WhichOneof("kind")) for key, value in told.items()}
    return plain, [value.tag for value in values if value.tag.startswith("sweep/")]


def test_stages_may_be_other_subcommands_and_columns_are_what_they_log(place):
    grid = GRID | {"stages": CHAIN, "points": [{"lr": 0.1}], "seeds": [3], "audit": "--pairs 1"}
    result = sweep(**grid, columns={"correlation": "grpo:val/pearson"})
    assert result["ok"] == 1 and calls(place) == ["predict", "fit", "evaluate", "audit"]
    (row,) = rows(place)
    assert row["columns"] == {"correlation": 0.3}  # the last of 0 / 10 and 3 / 10
    assert row["probes"] == {"step": [0, 3], "judge": [2.0, 5.0], "wer": [0.1, 0.1],
                             "audit": [None, None], "wer_outside": [None, None]}  # fmt: skip
    assert row["outside"]["systems"]["grpo"]["wer_outside"] == 0.25 and row["steps"] == 4
    assert set(row["seconds"]) == {"samples", "grpo", "evaluate", "audit"}
    # only what is trained counts as responses: 4 steps of 2 queries x 4
    assert row["responses"] == 32 and row["precision"] == "bf16-mixed"
    run = next((place / "runs/toy").glob("lr*"))
    assert (run / "samples").is_dir() and (run / "grpo").is_dir()
    again = sweep(**grid, columns={"other": "grpo:train/kl"})  # a row that holds something else is another row
    assert again["ok"] == 1 and len(rows(place)) == 2


def test_column_that_no_stage_logs_is_a_failed_row(place):
    result = sweep(**GRID | {"points": [{"lr": 0.1}], "seeds": [1]}, columns={"correlation": "grpo:val/spearman"})
    assert [one["reason"].split(";")[1] for one in result["failed"]] == [" got no val/spearman of grpo"]


def test_each_point_answers_queries_that_it_makes(place):
    stages = {"made": "synthesize --out {made} --seed {voices}"}
    evaluate = GRID["evaluate"].replace("{grpo}", "checkpoints")
    points = [{"voices": 1}, {"voices": 2}, {"voices": 9}]
    grid = GRID | {"stages": stages, "points": points, "seeds": [0], "evaluate": evaluate, "manifest": "made"}
    result = sweep(**grid)
    assert result["ok"] == 2
    assert [(one["point"], one["reason"]) for one in result["failed"]] == [
        ({"voices": 9}, "made: the control voice needs the package piper-tts; got none (exit code 1)")
    ]
    found = [row for row in rows(place) if row["status"] == "ok"]
    assert len({row["config_sha"] for row in found}) == 2 and all(row["steps"] == 0 for row in found)
    assert len(list((place / "runs/toy").glob("*/made/queries.jsonl"))) == 2
    assert calls(place).count("evaluate") == 2


def test_row_tells_the_steps_that_were_trained(place):
    """They were those of the log, which not every step writes, or those that were asked for, -1 among them."""
    stages = {"grpo": GRID["stages"]["grpo"].replace("max_steps 4", "max_steps -1 --trainer.max_epochs 1")}
    stages["grpo"] += " --trainer.log_every_n_steps 2"
    grid = GRID | {"stages": stages, "points": [{"lr": 0.1}], "seeds": [1]}
    sweep(**grid)
    (row,) = rows(place)
    assert (row["trained"], row["steps"], row["responses"], row["train_seconds"]) == (True, 4, 4 * 2 * 4, 8.0)
    (folder,) = place.glob("runs/toy/*/grpo")
    assert trained(row) and trained(row | {"steps": -1}) and not trained(row | {"trained": False})
    # two ranks, and two optimizer steps a batch, by what `fit` has returned
    (folder / "result.json").write_text(json.dumps({"steps": 8, "batches": 4, "ranks": 2}))
    (place / "results/toy.jsonl").unlink()
    sweep(**grid)
    assert (rows(place)[0]["steps"], rows(place)[0]["responses"]) == (8, 4 * 2 * 2 * 4)
    # a stage that logs no seconds took no 0 of them
    (folder / "metrics.jsonl").write_text('{"step": 0, "train/loss": 1.0}\n')
    (place / "results/toy.jsonl").unlink()
    sweep(**grid)
    assert rows(place)[0]["train_seconds"] is None
    (folder / "result.json").unlink()
    (place / "results/toy.jsonl").unlink()
    (failed,) = sweep(**grid)["failed"]
    assert "result.json, which tells its steps; it is not there; remove grpo.done" in failed["reason"]


def test_findings_page_is_current():
    command = [sys.executable, "docs/findings.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout
