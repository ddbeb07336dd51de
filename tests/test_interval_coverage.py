"""The shipped coverage of every interval, and that the script makes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "speed"))
import intervals as script  # noqa: E402

ROWS = [json.loads(line) for line in (ROOT / "results/coverage.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row["interval"] for row in ROWS])
def test_every_shown_interval_covers_at_the_nominal_rate(row):
    assert row["repeats"] == 1000 and list(map(int, row["pairs"])) == [2, 3, 5, 10, 20, 40]
    for pairs, cell in row["pairs"].items():
        assert cell["coverage"] is None or 0.93 <= cell["coverage"] <= 0.97, (row["interval"], pairs, cell)
    assert row["pairs"]["40"]["coverage"] is not None and row["pairs"]["3"]["coverage"] is None


def test_script_counts_what_is_shown_and_what_covers():
    intervals = iter([((0.0, 2.0), 1.0), ((0.0, 0.5), 1.0), ((np.nan, np.nan), 1.0), ((None, None), 1.0)])
    assert script.share_covered(lambda: next(intervals), 4) == {"shown": 0.5, "coverage": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("metric", list(script.METRICS))
def test_intervals_cover_again(metric):
    """As the script, other draws: 3 sd of a binomial of 1,000 are .021."""
    random = np.random.default_rng(7)
    rates = script.POPULATIONS["grpo"]
    values = {f: script.METRICS[metric](script.population(r, random)) for f, r in rates.items()}
    found = script.share_covered(lambda: script.of_factors(metric, values, 20, random), 1000)
    assert found["shown"] == 1 and abs(found["coverage"] - 0.95) <= 0.021


# Where the package makes an interval: file -> the rows of the experiments that measure it there (their beginnings).
MADE = {
    "bench/statistics.py": "difference, overall",  # compare_systems
    "bench/summary.py": "mean, label_swap_gain, pair_accuracy, pair_min",
    "bench/items.py": "seeds, mean, pair_accuracy",
    "bench/headline.py": "seeds",
    "bench/skills.py": "mean of a skill, change of a skill",
    "bench/audit.py": "mean word error rate",
    "bench/measuring.py": "mean, mean of a skill, pearson",  # pooled: a jackknife, as of a correlation
    "bench/pairs/arena.py": "strength, kappa of verdicts",
    "bench/people/agreement.py": "pearson, spearman, kendall, alpha",
    "bench/people/reliability.py": "pearson, alpha",
    "bench/diagnostics/judge_table.py": "pearson, spearman, gain of a correlation",
    "bench/diagnostics/voice_or_words.py": "share of recordings, difference of shares, mean over factors of shares",
    "sweeping/points.py": "seeds, difference of two points",
}
NAMES = "macro_mean macro_difference mean_over_columns difference_over_columns clustered_mean macro_share half_widths"
NAMES += " jackknife correlation_gain correlation krippendorff_interval"
MAKERS = rf"(?<!def )\b(?:(?:{'|'.join(NAMES.split())})\(|estimate\((?:macro_)?parts\b)"
# What may know a quantile: the makers themselves. `elo_spread95` is the spread over orders of the games, no interval of
# anything.
KNOWING = {"statistics.py", "seeds.py", "strength.py", "resampling.py", "reliability.py", "arena.py", "points.py"}


def test_every_interval_of_the_package_has_its_coverage_measured():
    package = ROOT / "lightning_paras2s"
    sources = {str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in package.rglob("*.py")}
    assert {name for name, text in sources.items() if re.search(MAKERS, text)} == set(MADE)
    quantiles = r"\bppf\(|np\.(?:nan)?percentile\(|proportion_confint|conf_int\(|confidence_interval|1\.96"
    assert {Path(name).name for name, text in sources.items() if re.search(quantiles, text)} <= KNOWING
    names = [row["interval"] for row in ROWS]
    for rows in MADE.values():
        for start in rows.split(", "):
            assert any(name.startswith(start) or f", {start}" in name for name in names), start
