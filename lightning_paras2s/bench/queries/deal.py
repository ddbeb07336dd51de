"""`deal`: deal the contrast pairs of some manifests out to the stages that use them, so that no two stages share a text
(paper, section 5, settings: apart for demonstrations, reward data and RL).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.queries.manifest import moved, read_queries
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.running.logs import replace_file, safe_name
from lightning_paras2s.types import Query, to_json


def deal(manifests: Sequence[InputPath], out: str, shares: dict[str, float], seed: int = 0) -> dict[str, Any]:
    """Deal queries out: OUT/PART/SPLIT.jsonl for each part and split, whose recordings stay where they are.

    Whole contrast pairs are dealt, and with a text all its pairs. A part gets its share of every factor and split; the
    same manifests and seed give the same parts.

    Args:
        manifests: JSON lines of query records, of any splits.
        out: folder to write.
        shares: part -> its share of the pairs, together at most 1; what is left over goes to none.
        seed: of the order in which pairs are dealt.

    Returns:
        Queries and pairs of each part and split.
    """
    check(shares)
    groups: dict[tuple[str, str], list[tuple[Query, Path]]] = {}
    for manifest in manifests:
        for query in read_queries(manifest, None):
            groups.setdefault((query.factor, query.split), []).append((query, Path(manifest).parent))
    if repeated := [i for i, n in Counter(q.id for rows in groups.values() for q, _ in rows).items() if n > 1]:
        raise UserError(f"ids must be unique in all manifests; got {repeated[0]!r} twice; mend one")
    parts: dict[tuple[str, str], list[Query]] = {}
    for (_, split), rows in groups.items():
        for part, chosen in dealt(rows, shares, seed).items():
            folder = Path(out) / part
            parts.setdefault((part, split), []).extend(moved(query, root, folder) for query, root in chosen)
    written = {(part, split): Path(out) / part / f"{split}.jsonl" for part, split in parts}
    read = {Path(path).resolve() for path in manifests}
    if over := [path for path in written.values() if path.resolve() in read]:
        raise UserError(f"out must not hold the manifests that are read; {over[0]} is one; name another folder")
    for key, path in written.items():
        replace_file(path, "".join(to_json(query) + "\n" for query in parts[key]))
    return {
        "out": out,
        "read": sum(map(len, groups.values())),
        "parts": {
            f"{part} {split}": {"manifest": str(written[part, split]), **count(rows)}
            for (part, split), rows in parts.items()
        },
    }


def check(shares: Mapping[str, float]) -> None:
    if not shares or not all(share > 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"shares must be above 0 and together at most 1; got {shares or 'none'}; change them")
    if odd := [part for part in shares if safe_name(part) != part]:
        raise UserError(f"a part's name must be a folder's; got {odd[0]!r}")


def dealt(rows: Sequence[tuple[Query, Path]], shares: Mapping[str, float], seed: int) -> dict[str, list]:
    """Part -> its rows, of one factor and split; the texts stand in an order drawn by the seed."""
    texts = sorted({plain_text(query.text) for query, _ in rows}, key=lambda t: sha256(f"{seed}/{t}".encode()).digest())
    ends, place = {}, 0.0
    for part, share in shares.items():
        place += share
        ends[part] = round(place * len(texts))
    part_of, start = {}, 0
    for part, end in ends.items():
        part_of |= dict.fromkeys(texts[start:end], part)
        start = end
    return {part: [row for row in rows if part_of.get(plain_text(row[0].text)) == part] for part in shares}


def count(rows: Sequence[Query]) -> dict[str, int]:
    return {"queries": len(rows), "pairs": len({query.pair_id for query in rows})}
