"""What is evaluated: a manifest of queries, checked, and its contrast pairs."""

from __future__ import annotations

from pathlib import Path

from lightning_paras2s.types import Query, UserError, read_jsonl


def read_queries(manifest: str, limit: int | None) -> list[Query]:
    """The manifest's queries, checked: factor, style, audio; at most `limit` contrast pairs a factor."""
    queries = read_jsonl(manifest, Query)
    if not queries:
        raise UserError(f"a manifest must list at least one query; got none in {manifest}; write it with `synthesize`")
    kept: dict[str, list[str]] = {}
    for number, query in enumerate(queries, 1):
        query.style  # noqa: B018  raises for an unknown style
        if query.factor not in query.styles:
            raise UserError(
                f"{manifest}:{number}: a query's styles must hold its factor {query.factor!r}; got {query.styles}"
            )
        if not (Path(manifest).parent / query.audio).is_file():
            raise UserError(
                f"{manifest}:{number}: audio must be an existing file; got {query.audio!r}; check the manifest"
            )
        pairs = kept.setdefault(query.factor, [])
        if query.pair_id not in pairs:
            pairs.append(query.pair_id)
    chosen = {pair for pairs in kept.values() for pair in pairs[:limit]}
    return [q for q in queries if q.pair_id in chosen]


def shard_of(queries: list[Query], shard: str) -> list[Query]:
    """Every k-th contrast pair from the i-th; a pair's halves stay together."""
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f'a shard must be "i/k" with 0 <= i < k; got {shard!r}')
    order = {pair: position for position, pair in enumerate(dict.fromkeys(q.pair_id for q in queries))}
    return [q for q in queries if order[q.pair_id] % int(count) == int(index)]


def other_styles(queries: list[Query]) -> dict[str, str]:
    """Query id -> the style of the other half of its pair; queries without another half are left out."""
    styles: dict[str, set[str]] = {}
    for query in queries:
        styles.setdefault(query.pair_id, set()).add(query.styles[query.factor])
    found = {}
    for query in queries:
        others = styles[query.pair_id] - {query.styles[query.factor]}
        if len(others) == 1:
            found[query.id] = others.pop()
    return found
