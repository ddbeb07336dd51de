"""Words as phonemes and back: what the embedded transcriber is taught, and the lexicon that reads its output.

Spelling can't be heard ("who", "cellar"), so the network writes phonemes, as eSpeak NG pronounces each word alone. A
lexicon's decoder then finds the likeliest words: token passing (Young, Russell and Thornton 1989) over CTC outputs,
in which words are made of their phonemes with blanks in between, and are weighed by how often training texts use them.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from lightning_paras2s.speaking.espeak import Espeak

BLANK, SPACE = 0, 1
PHONES = tuple(
    "0 3 3: @ @L A: A@ D E I N O O: O@ OI S T U U@ V Z a aI aI3 aI@ aU aa b d dZ e@ eI f g h i i: i@ i@3 j k l m n o@ "
    "oU p r s t tS u: v w z".split()
)
SYMBOLS = len(PHONES) + 2  # with the blank and the space between words
_IDS = {phone: i + 2 for i, phone in enumerate(PHONES)}
_MARKS = re.compile(r"[',%=;|?#\-]|2")  # stress, and variants that sound alike


@functools.lru_cache(maxsize=20_000)
def pronounce(word: str) -> tuple[int, ...]:
    """Phone ids of a word spoken alone, in American English."""
    espeak = Espeak.instance or Espeak.fresh()
    return tuple(_IDS[p] for p in _MARKS.sub("", espeak.phonemes(word)).split("_") if p in _IDS)


def sound(phones: Sequence[int]) -> str:
    """Phone ids as one string, a letter each, to be compared by edit distance."""
    return "".join(map(chr, phones))


def phone_ids(words: Sequence[str]) -> list[int]:
    """CTC targets: the words' phones, with a space between words."""
    ids: list[int] = []
    for word in words:
        ids += [SPACE, *pronounce(word)] if ids else pronounce(word)
    return ids


