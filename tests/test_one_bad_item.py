"""One bad item never costs the rest: it is a status and counted; a mistake that concerns all is one line."""

from __future__ import annotations

import gc
import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loopback import Loopback, Sent, completion
from test_filters import query
from test_identity import RATE, Parrot, PitchEar, Reader, StyleByPitch, manifest, run, sine
from test_llm import chat, content, said

from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.people.agreement import agreement
from lightning_paras2s.bench.people.annotate import load_items
from lightning_paras2s.bench.people.reliability import cohen_kappa
from lightning_paras2s.bench.queries.filters import filter
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.bench.report import report
from lightning_paras2s.bench.systems.base import Answer, RecordedSystem
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.cli import main
from lightning_paras2s.data.embedded import TextQuery
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.running.logs import json_text, safe_name
from lightning_paras2s.types import (
    Audio,
    Human,
    Query,
    Response,
    Verdict,
    answered,
    append_jsonl,
    read_jsonl,
    response_id,
    to_json,
)

EAR = PitchEar([])


def statuses(folder: Path) -> dict[str, str]:
    return {r.query_id: r.status for r in read_jsonl(folder / "run/responses.jsonl", Response)}


def spoil(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "empty":
        path.touch()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "not a number":
        soundfile.write(path, np.array([0, np.nan, 0]), RATE, "FLOAT")
    elif kind == "61 s":
        soundfile.write(path, np.full(61 * 8000, 0.1), 8000)
    elif kind == "m4a":  # an ISO media file's first box, as phones write it
        path.write_bytes(b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00M4A mp42isom" + bytes(200))


@pytest.mark.parametrize("kind", ["empty", "no samples", "not a number", "61 s", "m4a"])
def test_a_recorded_answer_that_cannot_be_read_is_a_status(tmp_path, kind):
    path = manifest(tmp_path)
    for i in range(4):
        sine(tmp_path / f"answers/q{i}.wav", 800)
    spoil(tmp_path / "answers/q2.wav", kind)
    cell = run(tmp_path, path, RecordedSystem(str(tmp_path / "answers")))["systems"]["parrot"]["overall"]
    assert (cell["n"], cell["n_failed"], cell["mean"]) == (3, 1, 5)
    assert statuses(tmp_path)["q2"] == ("too_long" if kind == "61 s" else "bad_audio")


def test_a_query_of_305_seconds_is_a_status_also_on_resume(tmp_path, capsys):
    path = manifest(tmp_path)
    soundfile.write(tmp_path / "q1.wav", np.full(305 * 8000, 0.1), 8000)
    for _ in range(2):
        system = Parrot()
        cell = run(tmp_path, path, system, label_source="predicted")["systems"]["parrot"]["overall"]
        assert (cell["n"], cell["n_failed"]) == (3, 1) and statuses(tmp_path)["q1"] == "bad_query"
    assert system.asked == []
    assert "query q1 can't be heard, its answers count as failed (bad_query)" in capsys.readouterr().err
    sine(tmp_path / "q1.wav", 800)
    assert run(tmp_path, path, label_source="predicted")["systems"]["parrot"]["overall"]["n"] == 4
    assert report(str(tmp_path / "run"), str(tmp_path / "r.html"))["pairs"] == 2


def test_a_report_shows_a_query_that_cannot_be_heard_by_its_place(tmp_path):
    path = manifest(tmp_path)
    spoil(tmp_path / "q1.wav", "not a number")
    run(tmp_path, path)
    assert report(str(tmp_path / "run"), str(tmp_path / "r.html"))["clips"] == 3 + 3


class Faulty(Parrot):
    """Answers NaN, then 61 s, then speech."""

    def respond(self, queries, audios, sample):
        kinds = {"q0": np.array([np.nan] * 9, np.float32), "q1": np.full(61 * RATE, 0.1, np.float32)}
        return [Answer(Audio(kinds.get(q.id, a.samples), RATE), "said") for q, a in zip(queries, audios, strict=True)]


def test_speech_that_is_not_finite_or_too_long_is_a_status(tmp_path):
    run(tmp_path, manifest(tmp_path), Faulty())
    assert statuses(tmp_path) == {"q0": "bad_audio", "q1": "too_long", "q2": "ok", "q3": "ok"}


def test_nothing_came_out_is_one_line_after_the_summary_is_written(tmp_path):
    path = manifest(tmp_path, 8)
    (tmp_path / "none").mkdir()
    system = RecordedSystem(str(tmp_path / "none"))
    with pytest.raises(UserError, match="must end with a score; got none: 8 of 8 answers failed: missing 8"):
        run(tmp_path, path, system)
    assert (tmp_path / "run/summary.json").is_file()


def test_filter_never_overwrites_what_it_reads(tmp_path):
    path = Path(manifest(tmp_path))
    before = path.read_bytes()
    for out in (path, tmp_path / "." / "queries.jsonl"):
        with pytest.raises(UserError, match="out must be another file than those that are read"):
            filter(str(path), str(out), EAR)
    shutil.copy(path, tmp_path / "a.rejected.jsonl")
    with pytest.raises(UserError, match="a.rejected.jsonl is one"):
        filter(str(tmp_path / "a.rejected.jsonl"), str(tmp_path / "a.jsonl"), EAR)
    assert path.read_bytes() == before


def test_a_scripts_id_cannot_leave_the_folder(tmp_path):
    row = TextQuery("../../../esc", "emotion", "test", "Travel", "train", "The train leaves.", ("happy", "sad"))
    (tmp_path / "scripts.jsonl").write_text(to_json(row) + "\n")
    synthesize(str(tmp_path / "a/b/c/out"), str(tmp_path / "scripts.jsonl"), factors=["emotion"])
    made = [p for p in tmp_path.rglob("*.flac")]
    assert len(made) == 2 and all(p.parent == tmp_path / "a/b/c/out/audio" for p in made)
    again = synthesize(str(tmp_path / "a/b/c/out"), str(tmp_path / "scripts.jsonl"), factors=["emotion"])
    assert again["resumed"] == 2 and len(read_queries(again["manifest"], None)) == 2


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "x" * 300, "é\n"])
def test_a_file_name_is_harmless_whatever_the_id(tmp_path, name):
    place = tmp_path / safe_name(name)
    assert place.parent == tmp_path and place.name not in (".", "..", "")
    place.write_text("")
    assert safe_name("q-1_a.b") == "q-1_a.b"


