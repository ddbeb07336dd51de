"""From spoken responses to rewards: scorers, judges and the simple rewards of the ladder. NaN = unscored, never 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_paras2s.audio import is_silent
from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError, check_choice
from lightning_paras2s.hearing.evidence import Ears, Said, listen, make_evidence
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.tone_words import agrees
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging import rubric
from lightning_paras2s.judging.judges import LABEL_SOURCES, Judge, ask_judge, tell_last_turn
from lightning_paras2s.judging.scorer import ResponseScorer, likeliest_score, ready
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.running.origins import sha
from lightning_paras2s.running.parts import settings_sha
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Audio, Evidence, Query, Style

Item = TypeVar("Item")


class Reward(ABC):
    """Scores responses; higher is better."""

    needs_audio = True  # whether the audio stream must be decoded first

    @abstractmethod
    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        """[B*G], the responses to a query adjacent; NaN = unscored."""

    def score_for(self, batches: list[DualStreamBatch], responses: list[SpokenResponse]) -> list[Tensor]:
        """`score` of the same responses as answers to the queries of each batch."""
        return [self.score(batch, responses) for batch in batches]

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Move the networks that run on the policy's device; most have none, or choose theirs."""

    @property
    def config_sha(self) -> str:
        """Short hash of what its scores depend on: its class, its texts (labels: gold) and numbers, its parts by their
        weights and rubrics. Whole numbers are taken for counters and batch sizes, but for the options of a reward of
        one's own."""
        return settings_sha(self, str | float)


class TokenCountReward(Reward):
    """The share of a response's text steps that hold one token (the ladder's first rung: does the estimator work?).

    Args:
        token: text id that is counted.
    """

    needs_audio = False

    def __init__(self, token: int) -> None:
        self.token = token

    @property
    def config_sha(self) -> str:
        return sha(super().config_sha, self.token)

    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        return torch.tensor([r.text_ids.count(self.token) / max(1, len(r.text_ids)) for r in responses])


class JudgeReward(Reward):
    """A judge's score of what is heard in the waveform.

    Args:
        judge: scores what was heard.
        transcriber: hears the response's words.
        style: hears the response's tone, and with predicted labels the query's style.
        labels: where the query's style comes from: "gold" labels, or "predicted" by `style` from the query's audio.
    """

    def __init__(
        self,
        judge: Judge,
        transcriber: Transcriber,
        style: StyleRecognizer,
        labels: Literal["gold", "predicted"] = "gold",
    ) -> None:
        self.judge, self.transcriber, self.style = judge, transcriber, style
        self.labels = check_labels(labels, style)

    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        return self.score_for([batch], responses)[0]

    def score_for(self, batches: list[DualStreamBatch], responses: list[SpokenResponse]) -> list[Tensor]:
        """Hears each response once, however many batches it is judged for."""
        evidence, found = self.hear(responses), []
        for batch in batches:
            group_size = len(responses) // len(batch)
            styles = repeat(query_styles(batch, self.labels, self.style), group_size)
            found.append(judge_scores(self.judge, repeat(batch.queries, group_size), styles, evidence))
        return found

    def hear(self, responses: list[SpokenResponse]) -> list[Evidence]:
        return make_evidence(as_said(responses), Ears(self.transcriber, self.style))


class TextJudgeReward(Reward):
    """A judge's score of the text stream alone, as if spoken in the best tone (the ladder's second rung).

    Args:
        judge: scores the text.
        style: hears the query's style, where `labels` are predicted.
        labels: where the query's style comes from: gold labels, or predicted by `style` from the query's audio.
    """

    needs_audio = False

    def __init__(
        self, judge: Judge, style: StyleRecognizer | None = None, labels: Literal["gold", "predicted"] = "gold"
    ) -> None:
        self.judge, self.style = judge, style
        self.labels = check_labels(labels, style)

    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        group_size = len(responses) // len(batch)
        queries = repeat(batch.queries, group_size)
        styles = repeat(query_styles(batch, self.labels, self.style), group_size)
        evidence = [
            Evidence(str(i), response.text, 0.0, next(iter(best_tones(query, style)), "neutral"))
            for i, (query, style, response) in enumerate(zip(queries, styles, responses, strict=True))
        ]
        return judge_scores(self.judge, queries, styles, evidence)


class ToneReward(Reward):
    """1 if the tone heard in the waveform, one of ours or a description of it, is the best for the query's style, else
    0 (the ladder's third rung); 0 for silence, unscored where the recogniser tells no tone, or not the query's style.

    Args:
        style: hears the tone, and with predicted labels the query's style.
        labels: where the query's style comes from: gold labels, or predicted by `style` from the query's audio.
    """

    def __init__(self, style: StyleRecognizer, labels: Literal["gold", "predicted"] = "gold") -> None:
        self.style, self.labels = style, check_labels(labels, style)

    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        group_size = len(responses) // len(batch)
        styles = query_styles(batch, self.labels, self.style)
        wanted = repeat([best_tones(q, s) for q, s in zip(batch.queries, styles, strict=True)], group_size)
        heard = listen({str(i): r.audio for i, r in enumerate(responses)}, None, self.style, "response")
        tones = [heard[str(i)].style.tone or "" if str(i) in heard else "silence" for i in range(len(responses))]
        fits = [any(agrees(one, tone) for one in best) for tone, best in zip(tones, wanted, strict=True)]
        known = [bool(tone and best) for tone, best in zip(tones, wanted, strict=True)]
        return torch.tensor([float(fit) if told else float("nan") for told, fit in zip(known, fits, strict=True)])


