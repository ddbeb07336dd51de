"""End-to-end judges: what they hear is what was said, in `evaluate`; nothing is judged that was not heard."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import soundfile
import torch
from beeps import BeepRecognizer, BeepTranscriber
from loopback import Loopback, Sent, audio_chat, completion
from sounds import hum
from test_qwen_omni import folder, scorer  # noqa: F401  its tiny thinker

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.evaluate import ANSWER_SECONDS, evaluate
from lightning_paras2s.bench.systems.base import Answer, S2SSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.audio_judges import AudioLLMJudge, ScorerJudge
from lightning_paras2s.judging.rubric import PROMPT
from lightning_paras2s.judging.scorer import ResponseScorer
from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.types import Evidence, Query, Verdict, read_jsonl, to_json

SECONDS = 0.32


class Hums(S2SSystem):
    """Answers at the loudness that it is told; 0 is silence."""

    config_sha = "hums"

    def __init__(self, *levels: float) -> None:
        self.levels = levels

    def respond(self, queries, audios, sample):
        return [Answer(hum(self.levels[int(q.id[1])], SECONDS)) for q in queries]


@pytest.fixture
def study(tmp_path):
    """Four queries (two pairs), the i-th at loudness (i + 1) / 10; the answers are louder, or silent."""
    styles = ("adult", "child")
    queries = [
        Query(f"q{i}", f"p{i // 2}", "age", "test", "Hi there.", {"age": styles[i % 2]}, "T", f"q{i}.wav")
        for i in range(4)
    ]
    (tmp_path / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    for i, q in enumerate(queries):
        write_audio(tmp_path / q.audio, hum((i + 1) / 10, SECONDS))
    return {
        "manifest": str(tmp_path / "queries.jsonl"),
        "systems": {"s": Hums(0.5, 0.6, 0.7, 0.0)},
        "transcriber": BeepTranscriber(["yes"]),
        "recognizer": BeepRecognizer(),
        "output": str(tmp_path / "run"),
        "label_swap": False,
    }


def parts(body: bytes) -> list[dict]:
    return json.loads(body)["messages"][0]["content"]


def loudness(part: dict) -> float:
    data = base64.b64decode(part["input_audio"]["data"])
    samples, rate = soundfile.read(io.BytesIO(data))
    assert rate == 16_000 and len(samples) == SECONDS * 16_000
    return round(float(np.abs(samples).max()), 2)


def test_the_prompt_is_the_guideline_with_both_recordings_in_its_slots(study, tmp_path):
    heard = []

    def answer(path, body, times):
        got = parts(body)
        heard.append((loudness(got[1]), loudness(got[3])))
        text = got[0]["text"] + "{user}" + got[2]["text"] + "{agent}" + got[4]["text"]
        assert text == PROMPT and "Hi there" not in str([p.get("text") for p in got])  # no transcript, no label
        return Sent(200, completion(f"The reason is loud; The score is {1 + len(heard)}"))

    with Loopback(answer) as server:
        result = evaluate(**study, judge=AudioLLMJudge(audio_chat(server.url, tmp_path, concurrency=1)))
    assert sorted(heard) == [(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]
    verdicts = {v.response_id: v for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)}
    assert verdicts["s/q3/0"].score == 1 and "nothing is to be heard" in verdicts["s/q3/0"].reason  # not asked
    assert sorted(v.score for v in verdicts.values()) == [1, 2, 3, 4]
    assert result["judge"] == "end-to-end-2/gpt-audio-t0"
    assert result["judge_usd"] == pytest.approx(3 * (10 * 2.5 + 5 * 10) / 1e6)


def test_audio_tokens_are_paid_at_their_own_price(tmp_path):
    body = json.loads(completion("The score is 3", prompt_tokens=100))
    body["usage"]["prompt_tokens_details"] = {"audio_tokens": 60}
    llm = OpenAIChat("gpt-audio", cache_dir="")
    reply = llm.reply(body, 0.0)
    assert reply.usage["audio_tokens"] == 60
    assert reply.cost_usd == pytest.approx((40 * 2.5 + 60 * 32 + 5 * 10) / 1e6)


def test_a_cap_counts_the_recordings_before_they_are_sent(study, tmp_path):
    with Loopback(lambda *_: Sent(200, completion("The score is 3", prompt_tokens=2000))) as server:
        # A request is at most: guideline of about 2,000 tokens, 2 * .32 s * 15 audio tokens, 10 of an answer.
        characters = len(PROMPT) - len("{user}{agent}")
        audio = 2 * (SECONDS + 44 / 32_000) * 15
        most = ((characters / 3 + 50) * 2.5 + audio * 32 + 10 * 10) / 1e6
        llm = audio_chat(server.url, tmp_path, max_tokens=10, max_usd=1.5 * most, concurrency=1)
        result = evaluate(**study, judge=AudioLLMJudge(llm))
        assert len(server.requests) == 1 and llm.spent_usd <= llm.max_usd
        assert result["verdict_statuses"] == {"s": {"ok": 2, "max_usd": 2}}  # the other "ok" is the silent response
        assert llm.at_most([{"role": "user", "content": parts(server.requests[0][1])}]) == pytest.approx(most, rel=1e-3)


def test_a_cap_holds_over_all_starts_of_a_folder(study, tmp_path):
    """Each start counted from nothing: so many starts cost so many times the cap."""
    with Loopback(lambda *_: Sent(200, completion("The score is 3", prompt_tokens=2000))) as server:
        price, asked = (2000 * 2.5 + 5 * 10) / 1e6, []
        for cap in (1.5, 1.5, 2.6):
            judge = AudioLLMJudge(audio_chat(server.url, tmp_path / str(len(asked)), concurrency=1))
            judge.llm.at_most = lambda *_: price
            result = evaluate(**study, judge=judge, max_usd=cap * price)
            asked.append(len(server.requests))
        assert asked == [1, 1, 2] and result["judge_usd"] == pytest.approx(2 * price)


def test_the_price_of_a_judge_that_hears_counts_what_it_hears(study):
    """A dry run priced the guideline's words alone: of gpt-audio half of what it costs."""
    llm = OpenAIChat("ear", usd_per_million=(0.0, 0.0), audio_usd_per_million=1e6, cache_dir="")  # 1 USD a token
    told = evaluate(**study, judge=AudioLLMJudge(llm), dry_run=True)
    seconds = SECONDS + ANSWER_SECONDS  # of the query, and of an answer that nobody has heard yet
    assert told["verdicts"] and told["usd"] == pytest.approx(told["verdicts"] * seconds * 15)


