"""Rejection sampling: the best answers are chosen by score, floor and balance, and learned as the tokens
that they were, by any family (here the embedded one; `test_qwen_family_stages` has the other).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lightning_paras2s.cli import dispatch
from lightning_paras2s.data import sources, spoken
from lightning_paras2s.data.completions import KeptCompletion, demonstration, keep_completions
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.data.rejection import Answered, best_answers, tell_other_voice
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.processor import RawItems
from lightning_paras2s.models.speech_lm import Completion, Streams
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.types import FACTORS, Query, append_jsonl, read_jsonl, to_json

ROOT = Path(__file__).parents[1]


def query(name: str, style: str = "sad") -> Query:
    return Query(name, name, "emotion", "train", "so", {"emotion": style}, "t", f"{name}.wav")


def judged(name: str, *scores: float) -> list[Preference]:
    return [Preference(name, i, "q.flac", "r.flac", score) for i, score in enumerate(scores)]


def test_the_best_answer_of_each_query_is_learned_if_it_reaches_the_floor():
    rows = judged("a", 1, 5, 5) + judged("b", 3.9, 2) + judged("c", 4.0)
    found = best_answers(rows, {}, 4.0, 0)
    assert {name: p.sample for name, p in found.items()} == {"a": 1, "c": 0}
    assert best_answers(rows, {}, 5.1, 0) == {}


def test_styles_are_balanced_by_the_rarest_and_the_highest_scores_stay():
    queries = {f"s{i}": query(f"s{i}") for i in range(5)} | {f"h{i}": query(f"h{i}", "happy") for i in range(2)}
    rows = [p for i in range(5) for p in judged(f"s{i}", 4 + i / 10)] + judged("h0", 4) + judged("h1", 5)
    assert best_answers(rows, queries, 4.0, 1.0).keys() == {"s4", "s3", "h0", "h1"}
    assert best_answers(rows, queries, 4.0, 1.5).keys() == {"s4", "s3", "s2", "h0", "h1"}
    assert len(best_answers(rows, queries, 4.0, 0)) == 7


def test_tokens_are_kept_without_padding_and_come_back():
    tokens = torch.tensor([[[5, 6, 0, 0], [9, 9, 3, 1]], [[7, 0, 0, 0], [9, 2, 1, 9]]])
    actions = torch.tensor([[[1, 1, 0, 0], [0, 1, 1, 1]], [[1, 0, 0, 0], [0, 1, 1, 0]]]).bool()
    completion = Completion(tokens, actions, torch.tensor([False, True]))
    first, second = keep_completions([query("a")], completion, Streams(0, 8, 9, 1, 1))
    assert (first.text, first.audio, first.text_actions, first.audio_actions) == (
        [5, 6, 0, 0],
        [9, 9, 3, 1],
        "1100",
        "0111",
    )
    assert (second.sample, second.text, second.audio_actions) == (1, [7, 0, 0], "011") and second.blanks == [0, 9]
    assert (first.finished, second.finished) == (False, True)
    again = demonstration(second)
    assert torch.equal(again[0], tokens[1, :, :3]) and torch.equal(again[1], actions[1, :, :3])


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Two samples of eight queries by the shipped policy, with their tokens."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few = {}
        for split in ("train", "val"):
            texts = sources.text_queries(split)
            few[split] = [q for f in FACTORS for q in [q for q in texts if q.factor == f][:2]]
        patch.setattr(sources, "text_queries", few.__getitem__)
        patch.setattr(spoken, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
        options = ["--model.samples=2", "--model.written=null", "--model.others=0", "--model.keep_tokens=true"]
        options += ["--model.sampling.max_steps=110", "--data.batch_size=8", "--data.source.init_args.demonstrated=1.0"]
        dispatch(["predict", "--config", "preferences.yaml", *options, "--progress.refresh_rate=0"])
        yield folder


def test_lengths_count_the_learned_answer_where_the_family_does():
    kept = [KeptCompletion("a", 0, [1] * 40, [2] * 40, "1" * 40, "1" * 40, [0, 0], True)]
    assert Answered(RawItems([None], False, [25.0]), kept).lengths == [65.0]


def test_samples_are_kept_once_each_with_their_tokens(sampled):
    data = sampled / "runs/preferences/data"
    kept = read_jsonl(data / "train_completions.jsonl", KeptCompletion)
    names = [(k.query_id, k.sample) for k in kept]
    assert names == sorted(set(names)) and len(kept) == 4 * 2 * 2  # texts, styles, samples
    assert {(p.query_id, p.sample) for p in read_jsonl(data / "train.jsonl", Preference)} <= set(names)


FIT = ["fit", "--config", "sft_fifth.yaml", "--config", "controls/rejection.yaml"]
FIT += ["--data.source.init_args.seed=400", "--data.judged=runs/preferences/data", "--data.batch_size=4"]
FIT += ["--progress.refresh_rate=0"]


def test_learned_answers_become_likelier(sampled):
    options = ["--data.floor=1", "--trainer.max_steps=12", "--trainer.max_epochs=-1", "--model.lr=0.001"]
    dispatch([*FIT, *options, "--trainer.log_every_n_steps=1", "--model.warmup_steps=0"])
    losses = losses_of(sampled / "runs/rejection/version_0")
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_the_reference_s_best_answers_hold_the_voice_beside_a_reward_on_words(sampled):
    """`controls/anchor_audio.yaml` over GRPO, whose source and processor stay. The same batches, held and as good as
    not: before the first update both runs' answers are as likely, then those that are held are likelier."""
    options = ["--config", "grpo.yaml", "--config", "controls/anchor_audio.yaml", "--data.judged=runs/preferences/data"]
    options += ["--data.source.init_args.seed=400", "--data.batch_size=4", "--model.group_size=2"]
    options += ["--model.reward=TokenCountReward", "--model.reward.token=5", "--model.sampling.max_steps=6"]
    options += ["--trainer.max_steps=5", "--model.warmup_steps=0", "--model.lr=0.0002", "--progress.refresh_rate=0"]
    found = {}
    for name, weight in (("held", 1.0), ("free", 1e-9)):
        run = [f"--model.anchor.audio={weight}", f"--trainer.logger.version={name}", "--trainer.precision=32-true"]
        dispatch(["fit", *options, *run])
        lines = (sampled / f"runs/grpo_anchor/{name}/metrics.jsonl").read_text().splitlines()
        found[name] = [line["train/anchor/audio"] for line in map(json.loads, lines) if "train/anchor/audio" in line]
    held, free = found["held"], found["free"]
    assert len(held) == len(free) == 5 and held[0] == free[0] and sum(held[1:]) < 0.8 * sum(free[1:]), found


