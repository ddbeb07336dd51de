"""Recordings that nobody labelled, of any kind, become queries."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from odd_recordings import KINDS, RATE, Dictation, chords, speech, take, write, write_lab

from lightning_paras2s.audio import at_rate
from lightning_paras2s.bench.queries.filters import overlaps
from lightning_paras2s.bench.queries.manifest import read_queries, write_manifest
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.bench.queries.same_sound import curves, same_sound
from lightning_paras2s.bench.queries.unlabelled import Imported, raves
from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.voice_activity import Span, pieces_of
from lightning_paras2s.sweeping.sweep import subset
from lightning_paras2s.types import Audio, Query, read_jsonl

SPOKEN = len(KINDS) + 4 + 40  # one piece each; the long recording has 40


def statuses(out: Path) -> dict[str, str]:
    return {row.name: row.status for row in read_jsonl(out.with_name(f"{out.stem}.import.jsonl"), Imported)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The lab's folder, what must come of it, and the manifest of what did."""
    folder = tmp_path_factory.mktemp("lab")
    expected = write_lab(folder / "recordings")
    result = take(folder / "recordings", folder / "speech/train.jsonl", split="train")
    return folder, expected, result


# --- what is kept


def test_fifty_odd_recordings_become_queries_or_are_counted(lab):
    folder, expected, result = lab
    assert len(expected) == result["recordings"] == 50
    assert statuses(folder / "speech/train.jsonl") == expected
    why = Counter(status for status in expected.values() if status != "kept")
    assert result["counts"] == {"kept": SPOKEN, **why}
    queries = read_queries(result["manifest"], None)
    assert len(queries) == len({q.id for q in queries}) == SPOKEN
    assert all((q.factor, q.styles, q.split, q.label) == ("", {}, "train", "") for q in queries)
    assert all(q.text in Dictation.sentences and not Path(q.audio).is_absolute() for q in queries)
    for query in queries:
        info = soundfile.info(folder / "speech" / query.audio)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16") and 1 <= info.duration <= 20


def test_a_long_recording_is_cut_at_its_pauses(lab):
    """40 utterances with 2.5 s of silence behind each: a piece an utterance, 0.15 s of silence on either side."""
    folder, *_ = lab
    queries = [q for q in read_queries(folder / "speech/train.jsonl", None) if q.source == "long.wav"]
    wanted = [len(speech(n)) / RATE for n in range(len(KINDS), len(KINDS) + 40)]
    found = [soundfile.info(folder / "speech" / q.audio).duration for q in queries]
    assert sum(wanted) + 100 > 180  # seconds
    assert np.allclose(found, wanted, atol=0.6) and len(found) == 40


def test_what_is_moved_together_can_be_read_where_it_is(lab, tmp_path):
    folder, *_ = lab
    shutil.copytree(folder / "speech", tmp_path / "elsewhere")
    assert len(read_queries(str(tmp_path / "elsewhere/train.jsonl"), None)) == SPOKEN


def test_a_second_import_hears_nothing_again_and_writes_the_same(lab, tmp_path):
    folder, *_ = lab
    shutil.copytree(folder / "speech", tmp_path / "speech")
    before, ear = (tmp_path / "speech/train.jsonl").read_bytes(), Dictation()
    log = (tmp_path / "speech/train.import.jsonl").read_bytes()
    take(folder / "recordings", tmp_path / "speech/train.jsonl", ear, split="train")
    assert ear.asked == 0 and (tmp_path / "speech/train.jsonl").read_bytes() == before
    assert (tmp_path / "speech/train.import.jsonl").read_bytes() == log


