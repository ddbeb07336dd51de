"""The words of Kimi-Audio's text stream: byte-pair encoding from the release's `tiktoken.model`.

The release brings a tokenizer with code of its own, which does not run on transformers 5; the encoding itself is a
pattern that cuts text into pieces and a table of byte strings by rank: neither that code nor tiktoken is needed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.config import read_config
from lightning_paras2s.models.tiny.vocabulary import TextVocab

# Qwen2.5's: contractions, words with one mark before, single digits, runs of marks, line ends, spaces
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Special tokens follow the table's last entry in this order; fields of `KimiConfig`
SPECIAL_TOKENS = {
    "msg_end": 2,
    "media_begin": 18,
    "media_end": 20,
    "blank": 23,
    "text_eos": 24,
    "user_start": 27,
    "assistant_start": 28,
    "speech_ct": 32,
    "speech_ctd": 33,
}


class KimiText(TextVocab):
    """Ids of words. Text that looks like a special token is text.

    Args:
        path: folder of Kimi-Audio.

    Raises:
        UserError: the table is missing or damaged, or the special tokens behind it are not the model's.
    """

    def __init__(self, path: str) -> None:
        self.config = read_config(path)
        self.ranks = read_ranks(Path(path) / "tiktoken.model")
        self.bytes = {rank: piece for piece, rank in self.ranks.items()}
        for field, offset in SPECIAL_TOKENS.items():
            found, wanted = len(self.ranks) + offset, getattr(self.config, field)
            if found != wanted:
                raise UserError(
                    f"the text tokenizer in {path} must have {field} = {wanted}; got {found}, {offset} after its "
                    f"{len(self.ranks)} words; it is another model's"
                )

    def __len__(self) -> int:
        return self.config.kimia_text_output_vocab

    def encode(self, text: str) -> list[int]:
        import regex

        return [i for piece in regex.findall(PATTERN, text) for i in self.merge(piece.encode())]

    def merge(self, piece: bytes) -> Iterator[int]:
        """Join the neighbours of lowest rank until none are in the table."""
        parts = [piece] if piece in self.ranks else [piece[i : i + 1] for i in range(len(piece))]
        none = len(self.ranks)
        while len(parts) > 1:
            ranks = [self.ranks.get(a + b, none) for a, b in pairwise(parts)]
            best = min(ranks)
            if best == none:
                break
            i = ranks.index(best)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return (self.ranks[part] for part in parts)

    def decode(self, ids: list[int]) -> str:
        """Words up to text EOS; special ids are skipped, half a character is a replacement mark."""
        end = ids.index(self.config.text_eos) if self.config.text_eos in ids else len(ids)
        return b"".join(self.bytes.get(i, b"") for i in ids[:end]).decode(errors="replace")


def read_ranks(path: Path) -> dict[bytes, int]:
    """Lines of a byte string in base64 and its rank; ranks are 0, 1, 2, ..."""
    if not path.is_file():
        raise UserError(f"the text tokenizer must have {path}; it is missing; fetch it")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(f"{path}:{number} must be base64 and a rank; got {line[:40]!r}; fetch it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"{path} must rank its {len(ranks)} words 0, 1, 2, ...; it does not; fetch it again")
    return ranks
