"""Shipped grids of several stages from end to end, each with one step, a few queries and the real subcommands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_paras2s.bench.queries.synthesize import synthesize
from lightning_paras2s.hearing.controls import missing_piper
from lightning_paras2s.sweeping.sweep import sweep

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
ONLY = "--data.source.init_args.limit 8"
SHORT = "--model.sampling.max_steps 20"
RL = f" --trainer.max_steps 1 --data.batch_size 2 --model.group_size 2 {SHORT} {ONLY}"
# of each split two batches: 1 would be read as 1.0, all of them
JUDGED = f" --trainer.limit_predict_batches 2 --data.batch_size 4 --model.samples 2 --model.others 1 {SHORT}"
REWARD = " --trainer.max_steps 1 --trainer.val_check_interval 1 --data.batch_size 4"
FEW = {
    "sft": " --trainer.max_steps 1 --data.batch_size 4 --data.source.init_args.rehearsal 0",
    "preferences": JUDGED,
    "samples": JUDGED,
    "more_samples": JUDGED.replace("batches 2", "batches 4") + " --data.source.init_args.limit 16",
    "reward": REWARD,
    "reward_constrained": REWARD,
    "reward_unconstrained": REWARD,
    "grpo": RL,
    "grpo_constrained": RL,
    "grpo_unconstrained": RL,
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder whose speech is kept in the checkout's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (ROOT / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache").symlink_to(ROOT / "cache")
    return tmp_path


def grid(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"configs/sweeps/{name}.yaml").read_text())


def run(name: str, **changed: Any) -> dict[str, Any]:
    """A shipped grid with few steps; its first seed alone."""
    shipped = grid(name)
    stages = {stage: text + FEW.get(stage, "") for stage, text in shipped["stages"].items()}
    return sweep(**shipped | {"stages": stages, "seeds": shipped["seeds"][:1], "workers": 1} | changed)


def asked(source: str) -> dict[str, Any]:
    """A pair of each factor, spoken."""
    synthesize("queries", source=source, split="test", limit=1)
    return {"manifest": "queries/queries.jsonl", "pairs": 1}


def test_budget_goes_from_demonstrations_and_judged_samples_to_a_policy(place):
    result = run("budget", points=[{"share": 0.005, "judged": 8, "renditions": 1}], **asked("embedded"))
    assert result["failed"] == []
    (row,) = result["table"]
    assert set(row["systems"]) == {"sft", "grpo"} and -1 <= row["columns"]["correlation"] <= 1
    assert list(row["seconds"]) == ["sft", "preferences", "reward", "grpo", "evaluate"] and row["steps"] == 1
    folder = next((place / "runs/sweep_budget").glob("share*"))
    assert (folder / "reward/scorer.safetensors").is_file() and not (folder / "preferences/data").exists()


def test_labels_go_from_a_supervised_policy_to_the_judge(place):
    point = {"share": 0.005, "labels": 8, "renditions": 1}
    result = run("labels", points=[point], keep_checkpoints=True, **asked("embedded"))
    assert result["failed"] == []
    (row,) = result["table"]
    assert set(row["systems"]) == {"sft", "grpo"} and row["steps"] == 1
    assert list(row["seconds"]) == ["sft", "grpo", "evaluate"]
    folder = next((place / "runs/sweep_labels").glob("share*"))
    assert Path(init_of(folder / "grpo")).resolve() == (folder / "sft/policy.safetensors").resolve()


def test_labels_reward_shares_a_supervised_policy_and_bounds_one_reward_model(place):
    point = {"share": 0.005, "labels": 8, "renditions": 1}
    result = run("labels_reward", points=[point], keep_checkpoints=True, **asked("embedded"))
    assert result["failed"] == []
    (row,) = result["table"]
    assert set(row["systems"]) == {"sft", "grpo_constrained", "grpo_unconstrained"}
    assert set(row["columns"]) == {"constrained", "constrained_within", "unconstrained", "unconstrained_within"}
    assert row["steps"] == 1
    folder = next((place / "runs/sweep_labels_reward").glob("share*"))
    assert list(row["seconds"]) == [
        *("sft", "samples", "reward_constrained", "grpo_constrained"),
        *("more_samples", "reward_unconstrained", "grpo_unconstrained", "evaluate"),
    ]
    # all RL starts from the one supervised policy
    for stage in ("grpo_constrained", "grpo_unconstrained"):
        assert Path(init_of(folder / stage)).resolve() == (folder / "sft/policy.safetensors").resolve()
    # one reward model has the labels of 8 recordings; the other hears these and 8 more
    heard = [json.loads(line) for line in (folder / "samples/data/train.jsonl").read_text().splitlines()]
    numbers = {int(line["query_id"].rsplit("-", 1)[1]) for line in heard}
    assert numbers <= set(range(16)) and max(numbers) > 7
    weights = [(folder / f"reward_{kind}/scorer.safetensors").read_bytes() for kind in ("constrained", "unconstrained")]
    assert weights[0] != weights[1]


def init_of(run: Path) -> str:
    return yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["init_from"]


def test_reward_models_of_few_labels_start_from_one_policy(place):
    result = run("reward_labels", points=[{"labels": 8}], **asked("embedded"))
    assert result["failed"] == []
    (row,) = result["table"]
    assert set(row["systems"]) == {"sft_fifth", "grpo"} and -1 <= row["columns"]["correlation"] <= 1
    assert list(row["seconds"]) == ["samples", "reward", "grpo", "evaluate"] and row["steps"] == 1
    folder = next((place / "runs/sweep_reward_labels").glob("labels*"))
    assert init_of(folder / "grpo").endswith("embedded/sft_fifth.safetensors")
    scorer = yaml.safe_load((folder / "grpo/config.yaml").read_text())["model"]["init_args"]["reward"]["init_args"]
    assert Path(scorer["scorer"]["init_args"]["path"]).resolve() == (folder / "reward/scorer.safetensors").resolve()


def test_unlabelled_learns_from_the_base_policys_own_answers(place):
    few = {
        "samples": f" --trainer.limit_predict_batches 2 --data.batch_size 4 --model.samples 2 {ONLY}",
        "rejection": f" --trainer.max_steps 1 --data.batch_size 2 --data.floor 1 {ONLY}",
        "grpo": RL,
    }
    stages = {stage: text + few[stage] for stage, text in grid("unlabelled")["stages"].items()}
    result = run("unlabelled", stages=stages, **asked("embedded"))
    assert result["failed"] == []
    assert set(result["table"][0]["systems"]) == {"base", "rejection", "grpo"}
    folder = next((place / "runs/sweep_unlabelled").glob("share*"))
    assert all(init_of(folder / stage).endswith("embedded/base.safetensors") for stage in ("rejection", "grpo"))


def test_generalisation_speaks_anew_at_each_point(place):
    shipped = grid("generalisation")
    points = [point for point in shipped["points"] if point["heard"] in ("noise at -5 dB", "Piper")]
    made = shipped["stages"]["made"].replace("--limit 25", "--limit 1")
    result = run("generalisation", points=points, stages={"made": made})
    found = {row["point"]["heard"]: row for row in result["table"]}
    assert found["noise at -5 dB"]["systems"]["grpo"]["n"] == 8 and found["noise at -5 dB"]["steps"] == 0
    if missing_piper() is not None:
        assert found["Piper"]["status"] == "failed" and "piper" in found["Piper"]["reason"]


def test_domains_are_learned_apart_and_tested_together(place):
    result = run("domains", points=[{"domain": "second"}], **asked("spare"))
    assert result["failed"] == []
    pairs = result["table"][0]["systems"]["grpo"]["pairs"]
    assert len(pairs) == 4 and all("-train-" in name for name in pairs)
    assert set(result["table"][0]["systems"]) == {"sft_fifth", "grpo"}


def test_hacking_is_watched_and_heard_from_outside(place):
    result = run("hacking", points=[{"judge": "neither", "lacks": ["gibberish", "mismatch"]}], **asked("embedded"))
    assert result["failed"] == []
    (row,) = result["table"]
    assert row["judge"] == "embedded-rubric-2"  # it is scored by the whole judge
    assert row["probes"]["step"] == [0] and row["probes"]["judge"][0] is not None
    assert row["outside"]["systems"]["grpo"]["n"] == 8
    folder = next((place / "runs/sweep_hacking").glob("judge*"))
    assert "LenientJudge" in (folder / "grpo/config.yaml").read_text()
    assert json.loads((folder / "grpo/metrics.jsonl").read_text().splitlines()[0])
