"""Recordings without labels serve RL, reward data, a reward model and evaluation, with the styles that are heard."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from odd_recordings import take, write_lab

from lightning_paras2s.bench.queries.manifest import read_queries, write_manifest
from lightning_paras2s.cli import dispatch
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import EmbeddedJudge, LLMJudge
from lightning_paras2s.judging.rewards import query_styles
from lightning_paras2s.judging.rubric import factor_of
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Evidence, Query, Style


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The queries of fifty odd recordings, with absolute paths."""
    folder = tmp_path_factory.mktemp("lab")
    write_lab(folder / "recordings")
    take(folder / "recordings", folder / "all.jsonl", split="train")
    return [replace(q, audio=str(folder / q.audio)) for q in read_queries(str(folder / "all.jsonl"), None)]


# --- judges, without labels


@pytest.mark.parametrize(
    "style, factor",
    [
        (Style("sad", "sarcastic", "child", "female"), "emotion"),
        (Style("neutral", "sarcastic", "child", "female"), "age"),
        (Style("neutral", "sarcastic", "adult", "female"), "sarcasm"),
        (Style("neutral", "sincere", "adult", "female"), "gender"),
        (Style(), "gender"),
    ],
)
def test_a_query_is_about_what_stands_out_in_it_where_nobody_said(style, factor):
    query = Query("a", "a", "", "test", "we sold the house last week", {}, "", "a.wav")
    assert factor_of(query, style) == factor and factor_of(replace(query, factor="age"), style) == "age"


def test_the_embedded_judge_goes_by_what_stands_out():
    query = Query("a", "a", "", "test", "We sold the piano last week.", {}, "", "a.wav")
    said = Evidence("s/a/0", "i am so sorry to hear about the piano", 0.0, "empathetic", "empathetic")
    judge = EmbeddedJudge()
    known = judge.judge(replace(query, factor="emotion"), Style(emotion="sad"), said)
    assert judge.judge(query, Style(emotion="sad", age="child"), said).score == known.score == 5
    assert judge.judge(query, Style(), said).status == "no_label"


def test_a_chat_model_is_not_asked_about_an_unknown_style():
    class Nobody(ChatLLM):
        name = "nobody"

        def complete(self, messages):
            raise AssertionError(f"asked: {messages}")

    query = Query("a", "a", "", "test", "We sold the piano last week.", {}, "", "a.wav")
    verdict = LLMJudge(Nobody()).judge(query, Style(), Evidence("s/a/0", "how nice", 0.0, "cheerful", "cheerful"))
    assert (verdict.score, verdict.status) == (None, "no_label")


# --- GRPO, reward data, a reward model and an evaluation from the fifty recordings


def test_unlabelled_recordings_serve_every_stage(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, part in (("train", lab[:40]), ("val", lab[-4:])):
        write_manifest(Path(f"{split}.jsonl"), part)
    source = ["--data.source=ManifestDialogues", "--data.source.manifest=train.jsonl"]
    short = ["--data.batch_size=2", "--model.sampling.max_steps=30"]
    dispatch(["fit", "--config", "grpo.yaml", *source, *short, "--model.group_size=2", "--trainer.max_steps=2"])
    assert list(Path("runs/grpo").glob("*/policy.safetensors"))
    rewards = [json.loads(line) for line in next(Path("runs/grpo").glob("*/metrics.jsonl")).read_text().splitlines()]
    assert sum("train/reward" in row for row in rewards) == 2

    sampled = ["--model.written=null", "--model.others=1", "--model.samples=2", "--model.reward.labels=predicted"]
    few = ["--trainer.limit_predict_batches=2", "--data.source.val=val.jsonl"]
    dispatch(["predict", "--config", "preferences.yaml", *source, *few, *short, *sampled])
    data = Path("runs/preferences/data")
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    assert rows and {row["factor"] for row in rows} == {""} and all(1 <= row["score"] <= 5 for row in rows)
    dispatch(["fit", "--config", "reward.yaml", "--data.batch_size=2", "--data.lowest=1", "--trainer.max_steps=2"])
    assert list(Path("runs/reward").glob("*/scorer.safetensors"))

    policy = "{mine: {class_path: PolicySystem, init_args: {policy: checkpoints/embedded/sft_fifth.safetensors, processor: TinyProcessor}}}"  # noqa: E501
    asked = ["evaluate", "--config", "evaluate.yaml", "--manifest", "val.jsonl", "--systems", policy, "--output", "e"]
    with pytest.raises(UserError, match="an evaluation with gold labels must have every query's style; got none of"):
        dispatch([*asked, "--audit_recognizer=null"])
    dispatch([*asked, "--audit_recognizer=null", "--label_source=predicted"])
    cell = json.loads(Path("e/summary.json").read_text())["systems"]["mine"]
    assert list(cell) == ["unlabelled", "overall"] and cell["overall"]["n"] + cell["overall"]["n_failed"] == 4
    assert cell["overall"]["n"] > 0
    for told in (["leaderboard", "--runs", "[e]"], ["report", "--run", "e", "--output", "e.html"]):
        dispatch(told)
    assert "unlabelled" in Path("e.html").read_text()


def test_gold_labels_of_unlabelled_recordings_are_refused():
    query = Query("a", "a", "", "train", "We sold the piano last week.", {}, "", "a.wav")
    with pytest.raises(UserError, match="labels: gold needs every query's style; got none of 'a'; set labels"):
        query_styles(SimpleNamespace(queries=[query]), "gold", None)


def test_written_answers_to_recordings_are_refused():
    batch = SimpleNamespace(queries=[Query("a", "a", "", "train", "We sold the piano last week.", {}, "", "a.wav")])
    with pytest.raises(UserError, match="written answers are to the embedded text set's queries; got 'a'; set model"):
        WrittenAnswers(EspeakSynthesizer()).answer(batch, None)
