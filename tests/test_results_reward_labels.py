"""What docs/log.md says of reward models of few labels comes from shipped rows."""

from __future__ import annotations

from pathlib import Path

from lightning_paras2s.running.files import rows_in

ROOT = Path(__file__).parents[1]
TITLE = "## 2026-11-29: a reward model of a tenth of the labels misleads\n"


def section() -> str:
    return (ROOT / "docs/log.md").read_text(encoding="utf-8").partition(TITLE)[2].partition("\n## ")[0]


def test_reward_rises_where_the_judges_score_falls():
    rows = rows_in(ROOT / "results/sweep_reward_labels.jsonl")
    (run,) = [row for row in rows if (row["point"]["labels"], row["seed"]) == (204, 1)]
    curve = run["curves"]["reward"]
    start, end = (run["systems"][name] for name in ("sft_fifth", "grpo"))
    for before, after in (
        (sum(curve[:20]) / 20, sum(curve[-20:]) / 20),
        (start["mean"], end["mean"]),
        (start["audit_mean"], end["audit_mean"]),
    ):
        assert f"from {before:.2f} to {after:.2f}" in section()


def test_correlation_over_steps_of_training():
    told = {row["step"]: row for row in rows_in(ROOT / "results/reward_labels_steps.jsonl")}
    for step in (400, 500, 1500):
        assert f"{told[step]['pearson']:.2f} after {step:,} steps".removeprefix("0") in section()
    assert f"from {told[500]['loss']:.2f} to {told[1500]['loss']:.2f}" in section()
