"""`bench`: steps get each other's files, a worker that fails ends the others, a chain killed anywhere ends the same."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_paras2s.bench import chain
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError

ROOT = Path(__file__).parents[1]
CONFIG = """
mine: [--config, mine.yaml, --splits, "[test]", --count, "400"]
filter: [--max_wer, "1.0", --factors_heard, "[]"]
evaluate: [--config, {config}]
max_pairs: 1
workers: 2
limit: 1
"""
SYSTEMS = """
systems:
  cascade: {class_path: CascadeSystem, init_args: {transcriber: &ear {class_path: TinyTranscriber, init_args:
    {path: WEIGHTS/transcriber.safetensors, batch_size: 1}}, synthesizer: EspeakSynthesizer}}
  topline: {class_path: ToplineSystem, init_args: {synthesizer: EspeakSynthesizer, split: test}}
judge: {class_path: EmbeddedJudge, init_args: {acts: WEIGHTS/acts.safetensors}}
transcriber: *ear
recognizer: {class_path: AcousticStyleRecognizer, init_args: {path: WEIGHTS/style.safetensors, batch_size: 1}}
batch_size: 2
"""


def test_steps_get_each_others_files(monkeypatch, tmp_path):
    asked, checked = [], []

    def run(steps, name, options, workers=1):
        asked.append((name, options, workers))
        steps.results[name] = {"systems": {}, "count": len(asked)}

    monkeypatch.setattr(chain._Steps, "run", run)
    monkeypatch.setattr(chain._Steps, "check", lambda steps, todo: checked.append(list(todo)))
    monkeypatch.setattr(chain, "leaderboard", lambda *a: None)
    monkeypatch.setattr(chain, "write_report", lambda *a: {"bytes": 1})
    result = chain.bench(str(tmp_path), mine=["--count", "9"], evaluate=["--config", "e.yaml"], workers=3, limit=4)
    mined, queries = str(tmp_path / "mined"), tmp_path / "queries"
    assert asked == [
        ("mine", ["--count", "9", "--out", mined], 1),
        ("synthesize", ["--source", f"{mined}/scripts.jsonl", "--out", str(queries), "--limit", "4"], 1),
        ("filter", ["--manifest", f"{queries}/queries.jsonl", "--out", f"{queries}/kept.jsonl"], 1),
        (
            "evaluate",
            ["--config", "e.yaml", "--manifest", f"{queries}/kept.jsonl", "--output", str(tmp_path / "evaluate")],
            3,
        ),
        ("audit", ["--run", str(tmp_path / "evaluate")], 1),
    ]
    assert checked == [["mine", "synthesize", "filter", "evaluate", "audit"]]
    assert result["evaluate"] == {"count": 4} and result["report"] == {"bytes": 1}
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    with pytest.raises(UserError, match="at least 1 process; got 0"):
        chain.bench(str(tmp_path), workers=0)


def test_workers_get_a_shard_each_before_the_merge(monkeypatch):
    started = []
    monkeypatch.setattr(chain, "start", lambda name, options, heard: started.append((name, options, heard)))
    monkeypatch.setattr(chain, "await_all", lambda processes, name: [{"n": len(processes)}])
    steps = chain._Steps()
    steps.run("evaluate", ["--x"], 2)
    assert started == [
        ("evaluate", ["--x", "--shard", "0/2"], True),
        ("evaluate", ["--x", "--shard", "1/2"], False),
        ("evaluate", ["--x"], True),
    ]
    assert steps.results == {"evaluate": {"n": 1}}


def program(code: str) -> chain.Worker:
    return chain.Worker([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_chain_stops_before_its_first_step_when_a_later_one_lacks_something(tmp_path, monkeypatch):
    started = []

    def start(name, options, heard):
        started.append((name, options[-1]))
        return program("exit(2)" if name == "evaluate" else "print('{}')")

    monkeypatch.setattr(chain, "start", start)
    with pytest.raises(UserError, match="evaluate must end well; got exit code 2"):
        chain.bench(str(tmp_path / "out"))
    assert started == [(name, "--check") for name in ("mine", "synthesize", "filter", "evaluate")]
    assert not (tmp_path / "out").exists()


def test_check_builds_what_options_name_and_runs_nothing(tmp_path, capsys, monkeypatch):
    """As `bench` calls it, before the queries are there: openSMILE, which only the audit needs, is missing."""
    monkeypatch.chdir(tmp_path)
    config = SYSTEMS.replace("WEIGHTS", str(ROOT / "checkpoints/embedded"))
    (tmp_path / "evaluate.yaml").write_text(config)
    queries = chain.stand_in("out/kept.jsonl", Path("out"))
    options = ["evaluate", "--config", "evaluate.yaml", "--manifest", queries, "--output", "out", "--check"]
    main(options)
    (tmp_path / "evaluate.yaml").write_text(config + "audit_recognizer: EGemapsRecognizer\n")
    monkeypatch.setattr("lightning_paras2s.hearing.audit.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the audit needs the package opensmile; got none")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluate.yaml"]


def test_a_worker_that_is_not_heard_is_when_it_fails(capsys):
    """ "mend what it says above", and nothing stood there: only the first worker's words were shown."""
    with pytest.raises(UserError, match="evaluate must end well; got exit code 2"):
        chain.await_all([chain.start("evaluate", ["--batch_siez", "3"], False)], "evaluate")
    assert "evaluate: error: " in (told := capsys.readouterr().err) and "batch_siez" in told


