"""The step of an evaluation that measures answers as related benchmarks do: `evaluate --measures`.

Its records are `measures.jsonl`, a line a response and measure, known by what they were made from as verdicts are: the
answer, what was heard of it, the item, the measure, and the ear for emotions where one is asked. A measure and an item
that don't fit make a record with a status, which is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_paras2s.audio import is_silent, read_audio
from lightning_paras2s.bench.corpora.rows import CorpusItem
from lightning_paras2s.bench.measures.levels import item_level
from lightning_paras2s.bench.measures.named import MEASURES, Said, Scored, check_measures, lacking
from lightning_paras2s.bench.people.resampling import jackknife
from lightning_paras2s.bench.statistics import MIN_CLUSTERS, MIN_SHARED, clustered_mean, macro_share
from lightning_paras2s.bench.steps import Heard, Steps
from lightning_paras2s.bench.summary import mean_score, rounded
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.evidence import Ears
from lightning_paras2s.judging.judges import HEARD_FAILURES
from lightning_paras2s.running.logs import say
from lightning_paras2s.running.origins import Inputs, file_sha, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.types import Evidence, Measured, Query, Response, iter_jsonl, response_id

Reads = Literal["heard", "written"]
VERSION = 2  # of what measures.jsonl says; a higher one makes it anew
ANSWERED = ("ok", "no_tone", *HEARD_FAILURES)  # statuses of what a listener has heard, if only silence
NO_ITEM = CorpusItem("", "", "")


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        names: of the measures.
        items: query id -> what its corpus says of it.
        place: the file of items; "" where no measure needs one.
        reads: which words of an answer.
    """

    names: tuple[str, ...]
    items: Mapping[str, CorpusItem]
    place: str
    reads: Reads


def asked_of(names: Sequence[str], manifest: str, items: str | None, reads: Reads, queries: Sequence[Query]) -> Asked:
    """The measures with the items that they need, checked before anything is asked.

    Raises:
        UserError: a name is none, a package is missing, or there is no item of any query.
    """
    check_measures(names)
    if not any(MEASURES[name].item for name in names):
        return Asked(tuple(names), {}, "", reads)
    place = Path(items) if items else Path(manifest).with_name(f"{Path(manifest).stem}.items.jsonl")
    if not place.is_file():
        raise UserError(
            f"measures need what the corpus says of each query; got no {place}; `import_speech` writes it beside its "
            "manifest; for a manifest that was moved or filtered, name it by --items"
        )
    ids = {query.id for query in queries}
    rows = [item for item in iter_jsonl(place, CorpusItem) if item.query_id in ids]
    found = {item.query_id: item for item in rows}
    if not found:
        raise UserError(f"{place} must hold items of the manifest's queries; got none of {len(ids)}; name its own file")
    if twice := [name for name, count in Counter(item.query_id for item in rows).items() if count > 1]:
        raise UserError(f"{place} must hold one item a query; got several of {twice[0]!r}; remove all but one")
    say(f"measures: {place} holds an item for {len(found)} of {len(ids)} queries")
    return Asked(tuple(names), found, str(place), reads)


def measure(asked: Asked, steps: Steps, heard: Heard, ears: Ears) -> list[Measured]:
    """The measures of all answers, those that were missing made; each is kept in measures.jsonl as soon as its batch
    is."""
    ear, log = part_sha(ears.recognizer), steps.log
    evidence = {row.response_id: row for row in heard.evidence.values() if row.response_id in heard.responses}
    inputs = {
        (name, one): made_of
        for name, row in evidence.items()
        for one, made_of in inputs_of(asked, steps, heard.responses[name], row, ear).items()
    }
    rows = log.settled("measures", Measured, lambda _: False, lambda row: inputs.get((row.response_id, row.measure)))
    known = {(row.response_id, row.measure): row for row in rows if (row.response_id, row.measure) in inputs}
    lacks = {name: [one for one in asked.names if (name, one) not in known] for name in evidence}
    for part in steps.batches([name for name, names in lacks.items() if names], "measures", "measure"):
        made = list(measured(asked, steps, [(heard.responses[n], evidence[n], lacks[n]) for n in part], ears))
        log.append("measures", made, [inputs[row.response_id, row.measure] for row in made])
        known |= {(row.response_id, row.measure): row for row in made}
    return list(known.values())


def inputs_of(asked: Asked, steps: Steps, response: Response, heard: Evidence, ear: str) -> dict[str, Inputs]:
    """What each measure of an answer is made from; `ear` is the hash of who hears emotions."""
    sound = file_sha(steps.log.folder / response.audio) or response.sha256 if response.audio else ""
    found = {
        "answer": sha(sound, response.text, response.status),
        "heard": sha(heard.transcript, heard.status),
        "item": sha(asdict(asked.items.get(response.query_id, NO_ITEM)), in_writing(asked, steps, response)),
    }
    return {
        name: found | {"measure": sha(name, asked.reads, VERSION)} | ({"ears": ear} if MEASURES[name].voice else {})
        for name in asked.names
    }


