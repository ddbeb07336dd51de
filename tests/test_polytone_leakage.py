"""Leakage diagnostics on analysers whose leak is known: one that listens, one that reads, one that guesses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from lightning_paras2s.bench.diagnostics.leakage import leakage, named, probe_set, speak, split_set
from lightning_paras2s.bench.diagnostics.voice_or_words import (
    AGREE,
    MISLEAD,
    NEUTRAL,
    Named,
    compare,
    corrected_information,
    macro_difference,
    macro_mean,
    mutual_information,
    same_text_consistency,
    text_swap_probe,
)
from lightning_paras2s.data.suggestive import PROBE
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import STYLES, Style

STYLES_OF = {"sarcasm": STYLES["sarcasm"], "gender": STYLES["gender"]}


def rows(name: Callable[[str, str], str], texts: int = 8, factor: str = "sarcasm") -> list[Named]:
    """Texts that suggest either style, and neutral ones, spoken in both; `name(style, suggested)` names them."""
    made = []
    for suggested in (*STYLES_OF[factor], ""):
        for index in range(texts):
            for style in STYLES_OF[factor]:
                made.append(Named(f"{suggested}{index}", factor, style, suggested, name(style, suggested)))
    return made


def listens(style: str, suggested: str) -> str:
    return style


def reads(style: str, suggested: str) -> str:
    return suggested or "sincere"


def test_words_when_they_agree_mislead_or_neither():
    assert Named("t", "age", "child", "child", "").words == AGREE
    assert Named("t", "age", "child", "adult", "").words == MISLEAD
    assert Named("t", "age", "child", "", "").words == NEUTRAL


def test_mutual_information_when_known():
    """Of a fair coin with itself: ln 2. With another coin: 0. Worked by hand: of (0,0),(0,0),(1,0),(1,1), with joint
    1/2, 1/4, 1/4 and margins 1/2, 1/2 and 3/4, 1/4:
    1/2 ln (1/2 / 3/8) + 1/4 ln (1/4 / 3/8) + 1/4 ln (1/4 / 1/8)."""
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert mutual_information(a, a) == pytest.approx(math.log(2))
    assert mutual_information(a, b) == pytest.approx(0, abs=1e-12)
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert mutual_information(a, np.array([0, 0, 0, 1])) == pytest.approx(expected)


def test_information_is_zero_when_text_and_name_are_independent():
    """Uncorrected, 100 texts with two names each would seem to tell much: the correction takes that away. Over 20
    draws the mean is 0 within three standard errors."""
    found = []
    for seed in range(20):
        names = np.random.default_rng(seed).integers(0, 2, 200)
        text = np.arange(200) // 2
        assert mutual_information(text, names) / mutual_information(names, names) > 0.3
        found.append(corrected_information(text, names, 50, seed)[0])
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(20) + 0.01


def test_information_when_there_is_one_name_for_all():
    assert corrected_information(np.array([0, 1, 2]), np.zeros(3, int), 10, 0) == (0.0, 1.0)


def test_same_text_consistency_of_one_that_listens_and_one_that_reads():
    listener, reader = (same_text_consistency([r for r in rows(f) if r.suggested], 100) for f in (listens, reads))
    assert listener["follows"]["value"] == 1 and listener["unmoved"]["value"] == 0
    assert reader["follows"]["value"] == 0 and reader["unmoved"]["value"] == 1
    assert listener["text_information"] <= 0 and listener["text_information_p"] == 1
    # The text decides the name: found information is the whole entropy, chance taken off both.
    assert reader["text_information"] == 1 and reader["text_information_p"] == pytest.approx(1 / 101, abs=1e-4)
    assert listener["n_texts"] == 16 and listener["n"] == 32 and listener["follows"]["n"] == 16


def test_text_swap_probe_of_one_that_listens_and_one_that_reads():
    listener, reader = (text_swap_probe(rows(f)) for f in (listens, reads))
    assert [listener[k]["value"] for k in (AGREE, MISLEAD, "tone_neutral_words")] == [1, 1, 1]
    assert [reader[k]["value"] for k in (AGREE, MISLEAD, "tone_neutral_words")] == [1, 0, 0.5]
    assert listener["swap_cost"]["value"] == 0 and reader["swap_cost"]["value"] == 1
    assert listener["words_win"]["value"] == 0 and reader["words_win"]["value"] == 1


def test_words_win_excess_when_mistakes_have_nothing_to_do_with_words():
    """One that always says "sincere": sarcastic voices with sincere words are named so, but so are they with others.
    Of the misled, half (sarcastic voices) win by 1 with a base rate of 1, half by 0 with a base rate of 0."""
    probe = text_swap_probe(rows(lambda style, suggested: "sincere"))
    assert probe["words_win"]["value"] == 0.5 and probe["words_win_excess"]["value"] == 0
    assert probe["swap_cost"]["value"] == 0
    assert text_swap_probe(rows(reads))["words_win_excess"]["value"] == pytest.approx(
        # Sarcastic voices, sincere words: 1 - base rate (8 with sarcastic words: 0, 8 neutral: 1); sincere voices,
        # sarcastic words: 1 - base rate 0.
        (0.5 + 1.0) / 2
    )


def test_macro_means_and_differences_when_factors_differ_in_size():
    """Gender has 4 texts a style, all right; sarcasm 8, where words mislead all wrong: macro .5, micro 1/3."""
    seeds = [rows(reads) + rows(listens, 4, "gender"), rows(reads) + rows(listens, 4, "gender")]
    found = macro_mean(seeds, MISLEAD)
    assert found["value"] == 0.5 and found["seeds"] == [0.5, 0.5] and found["n"] == 24
    assert found["ci95"] == [None, None]  # twelve texts that don't vary say nothing of their spread
    good = [rows(listens) + rows(listens, 4, "gender")]
    assert macro_difference(good, seeds, MISLEAD)["value"] == 0.5
    assert macro_difference(good, seeds, AGREE)["value"] == 0
    apart = macro_difference([*good, seeds[0]], seeds, MISLEAD)  # one seed ahead by .5, one by 0
    assert apart["value"] == 0.25 and [one["value"] for one in apart["seeds"]] == [0.5, 0.0]
    whole = compare({"a": good, "b": seeds})
    assert whole["differences"]["a - b"][MISLEAD]["value"] == 0.5 and len(whole["analysers"]["b"]) == 2


def test_interval_of_accuracy_is_clustered_by_text():
    """48 texts, of each both recordings right or both wrong: the interval is that of 48, not 96, draws. Their standard
    error is sqrt(.25 / 47); Student's t of 47 degrees of freedom is 2.0117."""
    made = []
    for index in range(48):
        for style in STYLES["sarcasm"]:
            made.append(Named(str(index), "sarcasm", style, "", style if index % 2 else "wrong"))
    low, high = macro_mean([made], NEUTRAL)["ci95"]
    assert high - low == pytest.approx(2 * 2.0117 * (0.25 / 47) ** 0.5, abs=2e-4)  # both ends are rounded