def test_slashes_in_names_pass_through_evaluate_arena_agreement_and_leaderboard(tmp_path):
    path = Path(manifest(tmp_path))
    rows = [replace(q, id=f"set/{q.id}") for q in read_jsonl(path, Query)]
    path.write_text("".join(to_json(q) + "\n" for q in rows))
    parts = {"judge": LLMJudge(Reader()), "transcriber": EAR, "recognizer": StyleByPitch()}
    systems = {"org/model": Parrot(), "../50%": Faulty()}
    result = evaluate(str(path), systems, **parts, output=str(tmp_path / "run"))
    assert set(result["verdict_statuses"]) == set(systems)
    assert not list(tmp_path.glob("*.flac")) and len(list((tmp_path / "run").rglob("*.flac"))) == 4 + 4
    unscored = leaderboard([str(tmp_path / "run")], "json")["unscored"]
    assert unscored == {}
    games = arena(str(tmp_path / "arena"), runs=[str(tmp_path / "run")], orders=5)
    assert {row["system"] for row in games["systems"]} == set(systems)
    rated = [Human(response_id(s, q.id, 0), "ann", score=5.0) for s in systems for q in rows]
    append_jsonl(tmp_path / "h.jsonl", rated)
    table = agreement(str(tmp_path / "h.jsonl"), [str(tmp_path / "run")], str(path))
    assert set(table["systems"]["means"]) == set(systems)


def test_a_responses_id_is_read_back_whatever_the_names():
    for system in ("a", "org/model", "50%", "%2F", "a b|c"):
        for name in ("q", "a/b", "a/0", "0", "x|y/1"):
            assert answered(response_id(system, name, 3)) == (system, name, 3)
    assert response_id("grpo", "q1", 0) == "grpo/q1/0"
    with pytest.raises(UserError, match="must be SYSTEM/QUERY/SAMPLE; got 'a/b'"):
        answered("a/b")


# --- programs and servers