def measured(
    asked: Asked, steps: Steps, batch: Sequence[tuple[Response, Evidence, list[str]]], ears: Ears
) -> Iterator[Measured]:
    """The measures that each response of a batch lacks."""
    voiced = [r for r, heard, names in batch
              if r.audio and heard.status in ANSWERED and any(MEASURES[name].voice for name in names)]  # fmt: skip
    read = {r.id: read_audio(steps.log.folder / r.audio, SAMPLE_RATE) for r in voiced}
    audios = {name: audio for name, audio in read.items() if not is_silent(audio)}
    emotions = dict(zip(audios, ears.recognizer.emotions(list(audios.values())), strict=True)) if audios else {}
    for response, heard, names in batch:
        words = response.text if asked.reads == "written" else heard.transcript
        said = Said(words or "", response.text, audios.get(response.id), emotions.get(response.id, {}),
                    ears.recognizer.emotions)  # fmt: skip
        for name in names:
            found = scored(asked, steps, response, heard, name, said)
            yield Measured(response.id, name, found.value, found.read, dict(found.parts), found.status)


def scored(asked: Asked, steps: Steps, response: Response, heard: Evidence, name: str, said: Said) -> Scored:
    """One measure of one answer, or why there is none."""
    written = asked.reads == "written" and not MEASURES[name].voice  # whatever a listener made of it
    status = response.status if written else heard.status
    if status not in ANSWERED:
        return lacking(status)
    if asked.reads == "written" and response.text is None and status != "silent":
        return lacking("no_text")
    item = asked.items.get(response.query_id)
    if MEASURES[name].item and item is None:
        return lacking("no_item")
    if MEASURES[name].item and in_writing(asked, steps, response):
        return lacking("asked_in_writing")
    return MEASURES[name].score(item or NO_ITEM, said)


def in_writing(asked: Asked, steps: Steps, response: Response) -> bool:
    """Was the question in writing beside the recording, and the system one that reads none? What it answered is then
    no answer to it. (Whether recorded answers were given to the whole question is their maker's to say; a topline is
    told words and labels, and no question either.)"""
    system, item = steps.plan.systems.get(response.system), asked.items.get(response.query_id)
    return item is not None and bool(item.instruction) and (system is None or not system.told_all)


def summary_of(asked: Asked, steps: Steps, rows: Iterable[Measured]) -> dict[str, Any]:
    """System -> measure -> its numbers; and what they were made from."""
    found = {(row.response_id, row.measure): row for row in rows}
    systems = {
        name: {one: numbers(asked, steps, found, name, one) for one in asked.names} for name in steps.plan.systems
    }
    return {"reads": asked.reads, "items": asked.place, "n_items": len(asked.items), "systems": systems}


def any_value(summary: Mapping[str, Any]) -> bool:
    """Has any answer a value?"""
    return any(one["n"] for found in summary["systems"].values() for one in found.values())


def numbers(
    asked: Asked, steps: Steps, found: Mapping[tuple[str, str], Measured], system: str, name: str
) -> dict[str, Any]:
    """One measure of one system: a mean over queries (the samples of one averaged before), clustered by contrast pair;
    of how many; and for each subset of the corpus, and each level of capability."""
    rows = {
        query.id: [
            row
            for sample in range(steps.plan.samples)
            if (row := found.get((response_id(system, query.id, sample), name))) is not None
        ]
        for query in steps.queries
    }
    values = np.array([mean_score(row.value for row in rows[query.id]) for query in steps.queries])
    pairs = [query.pair for query in steps.queries]
    statuses = Counter(row.status for one in rows.values() for row in one)
    table = interval(values, pairs) | {"statuses": dict(statuses)}
    if pool := MEASURES[name].pooled:
        parts = [(row.parts, query.pair) for query in steps.queries for row in rows[query.id] if row.parts]
        table |= pooled(pool, parts, name)
    items = [asked.items.get(query.id, NO_ITEM) for query in steps.queries]
    tags = {"by_subset": [item.subset for item in items], "by_level": [str(item_level(item) or "") for item in items]}
    for tag, names in tags.items():
        groups = sorted(set(names) - {""})
        masks = {group: np.array([one == group for one in names]) for group in groups}
        table[tag] = {
            group: interval(values[mask], [pair for pair, own in zip(pairs, mask, strict=True) if own])
            for group, mask in masks.items()
        }
    return table


def interval(values: np.ndarray, clusters: Sequence[str]) -> dict[str, Any]:
    """Mean and interval (Wilson's of a share, if each cluster has one value), of how many, and how many have none."""
    known = np.isfinite(values)
    share = bool(np.isin(values[known], (0, 1)).all())
    alone = len({cluster for cluster, one in zip(clusters, known, strict=True) if one}) == known.sum()
    if share and alone:
        mean = macro_share({"": (values, clusters)})
    else:
        mean = clustered_mean(values, clusters, MIN_SHARED if share else MIN_CLUSTERS)
    found = {"mean": rounded(mean.value), "ci95": [rounded(end) for end in mean.ci95]}
    return found | {"n": mean.n, "n_failed": int((~known).sum())}


def pooled(pool: Any, parts: Sequence[tuple[Mapping[str, float], str]], name: str) -> dict[str, Any]:
    """A figure of the whole set that is no mean of its answers', its interval from leaving out each cluster."""
    rows, clusters = [part for part, _ in parts], [pair for _, pair in parts]
    value = pool(rows)
    found = jackknife(lambda index: pool([rows[i] for i in index]), clusters, MEASURES[name].scale)
    return {"pooled": rounded(value), "pooled_ci95": [rounded(found.low), rounded(found.high)]}
