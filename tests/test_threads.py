"""Threads are the cores that are there, less what others keep busy; OMP_NUM_THREADS is obeyed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_paras2s.running import threads
from lightning_paras2s.running.threads import Load, Threads, fitting, load, others, side_by_side


@pytest.fixture(autouse=True)
def same_threads_after():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def free(monkeypatch):
    """Two cores, OMP_NUM_THREADS unset; the list of loads that are seen one after another."""
    seen: list[Load] = [Load(0.0, 0.0, 0.0)]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "load", lambda: seen.pop(0))
    return seen


def test_load_counts_the_cores_that_this_process_may_use(tmp_path, monkeypatch):
    """/proc/stat as proc(5) has it: user, nice, system, idle, ... in hundredths of a second."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 10})
    path = tmp_path / "stat"
    path.write_text("cpu  999 9 9 9\ncpu0 100 20 30 4000 5 6 7\ncpu1 900 0 0 0 0 0 0\ncpu10 1 2 3 4 5 6 7\nintr 5\n")
    assert load(path).busy == pytest.approx(1.5 + 0.06)
    assert load(tmp_path / "none") is None


def test_others_are_what_is_busy_without_this_process():
    assert others(Load(10, 100, 50), Load(12, 103.5, 51.5)) == pytest.approx(1.0)  # 3.5 - 1.5 seconds in 2
    assert others(Load(10, 100, 50), Load(12, 101, 52)) == 0


@pytest.mark.parametrize(
    ("there", "busy", "processes", "expected"),
    [(2, 0.0, 1, 2), (2, 0.4, 1, 2), (2, 0.7, 1, 1), (2, 1.9, 1, 1), (8, 3.0, 1, 5), (8, 0.0, 4, 2), (1, 0.0, 1, 1),
     (2, 0.0, 8, 1)],
)  # fmt: skip
def test_threads_fit_into_what_others_leave(there, busy, processes, expected):
    assert fitting(there, busy, processes) == expected


def test_a_run_gives_way_when_another_starts_and_takes_its_core_back(free, capsys):
    free += [Load(1, 0.1, 0.1), Load(2, 2.1, 1.1), Load(3, 4.1, 2.1), Load(4, 5.1, 3.1)]
    run = Threads()
    assert run.start() == torch.get_num_threads() == 2
    assert run.look() == torch.get_num_threads() == 1  # 2 busy seconds, 1 of them its own
    assert run.look() == 1
    assert run.look() == torch.get_num_threads() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0].startswith("threads: 2 (2 cores") and "1 -> 2" in lines[2]


def test_two_runs_that_start_at_once_come_to_rest_with_a_thread_each(free):
    """Each sees the other's: with two threads each they share the cores, with one each has its own."""
    free += [Load(1, 2.0, 1.0), Load(2, 4.0, 2.0), Load(3, 6.0, 3.0)]
    run = Threads()
    assert [run.start(), run.look(), run.look()] == [1, 1, 1]


def test_ranks_of_one_run_are_no_others(free, monkeypatch):
    """Two ranks of 4 threads on 8 cores: 8 busy seconds a second, 4 of them this rank's."""
    monkeypatch.setattr(threads, "cores", lambda: 8)
    free += [Load(1, 0.0, 0.0), Load(2, 8.0, 4.0)]
    run = Threads(processes=2)
    assert [run.start(), run.look()] == [4, 4]


def test_a_look_that_comes_too_soon_changes_nothing(free):
    free += [Load(1, 0.0, 0.0), Load(1.1, 0.2, 0.1), Load(2, 2.0, 1.0)]
    run = Threads()
    assert [run.start(), run.look(), run.look()] == [2, 2, 1]


def test_omp_num_threads_is_obeyed_and_never_changed(free, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    run = Threads()
    assert [run.start(), run.look()] == [3, 3] and "as OMP_NUM_THREADS says" in capsys.readouterr().err


def test_threads_are_those_of_the_cores_where_the_system_does_not_say(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "load", lambda: None)
    monkeypatch.setattr(threads, "cores", lambda: 1)
    run = Threads()
    assert [run.start(), run.look()] == [1, 1]


@pytest.mark.parametrize("threads", ["2", "2,1", " 2 ", "0", "many", ""])
def test_work_side_by_side_takes_what_openmp_takes(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert side_by_side(str, [3, 1, 2]) == ["3", "1", "2"]


def test_files_are_linux_own():
    assert Path("/proc/stat") == threads.STAT and (load() is None or load().busy > 0)


def test_a_command_without_a_trainer_says_its_threads():
    """In a process of its own: nothing of Lightning's is set up, as in `evaluate`."""
    code = "from lightning_paras2s.running.threads import Threads; Threads().start()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr.splitlines()[-1] == "threads: 1, as OMP_NUM_THREADS says"
