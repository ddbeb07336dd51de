"""`evaluate` end to end on speech of beeps: resumable at any kill, re-scorable, failures apart from scores."""

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beeps import RATE, BeepRecognizer, BeepSynthesizer, BeepTranscriber, beep_manifest

from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.queries.manifest import batches_of, other_styles, read_queries, shard_of
from lightning_paras2s.bench.summary import Judged, judged, summarise
from lightning_paras2s.bench.systems.base import Answer, CascadeSystem, S2SSystem, ToplineSystem
from lightning_paras2s.data.embedded import authored, frames
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.types import Audio, Evidence, Query, Response, Verdict, read_jsonl

ACTS = str(Path(__file__).parents[1] / "checkpoints/embedded/acts.safetensors")
FILES = ("responses.jsonl", "evidence.jsonl", "verdicts.jsonl", "swaps.jsonl")


class Broken(S2SSystem):
    """Fails on every third query and falls silent on every other third."""

    config_sha = "broken"

    def respond(self, queries, audios, sample):
        silence = Audio(np.zeros(RATE, np.float32), RATE)
        kinds = [Answer(None, status="refused"), Answer(silence), Answer(None)]
        return [kinds[sum(map(ord, q.id)) % 3] for q in queries]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    queries = [
        q for factor in ("gender", "sarcasm") for q in [q for q in authored("test") if q["factor"] == factor][:4]
    ]
    replies = [f["frame"] for f in frames() if f["split"] == "train"]
    words = sorted({w for t in [*replies, *(q["text"] for q in queries), "question"] for w in plain_words(t)})
    systems = {
        "topline": ToplineSystem(BeepSynthesizer(words)),
        "cascade": CascadeSystem(BeepTranscriber(words), BeepSynthesizer(words)),
        "broken": Broken(),
    }
    return {
        "manifest": beep_manifest(folder, queries, words),
        "systems": systems,
        "judge": EmbeddedJudge(ACTS),
        "transcriber": BeepTranscriber(words),
        "recognizer": BeepRecognizer(),
        "batch_size": 3,
    }


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluate(**bench, output=str(folder))


def numbers(result):
    return {name: result[name] for name in ("systems", "comparisons", "response_statuses")}


def test_summary_tells_topline_from_cascade(whole):
    folder, result = whole
    assert json.loads((folder / "summary.json").read_text()) == result
    topline, cascade = (result["systems"][name]["overall"] for name in ("topline", "cascade"))
    assert topline["mean"] >= 4.5 and topline["label_swap_gain"] >= 1 and topline["pair_accuracy"] >= 0.8
    assert 2.4 <= cascade["mean"] <= 3.4 and abs(cascade["label_swap_gain"]) < 0.2
    assert topline["wer"] == 0 and cascade["response_contrast"] == 0
    for factor in ("gender", "sarcasm", "overall"):
        cell = result["systems"]["topline"][factor]
        for name in ("mean", "ci95", "n", "n_failed", "pair_accuracy", "pair_min", "label_swap_gain"):
            assert name in cell
    assert topline["n"] == 16 and topline["n_failed"] == 0


def test_failures_are_counted_and_never_scored_0(whole):
    folder, result = whole
    rows = read_jsonl(folder / "verdicts.jsonl", Verdict)
    broken = [v for v in rows if v.response_id.startswith("broken/")]
    refused, silent = [v for v in broken if v.status == "refused"], [v for v in broken if v.score == 1]
    assert len(refused) + len(silent) == 16 and refused and silent and all(v.score is None for v in refused)
    cell = result["systems"]["broken"]["overall"]
    assert (cell["n"], cell["n_failed"], cell["mean"]) == (len(silent), len(refused), 1)
    assert result["response_statuses"]["broken"]["refused"] == len(refused)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_run_cut_anywhere_is_resumed_to_the_same_result(bench, whole, tmp_path, name, share):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "cut")
    data = (tmp_path / "cut" / name).read_bytes()
    (tmp_path / "cut" / name).write_bytes(data[: int(share * len(data))])  # mostly in the middle of a line
    for later in FILES[FILES.index(name) + 1 :]:
        (tmp_path / "cut" / later).unlink()
    assert numbers(evaluate(**bench, output=str(tmp_path / "cut"))) == numbers(result)
    assert sorted((tmp_path / "cut" / name).read_text().splitlines()) != []
    if name != "responses.jsonl":  # latencies differ
        assert (tmp_path / "cut" / name).read_bytes() == (folder / name).read_bytes()


