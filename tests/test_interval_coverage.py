"""The shipped coverage of every interval, and that the script makes it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lightning_paras2s.bench.shares import tango
from lightning_paras2s.sweeping.points import MIN_SEEDS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "speed"))
import intervals as script  # noqa: E402

SEEDS = ((2, 2), (2, 3), (3, 3), (5, 5))
ROWS = [json.loads(line) for line in (ROOT / "results/coverage.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row["interval"] for row in ROWS])
def test_every_shown_interval_covers_at_the_nominal_rate(row):
    assert row["repeats"] == 1000 and tuple(map(int, row["pairs"])) in (script.PAIRS, script.PAIRS + script.MANY)
    for pairs, cell in row["pairs"].items():
        assert cell["coverage"] is None or 0.93 <= cell["coverage"] <= 0.97, (row["interval"], pairs, cell)
    assert [*row["pairs"].values()][-1]["coverage"] is not None and row["pairs"]["3"]["coverage"] is None


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


def student(better: int, worse: int, n: int) -> tuple[float, float, float]:
    values = np.repeat([1.0, -1.0, 0.0], [better, worse, n - better - worse])
    return values.mean(), *stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))


# docs/log.md, 2026-11-29: items, how often the first alone is right, and the second; how many must differ; the share of
# experiments that show an interval, and of those that hold the truth.
EXACT = [
    (student, 40, 0.05, 0.0, 1, 0.87, 0.996),
    (student, 100, 0.05, 0.0, 1, 0.99, 0.883),
    (tango, 40, 0.1, 0.0, 3, 0.78, 0.980),
    (tango, 40, 0.05, 0.0, 3, 0.32, 0.990),
    (tango, 100, 0.05, 0.0, 3, 0.88, 0.968),
    (tango, 100, 0.15, 0.0, 3, 1.00, 0.933),
    (tango, 120, 0.01, 0.0, 3, 0.12, 0.988),
    (tango, 300, 0.015, 0.0015, 3, 0.87, 0.932),
    (tango, 100, 0.02, 0.0, 5, 0.05, 0.695),
]


@pytest.mark.parametrize(("interval", "n", "better", "worse", "fewest", "shown", "covered"), EXACT)
def test_coverage_of_rare_differences_by_the_sum_over_all_outcomes(interval, n, better, worse, fewest, shown, covered):
    of_all = of_held = 0.0
    for b in range(45):
        for c in range(15 if worse else 1):
            chance = stats.multinomial.pmf([b, c, n - b - c], n, [better, worse, 1 - better - worse]) if b < n else 0
            if b + c >= fewest and chance > 1e-9:
                _, low, high = interval(b, c, n)
                of_all, of_held = of_all + chance, of_held + chance * (low <= better - worse <= high)
    assert (of_all, of_held / of_all) == (pytest.approx(shown, abs=0.006), pytest.approx(covered, abs=0.0006))


# Where the package makes an interval: file -> the rows of the experiments that measure it there (their beginnings).
MADE = {
    "bench/statistics.py": "difference, overall, difference of two shares",  # compare_systems
    "bench/summary.py": "mean, label_swap_gain, pair_accuracy, pair_min",
    "bench/items.py": "seeds, mean, pair_accuracy",
    "bench/headline.py": "seeds",
    "bench/skills.py": "mean of a skill, change of a skill",
    "bench/outside_numbers.py": "mean word error rate",
    "bench/measuring.py": "mean, mean of a skill, pearson",  # pooled: a jackknife, as of a correlation
    "bench/pairs/arena.py": "strength",
    "bench/pairs/meetings.py": "kappa of verdicts",
    "bench/people/agreement.py": "pearson, spearman, kendall, alpha",
    "bench/people/reliability.py": "pearson, alpha",
    "bench/diagnostics/judge_table.py": "pearson, spearman, gain of a correlation",
    "bench/diagnostics/voice_or_words.py": "share of recordings, difference of shares, mean over factors of shares",
    "sweeping/differences.py": "seeds, difference of two points",
}
NAMES = "macro_mean macro_difference mean_over_columns difference_over_columns clustered_mean macro_share half_widths"
NAMES += " jackknife correlation_gain correlation krippendorff_interval"
MAKERS = rf"(?<!def )\b(?:(?:{'|'.join(NAMES.split())})\(|estimate\((?:macro_)?parts\b)"
# What may know a quantile: the makers themselves. `elo_spread95` is the spread over orders of the games, no interval of
# anything.
KNOWING = {"shares.py", "statistics.py", "seeds.py", "points.py", "differences.py", "strength.py", "arena.py"}
KNOWING |= {"resampling.py", "reliability.py"}


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


def test_two_seeds_are_too_few_and_three_are_enough():
    """docs/log.md, 2026-11-29."""
    rows = [json.loads(line) for line in (ROOT / "results/coverage_points.jsonl").read_text().splitlines()]
    of = {seeds: [row["coverage"] for row in rows if row["seeds"] == list(seeds)] for seeds in SEEDS}
    assert {len(values) for values in of.values()} == {4} and {row["repeats"] for row in rows} == {1000}
    assert sorted(of[2, 2])[:2] == [0.917, 0.921] and min(of[2, 3]) == 0.921
    assert (min(of[3, 3]), min(of[5, 5])) == (0.957, 0.942)
    assert MIN_SEEDS == 3
