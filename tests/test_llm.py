"""`OpenAIChat` against a server that fails on purpose; its cache, cost cap and Batch files."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from email.utils import formatdate

import pytest
from loopback import Loopback, Sent, completion

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.servers.batch import batch_rows
from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.servers.remote import Patience, retry_after
from lightning_paras2s.types import Evidence, Query

QUICK = Patience(retries=6, timeout_seconds=1.5, first_wait_seconds=0.01, longest_wait_seconds=1.0)
PRICE = (1.0, 2.0)  # 10 prompt and 5 completion tokens: (10 * 1 + 5 * 2) / 1e6 USD
REPLY_USD = 20e-6


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def content(body: bytes) -> str:
    return json.loads(body)["messages"][-1]["content"]


def chat(url: str, folder, **options) -> OpenAIChat:
    settings = {"model": "m", "patience": QUICK, "cache_dir": str(folder), "usd_per_million": PRICE, "max_tokens": 10}
    return OpenAIChat(base_url=url, **{**settings, **options})


def test_replies_keep_their_order_and_requests_are_bounded_when_many_are_asked(tmp_path):
    with Loopback(lambda path, body, times: Sent(200, completion(f"re {content(body)}"), after=0.02)) as server:
        llm = chat(server.url, tmp_path, concurrency=5)
        replies = llm.complete([said(f"q{i}") for i in range(40)])
        assert [r.text for r in replies] == [f"re q{i}" for i in range(40)]
        assert server.busiest <= 5 and server.requests[0][0] == "/v1/chat/completions"
        assert llm.spent_usd == pytest.approx(40 * REPLY_USD)


def test_all_slots_are_used_when_there_are_more_than_a_pool_has_by_itself(tmp_path):
    together = threading.Barrier(120)

    def answer(path, body, times):
        try:
            together.wait(timeout=10)  # for all of them
        except threading.BrokenBarrierError:
            return Sent(500, b"")
        return Sent(200, completion("ok"))

    with Loopback(answer) as server:
        llm = chat(server.url, tmp_path, concurrency=120, patience=Patience(0, 30.0))
        assert {r.status for r in llm.complete([said(f"q{i}") for i in range(120)])} == {"ok"}


def test_nothing_is_lost_or_asked_twice_when_the_server_fails_in_every_way(tmp_path):
    """Each query meets a failure drawn from its text, once or twice; 5 % get garbage for ever."""
    queries = [f"q{i}" for i in range(100)]
    garbage = set(random.Random(0).sample(queries, 5))
    ways = ("timeout", "429", "500", "cut", "format", "html", "none")

    def answer(path, body, times):
        query = content(body)
        if query in garbage:
            return Sent(200, b"<html>\xff\x00 bad gateway")
        way = ways[int(query[1:]) % len(ways)]
        good = completion(f"re {query}")
        if way == "none" or times > 2:
            return Sent(200, good)
        return {
            "timeout": Sent(200, good, after=2.0 if times == 1 else 0),
            "429": Sent(429, b"{}", {"Retry-After": "0.05"}),
            "500": Sent(500, b"oops"),
            "cut": Sent(200, good, cut=len(good) // 2),
            "format": Sent(200, b'{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}'),
            "html": Sent(503, b"<html>"),
        }[way]

    with Loopback(answer) as server:
        llm = chat(server.url, tmp_path, concurrency=32)
        replies = llm.complete([said(q) for q in queries])
        for query, reply in zip(queries, replies, strict=True):
            expected = (None, "malformed") if query in garbage else (f"re {query}", "ok")
            assert (reply.text, reply.status) == expected
        # Paid: one good reply each, and each well-formed JSON of the wrong shape that states its usage.
        wrong = sum(2 for q in queries if q not in garbage and ways[int(q[1:]) % len(ways)] == "format")
        assert llm.spent_usd == pytest.approx((95 + wrong) * REPLY_USD)
        assert llm.asked == Counter(ok=95, malformed=5)
        server.requests.clear()
        again = chat(server.url, tmp_path, concurrency=32, patience=Patience(1, 1.5, 0.01, 0.1))
        replies = again.complete([said(q) for q in queries])
        assert {content(body) for _, body, _ in server.requests} == garbage  # a resume asks for what is missing
        assert again.spent_usd == 0 and sum(r.status == "ok" for r in replies) == 95
        assert sum(r.usage.get("cached", 0) for r in replies) == 95


def test_an_error_that_a_server_sends_with_200_is_told_and_never_read_as_an_answer(tmp_path):
    with Loopback(lambda *asked: Sent(200, b'{"error": {"message": "Model is\\n overloaded", "code": 503}}')) as server:
        [reply] = chat(server.url, tmp_path, patience=Patience(1, 1.5, 0.01, 0.1)).complete([said("a")])
    assert (reply.text, reply.status, reply.message) == (None, "malformed", "Model is overloaded")


def test_a_judge_scores_nothing_when_replies_are_garbage(tmp_path):
    texts = {"one": "The score is 4", "two": "I would give it a four.", "three": "The score is 10", "four": ""}
    query = Query("q", "p", "emotion", "test", "Hello there.", {"emotion": "sad"}, "Travel", "a.flac")

    def answer(path, body, times):
        name = next(n for n in texts if f"<{n}>" in content(body))
        return Sent(200, completion(texts[name])) if name != "four" else Sent(500, b"")

    with Loopback(answer) as server:
        llm = chat(server.url, tmp_path, patience=Patience(1, 1.5, 0.01, 0.1))
        evidence = [Evidence(f"r-{n}", transcript=f"<{n}>", tone="calm") for n in texts]
        verdicts = LLMJudge(llm).judge_all([query] * 4, [query.style] * 4, evidence)
    scores = [v[0].score for v in verdicts]
    assert scores == [4.0, None, None, None]
    assert verdicts[3][0].status == "http_500" and all(v[0].status != "ok" for v in verdicts[1:])


def test_retry_after_is_honoured_when_the_server_states_seconds(tmp_path):
    def answer(path, body, times):
        return Sent(429, b"{}", {"Retry-After": "0.4"}) if times == 1 else Sent(200, completion("ok"))

    with Loopback(answer) as server:
        assert chat(server.url, tmp_path).complete([said("a")])[0].text == "ok"
        assert server.times[1] - server.times[0] >= 0.4


def test_retry_after_gives_seconds_when_it_is_a_number_a_date_or_nonsense():
    assert retry_after("2") == 2.0 and retry_after(None) is None and retry_after("soon") is None
    assert retry_after(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after(formatdate(0, usegmt=True)) == 0.0
    nonsense = ("\u00b2", "inf", "-1", "1_0", "")
    assert retry_after("1.5") == 1.5 and [retry_after(value) for value in nonsense] == [None] * 5


def test_a_refusal_is_the_answer_when_the_server_wants_a_longer_wait_than_patience(tmp_path):
    with Loopback(lambda *_: Sent(429, b"{}", {"Retry-After": "3600"})) as server:
        assert chat(server.url, tmp_path).complete([said("a")])[0].status == "http_429"
        assert len(server.requests) == 1


@pytest.mark.parametrize("status, words", [(401, "accept the key"), (404, "know the model")])
def test_a_wrong_key_or_model_is_one_clear_line_when_asked(tmp_path, status, words):
    with Loopback(lambda *_: Sent(status, b"{}")) as server, pytest.raises(UserError, match=words):
        chat(server.url, tmp_path).complete([said("a")])


def test_a_bad_request_is_a_status_and_not_repeated_when_the_server_rejects_it(tmp_path):
    with Loopback(lambda *_: Sent(400, b"too long")) as server:
        assert chat(server.url, tmp_path).complete([said("a")])[0].status == "http_400"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text, finish, status",
    [(None, "stop", "empty"), ("half", "length", "truncated"), ("no", "content_filter", "refused")],
)
def test_a_reply_without_a_usable_text_is_a_status_when_it_was_paid_for(tmp_path, text, finish, status):
    with Loopback(lambda *_: Sent(200, completion(text, finish))) as server:
        llm = chat(server.url, tmp_path)
        reply = llm.complete([said("a")])[0]
        assert (reply.text, reply.status) == (None, status) and llm.spent_usd == pytest.approx(REPLY_USD)


def test_nothing_is_sent_that_could_break_the_cap_when_max_usd_is_set(tmp_path):
    with Loopback(lambda *_: Sent(200, completion("ok"))) as server:
        llm = chat(server.url, tmp_path, concurrency=8)
        most = llm.at_most(said("q1"))  # (2 / 3 + 50) * 1 + 10 * 2 = 70.67 millionths
        assert most == pytest.approx((2 / 3 + 50 + 20) / 1e6)
        llm.max_usd = 5 * REPLY_USD + most
        replies = llm.complete([said(f"q{i}") for i in range(9)] + [said("q10")])
        assert llm.spent_usd <= llm.max_usd and {r.status for r in replies} == {"ok", "max_usd"}
        assert len(server.requests) == sum(r.status == "ok" for r in replies)
        llm.max_usd = None
        assert {r.status for r in llm.complete([said(f"q{i}") for i in range(9)])} == {"ok"}
        assert len(server.requests) == 9 + (replies[9].status == "ok")


def test_a_price_is_demanded_when_a_cap_is_set_on_an_unknown_model():
    with pytest.raises(UserError, match="max_usd needs the model's price"):
        OpenAIChat(model="mystery", max_usd=1.0)


def test_repeated_conversations_are_independent_samples_when_asked_at_once(tmp_path):
    lock, count = threading.Lock(), [0]

    def answer(path, body, times):
        with lock:
            count[0] += 1
            return Sent(200, completion(f"sample {count[0]}"))

    with Loopback(answer) as server:
        first = chat(server.url, tmp_path).complete([said("a")] * 3)
        again = chat(server.url, tmp_path).complete([said("a")] * 3)
    assert len({r.text for r in first}) == 3 and [r.text for r in again] == [r.text for r in first]


def test_a_named_sample_is_one_reply_whatever_is_asked_beside_it(tmp_path):
    with Loopback(lambda path, body, times: Sent(200, completion(f"sample {times}"))) as server:
        llm = chat(server.url, tmp_path, concurrency=1)
        unnamed = [r.text for r in llm.complete([said("a")] * 2)]
        one, two = llm.complete([said("a")] * 2, ["q1/0", "q2/0"])
        assert [*unnamed, one.text, two.text] == [f"sample {n}" for n in range(1, 5)]
        assert [r.text for r in llm.complete([said("a")] * 2, ["q2/0", "q1/1"])] == ["sample 4", "sample 5"]
        assert [r.text for r in llm.complete([said("a")] * 2)] == unnamed and len(server.requests) == 5


def test_batch_files_carry_what_is_missing_and_bring_it_back_when_imported(tmp_path):
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    asking = OpenAIChat("gpt-4.1", cache_dir=str(tmp_path / "cache"), batch_requests=str(requests))
    conversations = [said("a"), said("b"), said("a")]
    assert {r.status for r in asking.complete(conversations)} == {"pending"}
    asking.complete(conversations)  # asking twice writes once
    rows = batch_rows(str(requests))
    assert len(rows) == 3 and rows[0]["url"] == "/v1/chat/completions" and rows[0]["body"]["model"] == "gpt-4.1"
    assert all(len(row["custom_id"]) <= 64 for row in rows)
    done = [
        {"custom_id": rows[0]["custom_id"], "response": {"status_code": 200, "body": json.loads(completion("A"))}},
        {"custom_id": rows[1]["custom_id"], "response": {"status_code": 500, "body": {}}, "error": None},
    ]
    results.write_text("".join(json.dumps(row) + "\n" for row in done))
    back = OpenAIChat(
        "gpt-4.1", cache_dir=str(tmp_path / "cache"), batch_results=[str(results)], batch_requests=str(requests)
    )
    replies = back.complete(conversations)
    assert [(r.text, r.status) for r in replies] == [("A", "ok"), (None, "pending"), (None, "pending")]
    assert back.spent_usd == pytest.approx((10 * 2 + 5 * 8) / 1e6 / 2)  # gpt-4.1, at half the price


def test_a_request_that_is_answered_is_not_uploaded_again(tmp_path, capsys):
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    options = {"cache_dir": str(tmp_path / "cache"), "batch_requests": str(requests)}
    first, expired = said("one\u2028line"), said("late")  # what ends a line in Python, and may stand in JSON
    OpenAIChat("gpt-4.1", **options).complete([first, expired])
    ids = [row["custom_id"] for row in batch_rows(str(requests))]
    done = {"custom_id": ids[0], "response": {"status_code": 200, "body": json.loads(completion("A\u2028B"))}}
    failed = {"custom_id": ids[1], "response": None, "error": {"code": "batch_expired"}}
    results.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (done, failed)))
    second = OpenAIChat("gpt-4.1", batch_results=[str(results)], **options)
    assert "1 requests are answered and taken out; 1 are left" in capsys.readouterr().err
    assert [reply.text for reply in second.complete([first, said("stage 2")])] == ["A\u2028B", None]
    left = [row["body"]["messages"][0]["content"] for row in batch_rows(str(requests))]
    assert left == [expired[0]["content"], "stage 2"]


def test_what_the_batch_api_failed_at_is_told(tmp_path, capsys):
    """It was asked again, at twice the price where no batch_requests was set, and nothing told of it."""
    rows = [{"custom_id": "a", "response": {"status_code": 200, "body": json.loads(completion("A"))}}]
    rows += [{"custom_id": "b", "response": {"status_code": 500, "body": {}}, "error": None}]
    rows += [{"custom_id": "c", "response": None, "error": {"code": "batch_expired"}}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    OpenAIChat("gpt-4.1", cache_dir=str(tmp_path / "cache"), batch_results=[str(tmp_path / "results.jsonl")])
    told = capsys.readouterr().err
    assert "results.jsonl: 2 of 3 results are no reply (http_500 1, batch_expired 1)" in told


def test_a_batch_file_is_one_clear_line_when_it_is_broken(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"custom_id": "a", "resp')
    with pytest.raises(UserError, match="results.jsonl:1: a line must be a JSON object"):
        OpenAIChat(cache_dir=str(tmp_path / "c"), batch_results=[str(path)])
