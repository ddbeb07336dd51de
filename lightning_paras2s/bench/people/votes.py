"""People's votes as they come back: JSON lines of `annotate`, or a table that a spreadsheet saved. A listener judges a
recording once, whichever way the name is typed."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_paras2s.bench.queries.tables import DELIMITERS, numbered, text_of
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say
from lightning_paras2s.types import Human, read_jsonl

TABLES = tuple(DELIMITERS)
BETWEEN = ",;\t"  # a spreadsheet writes ; where numbers have a comma


def read_humans(path: str) -> list[Human]:
    """All votes; a line with neither score nor verdict is none."""
    rows = of_table(Path(path)) if path.lower().endswith(TABLES) else read_jsonl(path, Human)
    return [row for row in rows if row.score is not None or row.verdict is not None]


def of_today(votes: list[Human], shas: Mapping[str, str], path: str, kind: str) -> list[Human]:
    """The votes on what is there today; those on recordings that were replaced since are left out, and told.

    Args:
        shas: item -> the hash of its recording (two, joined by " | ", of a choice); "" or none where nobody knows.
        kind: what one vote is called.
    """
    kept = [h for h in votes if not (h.heard and shas.get(h.item_id) and h.heard != shas[h.item_id])]
    if left := len(votes) - len(kept):
        say(f"{path}: {left} {kind}{'s' * (left > 1)} of answers that were replaced since they were heard: left out")
    return kept


def once(votes: list[Human], path: str) -> list[Human]:
    """Each vote once; one that PATH holds twice counts once, which is told.

    Raises:
        UserError: one listener judged one thing twice and otherwise.
    """
    kept: dict[tuple[str, str], Human] = {}
    for row in votes:
        first = kept.setdefault((row.item_id, rater(row.annotator)), row)
        if (first.score, first.verdict) != (row.score, row.verdict):
            got = " and ".join(str(h.verdict if h.score is None else h.score) for h in (first, row))
            raise UserError(
                f"{path}: {row.annotator!r} must have judged {row.item_id!r} once; got {got}; keep one of the lines"
            )
    if repeated := len(votes) - len(kept):
        say(f"{path}: {repeated} votes are there more than once and count once")
    return list(kept.values())


def rater(name: str) -> str:
    """Whose a name is: spaces, case, and how an accent is typed make nobody else."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def names_of(humans: Iterable[Human]) -> dict[str, str]:
    """`rater` -> the name as it was typed most often."""
    typed: dict[str, Counter[str]] = {}
    for h in humans:
        typed.setdefault(rater(h.annotator), Counter())[h.annotator.strip()] += 1
    return {who: min(counts, key=lambda name: (-counts[name], name)) for who, counts in sorted(typed.items())}


def of_table(path: Path) -> list[Human]:
    """A row a vote, in columns named as the fields of a line are; an empty cell is nothing.

    Raises:
        UserError: naming file and row, for what is no vote.
    """
    if not path.is_file():
        raise UserError(f"{path} must be an existing table of votes; check the path")
    text = text_of(path)
    if not text.strip():
        return []
    between = max(BETWEEN, key=text.partition("\n")[0].count)
    rows = numbered(path, text, ("item_id", "annotator"), between)
    return [vote for number, row in rows if (vote := of_row(row, f"{path}:{number}")) is not None]


def of_row(row: dict, where: str) -> Human | None:
    """None for a row of empty cells."""
    cells = {name: (value or "").strip() for name, value in row.items() if name is not None}
    if not any(cells.values()):
        return None
    if not (cells["item_id"] and cells["annotator"]):
        raise UserError(f"{where}: a vote must have item_id and annotator; got an empty cell; fill it in")
    if None in row:
        raise UserError(f"{where}: a row must have as many cells as the heading; got more; mend the row")
    score = number(cells.get("score", ""), where)
    verdict, heard = cells.get("verdict") or None, cells.get("heard", "")
    return Human(cells["item_id"], cells["annotator"], score, verdict, heard=heard)


def number(cell: str, where: str) -> float | None:
    try:
        return float(cell.replace(",", ".")) if cell else None
    except ValueError:
        raise UserError(f"{where}: a score must be a number, or empty; got {cell!r}; mend the cell") from None
