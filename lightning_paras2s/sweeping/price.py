"""What a sweep would cost, and the same sweep as an array of SLURM's: nothing is trained here but a few steps to
measure."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file, say
from lightning_paras2s.running.options import STAGES
from lightning_paras2s.sweeping.planning import AFTER, responses_of
from lightning_paras2s.sweeping.runs import Failed, chain

if TYPE_CHECKING:
    from lightning_paras2s.sweeping.planning import Run
    from lightning_paras2s.sweeping.rows import Rows

MEASURED_STEPS = 3
HOUR = 3600.0


def price(
    name: str, made: Sequence[Run], todo: Sequence[Run], rows: Rows, step_seconds: float, usd_per_hour: float
) -> dict[str, Any]:
    """Hours and dollars of the runs that are left, one after another: a run's training is taken to last as its
    responses do (steps x batch x group), its evaluation as the others'."""
    if step_seconds < 0 or usd_per_hour < 0:
        raise UserError(f"step_seconds and usd_per_hour must be at least 0; got {step_seconds} and {usd_per_hour}")
    known = rows.read()
    done = [(run, known[run.sha]) for run in made if known.get(run.sha, {}).get("status") == "ok"]
    waiting = {run.sha for run in todo}
    if step_seconds or not done or not todo:
        a_response, rest, how = from_a_step(made[0], step_seconds) if todo else (0.0, 0.0, "nothing is left to do")
    else:
        a_response, rest, how = from_rows(done)
    each = []
    for run in made:
        hours = (run.responses * a_response + rest) / HOUR if run.sha in waiting else 0.0
        state = known[run.sha]["status"] if run.sha in known and run.sha not in waiting else "to do"
        each.append({"point": point_text(run), "seed": run.seed, "hours": round(hours, 6), "state": state})
    hours = sum(one["hours"] for one in each)
    return {"dry_run": True, "name": name, "runs": len(made), "todo": len(todo), "hours": hours,
            "usd": round(hours * usd_per_hour, 4), "how": how, "each": each}  # fmt: skip


def point_text(run: Run) -> str:
    return ", ".join(f"{key} {value}" for key, value in run.point.items())


def from_rows(done: Sequence[tuple[Run, dict[str, Any]]]) -> tuple[float, float, str]:
    """Seconds a response, seconds of the rest of a run, and how that is known."""
    trained, rest = [], []
    for run, row in done:
        steps = {step: value for step, value in row["seconds"].items() if step in run.stages}
        rest.append(sum(row["seconds"].values()) - sum(steps.values()))
        if run.responses:
            trained.append(sum(steps.values()) / run.responses)
    a_response = statistics.median(trained) if trained else 0.0
    return a_response, statistics.median(rest), f"measured: the median of {len(done)} rows, start of processes included"


def from_a_step(run: Run, step_seconds: float) -> tuple[float, float, str]:
    if not run.stages:
        return 0.0, 0.0, "nothing is trained; all else is not counted before a run is done"
    how = f"{step_seconds:g} s a step of the first point, as given"
    responses = run.responses / sum(t.get("trainer", {}).get("max_steps", 1) for t in run.stages.values())
    if not step_seconds:
        step_seconds, responses = measured(run)
        how = f"measured: {step_seconds:.2f} s a step of the first point, {MEASURED_STEPS} steps"
    return step_seconds / responses, 0.0, f"{how}; all but training is not counted before a run is done"


def measured(run: Run) -> tuple[float, float]:
    """Seconds and responses of a step, the mean over the first point's stages, run a few steps each."""
    seconds, responses = [], []
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
                seconds.append(step_of(folder, stage))
                responses.append(responses_of(run.stages[stage]))
    return statistics.mean(seconds), statistics.mean(responses)


def few(command: str) -> list[str]:
    """Options by which a stage ends soon; a later stage needs what it writes, so that no batch of judged samples is
    left out altogether."""
    steps = str(MEASURED_STEPS)
    return ["--trainer.max_steps", steps] if command == "fit" else ["--trainer.limit_predict_batches", steps]


def step_of(folder: Path, stage: str) -> float:
    """A step's seconds as the run logs them, else the whole run's over its steps (its start included)."""
    path = folder / stage / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    found = [line["seconds/step"] for line in lines if line.get("seconds/step")]
    return statistics.median(found) if found else float((folder / f"{stage}.done").read_text()) / MEASURED_STEPS


def array_script(
    folder: Path, runs: int, left: Sequence[int], options: dict[str, Any], slurm: Sequence[str]
) -> dict[str, Any]:
    """A script for `sbatch`, a task a run that is left; each task is this command with --only. It resumes as it does
    here: submitted again, a task goes on."""
    if not left:
        return {"script": "", "tasks": 0, "runs": runs}
    config, script = folder / "sweep.yaml", folder / "array.sh"
    replace_file(config, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={options['name']}",
        f"#SBATCH --array={','.join(map(str, left))}",
        f"#SBATCH --output={folder}/array-%a.log",
        "#SBATCH --requeue",
        *(f"#SBATCH {option}" for option in slurm),
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec {shlex.quote(sys.executable)} -m lightning_paras2s sweep --config {shlex.quote(str(config))} "
        '--workers 1 --only "$SLURM_ARRAY_TASK_ID"',
    ]
    replace_file(script, "\n".join(lines) + "\n")
    return {"script": str(script), "tasks": len(left), "runs": runs, "command": f"sbatch {script}"}
