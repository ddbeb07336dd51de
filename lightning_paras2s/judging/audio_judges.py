"""End-to-end judges: they hear query and response themselves, and read no transcript, label or tone (v2's baseline B1).

The paper keeps them as a baseline because they hallucinate style from words (v2, by digests of it: Pearson with humans
.618, against .776 of the judge in stages). Their verdicts don't depend on labels, so the label-swap gain is 0 by
construction.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from lightning_paras2s.audio import read_audio
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.judging.judges import Judge, ask_samples, judge_audible
from lightning_paras2s.judging.rubric import PARSER_VERSION, PROMPT, Score, read_rubric, rubric_sha
from lightning_paras2s.judging.scorer import ResponseScorer, expected_score, ready
from lightning_paras2s.judging.turns import turn_parts
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.running.logs import Log
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.parts import AUDIO_RATE, audio_part, text_part
from lightning_paras2s.turns import Turn
from lightning_paras2s.types import Audio, Evidence, Query, Response, Style, Verdict


class Pair(NamedTuple):
    """What an end-to-end judge hears."""

    query: Audio
    response: Audio
    turns: tuple[Turn, ...] = ()


class HearingJudge(Judge):
    """A judge that hears recordings: `evaluate` tells it where they are.

    Responses in which nothing is to be heard are scored as by the other judges, without asking; a transcript that
    differs from the response's text is not, since this judge has no transcriber.
    """

    hears = True
    queries: Path | None = None
    run: Path | None = None

    def locate(self, queries: Path, run: Path) -> None:
        self.queries, self.run, self.files = queries, run, {}

    def judge(self, query: Query, style: Style, evidence: Evidence) -> Verdict:
        return self.judge_all([query], [style], [evidence])[0][0]

    def judge_all(self, queries: list[Query], styles: list[Style], evidence: list[Evidence]) -> list[list[Verdict]]:
        def ask(rest: list[int]) -> list[list[Verdict]]:
            pairs = [self.hear(queries[i], evidence[i]) for i in rest]
            return self.judge_pairs([evidence[i] for i in rest], pairs)

        return judge_audible(self, evidence, float("inf"), ask)

    @abstractmethod
    def judge_pairs(self, evidence: list[Evidence], pairs: list[Pair]) -> list[list[Verdict]]:
        """The `samples` verdicts on each pair; of the evidence, only the response's id is read."""

    def hear(self, query: Query, evidence: Evidence) -> Pair:
        if self.queries is None or self.run is None:
            raise UserError(f"{type(self).__name__} must know where recordings are; got nothing; use it in `evaluate`")
        if evidence.response_id not in self.files:
            self.files = {r.id: r.audio for r in Log(self.run).read("responses", Response)}
        response = read_audio(self.run / self.files[evidence.response_id], AUDIO_RATE)
        before = heard_turns(query, self.queries).turns
        return Pair(read_audio(self.queries / query.audio, AUDIO_RATE), response, before)


class AudioLLMJudge(HearingJudge):
    """A chat model that hears (v2's B1: gpt-audio) is asked with guideline A.11.5, the recordings in its two slots; in
    the first, behind those of earlier turns (their words, where nobody recorded them).

    Args:
        llm: any server that takes OpenAI's `input_audio`.
        samples: independent judgements of each response.
        rubric: text file of a guideline of your own, with {user} and {agent} where the recordings belong; null is the
            paper's.
    """

    reads_turns = True

    def __init__(self, llm: ChatLLM, samples: int = 1, rubric: InputPath | None = None) -> None:
        if samples < 1:
            raise UserError(f"a judge must draw at least one sample; got samples={samples}")
        self.llm, self.samples = llm, samples
        self.prompt = read_rubric(rubric) if rubric else PROMPT
        self.rubric_sha = rubric_sha(f"end-to-end\n{self.prompt}")
        self.name = f"end-to-end-{PARSER_VERSION}/{llm.name}"

    def judge_pairs(self, evidence: list[Evidence], pairs: list[Pair]) -> list[list[Verdict]]:
        return ask_samples(self, self.llm, evidence, [audio_prompt(pair, self.prompt) for pair in pairs])


def audio_prompt(pair: Pair, prompt: str = PROMPT) -> list[dict]:
    """The guideline as parts of a message, the speech where the text judge gets transcripts, labels and tone."""
    before, _, rest = prompt.partition("{user}")
    between, _, after = rest.partition("{agent}")
    user = [*turn_parts(pair.turns), audio_part(pair.query)]
    return [text_part(before), *user, text_part(between), audio_part(pair.response), text_part(after)]


class ScorerJudge(HearingJudge):
    """A model of query and response speech as the judge; its score is the expectation over the digits 1 to 5.

    `QwenOmniScorer` without adapters of its own is Qwen2.5-Omni asked zero-shot; `TrainedScorer` is the embedded one.
    Both hear the query and the response; earlier turns they do not, and the judge says so.

    Args:
        scorer: builds the scorer with its weights.
        name: recorded in every verdict: which weights these are.
    """

    def __init__(self, scorer: Callable[[], ResponseScorer], name: str) -> None:
        self.scorer = ready(scorer)
        self.name = f"end-to-end-scorer/{type(self.scorer).__name__}/{name}"
        self.rubric_sha = hashlib.sha256(qwen_omni.GUIDELINE.encode()).hexdigest()

    @torch.no_grad()
    def judge_pairs(self, evidence: list[Evidence], pairs: list[Pair]) -> list[list[Verdict]]:
        logits = self.scorer.score_logits([p.query for p in pairs], [p.response for p in pairs]).float().cpu()
        return [[self._verdict(e, row)] for e, row in zip(evidence, logits, strict=True)]

    def _verdict(self, evidence: Evidence, logits: torch.Tensor) -> Verdict:
        if logits.isnan().any():
            return self.verdict(evidence, Score(None, "the scorer heard nothing", "no_score"))
        raw = json.dumps([round(p, 4) for p in logits.softmax(-1).tolist()])
        return self.verdict(evidence, Score(round(float(expected_score(logits)), 4), ""), raw=raw)
