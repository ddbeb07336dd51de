"""Points of a sweep from made rows: seeds pooled and compared by pair, worked by hand; what is no seed is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_paras2s.errors import UserError
from lightning_paras2s.sweeping.differences import difference, gain, noise_of, ratio, score
from lightning_paras2s.sweeping.points import column, first_worse, part_of, points_of


def row(seed: int, pairs: dict[str, list[float | None]], point: float = 0.0) -> dict:
    about = {"status": "ok", "queries_sha": "x", "judge": "toy", "label_source": "gold"}
    return {"point": {"beta": point}, "seed": seed, "systems": {"grpo": {"pairs": pairs}}} | about


def scored(shift: float, noise: list[float]) -> dict[str, list[float | None]]:
    """Pairs of two factors, both halves alike."""
    return {f"{f}/{i}": [shift + n, shift + n] for f in ("age", "gender") for i, n in enumerate(noise)}


def test_points_pool_seeds_and_are_compared_by_pair():
    noise = [-0.5, 0.5] * 10
    low = [row(seed, scored(2.0 + seed / 10, noise), 0.0) for seed in (0, 1)]
    high = [row(seed, scored(3.0 + seed / 10, noise), 0.2) for seed in (0, 1)]
    (_, first), (_, then) = points_of([*low, *high])
    assert score(first, "grpo").value == pytest.approx(2.05)  # 2.0 and 2.1
    found = difference(then, first, ("grpo", "grpo"))
    # Pairs differ alike (no variance of theirs); seeds of a point are 0.1 apart: variance 0.005 / 2 of each mean, so
    # t(2 degrees of freedom) * sqrt(2 * 0.0025) = 4.3027 * 0.070711
    assert found.value == pytest.approx(1.0) and found.high - found.value == pytest.approx(4.3027 * 0.070711, abs=1e-4)
    assert found.verdict == "higher" and found.detectable == pytest.approx((4.3027 + 1.0607) * 0.070711, abs=1e-4)
    assert difference(first, then, ("grpo", "grpo")).verdict == "lower"
    with pytest.raises(UserError, match="must share their queries"):
        score([*low, row(2, scored(2.0, noise)) | {"queries_sha": "y"}], "grpo")


def test_unscored_halves_are_left_out_of_a_point():
    pairs = scored(2.0, [0.0] * 10) | {"age/0": [None, 4.0]}
    # age: 18 halves of 2 and one of 4 in 19; gender: 2
    assert score([row(0, pairs)], "grpo").value == pytest.approx(((18 * 2 + 4) / 19 + 2) / 2)


def test_pairs_that_differ_widen_a_comparison():
    first = [row(0, scored(2.0, [0.0] * 10))]
    then = [row(0, scored(2.0, [-0.5, 0.5] * 5))]
    found = difference(then, first, ("grpo", "grpo"))
    # each factor: 10 pair differences of +-0.5, variance 2.5 / 9, of their mean / 10; the mean of two factors has half
    # of that, 0.0138889, at 18 degrees of freedom: t = 2.1009
    assert found.high == pytest.approx(2.1009 * (2.5 / 9 / 10 / 2) ** 0.5, abs=1e-4) and found.verdict == "undecided"
    few = [row(0, {"age/0": [2.0, 2.0], "age/1": [3.0, 3.0]})]
    assert difference(few, few, ("grpo", "grpo")).verdict == "no interval"


def test_points_are_compared_by_the_names_of_their_pairs():
    noise = [0.0] * 10
    others = {name.replace("age", "emotion"): scores for name, scores in scored(2.0, noise).items()}
    with pytest.raises(UserError, match="must have answered the same pairs"):
        difference([row(0, scored(2.0, noise))], [row(0, others)], ("grpo", "grpo"))
    # of the same texts, heard otherwise: another manifest, and comparable
    heard = row(0, scored(2.5, noise)) | {"queries_sha": "y"}
    assert difference([heard], [row(0, scored(2.0, noise))], ("grpo", "grpo")).value == pytest.approx(0.5)


def test_part_of_a_point_holds_the_pairs_that_were_asked_for():
    both = row(0, scored(2.0, [0.0] * 10) | {f"age/{i}": [4.0, 4.0] for i in range(5)})
    for cells in both["systems"].values():
        cells["audit_pairs"] = cells["pairs"]
    part = part_of([both], lambda pair: int(pair.split("/")[1]) < 5)
    # age: five pairs of 4; gender: five of 2
    assert score(part, "grpo").value == pytest.approx(3.0) and len(part[0]["systems"]["grpo"]["audit_pairs"]) == 10
    assert len(both["systems"]["grpo"]["pairs"]) == 20


def test_column_has_an_interval_over_seeds():
    rows_ = [{"columns": {"correlation": value}} for value in (0.7, 0.8)]
    found = column(rows_, "correlation")
    # t(1 degree of freedom) = 12.7062, deviation 0.0707107, of the mean / sqrt(2) = 0.05
    assert found.value == pytest.approx(0.75) and found.high - found.value == pytest.approx(12.7062 * 0.05, abs=1e-4)
    assert np.isnan(column(rows_[:1], "correlation").low)


def test_first_probe_that_hears_it_is_told():
    whole = [{"probes": {"step": [0, 19, 39], "judge": [3.0 + s, 3.1 + s, 3.2 + s], "wer": [0.1 + s] * 3}}
             for s in (0.0, 0.01, 0.02)]  # fmt: skip
    fallen = [{"probes": {"step": [0, 19, 39], "judge": [3.0 + s, 2.0 + s, 1.5 + s], "wer": [0.1 + s] * 3}}
              for s in (0.0, 0.01, 0.02)]  # fmt: skip
    assert first_worse(fallen, whole, "judge", "lower") == 19
    assert first_worse(whole, fallen, "judge", "lower") is None  # it is better
    assert first_worse(fallen, whole, "wer", "higher") is None
    assert first_worse(fallen[:1], whole, "judge", "lower") is None  # one seed says nothing of the others


def test_noise_is_the_tests_share_of_what_seeds_differ_by():
    random = np.random.default_rng(0)
    ease, pairs = random.normal(3, 1, 100), 100

    def seeds(apart: float) -> list[dict]:
        """Sixty, of which the answers to each of 200 queries vary by 1 beside what the seeds do."""
        made = []
        for seed in range(60):
            halves = ease + apart * random.normal() + random.normal(0, 1, (2, pairs))
            names = [f"{f}/{i}" for f in ("age", "gender") for i in range(pairs // 2)]
            made.append(row(seed, dict(zip(names, halves.T.tolist(), strict=True))))
        return made

    # the mean of 200 queries varies by 1 / 200 beside the seeds' own variance
    assert noise_of(seeds(0.0), "grpo") == pytest.approx(1.0, abs=0.35)
    assert noise_of(seeds(0.2), "grpo") == pytest.approx(0.005 / (0.04 + 0.005), abs=0.06)


def test_rows_of_two_recipes_are_no_seeds_of_one_point():
    rows_ = [row(seed, scored(2.0, [0.0] * 10)) for seed in (0, 1)]
    with pytest.raises(UserError, match=r"seeds of their own, and one recipe; .* got seeds 0, 0, 1"):
        points_of([*rows_, rows_[0] | {"config_sha": "another"}])
    with pytest.raises(UserError, match="got 120 steps, precision .*; 40 steps"):
        points_of([rows_[0] | {"steps": 120}, rows_[1] | {"steps": 40}])


def test_rows_whose_recipes_differ_are_no_seeds_of_one_point():
    """Of as many steps, with another learning rate: all were pooled without a word."""
    recipes = {1: {"policy": "a1"}, 2: {"policy": "a1", "skills": "c3"}, 3: {"policy": "b2"}}
    rows_ = [row(seed, scored(2.0, [0.0] * 10)) | {"recipe": recipe} for seed, recipe in recipes.items()]
    with pytest.raises(UserError, match=r"recipe of policy a1 \(seeds 1, 2\); .* b2 \(seeds 3\); take the rows of"):
        points_of(rows_)
    old = row(4, scored(2.0, [0.0] * 10))  # from before recipes were kept
    assert len(points_of([*rows_[:2], old])[0][1]) == 3


def test_points_of_two_judges_are_not_compared():
    first, then = ([row(0, scored(2.0, [0.0] * 10))] for _ in range(2))
    then[0]["judge"] = "another"
    with pytest.raises(UserError, match="one judge, ears and source of labels; got judge toy and another"):
        difference(first, then, ("grpo", "grpo"))


def test_points_of_a_judge_with_other_thresholds_are_not_compared():
    """It has the same name."""
    first, then = (row(seed, scored(2.0, [0.0] * 10)) | {"judge_sha": str(seed)} for seed in (0, 1))
    with pytest.raises(UserError, match="got judge_sha 0 and 1; judge one again"):
        difference([first], [then], ("grpo", "grpo"))
    with pytest.raises(UserError, match="to be pooled; got judge_sha 0 and 1; choose one"):
        score([first, then], "grpo")
    old = row(2, scored(2.0, [0.0] * 10))  # a row from before is taken at the judge's name
    assert difference([first], [old], ("grpo", "grpo")).value == 0


def half_failed(seed: int) -> dict:
    """Thirty hard pairs at 1 or 2, thirty easy ones at 4 or 5; GRPO is half a point worse on all that it answers, and
    silent on twenty of the hard ones."""
    random, base, grpo = np.random.default_rng(seed), {}, {}
    for i in range(60):
        low = 1 if i < 30 else 4
        base[f"age/{i}"] = [float(x) for x in random.integers(low, low + 2, 2)]
        grpo[f"age/{i}"] = [None, None] if i < 30 and i % 3 else [x - 0.5 for x in base[f"age/{i}"]]
    about = {"status": "ok", "queries_sha": "x", "judge": "toy", "label_source": "gold"}
    return {"point": {}, "seed": seed, "systems": {"sft": {"pairs": base}, "grpo": {"pairs": grpo}}} | about


def test_a_system_that_fails_on_hard_queries_gains_nothing_by_it():
    """It was told to be .3 "higher": its easy answers against all of the other's."""
    rows_ = [half_failed(seed) for seed in (1, 2, 3)]
    found = gain(rows_, ("grpo", "sft"))
    assert found.value == pytest.approx(-0.5) and (found.seeds, found.pairs) == (3, 40)
    assert gain(rows_, ("sft", "grpo")).value == pytest.approx(0.5)
    before = [x for one in rows_ for name, pair in one["systems"]["sft"]["pairs"].items() for x in pair
              if one["systems"]["grpo"]["pairs"][name][0] is not None]  # fmt: skip
    assert ratio(rows_, ("grpo", "sft")).value == pytest.approx(1 - 0.5 / np.mean(before))
    apart = difference(rows_, rows_, ("grpo", "sft"))
    assert apart.value == pytest.approx(-0.5) and apart.pairs == 40


