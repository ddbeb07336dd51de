"""Any program as a system: it is given recordings and writes recordings. The protocols stand in docs/systems.md.

A model takes minutes to load, so the program stays: it is started once, asked line by line, and started again where it
dies. What it does wrong costs the one query that it was asked about.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.systems import program
from lightning_paras2s.bench.systems.base import NO_TURNS, Answer, S2SSystem, digest, read_answer
from lightning_paras2s.bench.systems.program import Program
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say, say_once
from lightning_paras2s.running.origins import weights_sha
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Query

RECIPES = Path(__file__).parent / "recipes"
FILES = ("{requests}", "{responses}")


class CommandSystem(S2SSystem):
    """Any program, in any environment: started once and asked over its standard input and output.

    It writes the line {"ready": "its name"} when its model is loaded. Then it reads a line for each query, {"id",
    "audio", "out", "sample"}: `audio` is the path of a WAV file (mono, 16 kHz), `out` a path that does not exist yet.
    It writes its answer there (WAV, FLAC or OGG, any rate, mono or stereo) and the line {"id", "audio": that path,
    "text": what it says, "first_audio_seconds": when the first of it was there}; the last two may be left out. Where it
    has no answer, it writes {"id", "error": "why"}. A program that reads what was said before says so, {"ready": "its
    name", "turns": true}; a query with earlier turns then has "turns", a list of {"role": "user" or "assistant",
    "text", "audio"?, "styles"?}, the oldest first, `audio` being a WAV file as the query's. One that does not say so
    is not asked about such a query (status "no_turns"). It ends when its input ends. Lines of its output that are no
    JSON object with that id are kept with its errors, and nothing else is made of them.

    An answer that never came has a status: "exit_N" where the program died (it is started again for the next query),
    "timeout" and "closed_output" (it is stopped and started again). One that can't be used, too: "program_error"
    ({"error"}), "text_only", "no_audio", "bad_audio", "bad_text", "too_long". The programs {recipes}/run_*.py speak
    this for GLM-4-Voice, LLaMA-Omni 2, Freeze-Omni, LFM2.5-Audio, Moshi and Mini-Omni.

    A command with {requests} and {responses} is a program of another kind: started for each batch, it reads the first
    file, JSON lines of {"id", "audio", "sample"}, and writes the second, JSON lines of {"id", "audio", "text"?} with
    paths relative to that file; what it does not answer has the status "missing".

    Args:
        command: the program and its arguments, not run by a shell; {recipes} is the folder of the ready ones. Files
            and folders that it names, also as --option=FILE, are part of what its answers are known by: name none that
            it writes to.
        timeout_seconds: of one answer; with {requests}, of one start.
        start_seconds: until the program is ready; not with {requests}.
        restarts: of a program that died or hung, in a row, without an answer between them; then the run stops. Not with
            {requests}, whose program is started for the next batch, whatever became of the last.
        stderr: file to which the program's errors are added, and what it prints that is no answer.
    """

    knows_turns = False

    def __init__(
        self,
        command: str,
        timeout_seconds: float = 600.0,
        start_seconds: float = 1800.0,
        restarts: int = 5,
        stderr: str = "runs/command.log",
    ) -> None:
        if len({name for name in FILES if name in command}) == 1:
            raise UserError(f"a command must hold both {{requests}} and {{responses}}, or neither; got {command!r}")
        try:
            self.parts = [part.replace("{recipes}", str(RECIPES)) for part in shlex.split(command)]
        except ValueError as error:
            raise UserError(f"a command must be one that a shell could split; got {command!r} ({error})") from None
        if not self.parts:
            raise UserError("a command must name a program; got an empty one")
        self.command, self.timeout_seconds = command, timeout_seconds
        named = [place for part in self.parts for place in (part, part.partition("=")[2]) if place]
        folders = [weights_sha(Path(place)) for place in named if Path(place).is_dir()]
        self.config_sha = digest([command, *folders], [place for place in named if Path(place).is_file()])
        self.log = Path(stderr)
        self.program = None if FILES[0] in command else Program(self.parts, start_seconds, restarts, self.log)

    @property
    def off(self) -> str:
        return "" if self.program is None else self.program.broken

    def carries(self, turns: Sequence[Turn]) -> bool:
        """A program that has not started yet may say so when it has: until then it is not known."""
        return self.program is not None and (not self.program.told or self.program.told.get("turns") is True)

    def respond(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        if self.program is None:
            return self._by_files(queries, audios, sample)
        self.program.refuse_to_go_on()
        with tempfile.TemporaryDirectory() as folder:
            return [
                self._by_line(Path(folder), f"{index}/{query.id}", query.turns, audio, sample)
                for index, (query, audio) in enumerate(zip(queries, audios, strict=True))
            ]

    def _by_line(self, folder: Path, name: str, turns: Sequence[Turn], audio: Audio, sample: int) -> Answer:
        if turns and (why := self.program.start()):
            return Answer(None, status=why)
        if turns and not self.carries(turns):
            say_once(f'{self.command} did not say "turns": true when ready: no query with earlier turns is asked')
            return Answer(None, status=NO_TURNS)
        asked, out = folder / "query.wav", folder / "answer.wav"
        out.unlink(missing_ok=True)
        write_audio(asked, audio)
        started = time.perf_counter()
        request = {"id": name, "audio": str(asked), "out": str(out), "sample": sample}
        request |= {"turns": written_turns(turns, folder)} if turns else {}
        row, status = self.program.ask(request, self.timeout_seconds)
        latency = {"total_seconds": time.perf_counter() - started}
        if row is not None and "error" in row:
            self.program.keep(f"{name}: {row['error']}\n".encode("utf-8", "backslashreplace"))
        return Answer(None, status=status) if row is None else read_row(row, folder, latency)

    def _by_files(self, queries: list[Query], audios: list[Audio], sample: int) -> list[Answer]:
        with tempfile.TemporaryDirectory() as folder:
            requests, responses = Path(folder) / "requests.jsonl", Path(folder) / "responses.jsonl"
            lines = []
            for index, (query, audio) in enumerate(zip(queries, audios, strict=True)):
                write_audio(Path(folder) / f"{index}.wav", audio)
                lines.append(
                    json.dumps({"id": query.id, "audio": str(Path(folder) / f"{index}.wav"), "sample": sample}) + "\n"
                )
            requests.write_text("".join(lines))
            status = self._run(requests, responses)
            if status != "ok":
                say(f"{self.parts[0]} {program.told(status)} at {len(queries)} queries; see {self.log}")
            found = {} if status != "ok" or not responses.is_file() else _read_answers(responses)
            return [found.get(q.id, Answer(None, status="missing" if status == "ok" else status)) for q in queries]

    def _run(self, requests: Path, responses: Path) -> str:
        places = dict(zip(FILES, (str(requests), str(responses)), strict=True))  # other braces are the program's own
        parts = [re.sub(r"\{requests\}|\{responses\}", lambda m: places[m[0]], part) for part in self.parts]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("ab") as log:
                done = subprocess.run(parts, timeout=self.timeout_seconds, stdout=log, stderr=log, check=False)
        except subprocess.TimeoutExpired:
            return "timeout"
        except OSError as error:
            raise program.no_program(parts[0], error) from None
        return "ok" if done.returncode == 0 else f"exit_{done.returncode}"


def written_turns(turns: Sequence[Turn], folder: Path) -> list[dict[str, Any]]:
    """Earlier turns as a program reads them, their recordings written beside the query's."""
    rows = []
    for number, turn in enumerate(turns):
        row: dict[str, Any] = {"role": turn.role, "text": turn.text}
        if turn.sound is not None:
            write_audio(folder / f"turn{number}.wav", turn.sound)
            row["audio"] = str(folder / f"turn{number}.wav")
        rows.append(row | ({"styles": turn.styles} if turn.styles else {}))
    return rows


