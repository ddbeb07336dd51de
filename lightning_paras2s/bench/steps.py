"""The steps of one evaluation: ask, hear, label, judge. Each does what its log lacks, or holds from other inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import NamedTuple, TypeVar

from lightning_paras2s.audio import MAX_SECONDS, read_audio, seconds_of, write_audio
from lightning_paras2s.bench.queries.manifest import other_styles, unheard_of
from lightning_paras2s.bench.systems.base import NO_TURNS, SAMPLE_RATE, Answer, S2SSystem, carried, tell_turns, usable
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.evidence import Ears, hear
from lightning_paras2s.judging.judges import Judge, ask_judge, tell_last_turn
from lightning_paras2s.judging.turns import TURNS_SHA
from lightning_paras2s.running.logs import Log, check_config, record_key, safe_name, say, unanswered, write_summary
from lightning_paras2s.running.origins import Inputs, file_sha, inputs_of, queries_sha, sha
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.running.progress import Stages
from lightning_paras2s.types import Audio, Evidence, Query, Response, Style, Verdict, response_id

Item = TypeVar("Item")
BAD_QUERY = "bad_query"  # the status of an answer to a recording that can't be heard


@dataclass(frozen=True)
class Plan:
    """What is asked of whom, and how it is judged; `systems` of a rescoring are None, they are not asked."""

    root: Path
    batches: list[list[Query]]
    systems: Mapping[str, S2SSystem | None]
    judge: Judge
    samples: int
    batch_size: int
    label_source: str
    label_swap: bool
    one_by_one: bool = False


class Heard(NamedTuple):
    """What one pair of ears heard, and what the judge made of it; `ears_sha`: "transcriber" and "recognizer" -> which
    weights these are (`part_sha`)."""

    responses: dict[str, Response]
    evidence: dict[str, Evidence]
    verdicts: list[Verdict]
    swaps: list[Verdict]
    ears_sha: dict[str, str]


class Steps:
    """The steps of one evaluation, in a run's folder."""

    def __init__(self, plan: Plan, log: Log) -> None:
        self.plan, self.log, self.stages = plan, log, Stages()
        self.verdicts: list[Verdict] = []  # by the run's own ears
        self.queries = [query for batch in plan.batches for query in batch]
        self.by_id = {query.id: query for query in self.queries}
        self.other = other_styles(self.queries)
        self.given = {query.id: inputs_of(query, plan.root) for query in self.queries}
        self.faults = {q.id: why for q in self.queries if (why := unheard_of(q, plan.root))}
        self.judge_sha = part_sha(plan.judge)
        self.queries_sha = queries_sha(self.queries, self.given)

    def respond(self) -> None:
        """Ask each system for the answers that responses.jsonl lacks, that never came, or that were to other inputs."""
        held = self.log.read("responses", Response)
        tell_turns(self.plan.systems, self.queries, self.plan.root)
        for name, system in self.plan.systems.items():
            if not system.read_anew:
                check_config(name, system.config_sha, held, self.log.folder)

        def again(row: Response) -> bool:
            return self._asked(row) and (unanswered(row.status) or self._replaced(row) or self._carried_since(row))

        if replaced := sum(map(self._replaced, held)):
            say(f"{self.log.folder}: recorded answers were replaced; {replaced} are read anew")
        done = {row.id for row in self.log.settled("responses", Response, again, self._given)}
        todo = [
            (batch, name, sample, missing)
            for batch in self.plan.batches
            for name in self.plan.systems
            for sample in range(self.plan.samples)
            if (missing := [q for q in batch if response_id(name, q.id, sample) not in done])
        ]
        if self.plan.one_by_one:
            names = list(self.plan.systems)
            todo.sort(key=lambda row: names.index(row[1]))  # stable: a system's batches keep their order
        for _, name, _, missing in todo:
            able = self._able(name, [q for q in missing if q.id not in self.faults])
            self.plan.systems[name].check(able, [seconds_of(self.plan.root / q.audio) for q in able])
        sizes, heard, audios, asked = [len(row[-1]) for row in todo], None, {}, ""
        for batch, name, sample, missing in self.stages.over(todo, sizes, "responses", "respond"):
            if batch is not heard:
                heard, audios = batch, self._listen(batch)
            if self.plan.one_by_one and asked not in ("", name):
                self.plan.systems[asked].release()
            asked = name
            self._ask(name, sample, missing, audios)
        for name in [asked] if self.plan.one_by_one and asked else self.plan.systems:
            self.plan.systems[name].release()  # a judge may need the memory

    def keep(self) -> None:
        """Before a rescoring: the responses must be to these recordings and words. (Labels may have been corrected.)"""
        held = [r for r in self.log.read("responses", Response) if self._asked(r)]

        def given(row: Response) -> Inputs:
            return {**self.given[row.query_id], **self.log.origins.of("responses", row, "labels")}

        if stale := self.log.stale("responses", held, given):
            raise UserError(
                f"{self.log.folder} must hold answers to the manifest's recordings and texts to be scored again; got "
                f"{len(stale)} to others; run `evaluate` without rescore"
            )

    def _ask(self, name: str, sample: int, missing: list[Query], audios: dict[str, Audio]) -> None:
        able = self._able(name, [q for q in missing if q.id in audios])
        found = self.plan.systems[name].respond(able, [audios[q.id] for q in able], sample) if able else []
        answers = dict(zip([q.id for q in able], found, strict=True))
        why = {q.id: NO_TURNS if q.id in audios else BAD_QUERY for q in missing}
        rows = [self._save(name, q, sample, answers.get(q.id, Answer(None, status=why[q.id]))) for q in missing]
        self.log.append("responses", rows, [self.given[q.id] for q in missing])

    def _able(self, name: str, queries: list[Query]) -> list[Query]:
        """The queries whose earlier turns a system can carry, as it hears them."""
        system = self.plan.systems[name]
        return [q for q in (heard_turns(q, self.plan.root) for q in queries) if carried(system, q)]

    def _listen(self, batch: list[Query]) -> dict[str, Audio]:
        """The recordings of a batch; one that can't be heard is told of and left out."""
        audios = {}
        for query in batch:
            try:
                if not (why := self.faults.get(query.id, "")):
                    audios[query.id] = read_audio(self.plan.root / query.audio, SAMPLE_RATE)
            except UserError as error:
                self.faults[query.id] = why = str(error)
            if why:
                say(f"query {query.id} can't be heard, its answers count as failed ({BAD_QUERY}): {why}")
        return audios

    def _save(self, name: str, query: Query, sample: int, answer: Answer) -> Response:
        answer = usable(answer, MAX_SECONDS)
        latency = {key: value for key, value in answer.latency.items() if isfinite(value)}
        row = Response(query.id, name, sample, text=answer.text, latency=latency, cost_usd=answer.cost_usd)
        row = replace(row, status=answer.status, config_sha=self.plan.systems[name].config_sha)
        if answer.audio is None or not len(answer.audio.samples):
            return replace(row, status=answer.status if answer.status != "ok" else "silent")
        path = Path("audio") / safe_name(name) / f"{safe_name(query.id)}-{sample}.flac"
        write_audio(self.log.folder / path, answer.audio)
        digest = hashlib.sha256((self.log.folder / path).read_bytes()).hexdigest()
        return replace(row, audio=path.as_posix(), sha256=digest, seconds=round(answer.audio.seconds, 4))

    def score(self, ears: Ears, log: Log, label: str, transcripts: dict[str, str]) -> Heard:
        """Hear and judge the responses with one pair of ears."""
        responses = {r.id: r for r in self.log.read("responses", Response) if self._asked(r)}
        which = {"transcriber": part_sha(ears.transcriber), "recognizer": part_sha(ears.recognizer)}
        self._hear(ears, which, log, responses, label, transcripts)
        evidence = {row.response_id: row for row in log.read("evidence", Evidence) if row.response_id in responses}
        labels = self._labels(ears, log)
        verdicts = self._judge(log, "verdicts", responses, evidence, labels, label)
        swaps = []
        if self.plan.label_swap:
            swapped = {
                q: replace(style, **{self.by_id[q].factor: self.other[q]})
                for q, style in labels.items()
                if q in self.other
            }
            swaps = self._judge(log, "swaps", responses, evidence, swapped, label)
        return Heard(responses, evidence, verdicts, swaps, which)

    def batches(self, items: list[Item], about: str, stage: str) -> Iterator[list[Item]]:
        """The items a batch at a time, with progress."""
        size = self.plan.batch_size
        parts = [items[start : start + size] for start in range(0, len(items), size)]
        return self.stages.over(parts, [len(part) for part in parts], about, stage)

    def _asked(self, row: Response) -> bool:
        return row.system in self.plan.systems and row.query_id in self.by_id and row.sample < self.plan.samples

    def _replaced(self, row: Response) -> bool:
        """Is it an answer that a system, which can read it anew, holds otherwise today?"""
        system = self.plan.systems.get(row.system)
        return self._asked(row) and system.read_anew and row.config_sha != system.config_sha

    def _carried_since(self, row: Response) -> bool:
        """Was nobody asked, since a system could not carry the earlier turns, which it can today?"""
        system = self.plan.systems[row.system]
        if row.status != NO_TURNS or system.read_anew or not system.knows_turns or row.query_id in self.faults:
            return False
        return bool(self._able(row.system, [self.by_id[row.query_id]]))

    def _given(self, row: Response) -> Inputs | None:
        return self.given[row.query_id] if self._asked(row) else None

    def _answer_sha(self, row: Response) -> str:
        """What there is to hear of a response: its file as it lies there, or as it is known by its record."""
        return sha(file_sha(self.log.folder / row.audio) or row.sha256 if row.audio else "", row.text, row.status)

    def _hear(
        self,
        ears: Ears,
        which: dict[str, str],
        log: Log,
        responses: dict[str, Response],
        label: str,
        transcripts: dict[str, str],
    ) -> None:
        heard_by = next((e.providers for e in log.read("evidence", Evidence) if e.providers), ears.providers)
        if heard_by != ears.providers:
            raise UserError(f"{log.folder} was heard by {heard_by}; got {ears.providers}; choose another output folder")
        inputs = {name: {"answer": self._answer_sha(row), **which} for name, row in responses.items()}

        def again(row: Evidence) -> bool:  # its response has come since
            asked = responses.get(row.response_id)
            return asked is not None and unanswered(row.status) and row.status != asked.status

        done = log.settled("evidence", Evidence, again, lambda row: inputs.get(row.response_id))
        known = {row.response_id for row in done}
        missing = [r for r in responses.values() if r.id not in known]
        for part in self.batches(missing, f"{label}hearing", "hear"):
            rows = hear(part, self.log.folder, ears, transcripts)
            log.append("evidence", rows, [inputs[row.response_id] for row in rows])

    def _labels(self, ears: Ears, log: Log) -> dict[str, Style]:
        """Query id -> the labels that the judge is given; none of a query that can't be heard."""
        if self.plan.label_source == "gold":
            return {query.id: query.style for query in self.queries}
        path, recognizer = log.folder / f"labels{log.suffix}.json", part_sha(ears.recognizer)
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        made = {q.id: sha(self.given[q.id]["audio"], recognizer) for q in self.queries}
        known = {name: row for name, row in held.items() if row.get("inputs") == made.get(name)}
        if anew := [q.id for q in self.queries if q.id in held and q.id not in known]:
            say(f"{log.folder}: {len(anew)} labels are made anew, the recording or the recogniser changed")
        missing = [q for q in self.queries if q.id not in known]
        for part in self.batches(missing, "labels", "label"):
            audios = self._listen(part)
            styles = dict(zip(audios, ears.recognizer.recognize(list(audios.values()), "query"), strict=True))
            rows = {q.id: dataclasses.asdict(styles.get(q.id, Style())) for q in part}
            known |= {name: {"styles": row, "inputs": made[name]} for name, row in rows.items()}
            write_summary(path, known)
        return {query.id: Style(**known[query.id]["styles"]) for query in self.queries}

    def _judge(
        self,
        log: Log,
        name: str,
        responses: dict[str, Response],
        evidence: dict[str, Evidence],
        labels: dict[str, Style],
        label: str,
    ) -> list[Verdict]:
        """The verdicts on what was heard, those that were missing asked for."""
        judge = self.plan.judge
        heard = [e for e in evidence.values() if responses[e.response_id].query_id in labels]
        inputs = {e.response_id: self._judged_from(responses[e.response_id], e, labels) for e in heard}

        def again(row: Verdict) -> bool:  # nobody judged; what can't be judged keeps its response's status
            found = evidence.get(row.response_id)
            return found is not None and self._mine(row) and unanswered(row.status) and row.status != found.status

        def today(row: Verdict) -> Inputs | None:
            return inputs.get(row.response_id) if self._mine(row) else None

        mine = [v for v in log.settled(name, Verdict, again, today) if self._mine(v)]
        known = {record_key(v) for v in mine}
        drawn = Counter(key[0] for key in known)
        missing = [e for e in heard if drawn[e.response_id] < judge.samples]
        tell_last_turn(judge, [self.by_id[responses[e.response_id].query_id] for e in missing])
        for part in self.batches(missing, f"{label}{name}", "judge"):
            queries = [self.by_id[responses[e.response_id].query_id] for e in part]
            made = ask_judge(judge, queries, [labels[q.id] for q in queries], part)
            rows = [replace(v, label_source=self.plan.label_source) for row in made for v in row]
            rows = [v for v in rows if record_key(v) not in known]
            log.append(name, rows, [inputs[v.response_id] for v in rows])
            mine += rows
        return [v for v in mine if v.response_id in responses]

    def _judged_from(self, response: Response, heard: Evidence, labels: dict[str, Style]) -> dict[str, str]:
        query = self.by_id[response.query_id]
        said = [heard.transcript, heard.wer, heard.tone, heard.tone_raw, heard.status]
        turns = {"turns": sha(self.given[query.id]["turns"], TURNS_SHA)} if query.turns else {}
        return turns | {
            "query": sha(self.given[query.id]["audio"], query.text, query.factor),
            "label": sha(dataclasses.asdict(labels[query.id])),
            "answer": sha(said, self._answer_sha(response)),
            "judge": self.judge_sha,
        }

    def _mine(self, verdict: Verdict) -> bool:
        """By this judge with this guideline and these labels; others' verdicts stay in the file, unused."""
        judge = self.plan.judge
        mine = (judge.name, judge.rubric_sha, self.plan.label_source)
        return (verdict.judge, verdict.rubric_sha, verdict.label_source) == mine and verdict.sample < judge.samples
