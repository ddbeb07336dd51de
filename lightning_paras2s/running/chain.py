"""`chain`: the stages from an empty folder to the leaderboard, each a command as one types it (paper, sections 3 to 5).

A config names the stages in order: their commands, what they read and write, their hours and dollars. A stage is done
when its record says that the same commands, configs and inputs led to the outputs that lie there, all by content. What
is not done is run again, and each command goes on by itself where it was stopped. Training does not: it would go on
from weights that came of other inputs, so that a changed input is refused there, and wants another version.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.running.check import check
from lightning_paras2s.running.logs import safe_name, say
from lightning_paras2s.running.options import COMMANDS, STAGES
from lightning_paras2s.running.stages import Record, Stage, contents, split_words

GRACE_SECONDS = 60.0  # for a stage to save what it has, once this process is told to end


def chain(
    stages: dict[str, Stage],
    out: str = "runs/chain",
    more: dict[str, str] | None = None,
    only: list[str] | None = None,
    usd_per_gpu_hour: float = 0.0,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Run the stages of a config one after the other; what is done is left, and a chain that was killed goes on.

    Args:
        stages: name -> commands, what they read and write, hours and dollars.
        out: folder of the records that say which stage is done.
        more: stage -> options that are added to each of its commands.
        only: these stages alone; all by default.
        usd_per_gpu_hour: price of an hour of one GPU, in US dollars; 0 counts servers alone.
        dry_run: run nothing; tell what each stage reads and writes, what it takes, and whether it is done.

    Returns:
        Each stage with its state, hours and dollars, and the totals of what is not done.
    """
    if not stages:
        raise UserError("a chain must have at least one stage; got none; give --config")
    if usd_per_gpu_hour < 0:
        raise UserError(f"usd_per_gpu_hour must not be negative; got {usd_per_gpu_hour}")
    chosen = choose(stages, more or {}, only)
    for name, stage in chosen.items():
        check_stage(name, stage)
    folder = Path(out)
    records = {name: Record.of(folder / f"{name}.json", stage) for name, stage in chosen.items()}
    if dry_run:
        return table(chosen, records, usd_per_gpu_hour) | {"dry_run": True}
    if lacking := absent(chosen):
        name, path = lacking[0]
        raise UserError(
            f"the stage {name} reads {path}, which must be there: no stage before it writes it; put it there"
        )
    for name, stage in chosen.items():
        if records[name].state() != "done":
            run_stage(name, stage, records[name])
            records[name] = Record.of(records[name].path, stage)
    return table(chosen, records, usd_per_gpu_hour)


def choose(stages: Mapping[str, Stage], more: Mapping[str, str], only: Sequence[str] | None) -> dict[str, Stage]:
    """The stages that are asked for, in their order, with what is added to their commands."""
    for name in [*more, *(only or [])]:
        check_choice("a stage", name, stages)
    return {
        name: replace(stage, commands=[f"{command} {more.get(name, '')}".strip() for command in stage.commands])
        for name, stage in stages.items()
        if not only or name in only
    }


def check_stage(name: str, stage: Stage) -> None:
    """Refuse what no command takes, before the first stage has run for hours.

    Raises:
        UserError: an unknown command, option or config.
    """
    from lightning_paras2s.cli import resolve_configs

    if safe_name(name) != name:
        raise UserError(f"a stage's name must be a file's; got {name!r}; use letters, digits and -")
    if not stage.commands or not stage.writes:
        raise UserError(f"the stage {name} must have commands and name what they write; got {stage}")
    if (least := min(stage.hours, stage.usd, stage.gpus)) < 0:
        raise UserError(f"the stage {name} must take hours, usd and gpus of at least 0; got {least}")
    for words in stage.words:
        if not words or words[0] not in {*STAGES, *COMMANDS} - {"chain"}:
            raise UserError(f"the stage {name} must run commands of this program; got {' '.join(words) or 'nothing'!r}")
        try:
            check(words[0], resolve_configs(words[1:]), files=False)
        except UserError as error:
            raise UserError(f"the stage {name}: {error}") from None


def absent(stages: Mapping[str, Stage]) -> list[tuple[str, str]]:
    """Stage and path of all that is read, not there, and written by no stage before."""
    written: list[Path] = []
    found = []
    for name, stage in stages.items():
        for path in map(Path, stage.reads):
            if not path.exists() and not any(path == w or w in path.parents for w in written):
                found.append((name, str(path)))
        written += map(Path, stage.writes)
    return found


def run_stage(name: str, stage: Stage, record: Record) -> None:
    """Run a stage's commands, and keep what came of what.

    Raises:
        UserError: an input is missing, the stage trains and was begun from others, or it did not end well.
    """
    if missing := [path for path in stage.reads if not Path(path).exists()]:
        raise UserError(f"the stage {name} reads {missing[0]}, which must be there; run the stage that writes it")
    if record.before and stage.trains and (changed := record.changed()):
        raise UserError(
            f"the stage {name} was begun from other inputs ({', '.join(changed)}) and would go on from its weights; "
            f"give its commands another version, or remove {record.path} to let it go on"
        )
    begun = record.today()
    record.write(begun, None, 0.0)
    started = time.perf_counter()
    for command in stage.commands:
        say(f"{name}: {command}")
        run(split_words(command))
    if lost := [path for path in stage.writes if not Path(path).exists()]:
        raise UserError(f"the stage {name} must write {lost[0]}; it did not; mend its commands or its `writes`")
    seconds = time.perf_counter() - started
    record.write(begun, contents(stage.writes), seconds)
    if changed := Record.of(record.path, stage).changed():
        raise UserError(
            f"inputs of the stage {name} changed while it ran: {', '.join(changed)}; what it wrote came of the old ones"
        )
    say(f"{name}: done, {seconds:.0f} s")


def run(words: Sequence[str]) -> None:
    """One command in a process of its own, which ends with this one.

    Raises:
        UserError: it ended badly.
    """
    from lightning_paras2s.bench.chain import end_with_parent

    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_paras2s", *words],
        stdout=2,  # stdout is for the chain's own table
        preexec_fn=end_with_parent if sys.platform == "linux" else None,
    )
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if code:
        raise UserError(
            f"`{shlex.join(words)}` must end well; got exit code {code}; mend what it says above, then start the same "
            "chain again"
        )


def table(stages: Mapping[str, Stage], records: Mapping[str, Record], usd_per_gpu_hour: float) -> dict[str, Any]:
    """What each stage is and costs; `hours` and `usd` of the whole are those of what is not done."""
    rows = []
    for name, stage in stages.items():
        row = {"stage": name, "state": records[name].state(), "reads": stage.reads, "writes": stage.writes}
        usd = stage.usd + stage.hours * stage.gpus * usd_per_gpu_hour
        row |= {"hours": stage.hours, "gpus": stage.gpus, "usd": round(usd, 2), "note": stage.note}
        rows.append(row | {"commands": stage.commands})
    left = [row for row in rows if row["state"] != "done"]
    return {
        "stages": rows,
        "hours": round(sum(row["hours"] for row in left), 2),
        "gpu_hours": round(sum(row["hours"] * row["gpus"] for row in left), 2),
        "usd": round(sum(row["usd"] for row in left), 2),
        "usd_per_gpu_hour": usd_per_gpu_hour,
        "absent": list(dict.fromkeys(path for _, path in absent(stages))),
    }
