"""What a sweep would cost, and the same sweep as an array of SLURM's: nothing is trained here but a few steps to
measure."""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import rows_in
from lightning_paras2s.running.logs import replace_file, say
from lightning_paras2s.running.options import STAGES
from lightning_paras2s.running.origins import sha
from lightning_paras2s.shown.training import point_text
from lightning_paras2s.sweeping.planning import AFTER
from lightning_paras2s.sweeping.runs import Failed, chain, stamp_of
from lightning_paras2s.sweeping.workload import responses_of, updates_of

if TYPE_CHECKING:
    from lightning_paras2s.sweeping.planning import Run
    from lightning_paras2s.sweeping.rows import Rows

MEASURED_STEPS = 3
HOUR = 3600.0


def price(
    name: str,
    made: Sequence[Run],
    asked: dict[int, Run],
    todo: Sequence[Run],
    rows: Rows,
    step_seconds: float,
    usd_per_hour: float,
) -> dict[str, Any]:
    """Hours and dollars of the runs that are left, one after another: a run's training is taken to last as its
    responses do (steps x batch x group), its evaluation as the others'.

    Args:
        made: all runs of the sweep, of which those that are done tell how long one takes.
        asked: number -> run, of those to price.
    """
    if step_seconds < 0 or usd_per_hour < 0:
        raise UserError(f"step_seconds and usd_per_hour must be at least 0; got {step_seconds} and {usd_per_hour}")
    known = rows.read()
    done = [(run, known[run.sha]) for run in made if known.get(run.sha, {}).get("status") == "ok"]
    left = {run.sha: run.responses for run in todo}  # refused before anything is measured
    if not todo:
        rates, rest, how = {}, 0.0, "nothing is left to do"
    else:
        rates, rest, how = from_a_step(made[0], step_seconds) if step_seconds or not done else from_rows(done)
    each = []
    for number, run in asked.items():
        seconds = sum(count * rates.get(stage, 0.0) for stage, count in left.get(run.sha, {}).items()) + rest
        hours = round(seconds / HOUR, 6) if run.sha in left else 0.0
        state = "to do" if run.sha in left else known.get(run.sha, {}).get("status", "ok, in another sweep")
        each.append({"run": number, "point": point_text(run.point), "seed": run.seed, "hours": hours, "state": state})
    hours = sum(one["hours"] for one in each)
    return {"dry_run": True, "name": name, "runs": len(asked), "todo": len(todo), "hours": hours,
            "usd": round(hours * usd_per_hour, 4), "how": how, "each": each}  # fmt: skip


def from_rows(done: Sequence[tuple[Run, dict[str, Any]]]) -> tuple[dict[str, float], float, str]:
    """Seconds a response of each stage, seconds of the rest of a run, and how that is known."""
    trained: dict[str, list[float]] = {}
    rest = []
    for run, row in done:
        rest.append(sum(seconds for step, seconds in row["seconds"].items() if step not in run.stages))
        for stage, count in run.responses.items():
            trained.setdefault(stage, []).append(row["seconds"].get(stage, 0.0) / count)
    rates = {stage: statistics.median(seconds) for stage, seconds in trained.items()}
    return rates, statistics.median(rest), f"measured: the median of {len(done)} rows, start of processes included"


def from_a_step(run: Run, step_seconds: float) -> tuple[dict[str, float], float, str]:
    """Likewise, from steps of one run."""
    ending = "all but training is not counted before a run is done"
    if not run.stages:
        return {}, 0.0, f"nothing is trained; {ending}"
    if step_seconds:
        rates = {stage: step_seconds * updates_of(tree) / responses_of(tree) for stage, tree in run.stages.items()}
        return rates, 0.0, f"{step_seconds:g} s a step of the first point, as given; {ending}"
    steps = measured(run)
    rates = {stage: seconds / responses_of(run.stages[stage]) for stage, seconds in steps.items()}
    told = ", ".join(f"{seconds:.2f} s a step of {stage}" for stage, seconds in steps.items())
    return rates, 0.0, f"measured: {told} of the first point, {MEASURED_STEPS} steps; {ending}"


def measured(run: Run) -> dict[str, float]:
    """Seconds a step of what is trained; all stages are run a few steps each."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="sweep-") as made:
        folder = Path(made) / "run"
        for stage, typed in run.work.commands.items():
            if stage in AFTER:
                break
            words = [word.replace(str(run.work.folder), str(folder)) for word in typed]
            if words[0] in STAGES:
                words += ["--trainer.logger.save_dir", made, "--trainer.logger.name", "run", *few(words[0])]
            try:
                for process in chain(replace(run.work, folder=folder, commands={stage: words})):
                    say(f"{stage}: {MEASURED_STEPS} steps ...")
                    process.wait()
            except Failed as error:
                raise UserError(f"the first point must run a few steps to be measured; got: {error}") from None
            if stage in run.stages:
                found[stage] = step_of(folder, stage)
    return found


def few(command: str) -> list[str]:
    """Options by which a stage ends soon, and tells each step; a later stage needs what it writes, so that judged
    samples are not left out altogether."""
    steps = str(MEASURED_STEPS)
    if command == "fit":
        return ["--trainer.max_steps", steps, "--trainer.log_every_n_steps", "1"]
    return ["--trainer.limit_predict_batches", steps]


def step_of(folder: Path, stage: str) -> float:
    """A step's seconds as the run logs them, else between two losses; else the whole run's over its steps (its start
    included)."""
    lines = rows_in(folder / stage / "metrics.jsonl")
    found = [line["seconds/step"] for line in lines if line.get("seconds/step")] or between_losses(folder / stage)
    if found:
        return statistics.median(found)
    seconds, _ = stamp_of(folder, stage)
    return seconds / MEASURED_STEPS


def between_losses(folder: Path) -> list[float]:
    """Seconds from one step's loss to the next one's, by TensorBoard's clock."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return []
    told = EventAccumulator(str(folder))
    told.Reload()
    if "train/loss" not in told.Tags()["scalars"]:
        return []
    return [then.wall_time - one.wall_time for one, then in pairwise(told.Scalars("train/loss"))]


def array_script(
    folder: Path, runs: int, left: dict[int, str], options: dict[str, Any], slurm: Sequence[str]
) -> dict[str, Any]:
    """A script for `sbatch`, a task a run that is left; each task is this command with --only. It resumes as it does
    here: submitted again, a task goes on.

    A task reads config and script when it starts, and the same sweep may have been submitted with other points by then:
    both files are named by what they hold, and a run is asked for by its hash.

    Args:
        left: number of a run -> its hash.
    """
    if not left:
        return {"script": "", "tasks": 0, "runs": runs}
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    config = folder / f"sweep-{sha(text)}.yaml"
    replace_file(config, text)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={options['name']}",
        f"#SBATCH --array={','.join(map(str, left))}",
        f"#SBATCH --output={folder}/array-%A-%a.log",
        "#SBATCH --requeue",
        *(f"#SBATCH {option}" for option in slurm),
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"runs=({' '.join(f'[{place}]={run}' for place, run in left.items())})",
        f"exec {shlex.quote(sys.executable)} -m lightning_paras2s sweep --config {shlex.quote(str(config))} "
        '--workers 1 --only "${runs[$SLURM_ARRAY_TASK_ID]}"',
    ]
    text = "\n".join(lines) + "\n"
    script = folder / f"array-{sha(text)}.sh"
    replace_file(script, text)
    return {"script": str(script), "tasks": len(left), "runs": runs, "command": f"sbatch {script}"}
