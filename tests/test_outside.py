"""`audit`: what ears from outside found, beside our own; what was not heard is told."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sounds import hum

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.audit import audit, chosen
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.outside_numbers import differences, measures
from lightning_paras2s.bench.outside_table import html_table, mixed_cpus
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.outside import Clip, Outside, OutsideEars, listen, outside_ears
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import Judge
from lightning_paras2s.judging.rubric import Score
from lightning_paras2s.running.logs import Log, write_summary
from lightning_paras2s.running.origins import inputs_of
from lightning_paras2s.running.progress import line_of
from lightning_paras2s.shown.show import show
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Evidence, Query, Response, append_jsonl, read_jsonl


class Counting(Transcriber):
    """Hears the peak of a recording, in tenths, as a number."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def write_down(self, audios):
        self.asked += len(audios)
        return [f"the number {round(10 * float(np.abs(a.samples).max()))}" for a in audios]


def clip(name: str, text: str, level: float) -> Clip:
    return Clip(name, text, lambda: hum(level))


def test_what_was_heard_is_kept_and_heard_anew_when_audio_or_ears_change(tmp_path, capsys):
    """Two clips of one sound are heard once; another text for it is counted anew without hearing it; of a new level
    only that clip is heard."""
    log, ear = Log(tmp_path), Counting()
    listen([clip("a", "the number 5", 0.5), clip("b", "the number 9", 0.5)], OutsideEars(ear), log)
    again = listen([clip("a", "the number 5", 0.5), clip("b", "the number 9", 0.5)], OutsideEars(ear), log)
    assert ear.asked == 1 and [row.wer for row in again] == [0.0, pytest.approx(1 / 3, abs=1e-4)]
    found = listen([clip("a", "the number 5", 0.3), clip("b", "the number 5", 0.5)], OutsideEars(ear), log)
    assert ear.asked == 2 and [row.heard for row in found] == ["the number 3", "the number 5"]
    assert [row.wer for row in found] == [pytest.approx(1 / 3, abs=1e-4), 0.0]
    assert "2 answers heard anew" in capsys.readouterr().err
    other = Counting()
    other.name = "counting-2"
    listen([clip("a", "the number 5", 0.3)], OutsideEars(other), log)
    assert other.asked == 1


class Reader:
    """Stands for a language model: a text's perplexity is its length; counts what it reads."""

    name = "reader"

    def __init__(self) -> None:
        self.known, self.read = {"": float("nan")}, []

    def of(self, texts):
        new = sorted({text for text in texts if text not in self.known})
        self.read += new
        self.known |= {text: float(len(text)) for text in new}
        return [self.known[text] for text in texts]


def test_an_ear_that_is_added_is_asked_alone(tmp_path):
    """The recogniser's part of a line holds good when a language model joins; words read before are not read again."""
    log, ear = Log(tmp_path), Counting()
    clips = [clip("a", "the number five", 0.5), clip("b", "the number 3", 0.3)]
    listen(clips, OutsideEars(ear), log)
    first = Reader()
    found = listen(clips, OutsideEars(ear, None, first), log)
    assert ear.asked == 2 and first.read == ["the number 3", "the number 5", "the number five"]
    assert [(r.perplexity_heard, r.perplexity_written) for r in found] == [(12.0, 15.0), (12.0, 12.0)]
    second = Reader()
    assert listen([*clips, clip("c", "the number 5", 0.4)], OutsideEars(ear, None, second), log)[:2] == found
    assert ear.asked == 3 and second.read == ["the number 4"]


def test_a_voice_that_is_made_from_the_same_is_not_made_again(tmp_path):
    made = []
    clips = [Clip(name, "five", lambda: made.append(1) or hum(0.5), "piper/five") for name in "ab"]
    for _ in range(2):
        rows = listen(clips, OutsideEars(Counting()), Log(tmp_path))
    assert len(made) == 1 and rows[0].sha256 == rows[1].sha256
    listen([Clip("a", "six", lambda: made.append(1) or hum(0.6), "piper/six")], OutsideEars(Counting()), Log(tmp_path))
    assert len(made) == 2


