"""`doctor`: one screen; what is broken ends it with 2, what is slow is a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_paras2s.cli import main
from lightning_paras2s.running import doctor, machine, precision, shipped

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lightning_paras2s", "doctor", "--json"]
    folder = tmp_path_factory.mktemp("empty")
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_screen_is_24_lines_of_80_columns_and_its_record_follows(told):
    *screen, record = told.stdout.splitlines()
    assert len(screen) <= 24 and max(map(len, screen)) <= 80, told.stdout
    result = json.loads(record)
    broken = [f for f in result["findings"] if f["level"] == "broken"]
    assert (told.returncode == 0) == result["ok"] == (not broken)
    for name in (
        "package",
        "python",
        "torch",
        "gpu",
        "cpu",
        "precision",
        "threads",
        "memory",
        "disk",
        "extras",
        "weights",
    ):
        assert any(line[2:].startswith(name) for line in screen), name


def test_weights_are_named_when_missing_or_damaged(tmp_path, monkeypatch):
    """The sums are those of b"a" and b"b" (`printf a | sha256sum`)."""
    folder = tmp_path / shipped.WEIGHTS
    folder.mkdir(parents=True)
    sums = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    other = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
    (folder / shipped.SUMS).write_text(f"{sums}  one\n{other}  two\n{sums}  three\n")
    (folder / "one").write_bytes(b"a")
    (folder / "two").write_bytes(b"a")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    finding = doctor.weights()
    assert finding.level == "broken" and "two damaged, three missing" in finding.text


@pytest.mark.parametrize(
    "flags, level, said",
    [
        ("sse4_2", "warning", "without AVX2"),
        ("avx2", "ok", "avx2 yes, avx512_bf16 no"),
        ("avx2 amx_bf16", "ok", "amx_bf16 yes"),
    ],
)
def test_processor_without_avx2_is_warned_of(flags, level, said, monkeypatch):
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    cpu = doctor.arithmetic()[0]
    assert cpu.level == level and said in cpu.text


def test_one_thread_and_little_memory_are_warned_of(monkeypatch):
    monkeypatch.setattr(machine, "usable_threads", lambda: (1, "the machine's"))
    monkeypatch.setattr(machine, "free_memory", lambda: (2.0e9, 3.0e9))
    assert {f.name: f.level for f in (*doctor.arithmetic(), *doctor.room())}["threads"] == "warning"
    memory = doctor.room()[0]
    assert memory.level == "warning" and "2.0 GB free of 3.0" in memory.text


@pytest.mark.parametrize("free, level", [(1e8, "broken"), (1e9, "warning"), (5e9, "ok")])
def test_disk_with_little_room(free, level, monkeypatch):
    usage = doctor.shutil.disk_usage(".")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=free))
    assert doctor.room()[1].level == level


def system(tmp_path: Path, group: str, files: dict[str, str]) -> tuple[Path, Path]:
    """/proc and /sys/fs/cgroup as Linux lays them out (man 7 cgroups)."""
    files = {"proc/self/cgroup": group, "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 6000 kB\n"} | files
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "proc", tmp_path / "cgroup"


def test_threads_and_memory_are_the_containers_version_2(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(16)))
    files = {
        "cgroup/a/cpu.max": "350000 100000\n",
        "cgroup/a/b/cpu.max": "max 100000\n",
        "cgroup/a/b/memory.max": "4096000\n",
        "cgroup/a/b/memory.current": "1024000\n",
    }
    places = system(tmp_path, "0::/a/b\n", files)
    assert machine.usable_threads(*places) == (3, "of the container's quota of 3.5")
    assert machine.free_memory(*places) == (3072000.0, 4096000.0)


def test_threads_and_memory_are_the_containers_version_1(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(16)))
    files = {
        "cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n",
        "cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        "cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",  # none
        "cgroup/memory/x/memory.usage_in_bytes": "1024\n",
    }
    places = system(tmp_path, "3:cpu,cpuacct:/x\n4:memory:/x\n", files)
    assert machine.usable_threads(*places) == (1, "of the container's quota of 0.5")
    assert machine.free_memory(*places) == (6000 * 1024.0, 8000 * 1024.0)


def test_threads_are_the_affinitys_without_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {0, 5, 9})
    assert machine.usable_threads(*system(tmp_path, "", {})) == (3, "of the affinity (taskset)")


def test_make_demo_may_ask_for_problems_alone(capsys):
    """A switch that stands alone: the shared check of arguments must not give it a value."""
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--problems"])
    assert stop.value.code in (0, None) and "precision    auto" not in capsys.readouterr().out


def test_precision_is_the_one_that_a_run_would_choose(monkeypatch):
    monkeypatch.setattr(precision, "rates", lambda: (100.0, 300.0))
    monkeypatch.setattr(precision, "cpu_features", lambda: ["avx2", "avx512f", "amx_bf16"])
    assert doctor.auto_precision()[0] == precision.MIXED
    monkeypatch.setattr(precision, "rates", lambda: (200.0, 100.0))  # it has the instructions and is slower by them
    assert doctor.auto_precision()[0] == precision.FULL
