"""Keep the queries that say what they should, as they should (paper, section 3.1, steps 3 and 4): `filter`.

Synthetic speech is dropped when its words are misheard (WER above a threshold), when a classifier does not hear its
style (the paper: when the classifier's score is too low), and when it shares a topic, a text or a voice with the
training data. The paper prints no thresholds; ours are parameters, and the counts of each rejection are reported. A
pair loses both halves when one is dropped, unless `keep_halves`. Step 5, three people who listen, is nobody's here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.queries.duplicates import near_duplicates
from lightning_paras2s.bench.queries.manifest import check_ids, write_manifest
from lightning_paras2s.errors import InputPath, UserError, check_some
from lightning_paras2s.hearing.evidence import Heard
from lightning_paras2s.hearing.evidence import listen as hear_all
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.running.logs import read_summary, replace_jsonl, say, write_summary
from lightning_paras2s.running.origins import file_sha, reasons
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.types import FACTORS, Audio, Query, Style, append_jsonl, read_jsonl

CHUNK = 64
COUNTED = ("read", "kept", "rejected", "read_by_factor", "kept_by_factor")  # what a table's caption tells


@dataclass(frozen=True)
class Hearing:
    """What was heard in a query; None where nobody listened. `inputs`: the hashes of the recording and of the ears."""

    id: str
    transcript: str | None = None
    styles: dict[str, str] | None = None
    error: str = ""
    inputs: dict[str, str] = field(default_factory=dict)


def filter(
    manifest: InputPath,
    out: str,
    transcriber: Transcriber | None = None,
    recognizer: StyleRecognizer | None = None,
    max_wer: float = 0.3,
    factors_heard: Sequence[str] = ("emotion",),
    train_manifest: InputPath | None = None,
    keep_halves: bool = False,
    hearings: str | None = None,
) -> dict:
    """Filter a manifest of queries: OUT lists those kept, its neighbour `.rejected.jsonl` the others with why, and
    `.filter.json` the counts, which `evaluate` takes into its summary.

    Args:
        manifest: queries.jsonl of `synthesize` or of an importer.
        out: manifest to write, in the same folder (audio paths stay relative to it).
        transcriber: hears the words; without one, words are not checked.
        recognizer: hears the style; without one, styles are not checked.
        max_wer: word error rate above which a query is dropped; of a script without spaces each character is a word.
        factors_heard: factors whose style the recognizer must hear (the paper: emotion): emotion, sarcasm, age, gender.
        train_manifest: queries whose topics, texts and voices may not occur.
        keep_halves: keep a half whose other half was dropped.
        hearings: file of what was heard; a run that was killed continues from it, and listens again where a recording
            or the ears changed. MANIFEST's `.heard.jsonl` by default.

    Returns:
        Counts: read, kept, rejected by reason, kept and read by factor; of those kept, how many have words that nobody
        checked (no transcriber, or a recording without its text); who listened, and the thresholds.
    """
    check_some("factors_heard", factors_heard, FACTORS, none=True)
    check_max_wer(max_wer)
    if Path(out).parent.resolve() != Path(manifest).parent.resolve():
        raise UserError(f"out must lie beside the manifest, whose audio paths it keeps; got {out} and {manifest}")
    read = {Path(path).resolve() for path in (manifest, train_manifest) if path}
    for written in (Path(out), rejected_path(out), counts_path(out)):
        if written.resolve() in read:
            raise UserError(f"out must be another file than those that are read; {written} is one; name another")
    queries = read_jsonl(manifest, Query)
    check_ids(queries, manifest)
    heard = hear(
        queries, manifest, transcriber, recognizer, hearings or str(Path(manifest).with_suffix(".heard.jsonl"))
    )
    whys = {q.id: reject(q, heard[q.id], max_wer, factors_heard) for q in queries}
    if train_manifest:
        overlap = overlaps(queries, read_jsonl(train_manifest, Query))
        whys = {query_id: why or overlap.get(query_id, "") for query_id, why in whys.items()}
    if not keep_halves:
        halves = Counter(q.pair for q in queries if not whys[q.id])
        whole = Counter(q.pair for q in queries)
        orphans = {q.id for q in queries if not whys[q.id] and halves[q.pair] < whole[q.pair]}
        whys |= {query_id: "other_half: was dropped" for query_id in orphans}
    rejected = [{**asdict(heard[q.id]), "id": q.id, "why": whys[q.id]} for q in queries if whys[q.id]]
    replace_jsonl(rejected_path(out), rejected)
    kept = [q for q in queries if not whys[q.id]]
    write_manifest(Path(out), kept)
    counts = {
        "manifest": out,
        "read": len(queries),
        "kept": len(kept),
        "rejected": dict(Counter(why.split(":")[0] for why in whys.values() if why).most_common()),
        "kept_by_factor": dict(Counter(q.factor for q in kept)),
        "read_by_factor": dict(Counter(q.factor for q in queries)),
        "max_wer": max_wer,
        "words_unchecked": sum(heard[q.id].transcript is None or not q.text.strip() for q in kept),
        "factors_heard": list(factors_heard),
        "providers": {
            "transcriber": transcriber.name if transcriber else "",
            "recognizer": recognizer.name if recognizer else "",
        },
    }
    counts["manifest_sha"] = file_sha(Path(out))
    write_summary(counts_path(out), counts)
    return counts


def check_max_wer(max_wer: float) -> None:
    if not max_wer >= 0:  # nan would reject nothing
        raise UserError(f"max_wer must be a word error rate, at least 0; got {max_wer}")


def rejected_path(out: str | Path) -> Path:
    """Where the rejected queries are told, with why."""
    return Path(out).with_suffix(".rejected.jsonl")


def counts_path(manifest: str | Path) -> Path:
    """Where the counts of the filter that wrote a manifest are."""
    return Path(manifest).with_suffix(".filter.json")


def read_counts(manifest: str | Path) -> dict:
    """{"filtered": the counts of the filter that wrote a manifest}; {} if none did."""
    path = counts_path(manifest)
    if not path.is_file():
        return {}
    counts = read_summary(path, COUNTED, "run `filter` again")
    if counts.get("manifest_sha", made := file_sha(Path(manifest))) != made:
        say(f"{path} counts another list than today's {manifest}, and is left out; run `filter` again")
        return {}
    return {"filtered": counts}


def reject(query: Query, heard: Hearing, max_wer: float, factors_heard: Sequence[str]) -> str:
    """Why a query is dropped for what was heard; "" if it is not. What was not listened for is not held against it, nor
    are the words of a recording whose own are not known."""
    if heard.error:
        return f"audio: {heard.error}"
    comparable = heard.transcript is not None and query.text.strip()
    if comparable and (error := word_error_rate(query.text, heard.transcript)) > max_wer:
        return f"wer: {error:.3f}, heard {heard.transcript!r}"
    for factor in factors_heard:
        wanted = query.styles.get(factor)
        if factor == query.factor and heard.styles is not None and heard.styles.get(factor) != wanted:
            return f"style: heard {factor} {heard.styles.get(factor, 'none')}, not {wanted}"
    return ""


def overlaps(queries: list[Query], train: list[Query]) -> dict[str, str]:
    """Query id -> what it shares with the training data: a voice, a topic of its factor, or a (nearly) same text."""
    voices = {q.voice for q in train if q.voice}
    topics = {(q.factor, q.topic) for q in train if q.topic}
    texts = sorted({q.text for q in train})
    own = sorted({q.text for q in queries})
    near = {own[j - len(texts)] for i, j in near_duplicates(texts + own) if i < len(texts) <= j}
    found = {}
    for q in queries:
        if q.voice in voices:
            found[q.id] = f"voice: {q.voice} is in the training data"
        elif (q.factor, q.topic) in topics:
            found[q.id] = f"topic: {q.topic} is in the training data"
        elif q.text in near:
            found[q.id] = "text: the training data has one like it"
    return found


def hear(
    queries: list[Query], manifest: str, transcriber: Transcriber | None, recognizer: StyleRecognizer | None, path: str
) -> dict[str, Hearing]:
    """Listen to all queries, in chunks that are kept on disk; what was heard in another recording is heard anew."""
    signature = f"{transcriber.name if transcriber else '-'} {recognizer.name if recognizer else '-'}"
    log = Path(f"{path}.{signature.replace('/', '_').replace(' ', '+')}")
    if log.is_file():
        append_jsonl(log, [])
    root, ears = Path(manifest).parent, {"transcriber": part_sha(transcriber), "recognizer": part_sha(recognizer)}
    inputs = {q.id: {"audio": file_sha(root / q.audio), **ears} for q in queries}
    held = {h.id: h for h in read_jsonl(log, Hearing)} if log.is_file() else {}
    done = {q.id: held[q.id] for q in queries if q.id in held and held[q.id].inputs == inputs[q.id]}
    if stale := [q.id for q in queries if q.id in held and q.id not in done]:
        differing = [[k for k, v in inputs[name].items() if held[name].inputs.get(k) != v] for name in stale]
        say(f"{log}: {len(stale)} of {len(queries)} queries are heard anew, their inputs changed: {reasons(differing)}")
    todo = [q for q in queries if q.id not in done]
    for start in range(0, len(todo), CHUNK):
        rows = listen(todo[start : start + CHUNK], root, transcriber, recognizer)
        rows = [replace(row, inputs=inputs[row.id]) for row in rows]
        append_jsonl(log, rows)
        done |= {row.id: row for row in rows}
    return done


def as_hearing(query_id: str, heard: Heard) -> Hearing:
    style = None if heard.style is None else {k: v for k, v in asdict(heard.style).items() if v}
    return Hearing(query_id, heard.transcript, style)


def listen(
    queries: list[Query], root: Path, transcriber: Transcriber | None, recognizer: StyleRecognizer | None
) -> list[Hearing]:
    audios: dict[str, Audio] = {}
    errors: dict[str, str] = {}
    for query in queries:
        try:
            audios[query.id] = read_audio(root / query.audio, 16_000)
        except UserError as error:
            errors[query.id] = str(error)
    heard = hear_all(audios, transcriber, recognizer, "query")
    silent = Heard("" if transcriber else None, Style() if recognizer else None)
    rows = {i: as_hearing(i, heard.get(i, silent)) for i in audios}
    return [rows.get(q.id) or Hearing(q.id, error=errors[q.id]) for q in queries]