class ScorerReward(Reward):
    """The distilled reward model's expected score (paper, section 4.2).

    A response that is silent or runs into the step limit gets 1, the lowest score, as the judge gives it: the model is
    trained on whole answers and may like a cut one.

    Args:
        scorer: builds the scorer with its weights.
        batch_size: responses a forward pass.
    """

    def __init__(self, scorer: Callable[[], ResponseScorer], batch_size: int = 64) -> None:
        self.scorer, self.batch_size = ready(scorer), batch_size

    def to(self, device: torch.device) -> None:
        self.scorer.to(device)

    @torch.no_grad()
    def score(self, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
        if any(query.turns for query in batch.queries):
            say_once("the reward model scores the last turn alone: it does not hear the queries' earlier turns")
        queries = repeat(batch.audios, len(responses) // len(batch))
        audios = [r.audio for r in responses]
        spans = [slice(start, start + self.batch_size) for start in range(0, len(audios), self.batch_size)]
        scores = torch.cat([self.read(queries[span], audios[span]) for span in spans]).cpu()
        failed = torch.tensor([listen_status(r) != "ok" for r in responses])
        return torch.where(failed, 1.0, scores)

    def read(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        """[B], in 1..5; NaN = unscored."""
        return self.scorer(queries, responses)


class LikeliestScorerReward(ScorerReward):
    """The distilled reward model's likeliest score: the other way to read five classes, and coarser, since answers that
    it would tell apart get the same whole number (`sweeps/reading.yaml` measures what that costs).

    Args:
        scorer: builds the scorer with its weights.
        batch_size: responses a forward pass.
    """

    def read(self, queries: list[Audio], responses: list[Audio]) -> Tensor:
        return likeliest_score(self.scorer.score_logits(queries, responses))


def rewards_of(reward: Reward, batch: DualStreamBatch, responses: list[SpokenResponse]) -> Tensor:
    """What any reward, one of a user's own too, gives the responses: [B*G], floating.

    Raises:
        UserError: it gave no number for each.
    """
    return checked(reward, reward.score(batch, responses), responses)


def checked(reward: Reward, scores: Tensor, responses: list[SpokenResponse]) -> Tensor:
    """A reward's scores of the responses, [B*G], floating; one whose waveform is not finite (a voice in a type that is
    too narrow, damaged weights) is unscored, whatever was heard in it.

    Raises:
        UserError: they are no number for each.
    """
    if not isinstance(scores, Tensor) or scores.shape != (len(responses),):
        got = f"{type(scores).__name__} {list(scores.shape) if isinstance(scores, Tensor) else ''}".strip()
        raise UserError(
            f"{type(reward).__name__}.score must give a tensor [{len(responses)}], a number for each response (NaN: "
            f"unscored), those to a query adjacent; got {got}"
        )
    broken = torch.tensor([not np.isfinite(r.audio.samples).all() for r in responses], device=scores.device)
    return (scores if scores.is_floating_point() else scores.float()).masked_fill(broken, float("nan"))


def as_said(responses: list[SpokenResponse]) -> list[Said]:
    """Responses as a listener gets them, named by their place."""
    return [Said(str(i), r.audio, r.text, "ok" if r.finished else "truncated") for i, r in enumerate(responses)]


def listen_status(response: SpokenResponse) -> str:
    if not len(response.audio.samples) or is_silent(response.audio):
        return "silent"
    return "ok" if response.finished else "truncated"


def judge_scores(judge: Judge, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> Tensor:
    """Mean score of each response's verdicts, which are checked as those of `evaluate` are; NaN where there is none."""
    tell_last_turn(judge, queries)
    means = []
    for verdicts in ask_judge(judge, queries, styles, evidence):
        scores = [v.score for v in verdicts if v.score is not None]
        means.append(sum(scores) / len(scores) if scores else float("nan"))
    return torch.tensor(means)


def query_styles(batch: DualStreamBatch, labels: str, style: StyleRecognizer | None) -> list[Style]:
    if labels == "gold":
        if (bare := next((query.id for query in batch.queries if not query.label), None)) is not None:
            raise UserError(f"labels: gold needs every query's style; got none of {bare!r}; set labels: predicted")
        return [query.style for query in batch.queries]
    return style.recognize(batch.audios, "query")


def best_tones(query: Query, style: Style) -> tuple[str, ...]:
    """Those that fit the query's style, neutral for a neutral voice; none where nobody knows the style."""
    value = getattr(style, rubric.factor_of(query, style))
    return () if value is None else tuple(sorted(rubric.BEST_TONES.get(value, {"neutral"})))


def check_labels(labels: str, style: StyleRecognizer | None) -> str:
    check_choice("a reward's labels", labels, LABEL_SOURCES)
    if labels == "predicted" and style is None:
        raise UserError("labels: predicted needs a style recogniser; got none; give the reward's option `style`")
    return labels


def repeat(items: list[Item], group_size: int) -> list[Item]:
    """Each item G times, copies adjacent."""
    return [item for item in items for _ in range(group_size)]
