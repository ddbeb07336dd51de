"""`deal`: deal the contrast pairs of some manifests out to the stages that use them, so that no two stages share a text
(demonstrations, reward data and RL), whatever factor or split it stands in. The paper has a set for each (section 5,
settings) and does not tell whether they share texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightning_paras2s.bench.queries.manifest import check_manifests, moved, read_queries
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.words import plain_text
from lightning_paras2s.running.files import rows_in
from lightning_paras2s.running.logs import replace_jsonl, safe_name, say
from lightning_paras2s.types import SPLITS, Query

Group = tuple[str, str]  # a factor and a split


def deal(manifests: Sequence[InputPath], out: str, shares: dict[str, float], seed: int = 0) -> dict[str, Any]:
    """Deal queries out: OUT/PART/SPLIT.jsonl for each part and split, whose recordings stay where they are.

    Whole contrast pairs are dealt, and with a text all its pairs, of every factor and split; speech without words goes
    by its pair alone. A part gets its share of every factor and split, as nearly as shared texts let it; the same
    manifests and seed give the same parts.

    Args:
        manifests: JSON lines of query records, of any splits.
        out: folder to write.
        shares: part -> its share of the pairs, together at most 1; what is left over goes to none.
        seed: of the order in which pairs are dealt.

    Returns:
        Queries and pairs of each part and split.
    """
    check(shares)
    check_manifests(manifests)
    groups: dict[Group, list[tuple[Query, Path]]] = {}
    for manifest in manifests:
        for query in read_queries(manifest, None):
            groups.setdefault((query.factor, query.split), []).append((query, Path(manifest).parent))
    if repeated := [i for i, n in Counter(q.id for rows in groups.values() for q, _ in rows).items() if n > 1]:
        raise UserError(f"ids must be unique in all manifests; got {repeated[0]!r} twice; mend one")
    queries = [query for rows in groups.values() for query, _ in rows]
    part_of = dict(zip((query.id for query in queries), dealt(queries, shares, seed), strict=True))
    parts: dict[tuple[str, str], list[Query]] = {}
    for (_, split), rows in groups.items():
        for part in shares:
            chosen = [moved(query, root, Path(out) / part) for query, root in rows if part_of[query.id] == part]
            parts.setdefault((part, split), []).extend(chosen)
    written = {(part, split): Path(out) / part / f"{split}.jsonl" for part, split in parts}
    read = {Path(path).resolve() for path in manifests}
    if over := [path for path in written.values() if path.resolve() in read]:
        raise UserError(f"out must not hold the manifests that are read; {over[0]} is one; name another folder")
    for key, path in written.items():
        replace_jsonl(path, parts[key])
    tell_others(Path(out), {*written.values()}, part_of)
    return {
        "out": out,
        "read": sum(map(len, groups.values())),
        "parts": {
            f"{part} {split}": {"manifest": str(written[part, split]), **count(rows)}
            for (part, split), rows in parts.items()
        },
    }


def tell_others(out: Path, written: Set[Path], part_of: Mapping[str, str | None]) -> None:
    """One line on each list beside today's that holds queries of several parts, or of another than its folder's."""
    for path in sorted(path for split in SPLITS for path in out.glob(f"*/{split}.jsonl") if path not in written):
        parts = {part_of[name] for row in rows_in(path) if (name := row.get("id")) in part_of}
        if len(parts) > 1 or (path.parent.name in part_of.values() and parts - {path.parent.name}):
            say(f"{path} is of another deal and shares queries with today's parts; remove it")


def check(shares: Mapping[str, float]) -> None:
    if not shares or not all(share > 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"shares must be above 0 and together at most 1; got {shares or 'none'}; change them")
    if odd := [part for part in shares if safe_name(part) != part]:
        raise UserError(f"a part's name must be a folder's; got {odd[0]!r}")


def dealt(queries: Sequence[Query], shares: Mapping[str, float], seed: int) -> list[str | None]:
    """Each query's part, None for those left over. Units are dealt in an order drawn by the seed: first those that
    several groups hold, each to the part that lacks most in them; then each group's own, up to the group's quotas."""
    units, groups_of = units_of(queries), {}
    for query, unit in zip(queries, units, strict=True):
        groups_of.setdefault(unit, set()).add((query.factor, query.split))
    given: dict[Group, Counter[str | None]] = {group: Counter() for groups in groups_of.values() for group in groups}
    own: dict[Group, list[str]] = {group: [] for group in given}
    part_of: dict[str, str | None] = {}
    for unit in sorted(groups_of, key=lambda unit: sha256(f"{seed}/{unit}".encode()).digest()):
        held = [given[group] for group in groups_of[unit]]
        if len(held) == 1:
            own[min(groups_of[unit])].append(unit)
            continue
        part_of[unit] = most_lacking(held, shares)
        for counts in held:
            counts[part_of[unit]] += 1
    for group, rest in own.items():
        quota = quotas(len(rest) + given[group].total(), shares) - given[group]
        part_of |= dict(zip(rest, quota.elements(), strict=False))
    return [part_of.get(unit) for unit in units]


def units_of(queries: Sequence[Query]) -> list[str]:
    """Each query's unit, which is dealt as a whole: two queries with one text or of one pair are of one. It is named by
    the first of its texts; speech without words by its pair."""
    links = [(query.pair, plain_text(query.text) or query.pair) for query in queries]
    nodes = {name: i for i, name in enumerate(dict.fromkeys(name for link in links for name in link))}
    linked = np.array([[nodes[name] for name in link] for link in links]).T  # [2, queries]
    graph = coo_array((np.ones(len(links)), linked), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for name in sorted(nodes, key=lambda name: ("/" in name, name)):  # a pair's name has a slash, a text's words none
        names.setdefault(label[nodes[name]], name)
    return [names[label[node]] for node in linked[0]]


def most_lacking(held: Sequence[Counter[str | None]], shares: Mapping[str, float]) -> str | None:
    """The part, None for no part, that has least for its share of what these groups were given, and of one more."""
    wanted = {**shares, None: 1 - sum(shares.values())}
    seen = sum(counts.total() + 1 for counts in held)
    lacking = {part: share * seen - sum(counts[part] for counts in held) for part, share in wanted.items()}
    return max(lacking, key=lacking.__getitem__)


def quotas(count: int, shares: Mapping[str, float]) -> Counter[str | None]:
    """How many of so many texts each part gets: they are cut where the shares end, rounded."""
    ends = [round(place * count) for place in accumulate(shares.values())]
    return Counter({part: end - start for part, end, start in zip(shares, ends, [0, *ends], strict=False)})


def count(rows: Sequence[Query]) -> dict[str, int]:
    return {"queries": len(rows), "pairs": len({query.pair for query in rows})}
