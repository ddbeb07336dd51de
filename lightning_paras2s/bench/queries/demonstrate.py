"""`demonstrate`: from queries to the answers of stage 1 (paper, section 4.1): a chat model that is told the labels
writes words and tone, a voice speaks candidates, ears choose.

The paper synthesizes 10 candidates, filters by word error rate, and lets people select. Departure: a style recogniser
stands where people listened; whoever has listeners finds all candidates in `responses.jsonl`. The paper prints no
threshold; ours is `max_wer`. What has no answer in the end is a status, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_paras2s.bench.queries.demonstrate_speech import Speaker, Voice
from lightning_paras2s.bench.queries.demonstrate_words import ANSWER_CHARACTERS, Writer, Written
from lightning_paras2s.bench.queries.filters import check_max_wer
from lightning_paras2s.bench.queries.manifest import check_labelled, check_manifests, moved, read_queries
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.queries.synthesize import Budget
from lightning_paras2s.errors import InputPath, UserError, check_choice
from lightning_paras2s.hearing.evidence import Ears
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.running.logs import replace_jsonl, write_summary
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat
from lightning_paras2s.servers.spending import cap
from lightning_paras2s.speaking.prompted import PromptVoices
from lightning_paras2s.speaking.remote import RemoteSynthesizer
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE, EspeakSynthesizer, Synthesizer, most_minutes
from lightning_paras2s.types import SPLITS, TONES, Query, Response, read_jsonl


def demonstrate(
    manifests: Sequence[InputPath],
    out: str,
    transcriber: Transcriber,
    recognizer: StyleRecognizer,
    llm: ChatLLM | None = None,
    synthesizer: Synthesizer | None = None,
    voice: str = AGENT_VOICE,
    voices: dict[str, str] | None = None,
    candidates: int = 10,
    max_wer: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
    max_usd: float | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the answers that stage 1 learns: OUT/answers.jsonl, and OUT/train.jsonl, val.jsonl with the queries that
    have one.

    A run that was killed anywhere goes on by the same command; no reply and no speech is asked for twice. Every reply
    (written.jsonl), candidate (responses.jsonl) and hearing (evidence.jsonl) is kept.

    Args:
        manifests: JSON lines of query records with their labels, of any splits (train and val).
        out: folder to write.
        transcriber: hears the candidates' words.
        recognizer: hears their tone.
        llm: writes words and tone; ScriptedLLM by default (offline); the paper's is OpenAIChat with gpt-4.1.
        synthesizer: speaks them; eSpeak NG by default. The paper's is OpenAITTS.
        voice: the synthesizer's name for the agent's voice.
        voices: tone -> voice, for synthesizers whose tone lies in a recorded speaker (CosyVoice); other tones take
            `voice`.
        candidates: of each answer, at most; a voice that repeats itself, as eSpeak does, is asked no further.
        max_wer: word error rate above which a candidate is dropped.
        limit: only the first so many contrast pairs of each factor and manifest.
        seed: of the first candidate; the next have the next.
        max_usd: ask for nothing that could take what this folder has cost, all runs together, above so many USD.
        dry_run: ask nobody; tell how much a run would ask for, and what it would cost at most.

    Returns:
        Counts of queries by status and factor, word error rate and tone share, the cost.
    """
    check(candidates, max_wer, out, manifests)
    llm, synthesizer = llm or ScriptedLLM(), synthesizer or EspeakSynthesizer()
    names = voices_of(synthesizer, voice, voices or {})
    folder, ears = Path(out), Ears(transcriber, recognizer)
    queries = read_all(manifests, limit, folder)
    writer = Writer(folder, llm, queries)
    price = synthesizer.usd_per_minute
    if dry_run:
        return estimate(writer, folder, price, candidates)
    paid = isinstance(llm, OpenAIChat)
    budget = Budget(synthesizer, price, max_usd if price or not paid else None)  # a voice without a price costs nothing
    speaker = Speaker(folder, Voice(synthesizer, names, seed, candidates, max_wer), ears, budget)
    budget.spent = speaker.spent() + writer.spent
    if paid:
        cap(llm, None if max_usd is None else max(0.0, max_usd - budget.spent))
    before = writer.spent
    written = writer.write()
    budget.spent += writer.spent - before
    good = {i: row for i, row in written.items() if row.status == "ok"}
    speaker.resume(good)
    resumed = sum(map(len, speaker.made.values()))
    speaker.speak([q for q in queries if q.id in good])
    result = write(folder, queries, written, speaker) | {"resumed": resumed}
    result |= {"llm": llm.name, "synthesizer": synthesizer.name, "max_wer": max_wer, "providers": ears.providers}
    result["usd"] = round(budget.total, 4)
    write_summary(folder / "demonstrate.json", result)
    return result


