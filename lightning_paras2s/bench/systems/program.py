"""A program that stays: started once, asked by JSON lines, one at a time, and started again where it dies or hangs."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from pathlib import Path
from typing import Any, BinaryIO

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.fields import json_object
from lightning_paras2s.running.logs import say

GRACE_SECONDS = 5.0  # to end by itself when its input ends
TAIL = 300  # characters of its errors that a message quotes


class Program:
    """One program.

    Args:
        parts: the program and its arguments.
        start_seconds: until it writes {"ready": NAME}.
        restarts: in a row without an answer.
        log: file for its standard error, and for what it prints that is no answer.
    """

    def __init__(self, parts: list[str], start_seconds: float, restarts: int, log: Path) -> None:
        self.parts, self.start_seconds, self.restarts, self.log = parts, start_seconds, restarts, log
        self.process: subprocess.Popen | None = None
        self.lines: queue.Queue[bytes | None] = queue.Queue()
        self.starts, self.failures, self.broken = 0, 0, ""
        self.told: dict[str, Any] = {}  # when it was ready

    def ask(self, request: dict[str, Any], timeout_seconds: float) -> tuple[dict[str, Any] | None, str]:
        """The program's answer to a request, and "ok"; or None and a status that says why none came."""
        if why := self.start():
            return None, why
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:  # it is gone; what is left of its output tells how
            pass
        row, status = self._wait(lambda row: row.get("id") == request["id"], timeout_seconds)
        if row is not None:
            self.failures = 0
            return row, "ok"
        status = status or self._ended()
        self.stop(hangs=status == "timeout")
        self.failures += 1
        again = "not started again" if self.failures > self.restarts else "started again for the next query"
        say(f"{self.parts[0]} {told(status)} at {request['id']}; {again}; see {self.log}")
        if self.failures > self.restarts:
            self.broken = (
                f"a program must answer; {' '.join(self.parts)} failed {self.failures} times in a row, the last with "
                f"{status}: {self._tail()}; see {self.log}"
            )
        return None, status

    def start(self) -> str:
        """Have it ready; "" or a status that says why it can't be asked.

        Raises:
            UserError: it was never ready, not once.
        """
        if self.broken:
            return "not_asked"
        try:
            self._start()
        except UserError as error:
            if self.starts == 1:
                raise
            self.broken = str(error)  # what was answered before stays
            return "not_asked"
        return ""

    def refuse_to_go_on(self) -> None:
        """Raise where the program failed too often."""
        if self.broken:
            raise UserError(self.broken)

    def stop(self, hangs: bool = False) -> None:
        """End the program, by force where it does not end by itself; one that `hangs` is not waited for."""
        if self.process is not None:
            if hangs and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.end()
        self.process = None

    def _start(self) -> None:
        """Start it if it does not run, and wait until it is ready.

        Raises:
            UserError: no such program, or it never is.
        """
        if self.process is not None:
            if self.process.poll() is None:
                return
            self.stop()
        self.starts += 1
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts}: {' '.join(self.parts)}\n".encode())
            log.flush()
            self.mark = log.tell()
            pipe = subprocess.PIPE
            try:  # a session of its own: Ctrl-C ends the run, which then ends the program
                self.process = subprocess.Popen(self.parts, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True)
            except OSError as error:
                raise no_program(self.parts[0], error) from None
        self.end = weakref.finalize(self, end_process, self.process)  # also at the interpreter's exit
        self.lines = queue.Queue()
        threading.Thread(target=read_lines, args=(self.process.stdout, self.lines), daemon=True).start()
        ready, status = self._wait(lambda row: "ready" in row, self.start_seconds)
        if ready is None:
            status = status or self._ended()
            self.stop(hangs=status == "timeout")
            raise UserError(
                f'a program must write {{"ready": NAME}} when it can be asked; got {status} from '
                f"{' '.join(self.parts)}: {self._tail() or 'no error message'}; see {self.log} and docs/systems.md"
            )
        self.told = ready

    def _wait(self, wanted: Any, seconds: float) -> tuple[dict[str, Any] | None, str]:
        """The first line that is wanted, or "timeout", or "" where the output ended; others go to the log."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None, "timeout"
            if line is None:
                return None, ""
            row = json_object(line)
            if row is not None and wanted(row):
                return row, ""
            self.keep(line)

    def keep(self, line: bytes) -> None:
        """Add what a person may want to read to its errors."""
        with self.log.open("ab") as log:
            log.write(line)

    def _ended(self) -> str:
        """How a program whose output ended has ended."""
        try:
            code = self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed_output"
        return f"exit_{code}"

    def _tail(self) -> str:
        """The end of what it said on standard error since its last start."""
        with self.log.open("rb") as log:
            log.seek(self.mark)
            said = log.read().decode("utf-8", "replace").split()
        return " ".join(said)[-TAIL:]


def no_program(name: str, error: OSError) -> UserError:
    return UserError(f"a command must be a program that starts; got {name!r} ({error.strerror})")


def read_lines(output: BinaryIO, lines: queue.Queue) -> None:
    """Put a program's lines into a queue, and None at their end."""
    with output:
        for line in output:
            lines.put(line)
    lines.put(None)


def end_process(process: subprocess.Popen) -> None:
    """Close a program's input; then, where it goes on, end it and what it started."""
    try:
        process.stdin.close()
    except OSError:
        pass
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told(status: str) -> str:
    return {"timeout": "gave no answer in time", "closed_output": "closed its output"}.get(status, f"ended ({status})")
