"""`evaluate`: every system answers every query; what it said and how is heard; a judge scores it; statistics (paper,
section 3.2).

The output folder holds append-only JSON lines: responses, evidence (what was heard), verdicts, and swaps (the same
responses judged against the other style of their pair). Each step does only what its file lacks, so that a run killed
anywhere is resumed by the same command, and a new judge scores old responses without new inference. What a record was
made from is kept beside it (`running/origins.py`): where recordings, texts, labels, weights or answers changed, what
they made is made anew. At most one batch of speech is in memory; all systems answer it before the next, so that what
they hear alike is heard once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_paras2s.audio import seconds_of
from lightning_paras2s.bench import measuring
from lightning_paras2s.bench.measures.named import MeasureName
from lightning_paras2s.bench.queries.filters import read_counts
from lightning_paras2s.bench.queries.manifest import batches_of, check_labelled, read_queries, shard_of, unheard_of
from lightning_paras2s.bench.steps import Heard, Plan, Steps
from lightning_paras2s.bench.summary import compare, judged, judging, scores_of, summarise_system
from lightning_paras2s.bench.systems.base import S2SSystem, carried, tell_turns
from lightning_paras2s.bench.verdicts import spent_before, verdicts_sha
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.hearing.evidence import Ears
from lightning_paras2s.hearing.familiar import check_familiar
from lightning_paras2s.hearing.faster_whisper import FasterWhisper  # noqa: F401  for its short name in configs
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import LABEL_SOURCES, Judge
from lightning_paras2s.judging.rubric import PROMPT
from lightning_paras2s.running.logs import Log, recorded, write_summary
from lightning_paras2s.running.precision import machine
from lightning_paras2s.running.threads import Threads
from lightning_paras2s.servers.chat import AUDIO_TOKENS_A_SECOND, CHARACTERS_A_TOKEN, OpenAIChat
from lightning_paras2s.servers.spending import VERDICT_TOKENS, cap, expected_usd
from lightning_paras2s.turns import in_lines
from lightning_paras2s.types import Evidence, Query, Response, Verdict, response_id

HEARD_TOKENS = 120  # of what a judge reads of a query and an answer; an estimate
ANSWER_SECONDS = 10.0  # of an answer that nobody has heard yet; an estimate


def evaluate(
    manifest: InputPath,
    systems: dict[str, S2SSystem],
    judge: Judge,
    transcriber: Transcriber,
    recognizer: StyleRecognizer,
    output: str = "runs/evaluate",
    label_source: Literal["gold", "predicted"] = "gold",
    samples: int = 1,
    batch_size: int = 32,
    limit: int | None = None,
    shard: str = "0/1",
    label_swap: bool = True,
    audit_transcriber: Transcriber | None = None,
    audit_recognizer: StyleRecognizer | None = None,
    rescore: bool = False,
    max_usd: float | None = None,
    dry_run: bool = False,
    foreign_speech: Literal["stop", "allow", "judge"] = "stop",
    one_by_one: bool = False,
    measures: list[MeasureName] | None = None,
    measured: Literal["heard", "written"] = "heard",
    items: InputPath | None = None,
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
        audit_transcriber: another ear for words, which nothing was trained on; what it hears is judged again and
            reported apart.
        audit_recognizer: another ear for tones; likewise.
        rescore: ask no system (`systems` may be empty: {}); judge the responses that the folder holds.
        max_usd: ask the judge nothing that could take what the verdicts in `output` have cost, all starts together,
            above so many USD (of each shard by itself).
        dry_run: ask nobody; tell how many answers and verdicts a whole run asks for, and what judge and systems would
            cost (the systems at most).
        foreign_speech: what to do when a system speaks in a voice that the transcriber does not know (the embedded one
            knows eSpeak's alone): stop before anything is judged; allow it, such answers being counted as failed,
            "foreign_speech", and not scored; or judge what is heard (a policy of your own that has gone to noise).
        one_by_one: let each system answer all queries, and give its weights' memory back, before the next one begins:
            for policies that don't fit one GPU together. The records are the same.
        measures: measures of related benchmarks, by name, of every answer (docs/corpora.md tells what each needs):
            measures.jsonl, and their means in summary.json. They cost no money.
        measured: which words of an answer they compare: those that the transcriber heard, or those that the system
            wrote.
        items: what the corpus says of each query (good answers, options, emotions that fit); null is NAME.items.jsonl
            beside the manifest NAME.jsonl, as import_speech writes it.

    Raises:
        UserError: after the summary is written, if no answer has a score, nor a value of a measure.
    """
    if rescore:
        systems = dict.fromkeys(recorded(Path(output), list(systems)))
    check_options(list(systems), samples, batch_size, label_source)
    queries = read_queries(manifest, limit)
    if label_source == "gold":
        check_labelled(queries, "an evaluation with gold labels")
    asked_measures = measuring.asked_of(measures, manifest, items, measured, queries) if measures else None
    trusting, audited = foreign_speech == "judge", audit_transcriber is not None or audit_recognizer is not None
    ears = [Ears(transcriber, recognizer, trusting)]
    if audited:
        ears.append(Ears(audit_transcriber or transcriber, audit_recognizer or recognizer, trusting))
    if dry_run:
        tell_turns(systems, queries, Path(manifest).parent)
        times, answers = (1 + label_swap) * len(ears), len(queries) * len(systems) * samples
        found = estimate(judge, queries, Path(manifest).parent, answers, times)
        return found | {"systems_usd": prices_of(systems, queries, Path(manifest).parent, samples)}
    check_named(judge, [part for one in ears for part in (one.transcriber, one.recognizer)], systems)
    batches = shard_of(batches_of(queries, batch_size), shard)
    index, count = shard.split("/")
    Threads().start()
    log = Log(Path(output), "" if count == "1" else f"-{index}of{count}")
    if isinstance(llm := getattr(judge, "llm", None), OpenAIChat):
        cap(llm, max_usd, spent_before(log))
    asked = (Path(manifest).parent, batches, systems, judge, samples, batch_size, label_source, label_swap)
    plan = Plan(*asked, one_by_one)
    steps = Steps(plan, log)
    if not log.suffix and len(steps.faults) == len(queries):
        raise UserError(f"a query must be heard; got none of {len(queries)}: {next(iter(steps.faults.values()))}")
    judge.locate(Path(manifest).parent, Path(output))
    steps.keep() if rescore else steps.respond()
    if foreign_speech == "stop":
        answers = [row for row in log.read("responses", Response) if row.system in systems]
        check_familiar(answers, Path(output), transcriber)
    result = score(steps, ears, manifest, audit_transcriber is None, asked_measures)
    result["machine"] = machine()
    result["seconds"] = {name: round(value, 2) for name, value in steps.stages.seconds.items()}
    if not log.suffix:
        write_summary(Path(output) / "summary.json", result)
        if not (measures and measuring.any_value(result["measures"])):
            require_a_score(steps.verdicts, output)
    return result


