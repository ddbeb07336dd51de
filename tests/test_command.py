"""A program that stays, on speech of tones: what it does wrong costs the query that it was asked about."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import unanswered
from lightning_paras2s.types import Audio, Query

# Answers with the query's own sound at half the level; its second argument is what it does at some requests.
PROGRAM = """
import json, os, sys, time
import numpy as np, soundfile
print("loading", file=sys.stderr)
print("noise that is no JSON")
print(json.dumps({"progress": 1}))
print(json.dumps({"ready": "halver"}), flush=True)
count = 0
for line in sys.stdin:
    row = json.loads(line)
    number = int(row["id"].rsplit("q", 1)[1])
    do = dict(pair.split("=") for pair in sys.argv[1:]).get(str(number), "")
    if do == "die":
        print("out of memory at", number, file=sys.stderr)
        os._exit(7)
    if do == "hang":
        time.sleep(60)
    samples, rate = soundfile.read(row["audio"], dtype="float32")
    soundfile.write(row["out"], samples / 2, rate, format="WAV")
    said = {"id": row["id"], "audio": row["out"], "text": f"{number} by {os.getpid()}", "first_audio_seconds": 0.0}
    if do == "other":
        print(json.dumps({**said, "id": "another", "text": "not mine"}))
    elif do == "bare":
        said = {"id": row["id"]}
    elif do == "text":
        said = {"id": row["id"], "text": "no sound"}
    elif do == "error":
        said = {"id": row["id"], "error": "too long for me"}
    elif do == "stereo":
        soundfile.write(row["out"], np.full((44100, 2), 0.25), 44100, format="WAV")
    elif do == "long":
        soundfile.write(row["out"], np.full(601 * 1000, 0.25), 1000, format="WAV")
    elif do == "mute":
        os.close(1)
        time.sleep(60)
    elif do == "cut":
        open(row["out"], "wb").write(b"RIFF")
    print(json.dumps(said), flush=True)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "halver.py").write_text(PROGRAM)

    def make(does: str = "", **options) -> CommandSystem:
        command = f"{sys.executable} {tmp_path}/halver.py {does}"
        return CommandSystem(command, stderr=str(tmp_path / "log/errors.txt"), **options)

    return make


def asked(count: int, first: int = 0) -> tuple[list[Query], list[Audio]]:
    """Queries q0, q1, ..., each a constant level of its own."""
    queries = [Query(f"q{i}", "p", "age", "test", "hello", {}, "", "") for i in range(first, first + count)]
    levels = [0.02 * (i + 1) for i in range(first, first + count)]
    return queries, [Audio(np.full(1600, level, np.float32), SAMPLE_RATE) for level in levels]


def test_a_program_is_started_once_for_all_batches(program, tmp_path):
    system = program()
    answers = [*system.respond(*asked(3), 0), *system.respond(*asked(3, 3), 0)]
    assert [a.status for a in answers] == ["ok"] * 6
    for i, answer in enumerate(answers):  # 16-bit twice: at most 1/32768 off each time
        assert np.abs(answer.audio.samples - 0.01 * (i + 1)).max() < 1e-4
        assert answer.text.startswith(f"{i} by ") and answer.latency["first_audio_seconds"] == 0
    assert len({a.text.split()[-1] for a in answers}) == 1 and system.program.starts == 1
    log = (tmp_path / "log/errors.txt").read_text()
    assert "loading" in log and "noise that is no JSON" in log and '"progress"' in log


def test_a_crash_in_item_17_costs_item_17(program, tmp_path):
    system = program("17=die")
    answers = [answer for start in (0, 16) for answer in system.respond(*asked(16, start), 0)]
    assert {i: a.status for i, a in enumerate(answers) if a.status != "ok"} == {17: "exit_7"}
    assert [a.text.split()[0] for i, a in enumerate(answers) if i != 17] == [str(i) for i in range(32) if i != 17]
    assert len({a.text.split()[-1] for a in answers if a.text}) == 2 == system.program.starts
    assert "out of memory at 17" in (tmp_path / "log/errors.txt").read_text()


def test_a_program_that_hangs_is_ended_after_its_time(program):
    system = program("1=hang", timeout_seconds=3.0)
    started = time.monotonic()
    answers = system.respond(*asked(3), 0)
    assert [a.status for a in answers] == ["ok", "timeout", "ok"] and time.monotonic() - started < 30
    one, two = {answers[0].text.split()[-1], answers[2].text.split()[-1]}  # another process
    assert not os.path.exists(f"/proc/{answers[0].text.split()[-1]}") and one != two


