"""Systems under test, on speech of beeps; a policy with random weights behind the real codec."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from beeps import RATE, BeepRecognizer, BeepSynthesizer, BeepTranscriber

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.systems.base import (
    CascadeSystem,
    RecordedSystem,
    ToplineSystem,
    subject_of,
)
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.data.embedded import authored, frames
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.rubric import BEST_TONES
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.types import Audio, Query, Response, Style, append_jsonl


@pytest.fixture(scope="module")
def words():
    queries = authored("test")[:12]
    replies = [f["frame"] for f in frames() if f["split"] == "train"]
    spoken = [q["text"] for q in queries] + [q["subject"] for q in queries] + replies + ["question"]
    return sorted({w for text in spoken for w in plain_words(text)})


def query(row, style):
    return Query(
        f"{row['id']}-{style}", row["id"], row["factor"], "test", row["text"], {row["factor"]: style}, row["topic"], ""
    )


def test_topline_answers_each_style_in_a_fitting_tone(words):
    system = ToplineSystem(BeepSynthesizer(words))
    row = authored("test")[0]
    queries = [query(row, style) for style in row["styles"]]
    answers = system.respond(queries, [None, None], 0)
    heard = BeepTranscriber(words).transcribe([a.audio for a in answers])
    tones = [s.tone for s in BeepRecognizer().recognize([a.audio for a in answers], "response")]
    assert heard == [" ".join(plain_words(a.text)) for a in answers] and heard[0] != heard[1]
    assert all(tone in BEST_TONES[style] for tone, style in zip(tones, row["styles"], strict=True))
    assert all(row["subject"] in plain_words(a.text) for a in answers)


def test_cascade_is_deaf_to_style(words):
    system = CascadeSystem(BeepTranscriber(words), BeepSynthesizer(words))
    row = authored("test")[0]
    audios = [
        BeepSynthesizer(words).synthesize(row["text"], Style(**{row["factor"]: style}), "user")
        for style in row["styles"]
    ]
    answers = system.respond([query(row, style) for style in row["styles"]], audios, 0)
    assert answers[0].text == answers[1].text and subject_of(row["text"]) in plain_words(answers[0].text)
    assert [s.tone for s in BeepRecognizer().recognize([a.audio for a in answers], "response")] == ["neutral"] * 2


def test_subject_is_the_longest_content_word():
    assert subject_of("We sold the old house last September.") == "september"
    assert subject_of("to be or not to be") == "question"


def test_recorded_responses_come_from_records_or_from_a_folder(tmp_path):
    audio = Audio(np.full(1600, 0.1, np.float32), RATE)
    write_audio(tmp_path / "q1.wav", audio)
    row = authored("test")[0]
    queries = [Query(name, "p", row["factor"], "test", row["text"], {}, "", "") for name in ("q1", "q2")]
    append_jsonl(
        tmp_path / "r.jsonl", [Response("q1", "x", audio="q1.wav", text="hello"), Response("q2", "x", status="refused")]
    )
    one, two = RecordedSystem(str(tmp_path / "r.jsonl")).respond(queries, [], 0)
    assert (one.text, one.status, two.status, two.audio) == ("hello", "ok", "refused", None)
    one, two = RecordedSystem(str(tmp_path)).respond(queries, [], 0)
    assert one.audio.seconds == pytest.approx(0.1) and two.status == "missing"


@pytest.mark.parametrize("suffix", [".mp3", ".opus", ".FLAC"])
def test_a_folder_of_answers_may_hold_any_format_that_is_read(tmp_path, suffix):
    rate = 48_000
    sound = 0.1 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
    kind = {".mp3": "MP3", ".opus": "OGG", ".FLAC": "FLAC"}[suffix]
    soundfile.write(tmp_path / f"q1{suffix}", sound, rate, format=kind, subtype="OPUS" if suffix == ".opus" else None)
    query = Query("q1", "p", "age", "test", "hello", {}, "", "")
    assert RecordedSystem(str(tmp_path)).respond([query], [], 0)[0].audio.seconds == pytest.approx(1, abs=0.05)


def test_answers_in_a_format_that_is_not_read_are_refused_and_not_missing(tmp_path):
    (tmp_path / "q1.m4a").write_bytes(b"0")
    with pytest.raises(UserError, match="must hold recordings as WAV, FLAC, OGG or MP3; got q1.m4a; convert it"):
        RecordedSystem(str(tmp_path))


COMMAND = """
import json, pathlib, shutil, sys
requests, responses = map(pathlib.Path, sys.argv[1:])
with responses.open("w") as out:
    for line in requests.read_text().splitlines():
        row = json.loads(line)
        if row["id"] != "q2":
            shutil.copy(row["audio"], responses.parent / (row["id"] + "-answer.wav"))
            out.write(json.dumps({"id": row["id"], "audio": row["id"] + "-answer.wav", "text": "echo"}) + "\\n")