def score(
    steps: Steps, ears: list[Ears], manifest: str, same_words: bool, asked: measuring.Asked | None = None
) -> dict[str, Any]:
    """Hear and judge with each pair of ears -> the summary by the first, the second's under "audit"; of a shard, a
    count. With the `same_words`, the audit hears anew only how they are said. The measures are by the first."""
    log, (first, *others) = steps.log, ears
    heard = steps.score(first, log, "", {})
    result = {"responses": len(heard.responses)} if log.suffix else summary_of(steps, heard, first, manifest)
    if asked is not None:
        rows = measuring.measure(asked, steps, heard, first)
        result |= {} if log.suffix else {"measures": measuring.summary_of(asked, steps, rows)}
    for other in others:
        words = {e.response_id: e.transcript for e in log.read("evidence", Evidence)} if same_words else {}
        again = steps.score(other, Log(log.folder / "audit", log.suffix), "audit: ", words)
        if not log.suffix:
            result["audit"] = summary_of(steps, again, other, manifest)
            result["judge_usd"] = round(result["judge_usd"] + result["audit"]["judge_usd"], 6)
    steps.verdicts = heard.verdicts
    return result


def check_options(systems: list[str], samples: int, batch_size: int, label_source: str) -> None:
    if label_source not in LABEL_SOURCES:
        raise UserError(f"label_source must be gold or predicted; got {label_source!r}")
    if min(samples, batch_size, len(systems)) < 1:
        raise UserError(f"there must be a system, a sample and a batch; got {len(systems)}, {samples}, {batch_size}")
    if "" in systems:
        raise UserError("a system must have a name; got an empty one; give it one in `systems`")


def check_named(judge: Judge, ears: Sequence[Transcriber | StyleRecognizer], systems: dict[str, S2SSystem]) -> None:
    """Refuse parts that don't say who they are, before anybody is asked: what they make is kept by it."""
    asked = [system for system in systems.values() if system is not None]
    wanted = [(judge, "name"), (judge, "rubric_sha"), *((ear, "name") for ear in ears)]
    for part, field in [*wanted, *((system, "config_sha") for system in asked)]:
        if not isinstance(found := getattr(part, field, None), str):
            raise UserError(
                f"{type(part).__name__} must have a text {field} that tells it from others, with a version; got "
                f"{found!r}; set it in the class"
            )