def test_a_factor_that_one_system_never_answers_counts_for_neither():
    pairs = scored(2.0, [-0.5, 0.5] * 20)
    worse = {name: [x - 0.5 if name.startswith("gender") else None for x in of] for name, of in pairs.items()}
    one = row(0, pairs)
    one["systems"]["sft"] = {
        "pairs": {name: [1.0, 1.0] if name.startswith("age") else of for name, of in pairs.items()}
    }
    one["systems"]["grpo"] = {"pairs": worse}
    assert gain([one], ("grpo", "sft")).value == pytest.approx(-0.5)  # age, where SFT scores 1, is left out
    assert difference([one], [one], ("grpo", "sft")).value == pytest.approx(-0.5)


def test_a_difference_counts_the_pairs_and_seeds_that_were_scored():
    """Nothing of a factor, or of a seed, is scored: the difference is that of rows without them."""
    noise = list(np.random.default_rng(0).normal(0, 1, 40))

    def seeds(shift: float) -> list[dict]:
        return [row(k, {f"age/{i}": [shift + n + np.sin(k * i)] * 2 for i, n in enumerate(noise)}) for k in range(3)]

    def with_nothing(rows_: list[dict]) -> list[dict]:
        nothing = {f"gender/{i}": [None, None] for i in range(9)}
        found = [row(one["seed"], one["systems"]["grpo"]["pairs"] | nothing) for one in rows_]
        return [*found, row(9, dict.fromkeys(found[0]["systems"]["grpo"]["pairs"], [None, None]))]

    few = difference(seeds(3.0), seeds(2.0), ("grpo", "grpo"))
    many = difference(with_nothing(seeds(3.0)), with_nothing(seeds(2.0)), ("grpo", "grpo"))
    assert many == pytest.approx(few, rel=1e-9) and (many.seeds, many.pairs) == (3, 40) and np.isfinite(many.low)
    unscored = [row(k, {f"age/{i}": [x if i < 39 else None for x in (2.0 + n,) * 2] for i, n in enumerate(noise)})
                for k in range(3)]  # fmt: skip
    assert difference(seeds(3.0), unscored, ("grpo", "grpo")).verdict == "no interval"  # 39 pairs


def test_noise_of_a_point_with_one_scored_pair_in_a_factor_is_not_known():
    pairs = scored(2.0, [0.0] * 10)
    left = {name for name in pairs if name.startswith("age") or name == "gender/0"}
    found = [row(k, {n: [x + k if n in left else None for x in of] for n, of in pairs.items()}) for k in range(2)]
    assert np.isnan(noise_of(found, "grpo")) and np.isnan(difference(found, found, ("grpo", "grpo")).low)