def test_ids_are_the_same_whatever_else_is_imported_and_a_changed_recording_has_another(tmp_path):
    for number, name in enumerate(("b.wav", "c/d.wav")):
        write(tmp_path / "r" / name, speech(number))
    first = {q.source: q.id for q in read_queries(take(tmp_path / "r", tmp_path / "one.jsonl")["manifest"], None)}
    write(tmp_path / "r/a.wav", speech(2))
    write(tmp_path / "r/b.wav", speech(3))
    for out in ("one.jsonl", "two.jsonl"):  # resumed, and anew
        ids = {q.source: q.id for q in read_queries(take(tmp_path / "r", tmp_path / out)["manifest"], None)}
        assert ids["c/d.wav"] == first["c/d.wav"] and ids["b.wav"] != first["b.wav"] and len(ids) == 3


def test_another_cut_is_another_query(tmp_path):
    """Two utterances with a second between them: one piece, or, where half a second cuts, two; none is the one."""
    write(tmp_path / "a.wav", np.concatenate([speech(0), np.zeros(RATE, np.float32), speech(1)]))
    one = read_queries(take(tmp_path / "a.wav", tmp_path / "q.jsonl")["manifest"], None)
    two = read_queries(take(tmp_path / "a.wav", tmp_path / "q.jsonl", pause_seconds=0.5)["manifest"], None)
    assert (len(one), len(two), len({q.id for q in one + two})) == (1, 2, 3)


def test_an_import_that_was_killed_goes_on_to_the_same(lab, tmp_path):
    folder, *_ = lab
    with pytest.raises(KeyboardInterrupt):
        take(folder / "recordings", tmp_path / "train.jsonl", Dictation(breaks_after=20), split="train")
    assert not (tmp_path / "train.jsonl").exists()
    with (tmp_path / "train.import.jsonl").open("a") as log:
        log.write('{"name": "half a li')
    ear = Dictation()
    take(folder / "recordings", tmp_path / "train.jsonl", ear, split="train")
    assert (tmp_path / "train.jsonl").read_bytes() == (folder / "speech/train.jsonl").read_bytes()
    assert SPOKEN - 20 <= ear.asked < SPOKEN


def test_pieces_of_an_import_inside_its_own_folder_are_no_recordings(tmp_path):
    write(tmp_path / "r/a.wav", speech(0))
    for _ in range(2):
        assert take(tmp_path / "r", tmp_path / "r/queries.jsonl")["counts"] == {"kept": 1}