def estimate(judge: Judge, queries: Sequence[Query], root: Path, answers: int, times: int) -> dict[str, Any]:
    """What a whole run asks for, and what its judge would cost if it were asked about every answer."""
    asked, written = answers * judge.samples * times, 0
    if judge.reads_turns:
        written = sum(len(in_lines(q.turns)) for q in queries)
    text = (len(getattr(judge, "prompt", PROMPT)) + written / len(queries)) / CHARACTERS_A_TOKEN + HEARD_TOKENS
    audio = heard_seconds(judge, queries, root) * AUDIO_TOKENS_A_SECOND
    usd = expected_usd(getattr(judge, "llm", None), asked * (text + audio), asked * VERDICT_TOKENS, asked * audio)
    return {"dry_run": True, "answers": answers, "verdicts": asked, "judge": judge.name, "usd": round(usd, 2)}


def heard_seconds(judge: Judge, queries: Sequence[Query], root: Path) -> float:
    """How long a judge hears for a verdict, on average: query, earlier turns and answer; 0 of one that reads."""
    if not judge.hears:
        return 0.0
    asked = [heard_turns(q, root) for q in queries if not unheard_of(q, root)]
    seconds = [seconds_of(root / q.audio) + sum(turn.seconds for turn in q.turns) for q in asked]
    return ANSWER_SECONDS + sum(seconds) / max(1, len(seconds))


def prices_of(
    systems: dict[str, S2SSystem | None], queries: Sequence[Query], root: Path, samples: int
) -> dict[str, float]:
    """What each system's answers cost at most, in USD; those that cost nothing are left out."""
    asked = [heard_turns(q, root) for q in queries if not unheard_of(q, root)]
    usd = {name: samples * price_of(system, asked, root) for name, system in systems.items() if system is not None}
    return {name: round(value, 2) for name, value in usd.items() if value}


def price_of(system: S2SSystem, queries: Sequence[Query], root: Path) -> float:
    """What answers to the queries cost at most that the system is asked about, in USD."""
    able = [q for q in queries if carried(system, q)]
    seconds, turns = [seconds_of(root / q.audio) for q in able], [q.turns for q in able]
    return system.at_most_usd(seconds, turns) if any(turns) else system.at_most_usd(seconds)


def require_a_score(verdicts: Sequence[Verdict], output: str) -> None:
    """Refuse to end well where nothing came out, unless the judgements wait for the Batch API."""
    statuses = Counter(v.status for v in verdicts)
    if any(v.score is not None for v in verdicts) or "pending" in statuses:
        return
    said = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
    why = next((f" ({v.reason})" for v in verdicts if v.reason), "")
    raise UserError(
        f"an evaluation must end with a score; got none: {statuses.total()} of {statuses.total()} answers failed: "
        f"{said}{why}; see {output}"
    )


def summary_of(steps: Steps, heard: Heard, ears: Ears, manifest: str) -> dict[str, Any]:
    """The numbers of all systems, and what they are about."""
    plan = steps.plan
    scores, swaps = scores_of(heard.verdicts), scores_of(heard.swaps)

    def row(name: str, query: Query):  # noqa: ANN202  Judged
        ids = [response_id(name, query.id, sample) for sample in range(plan.samples)]
        answered = [i for i in ids if i in heard.responses]
        return judged(query, answered, heard.evidence, scores, swaps, heard.responses)

    systems = {name: [row(name, query) for query in steps.queries] for name in plan.systems}
    statuses: dict[str, Counter[str]] = {}
    for response in heard.responses.values():
        statuses.setdefault(response.system, Counter())[response.status] += 1
    return {
        "systems": {name: summarise_system(items) for name, items in systems.items()},
        "comparisons": compare(systems),
        "judge": plan.judge.name,
        "judge_sha": steps.judge_sha,
        "judge_samples": plan.judge.samples,
        "verdicts_sha": verdicts_sha(heard.verdicts),
        "rubric_sha": plan.judge.rubric_sha,
        "label_source": plan.label_source,
        "providers": ears.providers,
        "providers_sha": heard.ears_sha,
        "manifest": manifest,
        "queries_sha": steps.queries_sha,
        **read_counts(manifest),
        "samples": plan.samples,
        "response_statuses": {name: dict(found) for name, found in statuses.items()},
        **judging(heard.verdicts),
        "judge_usd": round(sum(v.usage.get("cost_usd", 0.0) for v in (*heard.verdicts, *heard.swaps)), 6),
    }
