"""The runs of a sweep side by side: each a chain of subcommands in processes of their own, which end with the sweep."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_paras2s.bench.chain import end_with_parent
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file, say
from lightning_paras2s.running.options import STAGES
from lightning_paras2s.running.source import PACKAGE

if TYPE_CHECKING:
    from lightning_paras2s.sweeping.planning import Run
    from lightning_paras2s.sweeping.rows import Rows

POLL_SECONDS = 0.1
PROGRAM = (sys.executable, "-m", "lightning_paras2s")


@dataclass(frozen=True)
class Work:
    """Attributes:
    folder: of this run alone.
    commands: name of the step -> the subcommand and its options, in order.
    threads: of each process; 0 = as many as it likes.
    """

    folder: Path
    commands: dict[str, list[str]]
    threads: int


class Failed(Exception):
    """A subcommand ended badly; the text says which, and why."""


@cache
def commit() -> str:
    """Of the checkout that the package is read from, with "-dirty" where it was changed; "" of what is installed."""
    if not (PACKAGE.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def run_all(name: str, runs: Sequence[Run], rows: Rows, workers: int, keep_checkpoints: bool) -> None:
    """Do all runs, `workers` at a time; the row of each is written when it ends."""
    waiting, going, seen = list(runs), {}, len(runs)
    try:
        while waiting or going:
            while waiting and len(going) < workers:
                run = waiting.pop(0)
                say(f"{name}: {run.work.folder.name} ({seen - len(waiting)} of {seen})")
                going[run.sha] = run, chain(run.work), None
            for sha, (run, steps, process) in list(going.items()):
                if process is None or process.poll() is not None:
                    going[sha] = run, steps, advance(run, steps, rows, keep_checkpoints)
                    if going[sha][2] is None:
                        del going[sha]
            time.sleep(POLL_SECONDS if going else 0)
    finally:
        for _, steps, process in going.values():
            if process is not None:
                process.kill()
                process.wait()
            steps.close()


def advance(run: Run, steps: Iterator, rows: Rows, keep_checkpoints: bool) -> subprocess.Popen | None:
    """The next process of a run; None once it has ended, and its row is written."""
    try:
        return next(steps)
    except StopIteration as end:
        if end.value == "taken":
            say(f"{run.work.folder.name}: another process runs it; left to that one")
            return None
        try:
            rows.add_finished(run)
        except UserError as error:
            return fail(run, rows, error)
    except Failed as error:
        return fail(run, rows, error)
    if not keep_checkpoints:
        for folder in (f for part in ("checkpoints", "data") for f in run.work.folder.glob(f"*/{part}")):
            shutil.rmtree(folder)
    return None


def fail(run: Run, rows: Rows, error: Exception) -> None:
    say(f"{run.work.folder.name} failed: {error}")
    rows.add_failed(run, str(error))


def chain(work: Work) -> Iterator[subprocess.Popen]:
    """Start one subcommand after another; what has ended well is stamped, and not done again.

    Raises:
        Failed: one has ended badly.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    with (work.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "taken"
        for step, command in work.commands.items():
            stamp = work.folder / f"{step}.done"
            if stamp.exists():
                continue
            started = time.perf_counter()
            process = start(work, step, command)
            yield process
            if process.returncode:
                raise Failed(f"{step}: {why(work.folder / f'{step}.log', process.returncode)}")
            replace_file(stamp, f"{time.perf_counter() - started:.1f} {commit()}\n")
    return "done"


def start(work: Work, step: str, command: list[str]) -> subprocess.Popen:
    """A subcommand; STEP.log gets what it tells, STEP.json what it returns."""
    environment = dict(os.environ)
    if work.threads:
        environment |= {"OMP_NUM_THREADS": str(work.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    as_json = [] if command[0] in STAGES else ["--json"]
    with (work.folder / f"{step}.json").open("w") as out, (work.folder / f"{step}.log").open("w") as log:
        return subprocess.Popen(
            [*PROGRAM, *command, *as_json],
            stdout=log if command[0] in STAGES else out,
            stderr=log,
            env=environment,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )


def why(log: Path, code: int) -> str:
    """The last error that a subcommand told, else its last line."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines or ["no word"]
    return f"{told[-1][:500]} (exit code {code})"


def stamp_of(folder: Path, step: str) -> tuple[float, str] | None:
    """Wall time of a step that has ended, from its last start, and the version of the source that it ended with ("" =
    not known); None where it has not."""
    path = folder / f"{step}.done"
    if not path.is_file():
        return None
    seconds, _, version = path.read_text().strip().partition(" ")
    return float(seconds), version


def seconds_of(work: Work) -> dict[str, float]:
    """Wall time of each step that has ended."""
    return {step: stamp[0] for step in work.commands if (stamp := stamp_of(work.folder, step))}


def commits_of(work: Work) -> list[str]:
    """The versions of the source that its steps ended with, in their order: more than one where the run was stopped and
    went on with another."""
    stamps = [stamp for step in work.commands if (stamp := stamp_of(work.folder, step))]
    return list(dict.fromkeys(version for _, version in stamps if version))
