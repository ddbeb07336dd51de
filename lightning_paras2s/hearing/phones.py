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
LOW = np.float32(-1e9)
TOGETHER = 64  # recordings
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
        return self.decode_all([logps])[0]

    def decode_all(self, recordings: Sequence[np.ndarray]) -> list[list[str]]:
        """As `decode`, of many recordings at once, each as if alone."""
        found: list[list[int]] = [[] for _ in recordings]
        unclear: dict[int, tuple[np.ndarray, list[int]]] = {}
        for place, logps in enumerate(recordings):
            best = logps.argmax(1)
            if not (best > SPACE).any():
                continue
            greedy = [int(s) for s, before in zip(best, [BLANK, *best], strict=False) if s and s != before]
            pieces = [p for p in sound(greedy).split(chr(SPACE)) if p]
            found[place] = [self.places.get(tuple(map(ord, piece)), -1) for piece in pieces]
            if min(found[place]) < 0:  # else the likeliest symbols are words as they are
                # A run of sure blanks says no more than one blank.
                sure = logps[:, BLANK] > -0.02
                kept = ~(sure & np.concatenate([[False], sure[:-1]]))
                unclear[place] = np.maximum(logps[kept], self.floor), self._candidates(pieces)
        # The longest first, so that those that have ended lie behind.
        order = sorted(unclear, key=lambda place: -len(unclear[place][0]))
        for start in range(0, len(order), TOGETHER):
            part = order[start : start + TOGETHER]
            for place, words in zip(part, self._pass_tokens([unclear[place] for place in part]), strict=True):
                found[place] = words
        return [self._spell(words) for words in found]

    def _candidates(self, pieces: list[str]) -> list[int]:
        pieces = pieces + [a + b for a, b in zip(pieces, pieces[1:], strict=False)]
        return sorted({i for piece in pieces for i in self._near(piece)} | set(self.short))

    def _nearest(self, piece: str) -> list[int]:
        found = process.extract(piece, self.spelt, scorer=Levenshtein.normalized_similarity, limit=self.nearest)
        return [index for _, _, index in found]

    def _pass_tokens(self, recordings: list[tuple[np.ndarray, list[int]]]) -> list[list[int]]:
        """Viterbi over the phones of each recording's candidates -> their indices, in order of time. The phones of all
        recordings lie in one array, and take each step together."""
        counts = [len(logps) for logps, _ in recordings]
        rows = np.zeros((counts[0], len(recordings), SYMBOLS), np.float32)
        for i, (logps, _) in enumerate(recordings):
            rows[: counts[i], i] = logps
        candidates = [c for _, of in recordings for c in of]
        sizes = np.array([len(of) for _, of in recordings])
        lengths = np.array([len(self.phones[c]) for c in candidates])
        last = np.cumsum(lengths) - 1
        first = last - lengths + 1
        phones = np.concatenate([self.phones[c] for c in candidates])
        whose = np.repeat(np.arange(len(recordings)), sizes)  # recording of each candidate
        blanks = np.repeat(whose * SYMBOLS + BLANK, lengths)  # places in a frame's rows
        heard = blanks - BLANK + phones
        same = np.flatnonzero(phones[1:] == phones[:-1]) + 1  # a blank must part two equal phones
        enter = self.scores[candidates]
        begin = np.cumsum(sizes) - sizes
        # Scores and histories of: within a phone, in the blank after it (each behind a place for "no phone before");
        # between words: after a space or at the start. A history is the number of the frame at which a word ended.
        score = np.full((2, len(phones) + 1), LOW)
        history = np.zeros((2, len(phones) + 1), np.int32)
        gap, gap_from = np.zeros(len(recordings), np.float32), np.zeros(len(recordings), np.int32)
        ends, end_from = np.full(len(recordings), LOW), np.zeros(len(recordings), np.int32)
        nodes = np.zeros((2, counts[0] + 1, len(recordings)), np.int32)  # history before a word, and the word
        # Nothing as long as the phones is made anew in a frame: memory that is new costs more than the arithmetic.
        scratch, scratch_from = np.zeros_like(score), np.zeros_like(history)
        frame_logps, more = np.zeros(len(phones), np.float32), np.zeros(len(phones), bool)
        for frame in range(counts[0]):
            n = sum(count > frame for count in counts)
            words = int(begin[n - 1] + sizes[n - 1])
            size = int(last[words - 1]) + 1
            row, of, starts, above = rows[frame], whose[:words], first[:words], more[:size]
            phone, blank = score[:, 1 : size + 1]
            phone_from, blank_from = history[:, 1 : size + 1]
            # Into each phone: from itself, the phone before, the blank before; into a first phone: from between words.
            moved, moved_blank = scratch[:, :size]
            moved_from, moved_blank_from = scratch_from[:, :size]
            scratch[:, :size], scratch_from[:, :size] = score[:, :size], history[:, :size]
            moved[same[: np.searchsorted(same, size)]] = LOW
            joined = ends[:n] + np.float32(self.joined)
            apart = gap[:n] >= joined
            moved[starts] = np.where(apart, gap[:n], joined)[of] + enter[:words]
            moved_from[starts] = np.where(apart, gap_from[:n], end_from[:n])[of]
            moved_blank[starts] = LOW
            take_where(np.greater(moved_blank, moved, out=above), moved_blank_from, moved_from)
            np.maximum(moved, moved_blank, out=moved)
            spare = moved_blank_from
            spare[:] = phone_from
            take_where(np.greater(phone, blank, out=above), spare, blank_from)
            np.maximum(phone, blank, out=blank)
            blank += row.take(blanks[:size], out=frame_logps[:size], mode="clip")
            take_where(np.greater(moved, phone, out=above), moved_from, phone_from)
            np.maximum(moved, phone, out=phone)
            phone += row.take(heard[:size], out=frame_logps[:size], mode="clip")
            # A space, or silence after one, keeps the token between words.
            space = np.maximum(ends[:n], gap[:n]) + row[:n, SPACE]
            silence = gap[:n] + row[:n, BLANK]
            np.copyto(gap_from[:n], end_from[:n], where=(ends[:n] > gap[:n]) & (space >= silence))
            gap[:n] = np.maximum(space, silence)
            # The best token at the end of a word.
            out = np.maximum(phone[last[:words]], blank[last[:words]])
            ends[:n] = np.maximum.reduceat(out, begin[:n])
            best = np.flatnonzero(out == ends[of])
            best = best[np.diff(of[best], prepend=-1) > 0]  # the first, where several are alike
            place = last[best]
            nodes[0, frame + 1, :n] = np.where(phone[place] >= blank[place], phone_from[place], blank_from[place])
            nodes[1, frame + 1, :n] = best
            end_from[:n] = frame + 1
        found = []
        for i, node in enumerate(np.where(ends >= gap, end_from, gap_from)):
            words = []
            while node > 0:
                words.append(candidates[nodes[1, node, i]])
                node = nodes[0, node, i]
            found.append(words[::-1])
        return found

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


def take_where(holds: np.ndarray, other: np.ndarray, into: np.ndarray) -> None:
    """Whole numbers of `other` into `into` where that holds; what `other` held is lost. Without a branch a number,
    which the processor would guess wrong."""
    other -= into
    other *= holds
    into += other