def test_systems_that_answer_one_by_one_give_their_memory_back_and_leave_the_same_records(bench, whole, tmp_path):
    """As for policies that don't fit one GPU together: each is asked for all batches, then released."""
    folder, result = whole
    seen = []

    class Held(S2SSystem):
        def __init__(self, name, system):
            self.name, self.system, self.config_sha = name, system, system.config_sha

        def respond(self, queries, audios, sample):
            seen.append(self.name)
            return self.system.respond(queries, audios, sample)

        def release(self):
            seen.append(f"-{self.name}")

    held = {name: Held(name, system) for name, system in bench["systems"].items()}
    found = evaluate(**bench | {"systems": held}, output=str(tmp_path / "out"), one_by_one=True)
    assert list(dict.fromkeys(seen)) == ["topline", "-topline", "cascade", "-cascade", "broken", "-broken"]
    assert [name for name in seen if name.startswith("-")] == ["-topline", "-cascade", "-broken"]
    assert numbers(found) == numbers(result)
    again = evaluate(**bench | {"systems": held}, output=str(tmp_path / "out"), one_by_one=True)
    assert numbers(again) == numbers(result) and seen[-1] == "-broken"


def test_finished_run_asks_nobody_again(bench, whole, tmp_path):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "again")

    class Deaf(BeepTranscriber):
        def write_down(self, audios):
            raise AssertionError("asked again")

    again = evaluate(**{**bench, "transcriber": Deaf(bench["transcriber"].words)}, output=str(tmp_path / "again"))
    assert numbers(again) == numbers(result)


def test_new_judge_scores_old_responses_without_inference(bench, whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "rescored")

    class Strict(EmbeddedJudge):
        def judge(self, query, style, evidence):
            return replace(super().judge(query, style, evidence), judge="strict", score=1.0, status="ok")

    judge = Strict(ACTS)
    judge.name = "strict"
    before = (tmp_path / "rescored/responses.jsonl").read_bytes()
    result = evaluate(**{**bench, "judge": judge}, output=str(tmp_path / "rescored"))
    assert result["systems"]["topline"]["overall"]["mean"] == 1 and result["judge"] == "strict"
    assert (tmp_path / "rescored/responses.jsonl").read_bytes() == before


def test_shards_merge_to_the_single_result(bench, whole, tmp_path):
    for shard in ("0/2", "1/2"):
        evaluate(**bench, output=str(tmp_path), shard=shard)
    assert numbers(evaluate(**bench, output=str(tmp_path))) == numbers(whole[1])
    assert not (tmp_path / "responses.jsonl").exists()  # nothing was left to do


def test_two_processes_score_one_manifest_as_one_does(bench, whole, tmp_path):
    """At once, each on its shard; then the merge has nothing to ask, and every record but latencies is the same."""
    fork = multiprocessing.get_context("fork")
    options = [{**bench, "output": str(tmp_path), "shard": f"{i}/2"} for i in range(2)]
    workers = [fork.Process(target=evaluate, kwargs=kwargs) for kwargs in options]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0] and not (tmp_path / "summary.json").exists()

    class Deaf(BeepTranscriber):
        def write_down(self, audios):
            raise AssertionError("asked again")

    deaf = Deaf(bench["transcriber"].words)
    assert numbers(evaluate(**{**bench, "transcriber": deaf}, output=str(tmp_path))) == numbers(whole[1])
    for name in FILES[1:]:
        parts = [(tmp_path / name.replace(".", f"-{i}of2.")).read_text().splitlines() for i in range(2)]
        assert all(parts) and sorted(parts[0] + parts[1]) == sorted((whole[0] / name).read_text().splitlines())


def test_predicted_labels_are_recorded_and_here_equal_gold(bench, whole, tmp_path):
    result = evaluate(**bench, output=str(tmp_path), label_source="predicted")
    assert numbers(result)["systems"] == numbers(whole[1])["systems"]
    assert {v.label_source for v in read_jsonl(tmp_path / "verdicts.jsonl", Verdict)} == {"predicted"}


def test_audit_judges_the_same_responses_with_other_ears(bench, tmp_path):
    class Other(BeepRecognizer):
        name = "other"

        def recognize(self, audios, role):
            return [replace(style, tone="neutral") for style in super().recognize(audios, role)]

    result = evaluate(**bench, output=str(tmp_path), audit_recognizer=Other(), limit=2)
    assert result["audit"]["providers"]["recognizer"] == "other"
    assert result["audit"]["systems"]["topline"]["overall"]["tones"] == {"neutral": 8}
    assert result["audit"]["systems"]["topline"]["overall"]["mean"] < result["systems"]["topline"]["overall"]["mean"]