def test_pieces_stay_below_the_limits_where_nobody_pauses():
    """7 s without a pause and pieces of at most 3 s: the cut is where speech is quietest in the second half of what a
    piece may hold, (3 - 0.3) / 2 to 3 - 0.3 s: at 2 s, where it is silent for 0.2 s."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 7 * RATE).astype(np.float32)
    samples[int(1.9 * RATE) : int(2.1 * RATE)] = 0
    audio = Audio(samples, RATE)
    pieces = pieces_of(audio, [Span(0, 7 * RATE)], 3.0, 1.5)
    assert abs(pieces[0].end / RATE - 2.0) <= 0.1 and pieces[-1].end == 7 * RATE
    assert all(end - start <= 3 * RATE for start, end in pieces)
    assert all(a.end == b.start for a, b in zip(pieces, pieces[1:], strict=False))


# --- the same sound


@pytest.mark.parametrize("kind, subtype, rate", [("MP3", "MPEG_LAYER_III", 44100), ("OGG", "OPUS", 48000), ("WAV", "ULAW", 8000)])  # fmt: skip # noqa: E501
def test_a_reencoded_recording_is_the_same_sound_and_another_one_is_not(tmp_path, kind, subtype, rate):
    found = []
    for number in range(6):
        write(tmp_path / "a", at_rate(speech(number), RATE, rate), rate, kind, subtype)
        samples, _ = soundfile.read(tmp_path / "a", dtype="float32")
        found.append((curves(Audio(speech(number), RATE)), curves(Audio(at_rate(0.5 * samples, rate, RATE), RATE))))
    same = np.array([[same_sound(one, other) for _, other in found] for one, _ in found])
    assert (same == np.eye(6, dtype=bool)).all()


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_a_rate_that_no_recording_has_costs_its_file_alone(tmp_path, rate):
    write(tmp_path / "r/a.wav", speech(0))
    data = bytearray((tmp_path / "r/a.wav").read_bytes())
    data[24:28] = rate.to_bytes(4, "little")  # of the chunk "fmt "
    (tmp_path / "r/b.wav").write_bytes(data)
    assert take(tmp_path / "r", tmp_path / "q.jsonl")["counts"] == {"kept": 1, "unreadable": 1}


# --- tables and datasets


def test_a_table_tells_words_and_speakers(tmp_path):
    for number, name in enumerate(("a.wav", "sub/b.wav")):
        write(tmp_path / "r" / name, speech(number))
    rows = [("a.wav", "May I have some more of that?", "Ann"), ("sub/b.wav", "", "Bob"), ("gone.wav", "Who?", "")]
    header = ("path", "sentence", "client_id")
    cells = (header, *rows)
    (tmp_path / "r/t.csv").write_text("\n".join(",".join(row) for row in cells))
    (tmp_path / "r/t.tsv").write_text("\ufeff" + "\r\n".join("\t".join(row) for row in cells), encoding="utf-8")
    lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    (tmp_path / "r/t.jsonl").write_text("\n".join(lines))
    for table in ("t.csv", "t.tsv", "t.jsonl"):
        ear, out = Dictation(), tmp_path / f"{table}.jsonl"
        result = take(tmp_path / "r" / table, out, ear)
        assert result["counts"] == {"kept": 2, "missing": 1} and ear.asked == 1
        queries = read_queries(str(out), None)
        assert [(q.source, q.voice) for q in queries] == [("a.wav", "Ann"), ("sub/b.wav", "Bob")]
        assert queries[0].text == rows[0][1] and queries[1].text in Dictation.sentences


def test_a_recording_that_is_listed_twice_is_imported_once(tmp_path):
    write(tmp_path / "a.wav", speech(0))
    (tmp_path / "t.csv").write_text("file\na.wav\na.wav\n")
    for asked in (1, 0):
        ear = Dictation()
        assert take(tmp_path / "t.csv", tmp_path / "q.jsonl", ear)["counts"] == {"kept": 1, "duplicate": 1}
        assert ear.asked == asked and len(read_queries(str(tmp_path / "q.jsonl"), None)) == 1


def test_few_words_are_left_out(tmp_path):
    for number, text in enumerate(("Too few", "Now these are enough words.")):
        write(tmp_path / f"{number}.wav", speech(number))
        (tmp_path / "metadata.csv").open("a").write(f"{'' if number else 'file,text' + chr(10)}{number}.wav,{text}\n")
    assert take(tmp_path, tmp_path / "q.jsonl")["counts"] == {"kept": 1, "few_words": 1}


class Raving(Dictation):
    """Whisper's tiny.en on an utterance of 2.3 s of an eSpeak voice, as it said it."""

    def write_down(self, audios):
        return ["and the frittan" + " le frittan" * 30 for _ in audios]


def test_what_an_ear_says_without_end_is_no_transcript(tmp_path):
    write(tmp_path / "a.wav", speech(0))
    with pytest.raises(UserError, match="got none in 1 recordings: unlikely_words 1"):
        take(tmp_path / "a.wav", tmp_path / "q.jsonl", Raving())
    assert not raves("I have said all of this, and I say it again.", 3.0)


