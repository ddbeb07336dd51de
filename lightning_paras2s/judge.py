"""Is the response a good fit, in content and tone? Judges read what was heard (paper Eq. 1, guideline A.11.5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

from lightning_paras2s import rubric
from lightning_paras2s.acts import ActClassifier
from lightning_paras2s.llm import ChatLLM, Reply
from lightning_paras2s.types import TONES, Evidence, Query, Style, UserError, Verdict

HEARD_FAILURES = (
    "silent",
    "truncated",
)  # an evidence's statuses that a listener would score 1; any other is no judgement at all
MAX_WER = 0.5
LABEL_SOURCES = ("gold", "predicted")


class Judge(ABC):
    """Scores the fit of a response to a query on the Likert scale 1..5."""

    name: str
    rubric_sha: str
    samples: int = 1  # verdicts on each response

    @abstractmethod
    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        """`style` holds the query's labels (gold or predicted); `evidence` is what was heard in the response.

        Never guesses: what can't be judged gets `score=None` and a status.
        """

    def judge_all(self, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> list[list[Verdict]]:
        """The `samples` verdicts on each response; a judge that asks a server overrides this to ask at once."""
        return [[self.judge(*item)] for item in zip(queries, styles, evidence, strict=True)]


class EmbeddedJudge(Judge):
    """Guideline A.11.5 as rules over what was heard: the act (a text classifier over the transcript), the tone, the
    topic, and failures.

    Args:
        acts: file of the act classifier (`python -m lightning_paras2s.acts`).
        max_wer: above this word error rate between what was heard and the response's own text, voice and text differ:
            score 1.
    """

    rubric_sha = rubric.RUBRIC_SHA

    def __init__(self, acts: str = "checkpoints/embedded/acts.safetensors", max_wer: float = MAX_WER) -> None:
        self.classifier, self.max_wer = ActClassifier(Path(acts)), max_wer
        self.name = "embedded-rubric-1"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        value = getattr(style, query.factor)
        act = ""
        if (early := heard_failure(evidence, self.max_wer)) is not None:
            score = early
        elif value not in rubric.BEST_TONES:
            score = rubric.Score(None, f"the query's {query.factor} is {value or 'unknown'}", "no_label")
        elif evidence.tone not in TONES:
            score = rubric.Score(None, f"the tone heard is {evidence.tone or 'unknown'}", "no_tone")
        else:
            act = self.classifier.classify(evidence.transcript, query.factor, query.text).name
            score = rubric.score_act(value, act, evidence.tone, rubric.names_topic(query.text, evidence.transcript))
        return Verdict(
            evidence.response_id, self.name, score.score, score.reason, self.rubric_sha, raw=act, status=score.status
        )


class LLMJudge(Judge):
    """A chat model asked with guideline A.11.5 (the paper: GPT-4.1); `samples` independent judgements of each response.

    Responses in which nothing could be heard are scored without asking.
    """

    rubric_sha = rubric.RUBRIC_SHA

    def __init__(self, llm: ChatLLM, samples: int = 1, max_wer: float = MAX_WER) -> None:
        if samples < 1:
            raise UserError(f"a judge must draw at least one sample; got samples={samples}")
        self.llm, self.samples, self.max_wer = llm, samples, max_wer
        self.name = f"llm-rubric-{rubric.PARSER_VERSION}/{llm.name}"

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        return self.judge_all([query], [style], [evidence])[0][0]

    def judge_all(self, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> list[list[Verdict]]:
        early = [heard_failure(e, self.max_wer) for e in evidence]
        asked = [i for i, score in enumerate(early) if score is None]
        prompts = [rubric.build_prompt(queries[i], styles[i], evidence[i]) for i in asked]
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts for _ in range(self.samples)]
        replies = self.llm.complete(conversations) if conversations else []
        verdicts = [[] if score is None else self._early(e, score) for e, score in zip(evidence, early, strict=True)]
        for position, reply in enumerate(replies):
            index, sample = asked[position // self.samples], position % self.samples
            verdicts[index].append(self._verdict(evidence[index], sample, reply))
        return verdicts

    def _early(self, evidence: Evidence, score: rubric.Score) -> list[Verdict]:
        only = Verdict(evidence.response_id, self.name, score.score, score.reason, self.rubric_sha, status=score.status)
        return [replace(only, sample=sample) for sample in range(self.samples)]

    def _verdict(self, evidence: Evidence, sample: int, reply: Reply) -> Verdict:
        if reply.status != "ok" or reply.text is None:
            status = reply.status if reply.status != "ok" else "no_reply"
            return Verdict(
                evidence.response_id,
                self.name,
                None,
                "",
                self.rubric_sha,
                sample=sample,
                usage=_usage(reply),
                status=status,
            )
        score = rubric.parse_score(reply.text)
        return Verdict(
            evidence.response_id,
            self.name,
            score.score,
            score.reason,
            self.rubric_sha,
            sample=sample,
            raw=reply.text,
            usage=_usage(reply),
            status=score.status,
        )


def _usage(reply: Reply) -> dict[str, float]:
    return {**reply.usage, "cost_usd": reply.cost_usd}


def heard_failure(evidence: Evidence, max_wer: float) -> rubric.Score | None:
    """What is settled before any style: a failure that a listener hears scores 1, any other status is no score; None =
    judge it."""
    if evidence.status in HEARD_FAILURES:
        return rubric.score_failure(evidence.status)
    if evidence.status != "ok":
        return rubric.Score(None, "there is no evidence to judge", evidence.status)
    if evidence.wer is not None and evidence.wer > max_wer:
        return rubric.score_failure("mismatch")
    return None