def test_samples_are_averaged_before_statistics(bench, tmp_path):
    result = evaluate(**bench, output=str(tmp_path), samples=2, limit=2)
    assert result["systems"]["topline"]["overall"]["n"] == 8
    assert len(read_jsonl(tmp_path / "responses.jsonl", Response)) == 8 * 3 * 2


def test_other_answers_are_never_mixed_in(bench, whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder, tmp_path / "mixed")
    changed = Broken()
    changed.config_sha = "other"
    with pytest.raises(UserError, match="choose another output folder"):
        evaluate(**{**bench, "systems": {"broken": changed}}, output=str(tmp_path / "mixed"))
    deaf = BeepTranscriber(["x"])
    deaf.name = "other-ear"
    with pytest.raises(UserError, match="was heard by"):
        evaluate(**{**bench, "transcriber": deaf}, output=str(tmp_path / "mixed"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_source": "guess"}, "must be gold or predicted; got 'guess'"),
        ({"samples": 0}, "got 3, 0, 3"),
        ({"shard": "2/2"}, "got '2/2'"),
        ({"shard": "x"}, "got 'x'"),
        ({"manifest": "/nowhere.jsonl"}, "must be an existing JSON-lines file"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(bench, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(**{**bench, **options}, output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_manifest_line_is_named_in_the_message(tmp_path, bench):
    manifest = Path(bench["manifest"])
    shutil.copytree(manifest.parent, tmp_path / "m")
    lines = (tmp_path / "m/queries.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    (tmp_path / "m/queries.jsonl").write_text("\n".join([*lines[:2], json.dumps({**row, "audio": "no.wav"})]))
    with pytest.raises(UserError, match=r"queries.jsonl:3: audio must be an existing file; got 'no.wav'"):
        read_queries(str(tmp_path / "m/queries.jsonl"), None)
    (tmp_path / "m/queries.jsonl").write_text("\n".join([*lines[:2], json.dumps({**row, "styles": {"age": "child"}})]))
    with pytest.raises(UserError, match=r"queries.jsonl:3: a query's styles must hold its factor"):
        read_queries(str(tmp_path / "m/queries.jsonl"), None)


def test_shards_keep_pairs_and_batches_whole_and_lose_nothing(bench):
    queries = read_queries(bench["manifest"], None)
    batches = batches_of(queries, 5)  # pairs have two halves: four queries a batch
    assert [len(batch) for batch in batches] == [4, 4, 4, 4]
    assert all(len({q.pair_id for q in batch}) == 2 for batch in batches)
    parts = [shard_of(batches, f"{i}/3") for i in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sorted(q.id for part in parts for batch in part for q in batch) == sorted(q.id for q in queries)


def test_pair_larger_than_a_batch_stays_whole():
    row = Query("a", "p", "age", "test", "x", {"age": "adult"}, "t", "")
    rows = [replace(row, id=name, pair_id=pair) for name, pair in (("a", "p"), ("b", "q"), ("c", "p"))]
    assert [[q.id for q in batch] for batch in batches_of(rows, 1)] == [["a", "c"], ["b"]]


def test_other_style_is_that_of_the_pairs_other_half():
    row = Query("a", "p", "age", "test", "x", {"age": "adult"}, "t", "")
    other = replace(row, id="b", styles={"age": "child"})
    assert other_styles([row, other, replace(row, id="c", pair_id="alone")]) == {"a": "child", "b": "adult"}


def test_a_topic_may_be_written_and_not_heard():
    """What the text stream says and what is heard of the voice are told apart."""
    query = Query("q", "p", "age", "test", "Where is the zoo?", {"age": "child"}, "t", "")
    evidence = {"s/q/0": Evidence("s/q/0", "ask your parents about the soup")}
    responses = {"s/q/0": Response("q", "s", text="Ask your parents about the zoo.")}
    heard, unwritten = (judged(query, ["s/q/0"], evidence, {}, {}, r) for r in (responses, None))
    found = summarise([heard, unwritten])
    assert (found["names_topic"], found["writes_topic"]) == (0, 1)


def test_summary_of_one_unscored_item_has_no_numbers():
    nan = float("nan")
    item = Judged("q", "p", "age", "child", nan, nan, "", "", nan, False)
    found = summarise([item])
    assert (found["mean"], found["n"], found["n_failed"], found["mean_worst_case"]) == (None, 0, 1, 1.0)
    assert found["pair_accuracy"] is None and found["label_swap_gain"] is None
    json.dumps(found, allow_nan=False)