def test_braces_in_a_command_are_the_programs_own(tmp_path):
    program = "import sys,json; print({1: 2}); open(sys.argv[3], 'w').write(json.dumps({'id': 'q', 'audio': 'x.wav'}))"
    (tmp_path / "p.py").write_text(program)
    system = CommandSystem(f"{sys.executable} {tmp_path}/p.py '{{\"a\": 1}}' {{requests}} {{responses}}")
    audio = Audio(np.zeros(9, np.float32), RATE)
    assert system.respond([query("q", "sad")], [audio], 0)[0].status == "bad_audio"
    with pytest.raises(UserError, match="one that a shell could split"):
        CommandSystem("run 'it {requests} {responses}")


@pytest.mark.parametrize("text", [5, ["a"], "\ud800"])
def test_a_programs_text_that_is_none_is_a_status(tmp_path, text):
    rows = [{"id": "q0", "audio": "a.wav", "text": text}, {"id": "q1", "audio": "a.wav", "text": "said"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    program = f"import sys,shutil,pathlib; p = pathlib.Path(sys.argv[2]); p.write_text({lines!r}); "
    sine(tmp_path / "a.wav", 800)
    (tmp_path / "p.py").write_text(program + f"shutil.copy({str(tmp_path / 'a.wav')!r}, p.parent / 'a.wav')")
    path = manifest(tmp_path, 2)
    system = CommandSystem(f"{sys.executable} {tmp_path}/p.py {{requests}} {{responses}}")
    assert run(tmp_path, path, system)["systems"]["parrot"]["overall"]["n_failed"] == 1
    assert statuses(tmp_path) == {"q0": "bad_text", "q1": "ok"}


def picky(rejects: dict[str, str]):
    """A server that rejects options by name, with the words of OpenAI's API."""

    def answer(path, body, times):
        sent = json.loads(body)
        for name, message in rejects.items():
            if name in sent:
                return Sent(400, json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode())
        return Sent(200, completion("The score is 4"))

    return answer


TOKENS = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
WARMTH = "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is"


def test_a_model_is_sent_what_it_takes_after_one_rejection(tmp_path, capsys):
    with Loopback(picky({"max_tokens": TOKENS, "temperature": WARMTH})) as server:
        llm = chat(server.url, tmp_path, concurrency=1)
        assert [r.status for r in llm.complete([said("a"), said("b")])] == ["ok", "ok"]
        sent = [set(json.loads(body)) - {"model", "messages"} for _, body, _ in server.requests]
        assert sent[0] == {"max_tokens", "temperature"} and sent[-1] == {"max_completion_tokens"}
        assert len(server.requests) == 2 + 1 + 1  # two rejections, then one request a conversation
        told = capsys.readouterr().err
        assert told.count("rejects an option") == 2
        server.requests.clear()
        assert chat(server.url, tmp_path).complete([said("a")])[0].status == "ok" and not server.requests  # cached


@pytest.mark.parametrize(
    "message, learnt",
    [  # as servers word them
        (TOKENS, {"max_completion_tokens", "temperature"}),
        ("Unrecognized request argument supplied: max_tokens", {"max_completion_tokens", "temperature"}),
        (WARMTH, {"max_tokens"}),
        ("max_tokens is too large: 20000. This model supports at most 16384 completion tokens", None),
        ("Invalid 'temperature': decimal above maximum value. Expected a value <= 2", None),
        ("This model's maximum context length is 8192 tokens", None),
    ],
)
def test_only_an_option_that_is_not_taken_is_left_out(tmp_path, message, learnt):
    llm = chat("http://127.0.0.1:9/v1", tmp_path)
    assert llm.learn(message) == (learnt is not None)
    assert set(llm.taken) == (learnt or {"max_tokens", "temperature"})


def test_a_kept_reply_that_is_broken_is_asked_for_again(tmp_path):
    with Loopback(lambda *_: Sent(200, completion("hello"))) as server:
        chat(server.url, tmp_path).complete([said("a")])
        next(tmp_path.rglob("*.json")).write_text("")
        assert [chat(server.url, tmp_path).complete([said("a")])[0].text for _ in range(2)] == ["hello"] * 2
        assert len(server.requests) == 2  # at first, and once more; then it is kept again


def test_options_say_from_the_start_what_a_model_takes(tmp_path):
    with Loopback(picky({"max_tokens": TOKENS, "temperature": WARMTH})) as server:
        llm = chat(server.url, tmp_path, tokens_field="max_completion_tokens", temperature=None)
        assert llm.name == "m" and llm.complete([said("a")])[0].status == "ok" and len(server.requests) == 1


def test_what_a_server_said_is_kept_in_the_verdict(tmp_path):
    def answer(path, body, times):
        if "q1 text" in content(body):
            return Sent(400, b'{"error": {"message": "context of 9 tokens\\nis exceeded"}}')
        return Sent(200, completion("The score is 4"))

    path = Path(manifest(tmp_path))
    rows = [replace(q, text=f"{q.id} text") for q in read_jsonl(path, Query)]
    path.write_text("".join(to_json(q) + "\n" for q in rows))
    with Loopback(answer) as server:
        run(tmp_path, str(path), judge=LLMJudge(chat(server.url, tmp_path / "cache", concurrency=1), max_wer=9))
    failed = [v for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict) if v.status != "ok"]
    assert [(v.status, v.reason) for v in failed] == [("http_400", "context of 9 tokens is exceeded")]


@pytest.mark.parametrize("status, most", [(400, 3), (401, 1), (402, 1)])
def test_a_server_that_rejects_everything_is_asked_a_few_times_only(tmp_path, status, most):
    body = b'{"error": {"message": "this model is not for you"}}'
    with Loopback(lambda *_: Sent(status, body)) as server:
        with pytest.raises(UserError, match=f"http_{status}: this model is not for you"):
            chat(server.url, tmp_path, concurrency=1).complete([said(f"q{i}") for i in range(20)])
        assert len(server.requests) <= most + 1


# --- options and records


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"text": None}, "a query's text must be a text; got None"),
        ({"text": 5}, "a query's text must be a text; got 5"),
        ({"id": None}, "a query's id must be a text; got None"),
        ({"styles": {"emotion": 1}}, "a query's styles must be an object of texts"),
        ({"audio": ["a.wav"]}, "a query's audio must be a text"),
        ({"text": "\ud800"}, "a query's text must be a text"),
    ],
)
def test_a_manifests_null_or_number_for_a_text_is_one_line(tmp_path, changes, must):
    row = {**asdict(query("q0", "sad")), **changes}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=f"q.jsonl:1: {must}"):
        read_queries(str(tmp_path / "q.jsonl"), None)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_one_line(tmp_path, limit):
    path = manifest(tmp_path)
    with pytest.raises(UserError, match=f"limit must be at least 1 .* got {limit}"):
        run(tmp_path, path, limit=limit)
    with pytest.raises(UserError, match=f"limit must be at least 1 .* got {limit}"):
        load_items(path, [], False, limit, 0)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--out", str(tmp_path / "b"), "--limit", str(limit)])
    assert stop.value.code == 2 and not (tmp_path / "b").exists() and not (tmp_path / "run").exists()