class Killed(Counting):
    """Ends with the process after so many answers."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.end = after  # under another name: it is no option that tells what an ear hears

    def write_down(self, audios):
        if self.asked >= self.end:
            raise KeyboardInterrupt
        return super().write_down(audios)


@pytest.mark.parametrize("after", [0, 2, 4, 6])
@pytest.mark.parametrize("cut", [0, 7])
def test_a_killed_audit_goes_on_where_it_was(tmp_path, monkeypatch, after, cut):
    """Parts of two answers; a kill after `after` of eight, which may leave half a line: what was whole is not heard
    again, and the lines are those of a run that nobody killed."""
    monkeypatch.setattr("lightning_paras2s.hearing.outside.BATCH", 2)
    clips = [clip(str(i), "the number", (i + 1) / 10) for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        listen(clips, OutsideEars(Killed(after)), Log(tmp_path))
    path = tmp_path / "outside.jsonl"
    kept = path.read_bytes() if path.is_file() else b""
    if kept and cut:
        path.write_bytes(kept[:-cut])
    ear = Counting()
    found = listen(clips, OutsideEars(ear), Log(tmp_path))
    assert ear.asked == 8 - after + bool(kept and cut)
    assert found == listen(clips, OutsideEars(Counting()), Log(tmp_path / "whole"))
    assert len(path.read_text().splitlines()) == 8


def query(pair: str, half: str, factor: str = "age") -> Query:
    styles = {"emotion": "neutral", "age": half if factor == "age" else "adult", "gender": "male"}
    return Query(f"{pair}-{half}", pair, factor, "test", "May I walk the dog?", styles, "dog", "q.flac")


def test_more_pairs_keep_those_chosen_before():
    queries = [query(f"p{i}", half) for i in range(12) for half in ("adult", "child")]
    few, many = chosen(queries, 3, 0), chosen(queries, 7, 0)
    assert [q.id for q in many[:6]] == [q.id for q in few] and len({q.pair_id for q in few}) == 3
    assert [q.id for q in chosen(queries, 3, 1)] != [q.id for q in few]


def rows(values: list[float], name: str) -> list[dict]:
    """Two halves a pair."""
    queries = [query(f"p{i // 2}", ("adult", "child")[i % 2]) for i in range(len(values))]
    return [{"query": q, name: v} for q, v in zip(queries, values, strict=True)]


def test_intervals_are_clustered_by_pair():
    """Halves (0, .2) and (.4, .6) in ten pairs each: pair means .1 and .5, so the mean is .3, the pairs' deviation
    .2 sqrt(20 / 19) = .2052 and the standard error that over sqrt(20) = .04588; Student's t with 19 degrees of freedom
    is 2.0930, and nothing is skewed."""
    found = measures(rows([0.0, 0.2, 0.4, 0.6] * 10, "wer_outside"))
    assert found["wer_outside"] == pytest.approx(0.3)
    assert found["wer_outside_ci95"] == pytest.approx([0.3 - 0.0960, 0.3 + 0.0960], abs=1e-3)
    assert (found["n"], found["n_pairs"]) == (40, 20)


def test_perplexities_are_averaged_as_logarithms_and_compared_as_ratios():
    a, b = (
        rows([10.0, 1000.0, 10.0, 1000.0], "perplexity_heard"),
        rows([20.0, 2000.0, 20.0, 2000.0], "perplexity_heard"),
    )
    assert measures(a)["perplexity_heard"] == pytest.approx(100)
    (only,) = differences({"a": a, "b": b})
    assert (only["measure"], only["value"]) == ("perplexity_heard", pytest.approx(2))


@pytest.fixture
def run(tmp_path):
    """A folder as `evaluate` leaves it: two systems, two pairs; `loud` says the number 9 at level .9, `quiet` at .4."""
    queries = [query(f"p{i}", half) for i in range(2) for half in ("adult", "child")]
    write_audio(tmp_path / "q.flac", hum(0.1))
    append_jsonl(tmp_path / "queries.jsonl", queries)
    for name, level in (("loud", 0.9), ("quiet", 0.4)):
        write_audio(tmp_path / f"{name}.flac", hum(level))
        answers = [Response(q.id, name, audio=f"{name}.flac", text="the number nine") for q in queries]
        append_jsonl(tmp_path / "responses.jsonl", answers)
        append_jsonl(tmp_path / "evidence.jsonl", [Evidence(r.id, "the number 9", 0.0, "neutral") for r in answers])
    cell = {"mean": 3.0, "ci95": [2.0, 4.0], "n": 4, "n_failed": 0, "pair_accuracy": None, "label_swap_gain": None}
    about = {"judge": "j", "rubric_sha": "r" * 64, "label_source": "gold", "manifest": str(tmp_path / "queries.jsonl")}
    write_summary(tmp_path / "summary.json", {"systems": {n: {"overall": cell} for n in ("loud", "quiet")}, **about})
    return tmp_path


def test_an_outside_ear_stands_beside_ours_in_every_table(run, capsys):
    """Ours hears every answer right; the other hears "4" for "nine" in one system's answers: one word of three."""
    found = audit(str(run), pairs=5, transcriber=Counting(), naturalness=False, sense=False)
    assert found["systems"]["loud"]["wer_outside"] == found["systems"]["quiet"]["wer_ours"] == 0.0
    assert found["systems"]["quiet"]["wer_outside"] == pytest.approx(1 / 3, abs=1e-4)
    told = {(d["measure"], round(d["value"], 3)) for d in found["differences"]}
    assert told == {("wer_ours", 0.0), ("wer_outside", 0.333)}
    assert show("audit", found, {"run": str(run)}, "program", False) == ""
    assert "0.333" in capsys.readouterr().out
    leaderboard([str(run)])
    assert "0.333" in capsys.readouterr().out
    leaderboard([str(run)], "markdown")
    assert "| quiet | 0.000 | 0.333 |" in capsys.readouterr().out
    leaderboard([str(run)], "csv")
    rows = {row["system"]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert [round(float(rows[name]["wer_outside"]), 4) for name in ("loud", "quiet")] == [0, 0.3333]
    assert "<td>0.333</td>" in html_table(Path(run))


class Wavering(Judge):
    """Two verdicts on each answer, 1 and 5."""

    name, rubric_sha, samples = "wavering", "", 2

    def judge(self, query, style, evidence):
        return self.judge_all([query], [style], [evidence])[0][0]

    def judge_all(self, queries, styles, evidence):
        return [[self.verdict(e, Score(score, ""), i) for i, score in enumerate((1.0, 5.0))] for e in evidence]


def test_scores_beside_the_tables_are_means_of_all_verdicts(run):
    """The first of several verdicts was the score, where the summary has their mean: (1 + 5) / 2."""
    found = audit(str(run), transcriber=Counting(), naturalness=False, sense=False, judge=Wavering())
    assert {found["systems"]["loud"][name] for name in ("score_ours", "score_outside")} == {3.0}


def test_a_dry_run_tells_hours_and_price_and_hears_nothing(run, capsys):
    """Two systems' four answers, each judged by two words heard and twice."""
    ear, before = Counting(), sorted(run.iterdir())
    told = audit(str(run), transcriber=ear, judge=Wavering(), dry_run=True)
    assert (told["answers"], told["verdicts"], told["usd"]) == (8, 32, 0.0) and told["hours"] == 8 * 0.75 / 3600
    assert show("audit", told, {"run": str(run)}, "program", False) == "" and "32" in capsys.readouterr().out
    assert audit(str(run), pairs=1, systems=["loud"], dry_run=True)["answers"] == 2
    assert not ear.asked and sorted(run.iterdir()) == before


def test_more_pairs_go_on_from_fewer(run):
    """Two answers a pair and system, each system with one sound; the second pair's are known by their sound."""
    few, many = Counting(), Counting()
    audit(str(run), pairs=1, transcriber=few, naturalness=False, sense=False)
    assert few.asked == 2 and len((run / "outside.jsonl").read_text().splitlines()) == 4
    write_audio(run / "loud.flac", hum(0.8))
    found = audit(str(run), pairs=2, transcriber=many, naturalness=False, sense=False)
    assert many.asked == 1 and found["systems"]["quiet"]["n"] == 4


def test_systems_are_heard_alone_and_those_heard_before_stay(run):
    ear = Counting()
    found = audit(str(run), systems=["quiet"], transcriber=ear, naturalness=False, sense=False)
    assert list(found["systems"]) == ["quiet"] and ear.asked == 1
    assert found["notes"] == ["not heard: loud, which `systems` does not name"]
    found = audit(str(run), systems=["loud"], transcriber=ear, naturalness=False, sense=False)
    assert list(found["systems"]) == ["loud", "quiet"] and ear.asked == 2 and found["notes"] == []
    assert json.loads((run / "outside.json").read_text())["systems"] == found["systems"]
    write_audio(run / "quiet.flac", hum(0.2))  # other sound: what was heard is no longer of it
    found = audit(str(run), systems=["loud"], transcriber=ear, naturalness=False, sense=False)
    assert list(found["systems"]) == ["loud"] and ear.asked == 2
    for wrong, said in ((["grpo"], "grpo"), ([], "none")):
        with pytest.raises(UserError, match=rf"some of the run's .loud, quiet.; got {said}"):
            audit(str(run), systems=wrong, transcriber=ear)


def test_shards_hear_all_between_them(run, monkeypatch):
    monkeypatch.setattr("lightning_paras2s.hearing.outside.BATCH", 2)
    parts = [audit(str(run), shard=f"{i}/2", transcriber=Counting(), naturalness=False, sense=False) for i in (0, 1)]
    assert [part["answers"] for part in parts] == [4, 4] and not (run / "outside.json").exists()
    merging = Counting()
    found = audit(str(run), transcriber=merging, naturalness=False, sense=False)
    assert merging.asked == 0 and found["systems"]["loud"]["n"] == 4
    with pytest.raises(UserError, match='must be "i/k"'):
        audit(str(run), shard="2/2", transcriber=merging, naturalness=False, sense=False)


def on_cpu(monkeypatch, kind: str) -> None:
    monkeypatch.setattr("lightning_paras2s.hearing.outside.cpu_kind", lambda: kind)


def heard_of(run: Path, **options) -> dict:
    return audit(str(run), transcriber=Counting(), naturalness=False, sense=False, **options)


def test_words_are_kept_with_the_cpu_that_they_were_heard_on(run, monkeypatch, capsys):
    """Four answers on one kind, then all eight on another: four of them are known, by sound, from the first."""
    on_cpu(monkeypatch, "avx2")
    first = heard_of(run, systems=["loud"], rows=str(run / "rows.jsonl"))
    assert first["heard_on"] == {"avx2, float32": 4} and "another kind of CPU" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (run / "rows.jsonl").open()]
    assert {(row["cpu"], row["compute_type"]) for row in rows} == {("avx2", "float32")}
    assert "Words were heard on avx2, float32." in html_table(run)
    on_cpu(monkeypatch, "avx2, avx512f")
    both = heard_of(run)
    assert both["heard_on"] == {"avx2, float32": 4, "avx2, avx512f, float32": 4}
    lines = [line for line in capsys.readouterr().err.splitlines() if "another kind of CPU" in line]
    assert lines == both["notes"]
    assert lines[0].endswith("depend on: 4 on avx2, float32; 4 on avx2, avx512f, float32")
    leaderboard([str(run)], "markdown")
    assert lines[0] in capsys.readouterr().out and lines[0] in html_table(run).replace("&#x27;", "'")
    kinds = {row.response_id.partition("/")[0]: row.cpu for row in Log(run).read("outside", Outside)}
    assert sorted(kinds.values()) == ["avx2", "avx2, avx512f"]


