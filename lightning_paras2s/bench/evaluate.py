"""`evaluate`: every system answers every query; what it said and how is heard; a judge scores it; statistics (paper,
section 3.2).

The output folder holds append-only JSON lines: responses, evidence (what was heard), verdicts, and swaps (the same
responses judged against the other style of their pair). Each step does only what its file lacks, so that a run killed
anywhere is resumed by the same command, and a new judge scores old responses without new inference. At most one batch
of speech is in memory; all systems answer it before the next, so that what they hear alike is heard once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lightning_paras2s.audio import read_audio, seconds_of, write_audio
from lightning_paras2s.bench.queries.filters import read_counts
from lightning_paras2s.bench.queries.manifest import batches_of, other_styles, read_queries, shard_of
from lightning_paras2s.bench.summary import compare, judged, judging, scores_of, summarise_system
from lightning_paras2s.bench.systems import kimi as kimi_system  # noqa: F401  likewise
from lightning_paras2s.bench.systems import policy as policy_system  # noqa: F401  likewise
from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer, S2SSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing import (
    audio_reasoner,  # noqa: F401  for their short names in configs
    audit,  # noqa: F401  for their short names in configs
)
from lightning_paras2s.hearing import encoder_recognizer as audio_encoder  # noqa: F401  as above
from lightning_paras2s.hearing.evidence import Ears, hear
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging import audio_judges as audio_judge  # noqa: F401  for their short names in configs
from lightning_paras2s.judging.judges import LABEL_SOURCES, Judge
from lightning_paras2s.running.logs import Log, check_config, record_key, recorded, safe_name, unanswered, write_summary
from lightning_paras2s.running.precision import machine
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.running.threads import Threads
from lightning_paras2s.types import Evidence, Query, Response, Style, Verdict

Item = TypeVar("Item")


def evaluate(
    manifest: str,
    systems: dict[str, S2SSystem],
    judge: Judge,
    transcriber: Transcriber,
    recognizer: StyleRecognizer,
    output: str = "runs/evaluate",
    label_source: str = "gold",
    samples: int = 1,
    batch_size: int = 32,
    limit: int | None = None,
    shard: str = "0/1",
    label_swap: bool = True,
    audit_transcriber: Transcriber | None = None,
    audit_recognizer: StyleRecognizer | None = None,
    rescore: bool = False,
) -> dict[str, Any]:
    """Let systems answer spoken queries, judge what is heard in their answers, and write summary.json.

    Args:
        manifest: JSON lines of query records; audio paths relative to it.
        systems: name -> system.
        judge: scores what was heard.
        transcriber: hears what a response says.
        recognizer: hears in which tone (and, with predicted labels, the query's style).
        output: folder of responses.jsonl, evidence.jsonl, verdicts.jsonl, swaps.jsonl, audio/ and summary.json; resumed
            if it exists.
        label_source: gold (the manifest's labels) or predicted (the recogniser's).
        samples: answers a query.
        batch_size: queries heard and answered at once.
        limit: only the first so many contrast pairs of each factor.
        shard: "i/k": only every k-th batch, from the i-th, and no statistics; then run 0/1, which merges the shards and
            does what they lack.
        label_swap: judge each response against the other style of its pair, too.
        audit_transcriber, audit_recognizer: other ears, which nothing was trained on; judged again and reported apart.
        rescore: ask no system (`systems` may be empty: {}); judge the responses that the folder holds.
    """
    if rescore:
        systems = dict.fromkeys(recorded(Path(output), list(systems)))
    check_options(len(systems), samples, batch_size, label_source)
    batches = shard_of(batches_of(read_queries(manifest, limit), batch_size), shard)
    index, count = shard.split("/")
    Threads().start()
    log = Log(Path(output), "" if count == "1" else f"-{index}of{count}")
    run = _Run(manifest, batches, systems, judge, log, samples, batch_size, label_source, label_swap)
    judge.locate(Path(manifest).parent, Path(output))
    if not rescore:
        run.respond()
    result = run.score(Ears(transcriber, recognizer), log, "", {})
    if audit_transcriber is not None or audit_recognizer is not None:
        other = Ears(audit_transcriber or transcriber, audit_recognizer or recognizer)
        words = {} if audit_transcriber else {e.response_id: e.transcript for e in log.read("evidence", Evidence)}
        result["audit"] = run.score(other, Log(Path(output) / "audit", log.suffix), "audit: ", words)
    result["seconds"] = {name: round(value, 2) for name, value in run.stages.seconds.items()}
    result["machine"] = machine()
    if count == "1":
        write_summary(Path(output) / "summary.json", result)
    return result


def check_options(systems: int, samples: int, batch_size: int, label_source: str) -> None:
    if label_source not in LABEL_SOURCES:
        raise UserError(f"label_source must be gold or predicted; got {label_source!r}")
    if min(samples, batch_size, systems) < 1:
        raise UserError(f"there must be a system, a sample and a batch; got {systems}, {samples}, {batch_size}")


class _Run:
    """The steps of one evaluation; each does what its log lacks."""

    def __init__(
        self,
        manifest: str,
        batches: list[list[Query]],
        systems: dict[str, S2SSystem],
        judge: Judge,
        log: Log,
        samples: int,
        batch_size: int,
        label_source: str,
        label_swap: bool,
    ) -> None:
        self.manifest, self.batches, self.systems, self.judge = Path(manifest), batches, systems, judge
        self.queries = [query for batch in batches for query in batch]
        self.log, self.samples, self.batch_size = log, samples, batch_size
        self.label_source, self.label_swap = label_source, label_swap
        self.by_id = {query.id: query for query in self.queries}
        self.other = other_styles(self.queries)
        self.stages = Stages()

    def respond(self) -> None:
        """Ask each system for the answers that responses.jsonl lacks, or that never came."""

        def again(row: Response) -> bool:
            return self._asked(row) and unanswered(row.status)

        done = {row.id: row for row in self.log.settled("responses", Response, again)}
        for name, system in self.systems.items():
            check_config(name, system.config_sha, done.values(), self.log.folder)
        todo = [
            (batch, name, sample, missing)
            for batch in self.batches
            for name in self.systems
            for sample in range(self.samples)
            if (missing := [q for q in batch if f"{name}/{q.id}/{sample}" not in done])
        ]
        for _, name, _, missing in todo:
            seconds = [seconds_of(self.manifest.parent / q.audio) for q in missing]
            self.systems[name].check(missing, seconds)
        sizes, heard, audios = [len(row[-1]) for row in todo], None, {}
        for batch, name, sample, missing in self.stages.over(todo, sizes, "responses", "respond"):
            if batch is not heard:
                heard = batch
                audios = {q.id: read_audio(self.manifest.parent / q.audio, SAMPLE_RATE) for q in batch}
            answers = self.systems[name].respond(missing, [audios[q.id] for q in missing], sample)
            rows = [self._save(name, q, sample, a) for q, a in zip(missing, answers, strict=True)]
            self.log.append("responses", rows)

    def _save(self, name: str, query: Query, sample: int, answer: Answer) -> Response:
        row = Response(query.id, name, sample, text=answer.text, latency=answer.latency, cost_usd=answer.cost_usd)
        row = replace(row, status=answer.status, config_sha=self.systems[name].config_sha)
        if answer.audio is None or not len(answer.audio.samples):
            return replace(row, status=answer.status if answer.status != "ok" else "silent")
        path = Path("audio") / name / f"{safe_name(query.id)}-{sample}.flac"
        write_audio(self.log.folder / path, answer.audio)
        sha = hashlib.sha256((self.log.folder / path).read_bytes()).hexdigest()
        return replace(row, audio=path.as_posix(), sha256=sha, seconds=round(answer.audio.seconds, 4))

    def score(self, ears: Ears, log: Log, label: str, transcripts: dict[str, str]) -> dict[str, Any]:
        """Hear and judge the responses with one pair of ears; -> the summary (of a shard: a count)."""
        responses = {r.id: r for r in self.log.read("responses", Response) if self._asked(r)}
        self._hear(ears, log, responses, label, transcripts)
        evidence = {row.response_id: row for row in log.read("evidence", Evidence) if row.response_id in responses}
        labels = self._labels(ears, log)
        self._judge(log, "verdicts", responses, evidence, labels, label)
        if self.label_swap:
            swapped = {
                q: replace(style, **{self.by_id[q].factor: self.other[q]})
                for q, style in labels.items()
                if q in self.other
            }
            self._judge(log, "swaps", responses, evidence, swapped, label)
        return {"responses": len(responses)} if log.suffix else self._summarise(ears, log, responses, evidence)

    def _asked(self, response: Response) -> bool:
        return response.system in self.systems and response.query_id in self.by_id and response.sample < self.samples

    def _hear(
        self, ears: Ears, log: Log, responses: dict[str, Response], label: str, transcripts: dict[str, str]
    ) -> None:
        def again(row: Evidence) -> bool:  # its response has come since
            asked = responses.get(row.response_id)
            return asked is not None and unanswered(row.status) and row.status != asked.status

        done = log.settled("evidence", Evidence, again)
        heard_by = next((e.providers for e in done if e.providers), ears.providers)
        if heard_by != ears.providers:
            raise UserError(f"{log.folder} was heard by {heard_by}; got {ears.providers}; choose another output folder")
        known = {row.response_id for row in done}
        missing = [r for r in responses.values() if r.id not in known]
        for part in self._batches(missing, f"{label}hearing", "hear"):
            log.append("evidence", hear(part, self.log.folder, ears, transcripts))

    def _labels(self, ears: Ears, log: Log) -> dict[str, Style]:
        """Query id -> the labels that the judge is given."""
        if self.label_source == "gold":
            return {query.id: query.style for query in self.queries}
        path = log.folder / f"labels{log.suffix}.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        missing = [q for q in self.queries if q.id not in known]
        for part in self._batches(missing, "labels", "label"):
            audios = [read_audio(self.manifest.parent / q.audio, SAMPLE_RATE) for q in part]
            known |= {
                q.id: dataclasses.asdict(s)
                for q, s in zip(part, ears.recognizer.recognize(audios, "query"), strict=True)
            }
            write_summary(path, known)
        return {query.id: Style(**known[query.id]) for query in self.queries}

    def _judge(
        self,
        log: Log,
        name: str,
        responses: dict[str, Response],
        evidence: dict[str, Evidence],
        labels: dict[str, Style],
        label: str,
    ) -> None:
        def again(row: Verdict) -> bool:  # nobody judged; what can't be judged keeps its response's status
            heard = evidence.get(row.response_id)
            return heard is not None and self._mine(row) and unanswered(row.status) and row.status != heard.status

        known = {record_key(v) for v in log.settled(name, Verdict, again) if self._mine(v)}
        drawn = Counter(key[0] for key in known)
        missing = [
            e
            for e in evidence.values()
            if drawn[e.response_id] < self.judge.samples and responses[e.response_id].query_id in labels
        ]
        for part in self._batches(missing, f"{label}{name}", "judge"):
            queries = [self.by_id[responses[e.response_id].query_id] for e in part]
            verdicts = self.judge.judge_all(queries, [labels[q.id] for q in queries], part)
            rows = [replace(v, label_source=self.label_source) for row in verdicts for v in row]
            log.append(name, [v for v in rows if record_key(v) not in known])

    def _mine(self, verdict: Verdict) -> bool:
        """By this judge with this guideline and these labels; others' verdicts stay in the file, unused."""
        mine = (self.judge.name, self.judge.rubric_sha, self.label_source)
        return (verdict.judge, verdict.rubric_sha, verdict.label_source) == mine and verdict.sample < self.judge.samples

    def _summarise(
        self, ears: Ears, log: Log, responses: dict[str, Response], evidence: dict[str, Evidence]
    ) -> dict[str, Any]:
        verdicts = [v for v in log.read("verdicts", Verdict) if self._mine(v)]
        scores = scores_of(verdicts)
        swaps = scores_of(v for v in log.read("swaps", Verdict) if self._mine(v)) if self.label_swap else {}
        systems = {
            name: [
                judged(
                    q,
                    [r for s in range(self.samples) if (r := f"{name}/{q.id}/{s}") in responses],
                    evidence,
                    scores,
                    swaps,
                    responses,
                )
                for q in self.queries
            ]
            for name in self.systems
        }
        statuses: dict[str, dict[str, int]] = {}
        for row in [*responses.values()]:
            found = statuses.setdefault(row.system, {})
            found[row.status] = found.get(row.status, 0) + 1
        return {
            "systems": {name: summarise_system(items) for name, items in systems.items()},
            "comparisons": compare(systems),
            "judge": self.judge.name,
            "rubric_sha": self.judge.rubric_sha,
            "label_source": self.label_source,
            "providers": ears.providers,
            "manifest": str(self.manifest),
            **read_counts(self.manifest),
            "samples": self.samples,
            "response_statuses": statuses,
            **judging(v for v in verdicts if v.response_id in responses),
        }

    def _batches(self, items: list[Item], about: str, stage: str) -> Iterator[list[Item]]:
        parts = [items[start : start + self.batch_size] for start in range(0, len(items), self.batch_size)]
        return self.stages.over(parts, [len(part) for part in parts], about, stage)