class Contrast(ResponseScorer):
    """Probabilities that depend on both recordings: 5 with the response's loudness, 1 with the query's."""

    def score_logits(self, queries, responses):
        pairs = zip(queries, responses, strict=True)
        rows = [[float(np.abs(a.samples).max() * 10) for a in pair] for pair in pairs]
        return torch.tensor([[q, -99.0, -99.0, -99.0, r] for q, r in rows])


def test_a_scorer_judges_by_the_expectation_over_the_digits(study, tmp_path):
    evaluate(**study, judge=ScorerJudge(Contrast, "toy"))
    verdicts = {v.response_id: v for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)}
    share = 1 / (1 + np.exp(1 - 5))  # the query at .1, the response at .5: logits 1 and 5
    assert verdicts["s/q0/0"].score == pytest.approx(1 + 4 * share, abs=2e-3)  # 16-bit files
    assert json.loads(verdicts["s/q0/0"].raw)[4] == pytest.approx(share, abs=2e-3)
    assert verdicts["s/q0/0"].judge == "end-to-end-scorer/Contrast/toy" and verdicts["s/q3/0"].score == 1


def test_swapping_labels_changes_nothing_since_no_label_is_read(study, tmp_path):
    result = evaluate(**{**study, "label_swap": True}, judge=ScorerJudge(Contrast, "toy"))
    assert result["systems"]["s"]["overall"]["label_swap_gain"] == 0


def test_without_recordings_it_is_one_line():
    query = Query("q", "p", "age", "test", "Hi.", {"age": "child"}, "T", "q.wav")
    with pytest.raises(UserError, match="must know where recordings are"):
        ScorerJudge(Contrast, "toy").judge(query, query.style, Evidence("s/q/0"))


def test_qwen_omni_without_adapters_of_its_own_judges_zero_shot(study, tmp_path, scorer):  # noqa: F811
    adapters = [p for name, p in scorer.named_parameters() if "lora_B" in name]
    assert adapters and not any(p.any() for p in adapters)  # the base model alone speaks
    evaluate(**study, judge=ScorerJudge(lambda: scorer, "Qwen2.5-Omni-7B"))
    verdicts = {v.response_id: v for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)}
    assert verdicts["s/q0/0"].judge == "end-to-end-scorer/QwenOmniScorer/Qwen2.5-Omni-7B"
    probabilities = json.loads(verdicts["s/q0/0"].raw)
    assert sum(probabilities) == pytest.approx(1, abs=5e-4)  # four decimals each
    assert verdicts["s/q0/0"].score == pytest.approx(np.dot(probabilities, range(1, 6)), abs=1e-3)