def save_to_disk(folder: Path, rows: list[dict], per_file: int) -> None:
    """As `datasets` 4 writes it (arrow_dataset.py, save_to_disk; arrow_writer.py): Arrow streams and two JSON files."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    audio = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"audio": audio, "text": pa.string(), "speaker_id": pa.int64()})
    parts = [rows[start : start + per_file] for start in range(0, len(rows), per_file)]
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(pa.Table.from_pylist(part, schema))
    features = {"audio": {"sampling_rate": 16000, "_type": "Audio"}, "text": {"dtype": "string", "_type": "Value"},
                "speaker_id": {"dtype": "int64", "_type": "Value"}}  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_a_dataset_on_disk_is_read(tmp_path):
    rows = []
    for number in range(5):
        write(tmp_path / f"{number}.flac", speech(number), kind="FLAC")
        data = (tmp_path / f"{number}.flac").read_bytes() if number < 3 else None
        path = str(tmp_path / f"{number}.flac") if number == 3 else None if number == 4 else "x.flac"
        text = "I have said all of this." if number == 1 else None
        rows.append({"audio": {"bytes": data, "path": path}, "text": text, "speaker_id": number})
    save_to_disk(tmp_path / "set/train", rows, 2)
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train"]}')
    for root, below in (("set", "train/"), ("set/train", "")):
        out = tmp_path / f"{root.replace('/', '-')}.jsonl"
        assert take(tmp_path / root, out)["counts"] == {"kept": 4, "missing": 1}
        queries = read_queries(str(out), None)
        assert [q.source for q in queries] == [f"{below}{number:07d}" for number in range(4)]
        assert [q.voice for q in queries] == ["", "1", "2", "3"] and queries[1].text == "I have said all of this."


# --- mistakes: one line, exit code 2, no manifest


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("t.csv", b"name,text\na,b\n", r"must have a column of audio files \(file, .*\); got name, text; rename it"),
        ("t.csv", b"file,text\n", "root must hold recordings .*; got none in"),
        ("t.csv", "file,text\na.wav,café\n".encode("cp1252"), "must be UTF-8; got other bytes"),
        ("t.csv", "file,text\na.wav,café\n".encode("utf-16"), "must be UTF-8; got other bytes"),
        ("t.csv", "file,text\na.wav,b\n".encode("utf-16-le"), "must be UTF-8; got other bytes"),
        ("t.jsonl", b'{"file": "a.wav"}\n{"file": \n', r"t\.jsonl:2: each line must be one JSON object"),
        ("t.jsonl", b"[1]\n", r"t\.jsonl:1: each line must be one JSON object; got list"),
        ("t.xlsx", b"PK", "root must be a folder, or a table in csv, tsv or jsonl; got"),
        ("t.csv", b"file\na.wav\nb.wav\n", "must hold speech to import; got none in 2 recordings: missing 2; the"),
        ("t.csv", b'file\n"a\0.wav"\n', "must be UTF-8; got other bytes"),
        ("s/state.json", b"{", "dataset_info.json must be JSON as `save_to_disk` writes it|needs the package pyarrow"),
    ],
)  # fmt: skip
def test_a_table_that_gives_nothing_is_one_line(tmp_path, name, data, said):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        take(path if path.parent == tmp_path else path.parent, tmp_path / "q.jsonl")
    assert "\n" not in str(error.value) and not (tmp_path / "q.jsonl").exists()


def test_nothing_left_is_exit_code_2_with_the_counts(tmp_path, capsys, monkeypatch):
    write(tmp_path / "r/a.wav", chords(4.0))
    write(tmp_path / "r/b.wav", np.zeros(RATE))
    shutil.copy(Path(__file__).with_name("odd_recordings.py"), tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    parts = ("--transcriber", "odd_recordings.Dictation", "--voice_activity", "odd_recordings.Unsteady")
    where = ("--corpus", "recordings", "--root", str(tmp_path / "r"), "--out", str(tmp_path / "q.jsonl"))
    with pytest.raises(SystemExit) as end:
        main(["import_speech", *where, *parts])
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and last.startswith("error: ")
    assert "got none in 2 recordings: no_speech 1, silent 1" in last and not (tmp_path / "q.jsonl").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"min_seconds": 9.0, "max_seconds": 5.0}, "min_seconds must be above 0 and below max_seconds; got 9 and 5"),
        ({"max_seconds": 61.0}, "max_seconds must be from 1 to 60; got 61"),
        ({"pause_seconds": 0.0}, "pause_seconds must be above 0, min_words at least 1; got 0 and 5"),
        ({"split": "dev"}, "a split must be one of train, val, test; got 'dev'"),
    ],
)
def test_limits_that_leave_nothing_are_one_line(tmp_path, options, said):
    write(tmp_path / "a.wav", speech(0))
    with pytest.raises(UserError, match=said):
        take(tmp_path, tmp_path / "q.jsonl", **options)


def test_a_table_without_styles_is_sent_to_the_other_corpus(tmp_path):
    (tmp_path / "metadata.csv").write_text("file,text\na.wav,I do not know what this is.\n")
    with pytest.raises(UserError, match="must have a column of emotion, .*; got file, text; recordings without labels"):
        import_speech("folder", str(tmp_path), str(tmp_path / "q.jsonl"))


# --- manifests


def test_labelled_recordings_stay_where_they_are_and_can_be_moved_with_their_manifest(tmp_path):
    write(tmp_path / "a/r/b.wav", speech(0))
    (tmp_path / "a/r/metadata.csv").write_text("file,text,emotion\nb.wav,I do not know what this is.,sad\n")
    out = tmp_path / "a/lists/q.jsonl"
    import_speech("folder", str(tmp_path / "a/r"), str(out))
    (tmp_path / "a").rename(tmp_path / "moved")
    (query,) = read_queries(str(tmp_path / "moved/lists/q.jsonl"), None)
    assert query.audio == "../r/b.wav"


def test_an_absolute_path_is_read_and_written_as_a_relative_one(tmp_path):
    write(tmp_path / "r/a.wav", speech(0))
    query = Query("a", "a", "emotion", "test", "yes", {"emotion": "sad"}, "", str(tmp_path / "r/a.wav"))
    (tmp_path / "old.jsonl").write_text(json.dumps(query.__dict__) + "\n")
    assert read_queries(str(tmp_path / "old.jsonl"), None) == [query]
    write_manifest(tmp_path / "new.jsonl", [query])
    assert read_queries(str(tmp_path / "new.jsonl"), None) == [replace(query, audio="r/a.wav")]


def test_a_sweeps_own_manifest_can_be_moved_with_its_recordings(tmp_path):
    write(tmp_path / "a/r/a.wav", speech(0))
    query = Query("a", "a", "emotion", "test", "yes", {"emotion": "sad"}, "", "r/a.wav")
    write_manifest(tmp_path / "a/q.jsonl", [query])
    drawn = subset(str(tmp_path / "a/q.jsonl"), tmp_path / "a/sweep", 0, 0)
    (tmp_path / "a").rename(tmp_path / "moved")
    assert read_queries(str(tmp_path / "moved/sweep" / drawn.name), None) == [replace(query, audio="../r/a.wav")]


def test_queries_without_a_topic_share_none(tmp_path):
    one = Query("a", "a", "", "test", "is this the way to the sea", {}, "", "a.wav")
    other = replace(one, id="b", text="my dog has eaten all of it")
    assert overlaps([one], [other]) == {}


# --- the real ears


@pytest.mark.slow
@pytest.mark.skipif(find_spec("faster_whisper") is None, reason="the extra ears is not installed")
def test_the_real_ears_tell_speech_from_the_rest(tmp_path):
    """Silero and Whisper on the lab's folder; and a memo of a telephone (AAC in MP4) that is called .wav."""
    import av

    expected = write_lab(tmp_path / "r") | {"memo.wav": "kept"}
    with av.open(str(tmp_path / "r/memo.wav"), "w", format="ipod") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        samples = np.concatenate([speech(90), speech(91)])[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    import_speech("recordings", str(tmp_path / "r"), str(tmp_path / "q.jsonl"), min_words=2, min_seconds=0.7)
    found = statuses(tmp_path / "q.jsonl")
    useless = {name: status for name, status in expected.items() if status != "kept"}
    assert {name: found[name] for name in useless} == useless and found["memo.wav"] == "kept"
    # eSpeak's voices are no people's: Silero may miss half of a short utterance, and Whisper its words.
    lost = [name for name, status in found.items() if status != expected[name]]
    pieces = Counter(q.source for q in read_queries(str(tmp_path / "q.jsonl"), None))
    assert len(lost) <= 3 and pieces["long.wav"] >= 36