def check(candidates: int, max_wer: float, out: str, manifests: Sequence[str]) -> None:
    if candidates < 1:
        raise UserError(f"candidates must be at least 1; got {candidates}")
    check_max_wer(max_wer)
    check_manifests(manifests)
    read = {Path(path).resolve() for path in manifests}
    if over := [split for split in SPLITS if (Path(out) / f"{split}.jsonl").resolve() in read]:
        raise UserError(f"out must not hold the manifests that are read; {over[0]}.jsonl is one; name another folder")


def voices_of(synthesizer: Synthesizer, voice: str, voices: Mapping[str, str]) -> dict[str, str]:
    """Tone -> the voice that speaks it.

    Raises:
        UserError: an unknown tone, or a voice that the synthesizer can't have.
    """
    if unknown := set(voices) - set(TONES):
        raise UserError(f"voices must name tones, {', '.join(TONES)}; got {', '.join(sorted(unknown))}")
    names = {tone: voices.get(tone, voice) for tone in TONES}
    if isinstance(synthesizer, RemoteSynthesizer) and AGENT_VOICE in names.values():
        raise UserError(f"{synthesizer.name} needs the name of a voice; got {AGENT_VOICE!r}, eSpeak's; give --voice")
    recorded = getattr(synthesizer, "speakers", None)
    if isinstance(recorded, PromptVoices) and (missing := set(names.values()) - set(recorded.speakers)):
        raise UserError(
            f"a voice must be one of {', '.join(recorded.speakers)}; got {min(missing)!r}; add it to the list"
        )
    return names


def read_all(manifests: Sequence[str], limit: int | None, folder: Path) -> list[Query]:
    """The manifests' queries in order, their recordings relative to `folder`.

    Raises:
        UserError: two have one id, or one has no style, or a split of which no list is made.
    """
    found: dict[str, Query] = {}
    for manifest in manifests:
        for query in read_queries(manifest, limit):
            if query.id in found:
                raise UserError(f"{manifest}: ids must be unique in all manifests; got {query.id!r} twice; mend one")
            check_choice(f"{manifest}: the split of {query.id!r}", query.split, SPLITS)
            found[query.id] = moved(query, Path(manifest).parent, folder)
    check_labelled(found.values(), "`demonstrate`")
    return list(found.values())


def estimate(writer: Writer, folder: Path, usd_per_minute: float, candidates: int) -> dict[str, Any]:
    """What a run would ask, if every query that has no answer yet took all its candidates."""
    tokens, usd = writer.estimate()
    path = folder / "answers.jsonl"
    answered = {row.query_id for row in read_jsonl(path, Response)} if path.is_file() else set()
    open_ones = [q for q in writer.queries if q.id not in answered or q.id not in writer.done]
    minutes = len(open_ones) * candidates * most_minutes(ANSWER_CHARACTERS)
    return {
        "dry_run": True,
        "queries": len(writer.queries),
        "requests": len(writer.todo),
        "tokens": tokens,
        "speech_hours": round(minutes / 60, 2),
        "usd": round(usd + minutes * usd_per_minute, 2),
    }


def write(folder: Path, queries: list[Query], written: Mapping[str, Written], speaker: Speaker) -> dict[str, Any]:
    """Write the answers and the queries that have one; the counts of all."""
    best = {q.id: speaker.best(q.id) for q in queries if q.id in speaker.written}
    statuses = {q.id: best[q.id][1] if q.id in best else written[q.id].status for q in queries}
    rows = [row for row, _ in best.values() if row is not None]
    replace_jsonl(folder / "answers.jsonl", rows)
    answered, made = {row.query_id for row in rows}, {}
    for split in SPLITS:
        path, kept = folder / f"{split}.jsonl", [q for q in queries if q.split == split and q.id in answered]
        if kept or path.is_file():
            replace_jsonl(path, kept)
            made[split] = {"manifest": str(path), "queries": len(kept), "pairs": len({q.pair for q in kept})}
    heard = [e for e in speaker.heard.values() if e.status in ("ok", "no_tone")]
    kept_wer = [speaker.heard[row.id].wer or 0.0 for row in rows]
    return {
        "answers": str(folder / "answers.jsonl"),
        "splits": made,
        "queries": len(queries),
        "answered": len(rows),
        "statuses": dict(Counter(statuses.values()).most_common()),
        "read_by_factor": dict(Counter(q.factor for q in queries)),
        "answered_by_factor": dict(Counter(q.factor for q in queries if q.id in answered)),
        "candidates": sum(map(len, speaker.made.values())),
        "wer": mean(kept_wer),
        "wer_of_candidates": mean([e.wer for e in heard if e.wer is not None]),
        "tone_share_of_candidates": speaker.share_in_tone(heard),
        "hours": round(sum(row.seconds for row in rows) / 3600, 3),
    }


def mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