def test_what_cannot_be_learned_is_one_line(sampled):
    short = ["--trainer.max_steps=1", "--trainer.max_epochs=-1"]
    with pytest.raises(UserError, match="at least one must reach 5.5; the best has"):
        dispatch([*FIT, *short, "--data.floor=5.5"])
    with pytest.raises(UserError, match="balance must be 0 .* or at least 1; got 0.5"):
        dispatch([*FIT, *short, "--data.balance=0.5"])
    with pytest.raises(UserError, match="must hold train_completions.jsonl; it does not; sample with"):
        dispatch([*FIT, *short, "--data.judged=runs"])
    path = sampled / "runs/preferences/data/train_completions.jsonl"
    rows = read_jsonl(path, KeptCompletion)
    path.unlink()
    append_jsonl(path, [row for row in rows if row.query_id != rows[0].query_id])
    with pytest.raises(UserError, match=f"lacks those of '{rows[0].query_id}' .1 such"):
        dispatch([*FIT, *short, "--data.floor=1"])
    path.write_text("".join(to_json(row) + "\n" for row in rows))


def test_answers_of_another_processor_are_told(tmp_path, capsys):
    """Of another codec, each token is another sound, whatever the folder's answers sounded like."""
    own = TinyProcessor()
    for sha in ("", own.config_sha, "0" * 16):
        (tmp_path / "made_from.json").write_text(json.dumps({"processor": sha}))
        tell_other_voice(tmp_path, own)
    told = capsys.readouterr().err
    assert told.count("drawn with another processor") == 1 and "0" * 16 in told
