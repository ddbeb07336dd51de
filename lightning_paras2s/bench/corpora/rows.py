"""What an importer reads from a corpus, and the record in which all stands that a query has no field for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class CorpusItem:
    """What a corpus says of a query beside its words and style, one line of ITEMS.jsonl each.

    Attributes:
        query_id: of the manifest.
        corpus: its name.
        subset: the part of the corpus that it is from.
        instruction: what a model is told in writing beside the recording; "" where the recording is all.
        references: good answers, as published.
        options: letter -> words, of a question with choices.
        right: the letter of the right one.
        labels: all other fields, as published.
        turns: earlier turns, the oldest first, each with role, text and audio; those of the query, as published.
        emotions: those that fit an answer's voice, by our names, where the corpus tells.
        words: what the answer must say, word by word; "" where it is free.
    """

    query_id: str
    corpus: str
    subset: str
    instruction: str = ""
    references: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    right: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)
    emotions: list[str] = field(default_factory=list)
    words: str = ""


class Row(NamedTuple):
    """One item as an importer finds it.

    Attributes:
        name: its own within the subset.
        subset: part of the corpus.
        text: what is said; "" where nobody wrote it down.
        audio: the recording's file or bytes; None if the corpus names none.
        styles: of the speaker, as far as it is one of ours.
        pair: items of one subset that share this differ in style only; "" = none.
        level: of S2S-Arena, L1 to L4.
        topic: what it is about, as S2S-Arena's domain.
        why: why it can't be kept; "" = it can.
        turns: earlier turns, each with role, text and audio: a file, its bytes, or "".
        The others are those of CorpusItem.
    """

    name: str
    subset: str
    text: str = ""
    audio: Path | bytes | None = None
    styles: dict[str, str] = {}
    pair: str = ""
    level: str = ""
    topic: str = ""
    instruction: str = ""
    references: tuple[str, ...] = ()
    options: dict[str, str] = {}
    right: str = ""
    labels: dict[str, Any] = {}
    turns: tuple[dict[str, Any], ...] = ()
    emotions: tuple[str, ...] = ()
    words: str = ""
    why: str = ""
