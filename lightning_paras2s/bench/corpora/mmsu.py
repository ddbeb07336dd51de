"""MMSU (arXiv 2506.04779): 5,000 questions about recordings, four options each, 47 tasks of perception and reasoning.

A table of id, task_name, audio_path, question, choice_a to choice_d, answer_gt, category, sub-category,
sub-sub-category and linguistics_sub_discipline, and the recordings that audio_path names (seen: the repository's two
scripts at f0ef334; the table itself was not seen).

Traps: the table is read with json.load, whatever its name: a JSON list in a .jsonl. answer_gt is the *words* of the
right option, not its letter. Some questions have two options. Its evaluator leaves answers that it can't read out of
the total, and counts an answer "None" by the letter of the answer before; `measures/choices.py` counts both as wrong.
Its inference script writes the category into sub-category, so take the tags from the table, not from a file of
answers.

The question and options are in writing: `instruction`. Nobody wrote down what is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import found, json_rows, letters
from lightning_paras2s.errors import UserError

LICENSE = "unknown: see its card"
FIELDS = ("id", "audio_path", "question", "choice_a", "choice_b", "answer_gt")
TAGS = ("task_name", "category", "sub-category", "sub-sub-category", "linguistics_sub_discipline")


def read(root: Path) -> Iterator[Row]:
    tables = [root] if root.is_file() else sorted([*root.glob("*.json"), *root.glob("*.jsonl")])
    if len(tables) != 1:
        names = ", ".join(path.name for path in tables) or "none"
        raise UserError(f"root must be MMSU's table, or hold one (.json, .jsonl); got {names} in {root}; name the file")
    folder = tables[0].parent
    for row in json_rows(tables[0], FIELDS):
        options = letters(row.get(f"choice_{letter}") for letter in "abcd")
        right = [letter for letter, words in options.items() if words.strip() == str(row["answer_gt"]).strip()]
        listed = "\n".join(f"{letter}. {words}" for letter, words in options.items())
        yield Row(
            name=str(row["id"]),
            subset=str(row.get("category", "")),
            audio=found(folder, row["audio_path"]),
            instruction=f"{row['question']}\n{listed}",
            options=options,
            right=right[0] if len(right) == 1 else "",
            labels={tag: row[tag] for tag in TAGS if tag in row},
            why="" if len(right) == 1 else "no_right_option",
        )
