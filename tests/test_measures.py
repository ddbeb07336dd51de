"""Related benchmarks' measures on examples worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import RATE, tone

from lightning_paras2s.bench.corpora.rows import CorpusItem
from lightning_paras2s.bench.measures import attribution, overlap
from lightning_paras2s.bench.measures.attribution import Span, edited, feature_attributions, word_attributions
from lightning_paras2s.bench.measures.captions import answer_after_thinking, speech_caption
from lightning_paras2s.bench.measures.choices import Choices, choice_accuracy, chosen, is_unclear
from lightning_paras2s.bench.measures.concordance import concordance
from lightning_paras2s.bench.measures.condensation import balanced_quotas, condense
from lightning_paras2s.bench.measures.emotion import allowed_probability, expected_rating, understood_emotion
from lightning_paras2s.bench.measures.events import Event, event_f1, event_hits
from lightning_paras2s.bench.measures.levels import TASKS, item_level, task_level
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.types import Audio


def test_concordance_costs_a_shift_and_another_spread():
    # means 2 and 3, variances 2/3, covariance 2/3: (4/3) / (4/3 + 1)
    assert concordance([1, 2, 3], [2, 3, 4]) == pytest.approx(4 / 7)
    # variances 2/3 and 8/3, covariance 4/3, means 2 and 4: (8/3) / (10/3 + 4)
    assert concordance([1, 2, 3], [2, 4, 6]) == pytest.approx(8 / 22)
    assert concordance([1, 2, 3], [1, 2, 3]) == pytest.approx(1)
    assert concordance([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert concordance([2, 2, 2], [1, 2, 3]) == 0 and math.isnan(concordance([2, 2], [2, 2]))
    assert concordance([1, 2, 3, np.nan], [2, 3, 4, 9]) == pytest.approx(4 / 7)
    with pytest.raises(UserError, match="of one length"):
        concordance([1, 2], [1, 2, 3])


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=20))
def test_concordance_is_below_pearsons_r_and_the_same_both_ways(pairs):
    x, y = np.array(pairs, float).T
    if x.std() and y.std():
        found = concordance(x, y)
        assert abs(found) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-9 and found == pytest.approx(concordance(y, x))


def test_emotion_counts_as_far_as_it_is_understood():
    assert understood_emotion(0.8, 0.25) == pytest.approx(0.6)
    assert understood_emotion(0.8, 1.5) == 0 and understood_emotion(1.0, 0.0) == 1
    with pytest.raises(UserError):
        understood_emotion(1.2, 0.0)


def test_allowed_emotion_is_the_most_probable_of_those_that_fit():
    heard = {"neutral": 0.6, "sad": 0.3, "happy": 0.1}
    assert allowed_probability(heard, ["sad", "happy"]) == 0.3  # not their sum, and not whether one was heard best
    assert allowed_probability(heard, ["neutral", "sad"]) == 0.6 and allowed_probability(heard, ["fear"]) == 0
    for wrong in (({}, ["sad"]), (heard, [])):
        with pytest.raises(UserError, match="an emotion that fits"):
            allowed_probability(*wrong)


def test_expected_rating_is_weighed_by_what_was_heard():
    # 0.6 and 0.2 of 0.8 are rated: (0.6 x 5 + 0.2 x 1) / 0.8
    assert expected_rating({"sad": 0.6, "happy": 0.2, "other": 0.2}, {"sad": 5, "happy": 1, "angry": 1}) == 4


OPTIONS = {"A": "a red car", "B": "a car", "C": "the blue boat", "D": "none of them"}


@pytest.mark.parametrize("answer, letter", [
    ("B", "B"), ("(c)", "C"), (" **D.** ", "D"), ("E", None), ("", None),
    ("The answer is B.", "B"), ("The correct answer is: (C) the blue boat", "C"), ("I think option d is right", "D"),
    ("The answer should be option A", "A"), ("the answer is a", "A"),
    ("The answer is a kind of vehicle", None),  # an article
    ("The answer is A or the answer is B", None),
    ("C. The blue boat, not a car", "C"), ("b) because it is small", "B"),
    ("It was the blue boat, of course.", "C"), ("It was a red car.", "A"),
    ("A red car or the blue boat", None), ("I don't know", None), ("A good question!", None),
])  # fmt: skip
def test_a_choice_is_read_or_it_is_none(answer, letter):
    assert chosen(answer, OPTIONS) == letter


FORMS = (
    "The answer is {}. Because metal conducts heat.",
    "The correct answer is {}, since metal conducts heat.",
    "I would say option {}. Metal conducts heat.",
    "The answer is option {} because it conducts heat.",
)
BARE = dict.fromkeys("ABCD", "")


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize("form", FORMS)
def test_each_letter_is_read_alike_however_it_is_heard(form, letter):
    """ "the answer is a because", heard without capitals, was wrong, and "the answer is b because" right."""
    assert chosen(form.format(letter), BARE) == letter
    heard = plain_text(form.format(letter))
    open_ = letter == "A" and "option" not in form
    assert (chosen(heard, BARE), is_unclear(heard, BARE)) == (None if open_ else letter, open_)


@pytest.mark.parametrize("answer", [
    "The answer is a kind of bird.", "the answer is b because", "the answer is a kind of bird so option b",
    "a good one", "the answer is a red car",  # the words of one option, of one only
])  # fmt: skip
def test_what_is_written_with_capitals_or_names_an_option_is_not_unclear(answer):
    assert not is_unclear(answer, OPTIONS) and not is_unclear(answer, {"B": "", "C": ""})


def test_choices_that_cannot_be_read_are_wrong_and_counted():
    answers = ["B", "no idea", "the answer is C", "A"]
    found = choice_accuracy(answers, [OPTIONS] * 4, ["B", "A", "C", "D"])
    assert found == Choices(0.5, 4, 1, 0)
    # the second may be A or a kind of thing: of the first, which is right, the mean is made
    assert choice_accuracy(["b", "the answer is a thing"], [BARE] * 2, ["B", "A"]) == Choices(1.0, 2, 0, 1)
    assert choice_accuracy(["no idea"] * 50, [OPTIONS] * 50, ["A"] * 50) == Choices(
        0.0, 50, 50, 0
    )  # a guess has a quarter
    with pytest.raises(UserError, match="must be one of them; got 'E'"):
        choice_accuracy(["A"], [OPTIONS], ["E"])


def test_events_are_found_within_the_tolerance_once_each():
    there = [Event("laugh", 1.0), Event("laugh", 1.4), Event("sigh", 3.0)]
    found = [Event("laugh", 1.2), Event("laugh", 1.5), Event("laugh", 1.6), Event("sigh", 3.6), Event("cough", 1.0)]
    assert event_hits(found, there, 0.25) == 2  # the laughs at 1.2 and 1.5; the sigh is 0.6 s late
    result = event_f1(2, 5, 3)
    assert (result.precision, result.recall, result.f1) == (2 / 5, pytest.approx(2 / 3), 4 / 8)
    assert event_hits([Event("laugh", 1.25)], there, 0.25) == 1  # the bound counts
    assert math.isnan(event_f1(0, 0, 0).f1) and event_f1(0, 0, 2).f1 == 0


times = st.lists(st.integers(0, 12), max_size=5)


@given(times, times, st.integers(0, 3))
def test_event_hits_are_the_best_of_all_matchings(ours, theirs, tolerance):
    found, there = [Event("x", t / 4) for t in ours], [Event("x", t / 4) for t in theirs]
    few, many = sorted((ours, theirs), key=len)
    best = max(
        sum(abs(a - b) <= tolerance for a, b in zip(few, chosen_, strict=True))
        for chosen_ in itertools.permutations(many, len(few))
    )
    assert event_hits(found, there, tolerance / 4) == best


def test_bleu_of_an_answer_and_of_a_set_as_worked_by_hand():
    """ "the cat sat on a mat" shares 5 of 6 words, 3 of 5 pairs, 2 of 4 threes and 1 of 3 fours with "... the mat"."""
    pytest.importorskip("sacrebleu")
    found = overlap.sentence_bleu("The cat sat on a mat.", ["the cat sat on the mat"])
    product = (5 / 6) * (3 / 5) * (2 / 4) * (1 / 3)
    assert found.score == pytest.approx(100 * product ** (1 / 4))
    assert [found.counts[f"correct{n}"] for n in (1, 2, 3, 4)] == [5, 3, 2, 1]
    assert [found.counts[f"total{n}"] for n in (1, 2, 3, 4)] == [6, 5, 4, 3]
    short = overlap.sentence_bleu("the cat", ["the cat sat on"])  # both its orders are whole; half as long
    assert short.score == pytest.approx(100 * math.exp(1 - 4 / 2))
    whole = overlap.corpus_bleu([found.counts, short.counts])  # 7 of 8, 4 of 6, 2 of 4, 1 of 3; 8 words for 10
    product = (7 / 8) * (4 / 6) * (2 / 4) * (1 / 3)
    assert whole == pytest.approx(100 * math.exp(1 - 10 / 8) * product ** (1 / 4))
    assert overlap.sentence_bleu("", ["the cat"]).score == 0 and math.isnan(overlap.corpus_bleu([]))
    several = overlap.sentence_bleu("a dog", ["a cat", "the dog"])  # either word is in one of them
    assert several.counts["correct1"] == 2 and several.counts["correct2"] == 0
    with pytest.raises(UserError, match="references that have words; got"):
        overlap.sentence_bleu("x", ["..."])


def test_rouge_as_worked_by_hand_and_in_scripts_without_spaces():
    pytest.importorskip("rouge_score")
    found = overlap.rouge("the cat sat on a mat", ["The cat sat on the mat!"])
    # 5 of 6 words either way; 3 of 5 pairs; the longest common subsequence has 5 words
    assert found == {"rouge1": pytest.approx(5 / 6), "rouge2": pytest.approx(3 / 5), "rougeL": pytest.approx(5 / 6)}
    best = overlap.rouge("a b", ["a b c d", "a b c"])  # precision 1, recall 2 / 3: F1 .8
    assert best["rouge1"] == pytest.approx(0.8)
    # 2 of 3 characters are shared: rouge-score's own tokenizer finds none
    assert overlap.rouge("很好的", ["很好。啊"])["rouge1"] == pytest.approx(2 / 3)
    assert overlap.rouge("", ["a"]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_words_are_compared_by_characters_where_a_script_has_no_spaces():
    assert overlap.tokens("I like 你好, world!") == ["i", "like", "你", "好", "world"]
    assert overlap.wording_errors("it is gone", "it is") == pytest.approx(1 / 3)
    assert overlap.wording_errors("天气很好。", "天气好") == pytest.approx(1 / 4)  # one of four is missing
    assert overlap.wording_errors("天气很好", "") == 1


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(overlap, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bleu needs the package sacrebleu; got none; pip install"):
        overlap.check_installed("sacrebleu", "bleu")


def energy(audios: list[Audio]) -> list[float]:
    """A classifier: the share of a second that is loud."""
    return [float((np.abs(a.samples) > 1e-6).sum()) / RATE for a in audios]


def test_a_words_attribution_is_what_its_absence_takes_away():
    audio = Audio(np.ones(RATE, np.float32), RATE)
    spans = [Span("oh", 0.0, 0.25), Span("no", 0.5, 1.0)]
    assert word_attributions(energy, audio, spans) == pytest.approx([0.25, 0.5])
    assert word_attributions(energy, audio, spans, removal="nothing") == pytest.approx([0.25, 0.5])
    assert [len(attribution.without(audio, spans[1], kind).samples) for kind in ("silence", "nothing")] == [RATE, 8000]
    assert word_attributions(energy, audio, []) == []
    assert attribution.equal_spans(["a", "b"], 3.0) == [Span("a", 0, 1.5), Span("b", 1.5, 3)]
    with pytest.raises(UserError, match="within its recording of 1 s"):
        word_attributions(energy, audio, [Span("late", 0.9, 1.2)])


def test_a_features_attribution_is_the_mean_over_its_degrees():
    audio, half, none = (Audio(np.r_[np.ones(n), np.zeros(RATE - n)].astype(np.float32), RATE) for n in (RATE, 8000, 0))
    found = feature_attributions(energy, audio, {"noise": [half, none], "pitch": [audio]})
    assert found == {"noise": pytest.approx(1 - (0.5 + 0) / 2), "pitch": 0}


def peak_hertz(audio: Audio) -> float:
    middle = audio.samples[2000:-2000]
    return float(np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 16 * RATE)).argmax() / 16)


@pytest.mark.parametrize("rate", attribution.RATES)
def test_another_speed_keeps_the_pitch(rate):
    changed = attribution.at_rate(tone(440, 1.0), rate)
    assert len(changed.samples) == round(RATE / rate)
    assert peak_hertz(changed) == pytest.approx(440, rel=0.005)  # a bin of the vocoder is 31 Hz wide


@pytest.mark.parametrize("semitones", attribution.SEMITONES)
def test_another_pitch_keeps_the_length(semitones):
    changed = attribution.at_pitch(tone(440, 1.0), semitones)
    assert len(changed.samples) == RATE
    assert peak_hertz(changed) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.005)


def test_noise_has_its_ratio_and_a_room_its_decay():
    clean = tone(440, 1.0, 0.1)
    for ratio in attribution.SNR_DB:
        noise = attribution.with_noise(clean, ratio).samples - clean.samples
        powers = [float(np.mean(x.astype(float) ** 2)) for x in (clean.samples, noise)]
        assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(ratio, abs=0.1)
    click = Audio(np.r_[1.0, np.zeros(RATE - 1)].astype(np.float32), RATE)
    room = attribution.with_echo(click, 0.5).samples[1:].astype(float)
    # 60 dB in .5 s are 24 dB from the first tenth of a second to .2 s later
    first, later = (np.mean(room[start : start + 1600] ** 2) for start in (0, 3200))
    assert 10 * np.log10(first / later) == pytest.approx(24, abs=1.5)  # of noise
    again = [attribution.with_echo(click, 0.5).samples, attribution.with_noise(clean, 5).samples]
    assert np.array_equal(again[0][1:], room.astype(np.float32)) and len(edited(clean, "noise")) == 4
    with pytest.raises(UserError, match="must be one of pitch, speed, noise, reverberation"):
        edited(clean, "mood")


def test_quotas_are_even_as_far_as_there_are_any():
    counts = {"angry": 2, "happy": 10, "sad": 5}
    assert balanced_quotas(counts, 12) == {"angry": 2, "happy": 5, "sad": 5}
    assert balanced_quotas(counts, 8) == {"angry": 2, "happy": 3, "sad": 3}
    assert balanced_quotas(counts, 9) == {"angry": 2, "happy": 4, "sad": 3}  # the one left over: of the most
    assert balanced_quotas(counts, 14) == {"angry": 2, "happy": 7, "sad": 5}
    assert balanced_quotas(counts, 99) == counts and sum(balanced_quotas(counts, 1).values()) == 1
    with pytest.raises(UserError):
        balanced_quotas(counts, -1)


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9)), st.integers(0, 40))
def test_no_label_that_has_more_is_two_behind_another(counts, size):
    quotas = balanced_quotas(counts, size)
    assert sum(quotas.values()) == min(size, sum(counts.values()))
    assert all(quotas[x] >= max(quotas.values()) - 1 for x in counts if quotas[x] < counts[x])


def test_a_condensed_part_depends_on_ids_and_seed_alone():
    labels = {f"n{i}": "neutral" for i in range(50)} | {f"f{i}": "fear" for i in range(3)}
    kept = condense(labels, 8)
    assert [name for name in kept if labels[name] == "fear"] == ["f0", "f1", "f2"] and len(kept) == 8
    backwards = dict(reversed(labels.items()))
    assert set(condense(backwards, 8)) == set(kept) != set(condense(labels, 8, seed=1))
    assert kept == [name for name in labels if name in kept]


def test_a_caption_says_when_what_and_how():
    heard = {"emotion": "sad", "gender": "female", "tone": None, "pitch": "low"}
    told = "[00:00-00:03] I lost it. (Gender: female, Emotion: sad, Pitch: low)"
    assert speech_caption("I lost it.", heard, 0, 2.1) == told
    assert speech_caption("", {}, 61.9, 125) == "[01:01-02:05]"
    with pytest.raises(UserError):
        speech_caption("x", {}, 2, 1)


@pytest.mark.parametrize("reply, thought, answer", [
    ("<think>She is sad.</think> I am sorry.", "She is sad.", "I am sorry."),
    ("\n<think>a\nb</think>\nYes.", "a\nb", "Yes."),
    ("Just an answer.", "", "Just an answer."),
    ("<think>cut in the", "cut in the", None), ("<think>only</think> ", "only", None), ("  ", "", None),
    ("stray</think> end", "stray end", None),
])  # fmt: skip
def test_what_was_only_thought_is_no_answer(reply, thought, answer):
    assert answer_after_thinking(reply) == (thought, answer)


@pytest.mark.parametrize("task, level", [
    ("Automatic Speech Recognition", 1), ("Pitch Perception", 2), ("Speaker's Age Prediction", 3),
    ("COVID-19 Risk Detection", 4), ("voice_detective", 5), ("volume_comparison", 2), ("sarcasm_detection", 3),
    ("pro/UnderEmotion-en", 3), ("basic/Repeat", 1), ("test-emo", 3), ("AlpacaEval", None), ("", None),
    ("manage", None),  # "age" within a word is none
])  # fmt: skip
def test_a_task_has_the_roadmaps_level_or_none(task, level):
    assert task_level(task) == level and (level is None or level in TASKS)


def test_an_item_has_the_level_of_its_task_before_its_subsets():
    item = CorpusItem("q", "mmsu", "Perception", labels={"task_name": "pause_detection"})
    assert item_level(item) == 2 and item_level(CorpusItem("q", "televal", "age-zh")) == 3
    assert item_level(CorpusItem("q", "voicebench", "bbh")) is None