def test_what_a_program_answers_wrongly_is_a_status(program):
    system = program("1=bare 2=text 3=error 4=stereo 5=long 6=cut 7=other")
    answers = system.respond(*asked(8), 0)
    wrong = ["no_audio", "text_only", "program_error", "ok", "too_long", "bad_audio", "ok"]
    assert [a.status for a in answers] == ["ok", *wrong]
    assert answers[4].audio.sample_rate == SAMPLE_RATE and len(answers[4].audio.samples) == SAMPLE_RATE
    assert np.abs(answers[4].audio.samples[800:-800] - 0.25).max() < 1e-3  # 44.1 kHz resampled: a filter's ripple
    assert answers[7].text.startswith("7 by") and system.program.starts == 1


def test_the_reason_of_a_program_that_says_error_is_kept(program, tmp_path):
    answers = program("1=error").respond(*asked(2), 0)
    assert [a.status for a in answers] == ["ok", "program_error"]
    assert "1/q1: too long for me" in (tmp_path / "log/errors.txt").read_text()


def test_a_program_that_only_closes_its_output_gave_no_answer(program, monkeypatch):
    """It never came: it is asked for again, as after `exit_N`."""
    monkeypatch.setattr("lightning_paras2s.bench.systems.program.GRACE_SECONDS", 0.3)
    answers = program("0=mute").respond(*asked(2), 0)
    assert [a.status for a in answers] == ["closed_output", "ok"] and unanswered(answers[0].status)


def test_a_program_that_only_dies_stops_the_run_after_what_was_answered(program):
    system = program("2=die 3=die 4=die 5=die", restarts=1)
    answers = system.respond(*asked(7), 0)
    assert [a.status for a in answers] == ["ok", "ok", "exit_7", "exit_7", "not_asked", "not_asked", "not_asked"]
    with pytest.raises(UserError, match="failed 2 times in a row, the last with exit_7: .*out of memory at 3"):
        system.respond(*asked(1), 0)


def test_crashes_with_answers_between_them_stop_nothing(program):
    answers = program("1=die 3=die 5=die", restarts=1).respond(*asked(7), 0)
    assert [a.status for a in answers] == ["ok", "exit_7", "ok", "exit_7", "ok", "exit_7", "ok"]


def test_a_program_that_never_is_ready_is_one_line_with_its_last_words(tmp_path):
    (tmp_path / "bad.py").write_text("import sys; sys.exit('no weights in /models')")
    command = f"{sys.executable} {tmp_path}/bad.py"
    with pytest.raises(UserError, match='must write {"ready": NAME}.*got exit_1.*no weights in /models') as told:
        CommandSystem(command, stderr=str(tmp_path / "e.txt")).respond(*asked(1), 0)
    assert "\n" not in str(told.value)
    (tmp_path / "mute.py").write_text("import time; time.sleep(60)")
    command = f"{sys.executable} {tmp_path}/mute.py"
    with pytest.raises(UserError, match="got timeout"):
        CommandSystem(command, start_seconds=0.3, stderr=str(tmp_path / "e.txt")).respond(*asked(1), 0)
    with pytest.raises(UserError, match="a program that starts"):
        CommandSystem("/nowhere/at/all", stderr=str(tmp_path / "e.txt")).respond(*asked(1), 0)


def test_a_program_ends_with_the_run_that_started_it(program, tmp_path):
    system = program()
    pid = int(system.respond(*asked(1), 0)[0].text.split()[-1])
    assert os.path.exists(f"/proc/{pid}")
    system.program.stop()
    assert not os.path.exists(f"/proc/{pid}")
    write_audio(tmp_path / "after.wav", asked(1)[1][0])  # and asked again, it is started again
    assert system.respond(*asked(1), 0)[0].status == "ok" and system.program.starts == 2
    system.program.stop()


def test_the_protocol_is_told_whole_where_one_asks_for_help():
    from lightning_paras2s.running.pages import class_page

    page = " ".join(class_page("CommandSystem", "systems").split())
    for word in ('{"ready": "its name"}', '{"id", "audio", "out", "sample"}', '"first_audio_seconds"', "{recipes}"):
        assert word in page, word
    assert all(f'"{status}"' in page for status in ("timeout", "program_error", "text_only", "too_long", "missing"))