"""


def test_command_is_started_once_a_batch_and_gaps_are_statuses(tmp_path):
    (tmp_path / "echo.py").write_text(COMMAND)
    system = CommandSystem(f"{sys.executable} {tmp_path}/echo.py {{requests}} {{responses}}")
    queries = [Query(name, "p", "age", "test", "hello", {}, "", "") for name in ("q1", "q2")]
    one, two = system.respond(queries, [Audio(np.full(1600, 0.1, np.float32), RATE)] * 2, 0)
    assert (one.text, one.audio.seconds) == ("echo", pytest.approx(0.1)) and (two.audio, two.status) == (
        None,
        "missing",
    )


def test_what_a_command_writes_wrongly_is_a_status(tmp_path):
    lines = ["half a line {", "[1]", '{"id": "q1"}', '{"id": "q2", "audio": "none.wav", "text": "hi"}']
    (tmp_path / "bad.py").write_text(f"import sys; open(sys.argv[2], 'w').write({chr(10).join(lines)!r})")
    system = CommandSystem(f"{sys.executable} {tmp_path}/bad.py {{requests}} {{responses}}")
    queries = [Query(name, "p", "age", "test", "hello", {}, "", "") for name in ("q1", "q2")]
    answers = system.respond(queries, [Audio(np.zeros(160, np.float32), RATE)] * 2, 0)
    assert [(a.audio, a.status) for a in answers] == [(None, "missing"), (None, "bad_audio")]


def test_command_that_fails_or_hangs_is_a_status(tmp_path):
    queries = [Query("q1", "p", "age", "test", "hello", {}, "", "")]
    audios = [Audio(np.zeros(160, np.float32), RATE)]
    for program, status in (("raise SystemExit(3)", "exit_3"), ("import time; time.sleep(9)", "timeout")):
        (tmp_path / "bad.py").write_text(program)
        system = CommandSystem(f"{sys.executable} {tmp_path}/bad.py {{requests}} {{responses}}", timeout_seconds=0.5)
        assert system.respond(queries, audios, 0)[0].status in (status, "timeout")


def test_what_a_command_of_a_batch_says_is_kept_where_the_option_tells(tmp_path, capfd):
    (tmp_path / "bad.py").write_text("import sys; print('loading'); sys.exit('out of memory')")
    command, log = f"{sys.executable} {tmp_path}/bad.py {{requests}} {{responses}}", tmp_path / "log/errors.txt"
    queries = [Query("q1", "p", "age", "test", "hello", {}, "", "")]
    answers = CommandSystem(command, stderr=str(log)).respond(queries, [Audio(np.zeros(160, np.float32), RATE)], 0)
    assert [a.status for a in answers] == ["exit_1"]
    assert sorted(log.read_text().split("\n")) == ["", "loading", "out of memory"]
    assert capfd.readouterr().err == f"{sys.executable} ended (exit_1) at 1 queries; see {log}\n"


def test_speech_that_is_too_long_is_told_apart_from_what_is_no_sound(tmp_path):
    """61 s of a folder of recordings, and of a program that is started for each batch."""
    write_audio(tmp_path / "said/q1.wav", Audio(np.full(61 * 1000, 0.1, np.float32), 1000))
    query, audio = Query("q1", "p", "age", "test", "hello", {}, "", ""), Audio(np.zeros(160, np.float32), RATE)
    line = '{"id": "q1", "audio": "%s"}' % (tmp_path / "said/q1.wav")
    (tmp_path / "long.py").write_text(f"import sys; open(sys.argv[2], 'w').write({line!r})")
    command = f"{sys.executable} {tmp_path}/long.py {{requests}} {{responses}}"
    systems = RecordedSystem(str(tmp_path / "said")), CommandSystem(command, stderr=str(tmp_path / "log"))
    assert [system.respond([query], [audio], 0)[0].status for system in systems] == ["too_long", "too_long"]


def test_command_with_one_placeholder_or_without_program_is_one_line():
    with pytest.raises(UserError, match="must hold both"):
        CommandSystem("echo {requests}")
    with pytest.raises(UserError, match="must name a program"):
        CommandSystem(" ")
    with pytest.raises(UserError, match="a program that starts"):
        queries = [Query("q1", "p", "age", "test", "hello", {}, "", "")]
        CommandSystem("/nowhere/at/all {requests} {responses}").respond(
            queries, [Audio(np.zeros(9, np.float32), RATE)], 0
        )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from lightning_paras2s.hearing.transcribers import CTCNetwork
    from lightning_paras2s.models.checkpoint import save_module
    from lightning_paras2s.models.tiny.lm import TinySpeechLM
    from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
    from lightning_paras2s.models.tiny.vocabulary import TextVocab

    torch.manual_seed(0)
    folder = Path(tmp_path_factory.mktemp("weights"))
    tokenizer = TinyTokenizer(levels=(4, 4), width=16)
    tokenizer.save(folder / "tokenizer.safetensors")
    save_module(CTCNetwork(16, 1), folder / "transcriber.safetensors")
    policy = TinySpeechLM(
        len(TextVocab()), tokenizer.feature_size, levels=(4, 4), width=16, heads=2, shared_layers=1, audio_layers=1
    )
    policy.save(folder / "policy.safetensors")
    return [str(folder / f"{name}.safetensors") for name in ("policy", "tokenizer", "transcriber")]


def test_policy_answers_depend_on_the_query_alone(weights):
    system = PolicySystem(weights[0], TinyProcessor(*weights[1:]), Sampling(max_steps=12))
    random = np.random.default_rng(0)
    audios = [Audio(random.normal(0, 0.1, size).astype(np.float32), RATE) for size in (8000, 5000, 11000)]
    queries = [Query(f"q{i}", "p", "age", "test", "hello", {}, "", "") for i in range(3)]
    together = system.respond(queries, audios, 0)
    alone = [system.respond([q], [a], 0)[0] for q, a in zip(queries, audios, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.status) == (other.text, other.status)
        np.testing.assert_allclose(one.audio.samples, other.audio.samples, atol=1e-4)
    again = system.respond(queries, audios, 1)
    assert any(a.text != b.text for a, b in zip(together, again, strict=True))  # another sample, another answer


def test_policy_that_does_not_stop_is_truncated(weights):
    system = PolicySystem(weights[0], TinyProcessor(*weights[1:]), Sampling(max_steps=4))
    audio = Audio(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), RATE)
    answer = system.respond([Query("q", "p", "age", "test", "hello", {}, "", "")], [audio], 0)[0]
    assert answer.status == "truncated" and answer.audio.seconds <= 4 / 25


def test_policy_with_other_words_is_refused(weights, tmp_path):
    """Its ids were read as this version's words: each answer's text was another."""
    from lightning_paras2s.models.tiny.lm import TinySpeechLM

    path = tmp_path / "policy.safetensors"
    own = TinySpeechLM.load(weights[0])
    TinySpeechLM(**{**own.settings, "text_vocab_size": own.settings["text_vocab_size"] + 1}).save(path)
    system = PolicySystem(str(path), TinyProcessor(*weights[1:]), Sampling(max_steps=4))
    with pytest.raises(UserError, match="text ids of this version's words; got"):
        system.respond([Query("q", "p", "age", "test", "hi", {}, "", "")], [Audio(np.zeros(8000, np.float32), RATE)], 0)