def read_row(row: dict[str, Any], folder: Path, latency: dict[str, float]) -> Answer:
    """What a program answered in a line."""
    text = row.get("text")
    if "error" in row:
        return Answer(None, status="program_error", latency=latency)
    first = row.get("first_audio_seconds")
    if type(first) in (int, float) and 0 <= first <= latency["total_seconds"]:
        latency = {"first_audio_seconds": float(first), **latency}
    if not isinstance(row.get("audio"), str) or not row["audio"]:
        answer = read_text(text)
        return Answer(None, answer, "text_only" if answer else "no_audio", latency)
    return replace(read_answer(folder / row["audio"], text), latency=latency)


def read_text(text: Any) -> str | None:
    """A text that is one."""
    return text if isinstance(text, str) and text.strip() else None


def _read_answers(path: Path) -> dict[str, Answer]:
    """What a program wrote; a line that can't be read is left out, speech that can't is the status "bad_audio", a text
    that is none is "bad_text"."""
    found = {}
    for line in path.read_bytes().splitlines():  # bytes: at CR and LF alone
        try:
            row = json.loads(line)
            name, place, text = row["id"], path.parent / row["audio"], row.get("text")
            found[name] = Answer(None, status="bad_audio")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        found[name] = read_answer(place, text)
    return found
