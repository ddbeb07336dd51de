"""Our own set for S2S-Arena's levels (data/text/arena.jsonl), spoken by whoever recorded or synthesised it.

ROOT/<id>.{wav,flac,ogg,mp3}, one recording an item; level (L1 to L4), domain (education, entertainment, social,
medical) and what a good answer does come from the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.corpora.rows import Row

LICENSE = "CC BY 4.0"
ENDS = (".wav", ".flac", ".ogg", ".mp3")


def arena_items() -> list[dict[str, Any]]:
    """id, level, domain, voice (how it is to be said), styles, instruction (what is said), good (what a good answer
    does)."""
    rows = (files("lightning_paras2s") / "data/text/arena.jsonl").read_bytes()
    return [json.loads(line) for line in rows.splitlines()]


def read(root: Path) -> Iterator[Row]:
    for item in arena_items():
        places = [root / f"{item['id']}{end}" for end in ENDS]
        yield Row(
            name=item["id"],
            subset=item["domain"],
            text=item["instruction"],
            audio=next((place for place in places if place.is_file()), None),
            styles=item["styles"],
            level=item["level"],
            topic=item["domain"],
            labels={key: item[key] for key in ("domain", "voice", "good")},
        )