class Lexicon:
    """Reads CTC outputs as words of a closed vocabulary.

    Args:
        words: the vocabulary.
        texts: sentences that tell how often a word is used, and which of two that sound alike fits its neighbours.
        weight: of the words' log-probabilities against the acoustics.
        floor: least log-probability of a symbol, so that one unheard phone doesn't rule a word out.
        joined: log-probability of two words without a space between them.
        nearest: words looked at for each stretch between two spaces.
    """

    def __init__(
        self,
        words: Sequence[str],
        texts: Sequence[Sequence[str]] = (),
        weight: float = 0.4,
        floor: float = -7.0,
        joined: float = -3.0,
        nearest: int = 30,
    ) -> None:
        self.weight, self.floor, self.joined, self.nearest = weight, floor, joined, nearest
        counts = Counter(word for text in texts for word in text)
        self.pairs = Counter(pair for text in texts for pair in zip(text, text[1:], strict=False))
        self.alike: dict[tuple[int, ...], list[str]] = {}
        for word in words:
            if pronounce(word):
                self.alike.setdefault(pronounce(word), []).append(word)
        self.spelt = [sound(phones) for phones in self.alike]
        total = sum(counts.values()) + 0.5 * len(self.alike)
        used = [sum(counts[w] for w in ws) for ws in self.alike.values()]
        self.scores = np.array([weight * math.log((n + 0.5) / total) for n in used], np.float32)
        self.counts, self.phones = counts, list(self.alike)
        self.places = {phones: i for i, phones in enumerate(self.phones)}
        self.short = [i for i, phones in enumerate(self.phones) if len(phones) <= 2]
        self._near = functools.lru_cache(maxsize=50_000)(self._nearest)

    def decode(self, logps: np.ndarray) -> list[str]:
        """Log-probabilities [T, symbols] of one recording -> its words."""
        best = logps.argmax(1)
        if not (best > SPACE).any():
            return []
        greedy = [int(s) for s, before in zip(best, [BLANK, *best], strict=False) if s and s != before]
        pieces = [p for p in sound(greedy).split(chr(SPACE)) if p]
        plain = [self.places.get(tuple(map(ord, piece)), -1) for piece in pieces]
        if min(plain) >= 0:  # the likeliest symbols are words as they are
            return self._spell(plain)
        # A run of sure blanks says no more than one blank.
        sure = logps[:, BLANK] > -0.02
        kept = ~(sure & np.concatenate([[False], sure[:-1]]))
        return self._spell(self._pass_tokens(np.maximum(logps[kept], self.floor), self._candidates(pieces)))

    def _candidates(self, pieces: list[str]) -> list[int]:
        pieces = pieces + [a + b for a, b in zip(pieces, pieces[1:], strict=False)]
        return sorted({i for piece in pieces for i in self._near(piece)} | set(self.short))

    def _nearest(self, piece: str) -> list[int]:
        found = process.extract(piece, self.spelt, scorer=Levenshtein.normalized_similarity, limit=self.nearest)
        return [index for _, _, index in found]

    def _pass_tokens(self, logps: np.ndarray, candidates: list[int]) -> list[int]:
        """Viterbi over the candidates' phones -> their indices, in order of time."""
        phones = np.concatenate([self.phones[i] for i in candidates])
        lengths = np.array([len(self.phones[i]) for i in candidates])
        last = np.cumsum(lengths) - 1
        first = last - lengths + 1
        same = np.concatenate([[False], phones[1:] == phones[:-1]])  # a blank must part two equal phones
        enter = self.scores[candidates]
        low = np.float32(-1e9)
        # Scores and histories of: within a phone, in the blank after it; between words: after a space or at the start.
        phone, blank = np.full(len(phones), low, np.float32), np.full(len(phones), low, np.float32)
        phone_from, blank_from = np.zeros(len(phones), np.int64), np.zeros(len(phones), np.int64)
        gap, gap_from = np.float32(0.0), 0
        nodes = [(-1, -1)]  # (node before, candidate)
        ends, end_node = low, 0
        for row in logps:
            # Into each phone: from itself, the phone before, the blank before; into a first phone: from between words.
            before = np.where(same, low, np.concatenate([[low], phone[:-1]]))
            before_blank = np.concatenate([[low], blank[:-1]])
            source = np.concatenate([[0], phone_from[:-1]])
            source_blank = np.concatenate([[0], blank_from[:-1]])
            start, start_from = (gap, gap_from) if gap >= ends + self.joined else (ends + self.joined, end_node)
            before[first], source[first] = start + enter, start_from
            before_blank[first] = low
            moved = np.where(before_blank > before, before_blank, before)
            moved_from = np.where(before_blank > before, source_blank, source)
            blank_next = np.maximum(phone, blank)
            blank_from = np.where(phone > blank, phone_from, blank_from)
            phone_from = np.where(moved > phone, moved_from, phone_from)
            phone = np.maximum(moved, phone) + row[phones]
            blank = blank_next + row[BLANK]
            # A space, or silence after one, keeps the token between words.
            space = max(ends, gap) + row[SPACE]
            gap_from = end_node if ends > gap and space >= gap + row[BLANK] else gap_from
            gap = max(space, gap + row[BLANK])
            ends, end_node = self._leave(phone, blank, phone_from, blank_from, last, nodes)
        node = end_node if ends >= gap else gap_from
        found = []
        while node > 0:
            node, word = nodes[node]
            found.append(candidates[word])
        return found[::-1]

    @staticmethod
    def _leave(phone, blank, phone_from, blank_from, last, nodes) -> tuple[np.float32, int]:
        """The best token at the end of a word, and its place in the history."""
        word = int(np.maximum(phone[last], blank[last]).argmax())
        place = last[word]
        held = phone_from[place] if phone[place] >= blank[place] else blank_from[place]
        nodes.append((int(held), word))
        return np.maximum(phone[place], blank[place]), len(nodes) - 1

    def _spell(self, found: list[int]) -> list[str]:
        """Of words that sound alike, the one that training texts use most beside these neighbours."""
        words = [max(self.alike[self.phones[i]], key=lambda w: self.counts[w]) for i in found]
        for place, index in enumerate(found):
            alike = self.alike[self.phones[index]]
            if len(alike) > 1:
                left = words[place - 1] if place else ""
                right = words[place + 1] if place + 1 < len(words) else ""
                fit = lambda w: (self.pairs[left, w] + self.pairs[w, right], self.counts[w])  # noqa: B023, E731
                words[place] = max(alike, key=fit)
        return words
