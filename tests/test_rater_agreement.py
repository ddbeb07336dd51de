"""How well raters agree: kappa, alpha, the human ceiling, bias; against published examples and other packages."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_paras2s.bench.people import reliability as agreement
from lightning_paras2s.errors import UserError


def test_quadratic_kappa_on_a_worked_table():
    # Two raters, scale 1..3; weights (i-j)^2. Observed disagreement: one pair off by 1, one by 2 of 4 -> (1 + 4) / 4 =
    # 1.25. Marginals a: 1:1/4 2:1/4 3:2/4; b: 1:2/4 2:1/4 3:1/4. Expected = sum p_i q_j (i-j)^2
    # = 1/4*(1/4*1 + 1/4*4) + 1/4*(2/4*1 + 1/4*1) + 2/4*(2/4*4 + 1/4*1) = .3125 + .1875 + 1.125 = 1.625
    assert agreement.cohen_kappa([1, 2, 3, 3], [1, 1, 3, 2], scale=(1, 2, 3)) == pytest.approx(1 - (0.5) / 1.625)
    assert agreement.cohen_kappa([1, 2, 3, 3], [1, 1, 3, 1], scale=(1, 2, 3)) == pytest.approx(
        1 - 1.25 / (1 / 4 * (1 / 4 * 4) + 1 / 4 * (3 / 4 + 1 / 4) + 2 / 4 * (3 / 4 * 4))
    )


def test_krippendorff_alpha_on_the_published_example():
    # Krippendorff (2011), data C/D: 4 observers, 12 units; alpha nominal .743, ordinal .815, interval .849
    # (pln-fing-udelar/fast-krippendorff#4 had another ordinal value).
    x = np.nan
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
        [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
    ]
    for level, expected in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert agreement.krippendorff_alpha(data, level) == pytest.approx(expected, abs=5e-4)


def test_krippendorff_alpha_is_negative_when_annotators_always_disagree():
    assert agreement.krippendorff_alpha([[1, 5, 1, 5], [5, 1, 5, 1]]) < 0


def test_human_ceiling_and_selection_of_agreed_items():
    ratings = [[1, 2, 3, 4, 1], [1, 2, 3, 4, 3], [1, 2, 3, 4, 5]]
    assert agreement.without_full_disagreement(ratings).shape == (3, 4)
    assert agreement.human_ceiling(agreement.without_full_disagreement(ratings)) == pytest.approx(1)
    assert agreement.human_ceiling(ratings) < 1


def test_bias_is_invisible_to_pearson_but_reported():
    human = np.array([1.0, 2, 3, 4])
    result = agreement.correlation(human + 1, human, list("abcd"))
    assert result.value == pytest.approx(1)
    assert agreement.bias(human + 1, human) == 1 and agreement.mean_absolute_error(human + 1, human) == 1


def test_kappa_of_whole_scores_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    for size in (3, 20, 300):
        a = random.integers(1, 6, size)
        b = np.clip(a + random.integers(-1, 2, size), 1, 5)
        assert agreement.cohen_kappa(a, b) == pytest.approx(sklearn.cohen_kappa_score(a, b, weights="quadratic"))
        assert agreement.cohen_kappa(a, b, quadratic=False) == pytest.approx(sklearn.cohen_kappa_score(a, b))


def test_kappa_with_listeners_means_is_the_same_on_a_reversed_scale():
    """Means lie between scores: rounded, each half went to the lower one, where a strict judge stands."""
    random = np.random.default_rng(3)
    listeners = np.clip(random.integers(1, 6, 300) + random.integers(-1, 2, (2, 300)), 1, 5).mean(0)
    kind, strict = np.ceil(listeners), np.floor(listeners)
    for judge in (kind, strict):
        found = agreement.cohen_kappa(judge, listeners)
        assert found < 1 and found == pytest.approx(agreement.cohen_kappa(6 - judge, 6 - listeners), abs=1e-12)
    # judge 4, 2 and listeners 4.5, 2.5: each half apart, 1/4; all pairs: (.5^2 + 1.5^2 + 2.5^2 + .5^2) / 4 = 9/4
    assert agreement.cohen_kappa([4, 2], [4.5, 2.5]) == pytest.approx(1 - 0.25 / 2.25)
    assert np.isnan(agreement.cohen_kappa([7 / 3] * 3, [7 / 3] * 3))  # nothing varies


def test_kappa_refuses_scores_off_the_scale():
    """-9 ("missing") was taken for 1, and a score of 0 to 100 for 5."""
    for wrong in (-9, 80):
        with pytest.raises(UserError, match=f"a score must be from 1 to 5; got {wrong}"):
            agreement.cohen_kappa([1, 2, wrong], [1, 2, 3])
    assert agreement.cohen_kappa([1, 2, np.nan, 5], [1, 2, 3, 5]) == 1
