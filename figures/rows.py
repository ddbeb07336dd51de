"""The rows of the results table, made again from every answer's numbers (results/scores.jsonl.gz).

A system's row is replaced if the answers of all its seeds are there, and kept if they are not.

    python -m lightning_paras2s headline --runs '[runs/bench/full/evaluate]' --items results/scores.jsonl.gz --json
    python figures/rows.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lightning_paras2s.bench.items import Item, figures, read_items


def remade(row: dict, items: list[Item]) -> dict:
    """A row of results/embedded.jsonl with its figures from the items of its system and seeds; itself without them."""
    seeds = row["seed"] if isinstance(row["seed"], list) else [row["seed"]]
    own = [i for i in items if i.system == row["system"] and i.seed in seeds]
    return row | figures(own) if {i.seed for i in own} == set(seeds) else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path, default=Path("results/scores.jsonl.gz"), help="every answer's numbers")
    parser.add_argument("--rows", type=Path, default=Path("results/embedded.jsonl"), help="rows to make again")
    parser.add_argument("--date", default=None, help="of the rows that change")
    given = parser.parse_args()
    items = read_items(given.items)
    lines = []
    for row in (json.loads(line) for line in given.rows.read_text().splitlines()):
        made = remade(row, items)
        changed = {key: (row.get(key), value) for key, value in made.items() if row.get(key) != value}
        for key, (before, after) in changed.items():
            print(f"{row['system']}: {key} {before} -> {after}")
        lines.append(made | ({"date": given.date} if changed and given.date else {}))
    given.rows.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