def test_worker_that_fails_ends_the_others_in_one_line():
    good, bad, slow = program("print('hm'); print('{}')"), program("exit(2)"), program("import time; time.sleep(99)")
    with pytest.raises(UserError, match="evaluate must end well; got exit code 2"):
        chain.await_all([good, bad, slow], "evaluate")
    assert (good.returncode, bad.returncode, slow.returncode) == (0, 2, -signal.SIGKILL)
    assert chain.await_all([program("print('hm'); print('{\"a\": 1}')")], "mine") == [{"a": 1}]
    odd = program(r"""print('{"a": "b\u2028c"}')""")  # ends a line in Python, and may stand in JSON
    assert chain.await_all([odd], "mine") == [{"a": "b\u2028c"}]


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_worker_ends_when_its_parent_is_killed():
    code = (
        "import subprocess, sys, time; from lightning_paras2s.bench.chain import end_with_parent;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'], preexec_fn=end_with_parent);"
        "print(child.pid, flush=True); time.sleep(99)"
    )
    parent = program(code)
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.05)


def cold(folder: Path, config: str) -> subprocess.Popen:
    """The chain as a user starts it."""
    command = [sys.executable, "-m", "lightning_paras2s", "bench", "--config", config, "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Warm:
    """Starts the same chain from a process that has its imports behind it (`warm_chain.py`)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, str(ROOT / "tests/warm_chain.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # Unbuffered: what `select` sees is all that there is to read.
        self.server = subprocess.Popen(command, cwd=folder, env=environment, bufsize=0, **pipes)
        self.folder = folder

    def run(self, config: str, there=lambda out: False) -> int:
        """The exit code; `kill -9` when `there(out)`."""
        self.server.stdin.write(json.dumps(["bench", "--config", config, "--out", "out"]).encode() + b"\n")
        pid, done = int(self.server.stdout.readline()), self.server.stdout
        while not select.select([done], [], [], 0.002)[0]:
            if there(self.folder / "out"):
                os.kill(pid, signal.SIGKILL)
                break
        return int(done.readline())

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()


def lines(pattern: str, count: int):
    """Do files like this hold at least so many lines together?"""
    return lambda out: sum(path.read_bytes().count(b"\n") for path in out.glob(pattern)) >= count


def outcome(folder: Path) -> dict:
    """All that a chain leaves, without what says when or where."""
    out = folder / "out"
    found = {path.name: path.read_bytes() for path in out.glob("leaderboard.*")}
    found["report"] = (out / "report.html").read_bytes()
    summary = json.loads((out / "evaluate/summary.json").read_text())
    found["summary"] = {k: v for k, v in summary.items() if k != "seconds"}
    for name in ("evidence", "verdicts", "swaps", "responses"):
        rows = [json.loads(line) for path in out.glob(f"evaluate/{name}*.jsonl") for line in path.open()]
        found[name] = sorted(json.dumps({k: v for k, v in row.items() if k != "latency"}) for row in rows)
    found["audio"] = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.flac")}
    return found


POINTS = {  # in the order in which a chain comes by them
    "mined": lines("mined/scripts.jsonl", 1),
    "some spoken": lambda out: len(list(out.glob("queries/audio/*.flac"))) >= 3,
    "spoken": lines("queries/queries.jsonl", 8),
    "filtered": lines("queries/kept.jsonl", 8),
    "first answers": lines("evaluate/responses*.jsonl", 2),
    "all answers": lines("evaluate/responses*.jsonl", 16),
    "first heard": lines("evaluate/evidence*.jsonl", 2),
    "first judged": lines("evaluate/verdicts*.jsonl", 2),
    "shards done": lines("evaluate/swaps*.jsonl", 16),
    "summary": lambda out: (out / "evaluate/summary.json").exists(),
    "table": lambda out: (out / "leaderboard.csv").exists(),
    "half a report": lambda out: any(out.glob(".report.html.*.part")),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_chain_killed_at_every_step_ends_as_one_that_was_not(tmp_path):
    (tmp_path / "evaluate.yaml").write_text(SYSTEMS.replace("WEIGHTS", str(ROOT / "checkpoints/embedded")))
    config = tmp_path / "bench.yaml"
    config.write_text(CONFIG.format(config=tmp_path / "evaluate.yaml"))
    whole = cold(tmp_path / "whole", str(config))
    assert whole.wait() == 0, whole.stderr.read()
    warm = Warm(tmp_path / "cut")
    ends = {name: warm.run(str(config), there) for name, there in POINTS.items()}
    assert ends == dict.fromkeys(POINTS, -signal.SIGKILL)
    assert warm.run(str(config)) == 0
    warm.close()
    found, wanted = outcome(tmp_path / "cut"), outcome(tmp_path / "whole")
    assert found == wanted and len(found["verdicts"]) == len(found["swaps"]) == 16 and len(found["audio"]) == 8 + 16