@pytest.fixture
def forgotten() -> Iterator[None]:
    """A program's classes, whose names would be there twice for whatever is parsed next in this process."""
    yield
    gc.collect()


@pytest.mark.parametrize(
    "call",
    [
        ["hearing.audit", "nowhere"],
        ["hearing.audit", "a.txt"],
        ["judging.acts", "--path", "none.safetensors", "--only-measure"],
        ["judging.acts", "--path", "."],
        ["judging.acts", "--nonsense"],
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.usefixtures("forgotten")
def test_a_modules_program_tells_a_mistake_in_one_line(tmp_path, monkeypatch, capsys, call):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"lightning_paras2s.{call[0]}", run_name="__main__")
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_json_files_hold_no_nan():
    for value in (float("nan"), {"a": [float("inf"), (1.0, float("-inf"))]}):
        json.loads(json_text(value), parse_constant=lambda name: pytest.fail(name))
    assert json.loads(to_json(Verdict("s/q/0", "j", float("nan"))))["score"] is None


@pytest.mark.parametrize("score", [0.0, 5.5, 80.0, -9.0])
def test_a_listeners_score_outside_the_scale_is_refused(tmp_path, score):
    path = manifest(tmp_path)
    run(tmp_path, path)
    append_jsonl(tmp_path / "h.jsonl", [Human("parrot/q0/0", "ann", score=score)])
    with pytest.raises(UserError, match="a listener's score must be from 1 to 5; got"):
        agreement(str(tmp_path / "h.jsonl"), [str(tmp_path / "run")], path)
    with pytest.raises(UserError, match="a score must be from 1 to 5; got"):
        cohen_kappa([1.0, score], [1.0, 2.0])
