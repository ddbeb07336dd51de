"""How many times fewer demonstrations, and pictures of curves with gaps: expected numbers are derived here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_paras2s.sweeping.differences import difference, gain
from lightning_paras2s.sweeping.efficiency import crossing, times_fewer
from lightning_paras2s.sweeping.pictures import picture
from lightning_paras2s.sweeping.points import Results, points_of

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
NOISE = [-0.5, 0.5] * 10


def row(share: float, seed: int, **scores: float) -> dict:
    """40 pairs of two factors, half of them 0.5 above the score, half below."""
    pairs = {name: {f"{f}/{i}": [score + n] * 2 for f in ("age", "gender") for i, n in enumerate(NOISE)}
             for name, score in scores.items()}  # fmt: skip
    about = {"status": "ok", "queries_sha": "x", "judge": "toy", "label_source": "gold", "steps": 120}
    systems = {name: {"pairs": of, "audit_pairs": of} for name, of in pairs.items()}
    return {"point": {"share": share, "labels": int(share * 2040)}, "seed": seed, "systems": systems} | about


def sft(share: float) -> float:
    """0.2 more with each doubling."""
    return 3 + 0.2 * float(np.log2(share / 0.05))


def curve(reached: float, seeds: int = 3, shares: tuple[float, ...] = SHARES) -> dict[float, list[dict]]:
    """RL's seeds are 0.01 apart, SFT's alike."""
    return {s: [row(s, k, sft=sft(s), rl=reached + 0.01 * (k - (seeds - 1) / 2)) for k in range(seeds)] for s in shares}


def test_crossing_is_read_off_between_two_amounts():
    amounts, scores = (0.1, 0.2, 0.4), (2.0, 3.0, 3.5)
    assert crossing(amounts, scores, 2.5) == pytest.approx(0.1 * 2**0.5)  # half way, in the logarithm
    assert crossing(amounts, scores, 3.5) == pytest.approx(0.4)
    assert crossing(amounts, scores, 3.6) == np.inf and crossing(amounts, scores, 1.9) == 0
    assert crossing(amounts, (2.0, 3.0, 2.0), 2.5) == pytest.approx(0.1 * 2**0.5)  # the first of two


def test_times_are_those_at_which_scores_are_not_told_apart():
    found = times_fewer(curve(sft(0.5)), 0.1, ("rl", "sft"))
    # Pairs differ alike, so that seeds alone count: deviation 0.01 of three, t(2 degrees of freedom) = 4.3027, half
    # width 0.024841. SFT is as far away a factor of 2 ** (0.024841 / 0.2) = 1.0899 above and below five times.
    assert found.value == pytest.approx(5.0) and (found.seeds, found.pairs) == (3, 40)
    step = 2.5 ** (1 / 99)  # of the amounts that are tried, inside the interval
    assert 5 / 1.0899 <= found.low < 5 / 1.0899 * step and 5 * 1.0899 / step < found.high <= 5 * 1.0899
    assert found.told() == f"5.0 [{found.low:.1f}, {found.high:.1f}]"


def test_times_are_open_beyond_the_grid():
    above = times_fewer(curve(4.5), 0.1, ("rl", "sft"))  # SFT ends at 3.86
    assert (above.value, above.low, above.high) == (np.inf, pytest.approx(10), np.inf)
    assert above.told() == "10 or more [10 or more, 10 or more]"
    below = times_fewer(curve(2.5), 0.1, ("rl", "sft"))
    assert below.value == 0 and below.low == 0 and below.high == pytest.approx(0.5)
    assert below.told() == "0.5 or less [0.5 or less, 0.5 or less]"
    near = times_fewer(curve(sft(1.0)), 0.1, ("rl", "sft"))
    assert near.high == np.inf and near.low == pytest.approx(10 / 1.0899, rel=0.01)  # a step of what is tried


def test_amounts_of_one_seed_are_left_out():
    made = curve(sft(0.5))
    made[0.2], made[1.0] = made[0.2][:1], made[1.0][:2]
    found = times_fewer(made, 0.1, ("rl", "sft"))
    assert found.value == pytest.approx(5.0) and found.seeds == 2 and found.most == pytest.approx(10)
    # what is read off the other amounts has three seeds: two, 0.01 apart, would have t(1) * 0.01 / 2 = 0.064 for 0.025
    assert found.low == pytest.approx(5 / 1.0899, rel=0.01)  # a step of what is tried
    assert times_fewer(made, 0.2, ("rl", "sft")) is None and times_fewer(made, 0.3, ("rl", "sft")) is None
    assert times_fewer({0.1: made[0.1]}, 0.1, ("rl", "sft")) is None


def test_times_compare_the_answers_that_all_have():
    """RL, as good as SFT at five times its amount, is silent on ten pairs of forty, on which all score lower."""
    made = curve(sft(0.5))
    for rows in made.values():
        for one in rows:
            for name, pair in one["systems"]["rl"]["pairs"].items():
                pair[:] = [None if int(name.split("/")[1]) % 4 == 0 else x for x in pair]
    found = times_fewer(made, 0.1, ("rl", "sft"))
    assert found.value == pytest.approx(5.0) and (found.seeds, found.pairs) == (3, 30)


def test_gain_pairs_the_seeds_of_the_same_runs():
    rows = [row(0.1, seed, sft=2.0 + seed, rl=3.0 + seed) for seed in range(3)]
    for one in rows:  # RL gains 0.8 or 1.2, by pair
        for i, pair in enumerate(one["systems"]["rl"]["pairs"].values()):
            pair[:] = [score + 0.2 * (-1) ** (i // 2) for score in pair]
    found = gain(rows, ("rl", "sft"))
    # Each factor: 20 pair gains 0.2 from their mean, variance 0.04 * 20 / 19, of their mean / 20; the mean of two
    # factors has half of that, at 38 degrees of freedom: t = 2.0244. Seeds, a whole score apart, gain the same.
    assert found.value == pytest.approx(1.0) and found.seeds == 3
    assert found.high - 1 == pytest.approx(2.0244 * (0.04 * 20 / 19 / 20 / 2) ** 0.5, abs=1e-4)
    assert found.verdict == "higher" and difference(rows, rows, ("rl", "sft")).verdict == "undecided"
    assert gain(rows[:1], ("rl", "sft")).told() == "open: one seed, in which the first is higher"


def test_points_of_numbers_are_in_order_whichever_came_first():
    rows = [row(share, seed, sft=2.0) for seed in (1, 2) for share in (0.5, 0.05, 1.0)]
    assert [point["share"] for point, _ in points_of(rows)] == [0.05, 0.5, 1.0]
    named = [one | {"point": {"heard": name}} for one, name in zip(rows, ("b", "a", "c"), strict=False)]
    assert [point["heard"] for point, _ in points_of(named)] == ["b", "a", "c"]


def test_picture_of_labels_says_what_was_not_run_and_joins_nothing_over_it(tmp_path: Path):
    made = {s: rows for s, rows in curve(3.5).items() if s not in (0.2, 1.0)}
    rows = [*made[0.05], *made[0.1][:1], *made[0.5]]
    for one in rows:
        one["systems"] |= {"grpo": one["systems"]["rl"]}
    write(tmp_path / "sweep_labels.jsonl", rows)
    write(tmp_path / "sweep_unlabelled.jsonl", [row(0.0, 1, base=2.0, rejection=2.25)])
    axis = picture("labels", Results(tmp_path)).axes[0]
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    assert ticks == ["0%\n1 seed", "5%\n3 seeds", "10%\n1 seed", "20%\nnot run", "50%\n3 seeds", "100%\nnot run"]
    joined = [line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 5 and line.get_color() == "#4a8f5b"]
    assert np.isfinite(joined[0]).tolist() == [True, True, False, True, False]
    flat = [line.get_ydata() for line in axis.lines if line.get_linestyle() == "--"]
    assert [list(line) for line in flat] == [[2.25, 2.25]]  # rejection sampling, at every amount
    learned = [one | {"systems": {"grpo_constrained": one["systems"]["rl"]}} for one in made[0.5][:2]]
    write(tmp_path / "sweep_labels_reward.jsonl", learned)
    axis = picture("labels", Results(tmp_path)).axes[0]
    ticks = [tick.get_text() for tick in axis.get_xticklabels()]
    assert ticks[1] == "5%\n3 seeds\nnot run*" and ticks[4] == "50%\n3 seeds\n2 seeds*"
    assert axis.get_xlabel().endswith("*: with a reward model")
    picture("labels", Results(tmp_path / "none"))  # without rows, too


def test_grids_over_labels_train_the_same_supervised_policies():
    grids = (Path(__file__).parents[1] / f"configs/sweeps/{name}.yaml" for name in ("labels", "labels_reward"))
    first, then = (yaml.safe_load(path.read_text()) for path in grids)
    assert first["stages"]["sft"] == then["stages"]["sft"] and first["points"] == then["points"]


def test_picture_of_beta_has_a_place_for_every_point(tmp_path: Path):
    rows = [row(0.0, seed, grpo=2.5) | {"point": {"beta": beta}} for beta, seed in ((0.2, 1), (0.2, 2), (0.0, 1))]
    for one in rows:
        one["skills"] = {"read": {"grpo": {"change": -0.1, "change_ci95": [-0.2, 0.0], "n": 40}}}
    write(tmp_path / "sweep_beta.jsonl", rows)
    scores, skills = picture("beta", Results(tmp_path)).axes
    for axis in (scores, skills):
        ticks = [tick.get_text() for tick in axis.get_xticklabels()]
        assert ticks == ["0\n1 seed", "0.02\nnot run", "0.05\nnot run", "0.2\n2 seeds", "0.8\nnot run"]
    assert [text.get_text() for text in skills.get_legend().get_texts()] == ["read"]
    picture("beta", Results(tmp_path / "none"))


def test_picture_of_a_grid_has_the_scores_and_what_explains_them(tmp_path: Path):
    shares = {2: (0.3, 0.4), 8: (0.1,)}
    rows = [
        row(0.0, seed, grpo=2.5) | {"point": {"G": size}, "zero_variance_share": share}
        for size, values in shares.items()
        for seed, share in enumerate(values, 1)
    ]
    write(tmp_path / "sweep_G_steps.jsonl", rows)
    scores, equal = picture("G_steps", Results(tmp_path)).axes
    for axis in (scores, equal):
        ticks = [tick.get_text() for tick in axis.get_xticklabels()]
        assert ticks == ["2\n2 seeds", "4\nnot run", "8\n1 seed", "16\nnot run"]
    np.testing.assert_allclose(equal.lines[0].get_ydata(), [0.35, np.nan, 0.1, np.nan])  # means over seeds
    assert equal.get_ylabel().startswith("share of groups with equal rewards") and equal.get_ylim()[0] == 0
    rows = [row(0.0, 1, grpo=2.5) | {"point": {"B": 4}, "last_quarter": {"kl": 0.7}}]
    write(tmp_path / "sweep_B_rollouts.jsonl", rows)
    kl = picture("B_rollouts", Results(tmp_path)).axes[1]
    assert kl.lines[0].get_ydata()[0] == 0.7
    picture("B_steps", Results(tmp_path))  # without rows, too


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
