"""`bench` from a warm process: everything is imported once, every start after that is a fork.

A process of `python -m lightning_paras2s` spends seconds on its imports and hundredths on eight items; a chain has
six of them. Forked, they run the same `cli.main` on the same arguments, in processes of their own that die by SIGKILL
as any others do.

On stdin: one JSON list of arguments a line; on stdout: the new process's id, and its exit code once it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from importlib import import_module

from lightning_paras2s import cli
from lightning_paras2s.bench import chain
from lightning_paras2s.cli import COMMANDS

MORE = ("asr", "audit", "judge", "style", "tts")  # named by configs


class Forked:
    """As much of `subprocess.Popen` as `chain.await_all` asks for."""

    def __init__(self, arguments: list[str], heard: bool) -> None:
        self.returncode: int | None = None
        self.stdout, pipe = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            chain.end_with_parent()
            os.dup2(pipe, 1)
            if not heard:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run(arguments)
        os.close(pipe)

    def communicate(self) -> tuple[str, None]:
        with os.fdopen(self.stdout) as file:
            printed = file.read()
        self.wait()
        return printed, None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def run(arguments: list[str]) -> None:
    """One command in this process, which ends with it."""
    code = 1
    try:
        cli.main(arguments)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def serve() -> None:
    for module in {target.split(":")[0] for target in COMMANDS.values()} | {f"lightning_paras2s.{m}" for m in MORE}:
        import_module(module)
    chain.start = lambda name, options, heard: Forked([name, *options, "--json"], heard)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(2, 1)  # what `bench` prints is not the answer to our reader
            run(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
