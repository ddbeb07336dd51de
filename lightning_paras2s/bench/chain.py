"""`bench`: the whole benchmark by one command (paper, sections 3 and 5): mine, synthesize, filter, evaluate, audit,
leaderboard, report.

A step is the subcommand of that name in a process of its own, so its memory is given back when it ends. Each resumes
by itself; a chain that was killed anywhere goes on by the same command, and ends in the same records and tables.
`evaluate` runs as several processes, each on its shard of the queries; one more merges them.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.report import report as write_report
from lightning_paras2s.errors import UserError, check_least
from lightning_paras2s.running.logs import say, write_summary

TABLES = {"markdown": "md", "csv": "csv", "json": "json"}
PR_SET_PDEATHSIG = 1  # Linux, <sys/prctl.h>


def bench(
    out: str,
    mine: Sequence[str] = (),
    synthesize: Sequence[str] = (),
    filter: Sequence[str] = (),
    evaluate: Sequence[str] = (),
    audit: Sequence[str] = (),
    workers: int = 2,
    limit: int | None = None,
    max_pairs: int = 20,
) -> dict[str, Any]:
    """Mine, synthesize, filter, evaluate, audit, leaderboard, report; started again, it goes on where it was stopped.

    Args:
        out: folder to write: mined/, queries/, evaluate/, leaderboard.md, .csv, .json, report.html, bench.json.
        mine: options of `mine`, as one types them, but for the paths.
        synthesize: options of `synthesize`, likewise.
        filter: options of `filter`, likewise.
        evaluate: options of `evaluate`, likewise.
        audit: options of `audit`, likewise.
        workers: processes of `evaluate`, one a core; each runs on one thread.
        limit: scripts a factor; all by default.
        max_pairs: contrast pairs a factor that the report holds audio of.

    Returns:
        What each step returned, and its seconds in this call.
    """
    if workers < 1:
        raise UserError(f"workers must be at least 1 process; got {workers}")
    check_least("max_pairs", max_pairs, 0, "0 makes a report without players")
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1 script a factor; got {limit}; leave it out for all")
    folder = Path(out)
    steps = _Steps()
    scripts, queries, run = folder / "mined/scripts.jsonl", folder / "queries", folder / "evaluate"
    few, kept = [] if limit is None else ["--limit", str(limit)], str(queries / "kept.jsonl")
    todo = {
        "mine": [*mine, "--out", str(folder / "mined")],
        "synthesize": [*synthesize, "--source", str(scripts), "--out", str(queries), *few],
        "filter": [*filter, "--manifest", str(queries / "queries.jsonl"), "--out", kept],
        "evaluate": [*evaluate, "--manifest", kept, "--output", str(run)],
        "audit": [*audit, "--run", str(run)],
    }
    steps.check({name: [stand_in(option, folder) for option in options] for name, options in todo.items()})
    for name, options in todo.items():
        steps.run(name, options, workers if name == "evaluate" else 1)
    for format, suffix in TABLES.items():
        leaderboard([str(run)], format, str(folder / f"leaderboard.{suffix}"))
    leaderboard([str(run)])
    with steps.timed("report"):
        steps.results["report"] = write_report(str(run), str(folder / "report.html"), max_pairs)
    result = {"seconds": steps.seconds, **{name: brief(value) for name, value in steps.results.items()}}
    write_summary(folder / "bench.json", result)
    return result


def stand_in(option: str, folder: Path) -> str:
    """For a check before anything has run: in place of what an earlier step will write, a file that is there."""
    return os.devnull if folder in Path(option).parents and not Path(option).exists() else option


class _Steps:
    """Runs subcommands; keeps what they return, and their wall time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def check(self, todo: dict[str, list[str]]) -> None:
        """Build what every step needs before the first one runs: what is missing is told now, not after an hour."""
        with self.timed("check"):
            for name, options in todo.items():
                await_all([start(name, [*options, "--check"], True)], name)

    def run(self, name: str, options: list[str], workers: int = 1) -> None:
        with self.timed(name):
            if workers > 1:
                await_all([start(name, [*options, "--shard", f"{i}/{workers}"], i == 0) for i in range(workers)], name)
            self.results[name] = await_all([start(name, options, True)], name)[0]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        say(f"{name} ...")
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)
        say(f"{name}: {self.seconds[name]:.1f} s")


class Worker(subprocess.Popen):
    """A subcommand's process; `kept` holds what one that is not heard tells."""

    kept: BinaryIO | None = None

    @property
    def last_word(self) -> str:
        """The last line that it told unheard."""
        if self.kept is None:
            return ""
        self.kept.seek(0)
        lines = self.kept.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def start(command: str, options: list[str], heard: bool) -> Worker:
    """A subcommand on one thread; only one that is `heard` shows its progress.

    It ends when this process is killed, lest two write the same files after a new start.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    kept = None if heard else tempfile.TemporaryFile()
    worker = Worker(
        [sys.executable, "-m", "lightning_paras2s", command, *options, "--json"],
        stdout=subprocess.PIPE,
        stderr=kept,
        text=True,
        env=environment,
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )
    worker.kept = kept
    return worker


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def await_all(processes: list[Worker], name: str) -> list[dict[str, Any]]:
    """What each process returned (its last line); the last word of one that failed unheard is told.

    Raises:
        UserError: one of them failed; the others are ended.
    """
    try:
        printed = []
        for process in processes:
            printed.append(process.communicate()[0])
            if process.returncode:
                if told := process.last_word:
                    say(f"{name}: {told}")
                raise UserError(
                    f"the step {name} must end well; got exit code {process.returncode}; "
                    "mend what it says above, then start the same command again"
                )
        return [json.loads(text.encode().splitlines()[-1]) for text in printed]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def brief(result: dict[str, Any]) -> dict[str, Any]:
    """A step's result without what its own files hold at length."""
    return {k: v for k, v in result.items() if k not in ("systems", "comparisons", "audit")}
