"""Tables that people bring: csv, tsv and JSON lines in UTF-8, with one clear line for what is none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def rows_of(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """A CSV's rows (UTF-8, any line ends); a row that is too short is told of and left out.

    Raises:
        UserError: no such file, no UTF-8, a column is missing, or a field has no end (as after an open quote).
    """
    if not path.is_file():
        raise UserError(f"the corpus must hold {path}; got none; check root")
    for number, row in numbered(path, text_of(path), columns, DELIMITERS.get(path.suffix.lower(), ",")):
        if any(row[column] is None for column in columns):
            say(f"{path}:{number}: the row is too short and left out")
        else:
            yield row


def numbered(path: Path, text: str, columns: tuple[str, ...], delimiter: str) -> Iterator[tuple[int, dict]]:
    """The line at which each row of a CSV's text ends, and the row; PATH is named where it is none.

    Raises:
        UserError: a column is missing, or a field has no end.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        if missing:
            raise UserError(
                f"{path} must have the column {', '.join(missing)}; got {', '.join(reader.fieldnames or ())}"
            )
        yield from ((reader.line_num, row) for row in reader)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + 1}: a row must be readable as CSV; got {error}; mend it") from None


def rows_of_table(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """All rows of a csv, tsv or jsonl, every cell a text ("" where there is none), and the columns' names."""
    if path.suffix.lower() in DELIMITERS:
        rows = list(rows_of(path, ()))
        rows = [{key: value or "" for key, value in row.items() if key is not None} for row in rows]
        return rows, list(rows[0]) if rows else header_of(path)
    if path.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise UserError(f"root must be a folder, or a table in csv, tsv or jsonl; got {path}; save it as one of them")
    lines = [(number, line) for number, line in enumerate(text_of(path).split("\n"), 1) if line.strip()]
    rows = [json_row(line, f"{path}:{number}") for number, line in lines]
    return rows, list(dict.fromkeys(key for row in rows for key in row))


def header_of(path: Path) -> list[str]:
    return next(csv.reader(io.StringIO(text_of(path)), delimiter=DELIMITERS[path.suffix.lower()]), [])


def json_row(line: str, where: str) -> dict[str, str]:
    """One JSON object, its texts and numbers."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: each line must be one JSON object; got {line[:60]!r} ({error}); mend it") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: each line must be one JSON object; got {type(row).__name__}; mend it")
    return {key: str(value) if isinstance(value, str | int | float) else "" for key, value in row.items()}


def text_of(path: Path) -> str:
    """A file's text.

    Raises:
        UserError: it is no UTF-8: of another encoding (UTF-16 without its mark, too, in which every other byte is 0).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8; got other bytes ({error}); save it as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path} must be UTF-8; got other bytes (a NUL); save it as UTF-8")
    return text
