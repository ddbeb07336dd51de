"""Scripts (a text with two contrasting styles) and their casting: who speaks each half, how, with which noise."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np

from lightning_paras2s.data.domains import spare_queries
from lightning_paras2s.data.embedded import TextQuery, query_style, text_queries
from lightning_paras2s.data.open_text import read_open
from lightning_paras2s.data.sources import demonstrated_queries
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import safe_name
from lightning_paras2s.speaking.synthesizers import Voice
from lightning_paras2s.types import FACTORS, SPLITS, STYLES, Query, Style, read_jsonl

SHIPPED = ("embedded", "open", "spare")  # text sets that come with the package
SHOWN = 0.2  # share of the demonstrations that `sft_fifth` saw
LICENSE = "CC-BY-4.0"  # of all


class Job(NamedTuple):
    query: Query
    style: Style
    seed: int


def load_scripts(source: str, split: str, factors: Sequence[str], limit: int | None, seed: int) -> list[TextQuery]:
    """The first `limit` scripts of each factor, in an order drawn from the seed: a larger limit only adds some."""
    scripts = scripts_of(source)
    chosen = []
    for factor in factors:
        found = [s for s in scripts if s.factor == factor and s.split == split]
        if not found:
            raise UserError(f"{source} must hold {factor} scripts of the split {split}; got none; choose others")
        chosen += sorted(found, key=lambda s: digest(seed, s.id))[:limit]
    return chosen


def scripts_of(source: str) -> list[TextQuery]:
    """Scripts of all splits: of a set that ships with the package ("embedded", "open", or "spare", which has a test
    split alone), or of a file."""
    if source == "embedded":
        return [q for split in SPLITS for q in text_queries(split)]
    if source == "spare":
        return [replace(query, split="test") for query in spare_queries(demonstrated_queries(SHOWN))]
    if source == "open":
        prompts = [p for split in SPLITS for factor in FACTORS for p in read_open(factor, split)]
        return [TextQuery(p.id, p.factor, p.split, p.topic, p.subject, p.text, tuple(p.styles)) for p in prompts]
    return read_scripts(source)


def read_scripts(path: str) -> list[TextQuery]:
    """Scripts as `mine` writes them.

    Raises:
        UserError: an id used twice, or a style that its factor lacks.
    """
    scripts = [replace(s, styles=tuple(s.styles)) for s in read_jsonl(path, TextQuery)]
    for script_id, count in Counter(s.id for s in scripts).items():
        if count > 1:
            raise UserError(f"{path}: ids must be unique; got {script_id!r} {count} times; remove the copies")
    for s in scripts:
        if s.factor not in FACTORS or len(set(s.styles)) != 2 or set(s.styles) - set(STYLES[s.factor]):
            got = f"{s.factor!r} {list(s.styles)}"
            raise UserError(f"{path}: {s.id} must have a known factor and two of its styles; got {got}; mend the line")
    return scripts


def plan(script: TextQuery, voices: dict[str, Voice], seed: int, source: str, synthesizer: str) -> list[Job]:
    """Both halves of a contrast pair: who speaks them, how, and with which noise."""
    random = np.random.default_rng(int(digest(seed, script.id)[:16], 16))
    jobs = []
    for value, name in zip(script.styles, pair_voices(script, voices, random), strict=True):
        style = query_style(script.factor, value, voices[name].gender, voices[name].age)
        query = Query(
            id=f"{script.id}-{value}",
            pair_id=script.id,
            factor=script.factor,
            split=script.split,
            text=script.text,
            styles={k: v for k, v in asdict(style).items() if v and k != "tone"},
            topic=script.topic,
            audio=audio_of(f"{script.id}-{value}"),
            voice=name,
            source=f"{f'{source} text' if source in SHIPPED else 'mined'}, {synthesizer}",
            license=LICENSE if source in SHIPPED else "",
        )
        jobs.append(Job(query, style, int(random.integers(2**31))))
    return jobs


def audio_of(query_id: str) -> str:
    """Where a query's recording lies in its folder, whatever its id holds."""
    return f"audio/{safe_name(query_id)}.flac"


def pair_voices(script: TextQuery, voices: dict[str, Voice], random: np.random.Generator) -> list[str]:
    """Who speaks a pair's halves: one voice, but for gender; for age a child and its adult twin, if there is one."""

    def pick(age: str, gender: str | None = None) -> str:
        fit = sorted(name for name, v in voices.items() if v.age == age and gender in (None, v.gender))
        if not fit:
            wanted = " ".join(filter(None, (age, gender)))
            raise UserError(f"the synthesizer must have {wanted} voices of this split for {script.factor}; got none")
        return fit[random.integers(len(fit))]

    if script.factor == "gender":
        return [pick("adult", value) for value in script.styles]
    if script.factor == "age":
        child = pick("child")
        twin = child.removesuffix("/child")
        adult = twin if twin != child and twin in voices else pick("adult", voices[child].gender)
        return [{"child": child, "adult": adult}[value] for value in script.styles]
    return [pick("adult")] * 2


def digest(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()