def test_probe_speaks_each_text_in_all_of_its_styles():
    spoken = split_set(1, 2, factors=("emotion", "age"))
    # emotion: 7 texts x 7 styles, 2 x 2 neutral; age: 2 styles x 3 texts x 2, 2 x 2 neutral.
    assert len(spoken) == 49 + 4 + 12 + 4
    found = named(spoken, [Style(emotion="sad", age="child") for _ in spoken])
    assert {r.named for r in found if r.factor == "emotion"} == {"sad"}
    assert sum(r.words == MISLEAD for r in found if r.factor == "age") == 6


def test_probe_is_as_large_as_stated_and_sounds():
    spoken = probe_set()
    # emotion: (70 suggestive + 10 neutral texts) x 7 styles; the others: (40 + 10) x 2.
    assert Counter(s.text.factor for s in spoken) == {"emotion": 560, "sarcasm": 100, "age": 100, "gender": 100}
    assert len({s.text.id for s in spoken}) == 80 + 3 * 50
    one, other = speak(spoken[0], PROBE), speak(spoken[1], PROBE)
    assert one.seconds > 0.5 and one.samples.std() > 0.01 and one.samples.shape != other.samples.shape


def test_error_when_there_is_nothing_to_probe():
    with pytest.raises(UserError, match="texts of both kinds; got per_style=0"):
        leakage(per_style=0)
    with pytest.raises(UserError, match="probe or test; got 'train'"):
        leakage(texts="train")
