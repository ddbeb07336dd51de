"""Words as phones and back: token passing against every sequence of words, worked out by hand or enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lightning_paras2s.data.embedded import lexicon
from lightning_paras2s.hearing import phones
from lightning_paras2s.hearing.phones import BLANK, PHONES, SPACE, SYMBOLS, Lexicon, phone_ids, pronounce

WORDS = ["cat", "at", "a", "tack", "attack", "see", "sea", "we"]


def outputs(ids: list[int], sure: float = 0.9) -> np.ndarray:
    """Log-probabilities [T, symbols]: each id for one step at `sure`, the rest shared by all."""
    rows = np.full((len(ids), SYMBOLS), (1 - sure) / (SYMBOLS - 1))
    rows[np.arange(len(ids)), ids] = sure
    return np.log(rows)


def ctc(text: str) -> list[int]:
    """The text's targets with a blank after each."""
    return [i for phone in phone_ids(text.split()) for i in (phone, BLANK)]


def test_words_that_sound_alike_have_one_pronunciation():
    assert pronounce("sea") == pronounce("see") and pronounce("who") != pronounce("how")
    assert [PHONES[i - 2] for i in pronounce("who")] == ["h", "u:"]


def test_targets_have_a_space_between_words():
    assert phone_ids(["see", "who"]) == [*pronounce("see"), SPACE, *pronounce("who")]


def test_every_word_of_the_text_set_can_be_pronounced():
    assert all(pronounce(word) for word in lexicon() if word.isalpha())


@pytest.mark.parametrize("text", ["cat", "a cat", "see a tack", "we attack a cat"])
def test_words_come_back_when_their_phones_are_sure(text):
    assert Lexicon(WORDS).decode(outputs(ctc(text))) == text.split()


def test_nothing_is_read_when_all_is_blank():
    assert Lexicon(WORDS).decode(outputs([BLANK] * 20)) == []


def test_a_word_is_read_when_one_of_its_phones_is_another():
    heard = ctc("attack")
    heard[2 * 2] = phone_ids(["see"])[0]  # its third phone
    assert Lexicon(WORDS).decode(outputs(heard)) == ["attack"]


def test_neighbours_choose_between_words_that_sound_alike():
    texts = [["we", "see", "a", "cat"], ["a", "sea"], ["we", "see"]]
    reader = Lexicon(WORDS, texts)
    assert reader.decode(outputs(ctc("we see a cat"))) == ["we", "see", "a", "cat"]
    assert reader.decode(outputs(ctc("a see"))) == ["a", "sea"]


def viterbi(logps: np.ndarray, ids: list[int]) -> float:
    """Best CTC path of one symbol sequence, over all alignments."""
    states = [BLANK, *[s for i in ids for s in (i, BLANK)]]
    best = np.full(len(states), -1e9)
    best[:2] = logps[0, states[:2]]
    for row in logps[1:]:
        moved = best.copy()
        for s in range(1, len(states)):
            moved[s] = max(moved[s], best[s - 1])
            if s > 1 and states[s] != BLANK and states[s] != states[s - 2]:
                moved[s] = max(moved[s], best[s - 2])
        best = moved + row[states]
    return float(best[-2:].max())


@pytest.mark.parametrize("seed", range(6))
def test_token_passing_finds_the_best_of_all_sequences_when_they_are_enumerated(seed):
    """Spaces between words are symbols too; no sequence without them, no floor: exact Viterbi."""
    random = np.random.default_rng(seed)
    logits = 3 * random.standard_normal((9, SYMBOLS))
    logps = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    words = ["cat", "at", "a", "see", "we"]
    reader = Lexicon(words, weight=0.0, floor=-100.0, joined=-1e6, nearest=10)
    sequences = [s for n in (1, 2, 3) for s in itertools.product(words, repeat=n)]
    best = max(sequences, key=lambda s: viterbi(logps, phone_ids(s)))
    (found,) = reader._pass_tokens([(logps, list(range(len(reader.phones))))])
    assert viterbi(logps, phone_ids(reader._spell(found))) == pytest.approx(viterbi(logps, phone_ids(best)), abs=1e-4)


def test_recordings_are_read_together_as_each_alone(monkeypatch):
    monkeypatch.setattr(phones, "TOGETHER", 3)
    random = np.random.default_rng(0)
    reader = Lexicon(WORDS, [["we", "see", "a", "cat"]])
    heard = [outputs([BLANK] * 5), outputs(ctc("a cat"))]
    heard += [3 * random.standard_normal((random.integers(1, 60), SYMBOLS)) for _ in range(11)]
    rows = [(row - np.log(np.exp(row).sum(1, keepdims=True))).astype(np.float32) for row in heard]
    alone = [reader.decode(row) for row in rows]
    assert reader.decode_all(rows) == alone and reader.decode_all(rows[::-1]) == alone[::-1]
    assert alone[:2] == [[], ["a", "cat"]] and all(alone[1:])
