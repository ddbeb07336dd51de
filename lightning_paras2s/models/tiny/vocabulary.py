"""Text stream vocabulary of the embedded policy: whole words, and characters for words that it does not know."""

from __future__ import annotations

from functools import cached_property

from lightning_paras2s.data.embedded import STYLES, lexicon
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.types import TONES

BLANK, EOS = 0, 1
TASKS = ("read", "echo", "name", "chat")


class TextVocab:
    """Ids: blank, EOS, the pre-training tasks, tones and style names as words, characters, then the lexicon.

    A word outside the lexicon is spelt: its first character's id is marked as a beginning, so that decoding joins it
    again.
    """

    @cached_property
    def pieces(self) -> list[str]:
        letters = "abcdefghijklmnopqrstuvwxyz'"
        names = sorted({*TONES, *(v for values in STYLES.values() for v in values)})
        special = ["<blank>", "<eos>", *[f"<{task}>" for task in TASKS]]
        spelling = [f"^{c}" for c in letters] + [f"+{c}" for c in letters]
        return [*special, *spelling, *sorted({*lexicon(), *names})]

    @cached_property
    def index(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def task(self, name: str) -> int:
        return self.index[f"<{name}>"]

    def encode_word(self, word: str) -> list[int]:
        if word in self.index:
            return [self.index[word]]
        return [self.index[("^" if i == 0 else "+") + c] for i, c in enumerate(word) if f"+{c}" in self.index]

    def encode(self, text: str) -> list[int]:
        return [i for word in plain_words(text) for i in self.encode_word(word)]

    def decode(self, ids: list[int]) -> str:
        """Words up to EOS; blanks and task marks are skipped."""
        text = ""
        for i in ids:
            if i == EOS:
                break
            piece = self.pieces[i]
            if piece.startswith("<"):
                continue
            text += piece[1:] if piece.startswith("+") else " " + piece.removeprefix("^")
        return " ".join(text.split())