def test_an_audit_that_goes_on_elsewhere_says_so_if_nothing_is_left_to_hear(run, monkeypatch, capsys):
    on_cpu(monkeypatch, "avx2")
    heard_of(run)
    on_cpu(monkeypatch, "avx2, avx512f")
    assert heard_of(run)["heard_on"] == {"avx2, float32": 8}
    assert "another kind of CPU than here (avx2, avx512f, float32)" in capsys.readouterr().err


@pytest.mark.parametrize("second", ["avx2", "avx2, avx512f"])
def test_shards_of_two_kinds_of_cpu_are_told_of_when_they_are_merged(run, monkeypatch, capsys, second):
    monkeypatch.setattr("lightning_paras2s.hearing.outside.BATCH", 2)
    on_cpu(monkeypatch, second)
    heard_of(run, shard="1/2")
    part = (run / "outside-1of2.jsonl").rename(run.parent / "from_another_machine")
    on_cpu(monkeypatch, "avx2")
    heard_of(run, shard="0/2")
    part.rename(run / "outside-1of2.jsonl")
    assert len(heard_of(run)["notes"]) == capsys.readouterr().err.count("another kind of CPU") == (second != "avx2")


def test_lines_from_before_cpus_were_recorded_are_read(run, monkeypatch, capsys):
    """They are nobody's kind: no note while all are such, and one as soon as others join."""
    heard_of(run, systems=["loud"])
    path = run / "outside.jsonl"
    rows = [{k: v for k, v in json.loads(line).items() if k not in ("cpu", "compute_type")} for line in path.open()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    on_cpu(monkeypatch, "avx2")
    assert heard_of(run, systems=["loud"])["notes"] == ["not heard: quiet, which `systems` does not name"]
    assert [json.loads(line) for line in path.open()] == rows  # none was written anew
    assert heard_of(run)["notes"][0].endswith("4 on a CPU that was not recorded; 4 on avx2, float32")


def test_a_table_of_runs_from_several_kinds_of_cpu_says_so():
    here, there = ({"heard_on": {f"{kind}, int8": 4}} for kind in ("avx2", "avx2, avx512f"))
    assert mixed_cpus({"a": here, "b": None, "c": {}, "d": here}) == ""
    assert mixed_cpus({"a": here, "b": there}).endswith("depend on: a avx2, int8; b avx2, avx512f, int8")


def test_progress_is_told_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    """300 of 1,200 in 600 s: the other 900 take 1,800 s."""
    assert line_of("answers", 300, 1200, 600.0) == "answers: 300 of 1200 in 10 min, 30 min left"
    monkeypatch.setattr("lightning_paras2s.running.progress.LINE_SECONDS", 0.0)
    listen([clip("a", "five", 0.5)], OutsideEars(Counting()), Log(tmp_path))
    assert "answers heard by ears from outside: 1 of 1 in 0 min, 0 min left" in capsys.readouterr().err


def test_tables_say_when_nobody_listened(run, capsys):
    leaderboard([str(run)])
    assert f"audit --run {run}" in " ".join(capsys.readouterr().out.split()).replace("\n", "")
    leaderboard([str(run)], "markdown")
    assert f"`python -m lightning_paras2s audit --run {run}`" in capsys.readouterr().out
    assert "audit --run" in html_table(run)


def test_ears_that_are_not_installed_are_told_and_the_rest_goes_on(run, monkeypatch, capsys):
    for name, lack in (("missing_ear", "faster-whisper"), ("missing_dnsmos", "onnxruntime"), ("missing_model", "gguf")):
        monkeypatch.setattr(f"lightning_paras2s.hearing.outside.{name}", lambda lack=lack: lack)
    assert outside_ears(naturalness=False, sense=False).notes[0].startswith("outside ear: not installed (no faster-w")
    monkeypatch.setattr("lightning_paras2s.hearing.controls.missing_piper", lambda: "piper-tts")
    audit(str(run), pairs=1, controls="loud")
    shown = capsys.readouterr()
    for note in ("outside ear: not", "DNSMOS: not", "perplexity: not", "control: Piper: not"):
        assert note in shown.err
    leaderboard([str(run)], "markdown")
    table = capsys.readouterr().out
    assert "outside ear: not installed (no faster-whisper), pip install 'lightning_paras2s[ears]'" in table
    assert json.loads((run / "outside.json").read_text())["systems"]["loud"]["wer_ours"] == 0.0


def test_mistakes_are_one_line(run, tmp_path):
    with pytest.raises(UserError, match="one of the run's systems .loud, quiet.; got 'grpo'"):
        audit(str(run), controls="grpo", transcriber=Counting(), naturalness=False, sense=False)
    with pytest.raises(UserError, match="at least 1 contrast pair a factor; got 0"):
        audit(str(run), pairs=0)
    with pytest.raises(UserError, match="must be a folder of `evaluate` with summary.json"):
        audit(str(tmp_path / "none"))


class Louder(Counting):
    """Of the same name, with other weights."""

    weights = 0.0

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.weights = gain


def test_an_ear_of_one_name_with_other_weights_is_another_ear(run):
    first, second, third = Louder(1.0), Louder(2.0), Louder(2.0)
    for ear, asked in ((first, 2), (second, 2), (third, 0)):
        audit(str(run), transcriber=ear, naturalness=False, sense=False)
        assert ear.asked == asked


def test_another_manifest_with_the_same_ids_is_no_manifest_of_the_run(run, tmp_path):
    """A query's recording, words or earlier turns are others than those that were answered."""
    log, answers = Log(run), Log(run).read("responses", Response)
    queries = read_jsonl(run / "queries.jsonl", Query)
    given = {q.id: inputs_of(q, run) for q in queries}
    log.vouch("responses", answers, [given[row.query_id] for row in answers])
    options = {"transcriber": Counting(), "naturalness": False, "sense": False}
    turned = {"turns": (Turn("user", "Hi."), Turn("assistant", "Hello."))}
    for number, change in enumerate(({"text": "May I feed the dog?"}, {"audio": "loud.flac"}, turned)):
        other = run / f"other{number}.jsonl"
        append_jsonl(other, [replace(queries[0], **change), *queries[1:]])
        with pytest.raises(UserError, match="must hold the queries that .* answered; got others of 1 ids of 4, such "):
            audit(str(run), str(other), **options)
    assert not (run / "outside.jsonl").exists()
    append_jsonl(run / "same.jsonl", [replace(queries[0], topic="pets"), *queries[1:]])
    assert audit(str(run), str(run / "same.jsonl"), **options)["systems"]["loud"]["n"] == 4


class OfChildren(Judge):
    """5 of an answer to a child, else 1."""

    name, rubric_sha = "of-children", "of-children"

    def judge(self, query, style, evidence):
        return self.verdict(evidence, Score(5 if style.age == "child" else 1, ""))


@pytest.mark.parametrize(("source", "mean"), [("gold", 3.0), ("predicted", 5.0)])
def test_the_judge_is_told_the_labels_that_the_runs_judge_was(run, source, mean):
    """Half of the queries are a child's by the manifest, all by what the run's recogniser heard."""
    summary = json.loads((run / "summary.json").read_text()) | {"label_source": source}
    write_summary(run / "summary.json", summary)
    ids = [row.id for row in read_jsonl(run / "queries.jsonl", Query)]
    write_summary(run / "labels.json", {name: {"styles": {"age": "child"}, "inputs": "x"} for name in ids})
    found = audit(str(run), transcriber=Counting(), naturalness=False, sense=False, judge=OfChildren())
    assert found["systems"]["loud"]["score_ours"] == mean


@pytest.mark.parametrize("text", ["{half", "[1]", '{"judge": "another command\'s"}'])
def test_a_summary_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary.json must "):
        audit(str(tmp_path))
