"""Is the response a good fit, in content and tone? Judges read what was heard (paper Eq. 1, guideline A.11.5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging import rubric as rubrics
from lightning_paras2s.judging.acts import ActClassifier
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.chat import ChatLLM, Reply
from lightning_paras2s.types import TONES, Evidence, Query, Style, Verdict

HEARD_FAILURES = (
    "silent",
    "truncated",
)  # an evidence's statuses that a listener would score 1; any other is no judgement at all
HEARD = ("ok", "no_tone", *HEARD_FAILURES)  # statuses of an answer that came, to ears that know such speech
MAX_WER = 0.5
LABEL_SOURCES = ("gold", "predicted")


class Judge(ABC):
    """Scores the fit of a response to a query on the Likert scale 1..5."""

    name: str
    rubric_sha: str
    samples: int = 1  # verdicts on each response
    hears: bool = False  # the recordings themselves, and reads no transcript
    reads_turns: bool = False  # judges a response as one to the whole dialogue (`Query.turns`), not to its last turn

    @abstractmethod
    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        """`style` holds the query's labels (gold or predicted); `evidence` is what was heard in the response.

        Never guesses: what can't be judged gets `score=None` and a status.
        """

    def verdict(
        self,
        evidence: Evidence,
        score: rubrics.Score,
        sample: int = 0,
        raw: str = "",
        usage: dict[str, float] | None = None,
    ) -> Verdict:
        """A record in this judge's name."""
        return Verdict(
            evidence.response_id,
            self.name,
            score.score,
            score.reason,
            self.rubric_sha,
            sample=sample,
            raw=raw,
            usage=usage or {},
            status=score.status,
        )

    def locate(self, queries: Path, run: Path) -> None:  # noqa: B027  most judges read evidence alone
        """Where the recordings are (the manifest's folder and the run's), for a judge that hears them."""

    def judge_all(self, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> list[list[Verdict]]:
        """The `samples` verdicts on each response; a judge that asks a server overrides this to ask at once."""
        return [
            [replace(self.judge(*item), sample=sample) for sample in range(self.samples)]
            for item in zip(queries, styles, evidence, strict=True)
        ]


class EmbeddedJudge(Judge):
    """Guideline A.11.5 as rules over what was heard: the act (a text classifier over the transcript), the tone, the
    topic, and failures. It judges a response to the query alone; earlier turns it does not read, and says so.

    Args:
        acts: file of the act classifier (`python -m lightning_paras2s.judging.acts`).
        max_wer: above this word error rate between what was heard and the response's own text, voice and text differ:
            score 1.
    """

    rubric_sha = rubrics.RUBRIC_SHA

    def __init__(self, acts: InputPath = "checkpoints/embedded/acts.safetensors", max_wer: float = MAX_WER) -> None:
        self.classifier, self.max_wer = ActClassifier(Path(acts)), float(max_wer)  # a hash has no whole numbers
        self.name = "embedded-rubric-2"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        factor = rubrics.factor_of(query, style)
        value = getattr(style, factor)
        act = ""
        if (early := heard_failure(evidence, self.max_wer)) is not None:
            score = early
        elif value not in rubrics.BEST_TONES:
            score = rubrics.Score(None, f"the query's {factor} is {value or 'unknown'}", "no_label")
        elif evidence.tone not in TONES:
            score = rubrics.Score(None, f"the tone heard is {evidence.tone or 'unknown'}", "no_tone")
        else:
            act = self.act(query, factor, evidence.transcript)
            score = rubrics.score_act(value, act, evidence.tone, rubrics.names_topic(query.text, evidence.transcript))
        return self.verdict(evidence, score, raw=act)

    def act(self, query: Query, factor: str, transcript: str) -> str:
        """What a response does."""
        return self.classifier.classify(transcript, factor, query.text).name


class LLMJudge(Judge):
    """A chat model asked with guideline A.11.5 (the paper: GPT-4.1); `samples` independent judgements of each response.

    Responses in which nothing could be heard are scored without asking. Earlier turns of a query, where it has some,
    stand before its words, with a sentence that says so; a prompt without any is the guideline's alone.

    Args:
        llm: the chat model.
        samples: independent judgements of each response.
        max_wer: word error rate between what was heard and the response's own text, above which voice and text differ:
            score 1.
        rubric: text file of a guideline of your own, with {user} and {agent} where what was heard belongs; null is the
            paper's (`judging/rubric.txt`). Its hash is in every verdict, and verdicts of another are not mixed.
    """

    reads_turns = True

    def __init__(
        self, llm: ChatLLM, samples: int = 1, max_wer: float = MAX_WER, rubric: InputPath | None = None
    ) -> None:
        if samples < 1:
            raise UserError(f"a judge must draw at least one sample; got samples={samples}")
        self.llm, self.samples, self.max_wer = llm, samples, float(max_wer)  # a hash has no whole numbers
        self.prompt = rubrics.read_rubric(rubric) if rubric else rubrics.PROMPT
        self.rubric_sha = rubrics.rubric_sha(self.prompt)
        self.name = f"llm-rubric-{rubrics.PARSER_VERSION}/{llm.name}"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        return self.judge_all([query], [style], [evidence])[0][0]

    def judge_all(self, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> list[list[Verdict]]:
        """A response to a query of whose style nothing is known is no response to a style: it is "no_label"."""
        pairs = zip(evidence, styles, strict=True)
        evidence = [replace(e, status="no_label") if e.status == "ok" and s == Style() else e for e, s in pairs]

        def ask(rest: list[int]) -> list[list[Verdict]]:
            prompts = [rubrics.build_prompt(queries[i], styles[i], evidence[i], self.prompt) for i in rest]
            return ask_samples(self, self.llm, [evidence[i] for i in rest], prompts)

        return judge_audible(self, evidence, self.max_wer, ask)


def tell_last_turn(judge: Judge, queries: Sequence[Query | None]) -> None:
    """Say it once where a judge does not read what was said before a query."""
    if not judge.reads_turns and any(query is not None and query.turns for query in queries):
        say_once(f"{judge.name} judges the last turn alone: it does not read the queries' earlier turns")


def ask_judge(
    judge: Judge, queries: Sequence[Query], styles: Sequence[Style], evidence: Sequence[Evidence]
) -> list[list[Verdict]]:
    """What any judge, one of a user's own too, says of each response: checked, and asked only of those that came. An
    answer that never came, or in speech that the ear does not know, is nobody's to score.

    Raises:
        UserError: the judge gave another number of verdicts than it has to, or a score off the scale.
    """
    came = [i for i, e in enumerate(evidence) if e.status in HEARD]
    given = [[one[i] for i in came] for one in (queries, styles, evidence)]
    told = judge.judge_all(*given) if came else []
    if [len(row) for row in told] != [judge.samples] * len(came):
        raise UserError(
            f"{type(judge).__name__}.judge_all must give {judge.samples} verdicts (its `samples`) on each of "
            f"{len(came)} responses; got {[len(row) for row in told]}"
        )
    found = {i: [on_scale(judge, v) for v in row] for i, row in zip(came, told, strict=True)}
    return [
        found[i] if i in found else settled(judge, e, heard_failure(e, float("inf"))) for i, e in enumerate(evidence)
    ]


def settled(judge: Judge, evidence: Evidence, score: rubrics.Score) -> list[Verdict]:
    """The verdicts on a response that no judge need hear."""
    return [judge.verdict(evidence, score, sample) for sample in range(judge.samples)]


def on_scale(judge: Judge, verdict: Verdict) -> Verdict:
    """A verdict whose score is one; a score that is no number is none.

    Raises:
        UserError: its score is off the scale of 1..5, which no mean, no share of good pairs and no plot would tell.
    """
    if verdict.score is None:
        return verdict
    if not isfinite(score := float(verdict.score)):
        return replace(verdict, score=None, status="no_score")
    if off_scale(score):
        raise UserError(
            f"a judge's score must be from 1 to 5, or None with a status; got {score:g} of "
            f"{type(judge).__name__} for {verdict.response_id}; map its scores onto that scale"
        )
    return replace(verdict, score=score) if not isinstance(verdict.score, int | float) else verdict


def off_scale(score: float) -> bool:
    """Whether a score is none of 1..5, the scale of every judge and of what a reward model learns; rounding aside (an
    expected score of 5 may be 5.0000005)."""
    return not 1 - 1e-4 <= score <= 5 + 1e-4


def judge_audible(
    judge: Judge, evidence: list[Evidence], max_wer: float, ask: Callable[[list[int]], list[list[Verdict]]]
) -> list[list[Verdict]]:
    """The verdicts on each response; `ask` judges those (their indices) that no failure has settled."""
    early = [heard_failure(e, max_wer) for e in evidence]
    rest = [i for i, score in enumerate(early) if score is None]
    judged = dict(zip(rest, ask(rest) if rest else [], strict=True))
    return [
        judged[i] if score is None else settled(judge, e, score)
        for i, (e, score) in enumerate(zip(evidence, early, strict=True))
    ]


def ask_samples(judge: Judge, llm: ChatLLM, evidence: list[Evidence], contents: list[Any]) -> list[list[Verdict]]:
    """`judge.samples` verdicts on each content (a prompt, or its parts), all asked at once and strictly parsed."""
    conversations = [[{"role": "user", "content": content}] for content in contents for _ in range(judge.samples)]
    replies = iter(llm.complete(conversations))
    return [[reply_verdict(judge, e, sample, next(replies)) for sample in range(judge.samples)] for e in evidence]


def reply_verdict(judge: Judge, evidence: Evidence, sample: int, reply: Reply) -> Verdict:
    """A verdict from what a model wrote, or from why it wrote nothing."""
    usage = {**reply.usage, "cost_usd": reply.cost_usd}
    if reply.status != "ok" or reply.text is None:
        status = reply.status if reply.status != "ok" else "no_reply"
        return judge.verdict(evidence, rubrics.Score(None, reply.message, status), sample, usage=usage)
    return judge.verdict(evidence, rubrics.parse_score(reply.text), sample, reply.text, usage)


def heard_failure(evidence: Evidence, max_wer: float) -> rubrics.Score | None:
    """What is settled before any style: a failure that a listener hears scores 1, any other status is no score; None =
    judge it."""
    if evidence.status in HEARD_FAILURES:
        return rubrics.score_failure(evidence.status)
    if evidence.status != "ok":
        return rubrics.Score(None, "there is no evidence to judge", evidence.status)
    if evidence.wer is not None and evidence.wer > max_wer:
        return rubrics.score_failure("mismatch")
    return None
