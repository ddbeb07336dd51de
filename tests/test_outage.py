"""A server that fails on purpose, through mining and judging: nothing lost, nothing scored that was not judged, spend
counted, a resume asks only for what is missing."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import aiohttp
import pytest
from beeps import BeepRecognizer, BeepSynthesizer, BeepTranscriber, beep_manifest
from loopback import Loopback, Sent, completion

from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.queries.mine import mine
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.queries.scripts import read_scripts
from lightning_paras2s.bench.systems.base import Answer, S2SSystem, ToplineSystem
from lightning_paras2s.data.embedded import frames
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.running.logs import Log, half_line, unanswered
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat, Reply
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.types import Evidence, Response, Verdict, append_jsonl, read_jsonl

USD = (10 * 2 + 5 * 8) / 1e6  # a completion of gpt-4.1: 10 prompt and 5 completion tokens
LATE = "Came-Late"  # header of an answer for which the client's patience was too short, see `no_clock`
WAYS = ("timeout", "429", "500", "cut", "format", "ok", "ok", "ok")
# What a judge writes that holds no score, and the status that it must get.
UNREADABLE = {
    "I would give it a four.": "no_score",
    "The score is 10": "score_out_of_range",
    "The score is 4; no, the score is 2": "several_scores",
    "The reason is warm; The score is": "no_score",  # cut by the model itself
}


def draw(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")


class Failing:
    """Fails in every way, by the prompt's hash: some at the first attempt, some as long as it is down, 5 % for ever.

    Attributes:
        slow: how many attempts time out.
        paid: how many answers state their usage.
    """

    def __init__(self, write, slow: int) -> None:
        self.write, self.slow, self.down, self.paid = write, slow, True, 0
        self.lock = threading.Lock()  # a thread a request

    def __call__(self, path: str, body: bytes, times: int) -> Sent:
        prompt = json.loads(body)["messages"][-1]["content"]
        number = draw(prompt)
        if number % 20 == 0:
            return Sent(200, b"<html>\xff\x00 bad gateway")
        text, finish = self.write(prompt)
        good, way = completion(text, finish), WAYS[number // 20 % len(WAYS)]
        if way == "timeout" and self.down and times <= self.slow:
            return Sent(200, good, {LATE: "yes"})
        if way in ("500", "format") and self.down:
            self.pay(way == "format")  # JSON of another shape that states its usage
            wrong = b'{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}'
            return {"500": Sent(500, b"oops"), "format": Sent(200, wrong)}[way]
        if way in ("429", "cut") and times == 1:
            return {
                "429": Sent(429, b"{}", {"Retry-After": "0.05"}),
                "cut": Sent(200, good, cut=len(good) // 2),
            }[way]
        self.pay()
        return Sent(200, good)

    def pay(self, answers: int = 1) -> None:
        with self.lock:
            self.paid += answers


def chat(url: str, folder: Path, **options) -> OpenAIChat:
    patience = Patience(1, first_wait_seconds=0.01, longest_wait_seconds=0.1)
    return OpenAIChat("gpt-4.1", url, patience=patience, cache_dir=str(folder / "cache"), concurrency=16, **options)


def prompts(server: Loopback) -> set[str]:
    return {json.loads(body)["messages"][-1]["content"] for _, body, _ in server.requests}


@pytest.fixture(scope="module", autouse=True)
def no_clock():
    """The client gives up on the answers that say so, and on no others: a busy machine may take its time. That it gives
    up by the clock, too, is held by tests/test_llm.py."""
    start = aiohttp.ClientResponse.start

    async def started(response: aiohttp.ClientResponse, connection: object) -> aiohttp.ClientResponse:
        await start(response, connection)
        if LATE in response.headers:
            raise TimeoutError
        return response

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aiohttp.ClientResponse, "start", started)
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("outage")


@pytest.fixture(scope="module")
def mined(workplace):
    """Mining behind the server, down and then up -> what each run told, what was asked, and the folder."""
    scripted = ScriptedLLM(decoys=1)

    def write(prompt: str) -> tuple[str, str]:
        return scripted.complete([[{"role": "user", "content": prompt}]])[0].text, "stop"

    failing, told = Failing(write, slow=1), []
    with Loopback(failing) as server:
        for down in (True, False, False):
            failing.down = down
            llm = chat(server.url, workplace)
            paid = failing.paid
            table = mine(str(workplace / "mined"), llm, ["gender"], ["val"], count=24, max_usd=1.0)
            told.append((table, prompts(server), llm.spent_usd, failing.paid - paid))
            server.requests.clear()
    return told, workplace / "mined"


def test_mining_loses_nothing_and_asks_again_only_for_what_failed(mined, workplace):
    (first, asked, spent, paid), (second, again, spent_again, paid_again), (third, last, _, _) = mined[0]
    assert {"http_500", "malformed"} <= {status for status in first["asked"]} and first["candidates"]["failed"] > 0
    assert spent == pytest.approx(paid * USD) and first["usd"] == pytest.approx(spent, abs=1e-4)
    assert spent_again == pytest.approx(paid_again * USD) and paid_again < paid
    answered = {p for p in asked if draw(p) % 20 and WAYS[draw(p) // 20 % 8] not in ("500", "format")}
    assert not answered & again  # what had come was not asked again
    garbage = {p for p in asked | again if draw(p) % 20 == 0}
    assert last <= garbage  # a third run asks for the 5 % that never come right, and for nothing else
    assert third["candidates"] == second["candidates"]


def test_mining_ends_as_without_failures_but_for_the_garbage(mined, workplace):
    mine(str(workplace / "calm"), ScriptedLLM(decoys=1), ["gender"], ["val"], count=24)
    calm = {s.id for s in read_scripts(str(workplace / "calm/scripts.jsonl"))}
    found = {s.id for s in read_scripts(str(mined[1] / "scripts.jsonl"))}
    rows = [json.loads(line) for line in (mined[1] / "candidates.jsonl").read_text().splitlines()]
    failed = {row["id"] for row in rows if row["status"] == "failed"}
    assert calm and found <= calm and (calm - found) <= failed
    assert all(row["why"].endswith("malformed") for row in rows if row["status"] == "failed")


def spoken_scripts(mined, folder: Path, count: int) -> tuple[list[str], dict]:
    """The first mined scripts as recordings: the words that the beeps stand for, and `evaluate`'s options."""
    scripts = [asdict(s) for s in read_scripts(str(mined[1] / "scripts.jsonl"))][:count]
    words = {w for t in [*(f["frame"] for f in frames()), *(s["text"] for s in scripts)] for w in plain_words(t)}
    ears = sorted(words | {"question"})
    return ears, {
        "manifest": beep_manifest(folder, scripts, ears),
        "transcriber": BeepTranscriber(ears),
        "recognizer": BeepRecognizer(),
        "output": str(folder / "run"),
    }


def judge_writes(prompt: str) -> tuple[str, str]:
    """A score by the prompt's hash; some replies are unreadable, some are cut by the token limit."""
    number = draw("verdict" + prompt)
    if number % 9 == 0:
        return list(UNREADABLE)[number // 9 % len(UNREADABLE)], "stop"
    if number % 9 == 1:
        return "The reason is", "length"
    return f"The reason is {number % 97}; The score is {1 + number // 9 % 5}", "stop"


@pytest.fixture(scope="module")
def judged(mined, workplace):
    """What was mined is spoken, answered and judged behind the server: down, up, and up again."""
    told, failing = [], Failing(judge_writes, slow=9)
    (workplace / "speech").mkdir()
    ears, options = spoken_scripts(mined, workplace / "speech", 14)
    options |= {
        "systems": {"topline": ToplineSystem(BeepSynthesizer(ears))},
        "output": str(workplace / "run"),
        "label_swap": False,
    }
    with Loopback(failing) as server:
        for down in (True, False, False):
            failing.down, paid = down, failing.paid
            llm = chat(server.url, workplace)
            result = evaluate(**options, judge=LLMJudge(llm, samples=2))
            rows = read_jsonl(workplace / "run/verdicts.jsonl", Verdict)
            told.append((result, rows, prompts(server), llm, failing.paid - paid))
            server.requests.clear()
    return told


def test_nothing_is_scored_that_was_not_judged(judged):
    result, rows, _, _, _ = judged[0]
    assert len(rows) == len({(v.response_id, v.sample) for v in rows}) == 2 * 28  # nothing lost: 14 pairs, 2 samples
    for verdict in rows:
        assert (verdict.score is not None) == (verdict.status == "ok")
        if verdict.status == "ok":  # the score is the one that was written in this very reply
            assert verdict.raw.endswith(f"The score is {verdict.score:.0f}")
        if verdict.raw in UNREADABLE:
            assert verdict.status == UNREADABLE[verdict.raw]
    seen = Counter(v.status for v in rows)
    assert {"timeout", "http_500", "malformed", "ok", "truncated"} <= set(seen)
    assert result["verdict_statuses"] == {"topline": dict(seen)}  # counted and shown
    cell = result["systems"]["topline"]["overall"]
    scored = {v.response_id for v in rows if v.status == "ok"}
    assert (cell["n"], cell["n_failed"]) == (len(scored), 28 - len(scored)) and cell["n_failed"] > 0


def test_the_spend_is_what_the_server_was_paid(judged):
    for _, _, _, llm, paid in judged:
        assert llm.spent_usd == pytest.approx(paid * USD)
    result = judged[0][0]
    assert result["judge_usd"] == pytest.approx(judged[0][4] * USD)


def test_a_resume_asks_only_for_what_is_missing_and_keeps_the_rest(judged):
    (_, first, asked, _, _), (_, second, again, _, _), (_, third, last, _, _) = judged
    missing = {v.response_id for v in first if unanswered(v.status)}
    prompts_of = {p for p in asked if draw(p) % 20 == 0 or WAYS[draw(p) // 20 % 8] in ("timeout", "500", "format")}
    assert missing and again <= prompts_of
    kept = {(v.response_id, v.sample): v for v in first if not unanswered(v.status)}
    held = {(v.response_id, v.sample): v for v in second}
    assert all(held[key] == verdict for key, verdict in kept.items())
    assert {v.status for v in second if unanswered(v.status)} <= {"malformed"}  # the garbage alone
    assert len(second) == len(first) and {v.response_id for v in third} == {v.response_id for v in second}
    assert all(draw(p) % 20 == 0 for p in last)


class Flaky(S2SSystem):
    """Times out on every other query until it is mended."""

    config_sha = "flaky"

    def __init__(self, answers: ToplineSystem) -> None:
        self.answers, self.mended, self.asked = answers, False, []

    def respond(self, queries, audios, sample):
        self.asked += [q.id for q in queries]
        good = self.answers.respond(queries, audios, sample)
        late = [not self.mended and int(draw(q.id)) % 2 for q in queries]
        return [Answer(None, status="timeout") if bad else a for bad, a in zip(late, good, strict=True)]


def test_answers_that_never_came_are_asked_for_heard_and_judged_again(mined, tmp_path):
    ears, options = spoken_scripts(mined, tmp_path, 5)
    system = Flaky(ToplineSystem(BeepSynthesizer(ears)))
    options["judge"] = LLMJudge(Says("The score is 3"))
    first = evaluate(**options, systems={"flaky": system})
    late = {r.query_id for r in read_jsonl(tmp_path / "run/responses.jsonl", Response) if r.status == "timeout"}
    assert 0 < len(late) < 10 and first["response_statuses"] == {"flaky": {"ok": 10 - len(late), "timeout": len(late)}}
    assert first["systems"]["flaky"]["overall"]["n_failed"] == len(late)
    system.mended, system.asked = True, []
    second = evaluate(**options, systems={"flaky": system})
    assert set(system.asked) == late and second["response_statuses"] == {"flaky": {"ok": 10}}
    assert second["systems"]["flaky"]["overall"]["n_failed"] == 0
    for name, record in (("responses", Response), ("evidence", Evidence), ("verdicts", Verdict), ("swaps", Verdict)):
        rows = read_jsonl(tmp_path / f"run/{name}.jsonl", record)
        assert len(rows) == 10 and {row.status for row in rows} == {"ok"}  # each once


class Says(ChatLLM):
    """One model, whose mood is no option of it."""

    name = config_sha = "says"

    def __init__(self, text: str) -> None:
        self.text, self.count = text, 0

    def complete(self, conversations):
        self.count += len(conversations)
        return [Reply(self.text)] * len(conversations)


def test_old_responses_are_scored_again_without_their_systems(mined, tmp_path):
    ears, options = spoken_scripts(mined, tmp_path, 3)
    with pytest.raises(UserError, match="must hold responses of some system to be scored again; got none"):
        evaluate(**options, systems={}, judge=LLMJudge(Says("The score is 3")), rescore=True)
    evaluate(**options, systems={"a": ToplineSystem(BeepSynthesizer(ears))}, judge=LLMJudge(Says("The score is 3")))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.jsonl") if p.name[0] in "re"}
    other = Says("The score is 5")
    other.name = "other"
    again = evaluate(**options, systems={}, judge=LLMJudge(other, samples=3), rescore=True)
    assert again["systems"]["a"]["overall"]["mean"] == 5 and other.count == 6 * 3 * 2  # verdicts and swaps
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").glob("*.jsonl") if p.name[0] in "re"} == before
    judges = Counter(v.judge for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict))
    assert judges == {"llm-rubric-2/says": 6, "llm-rubric-2/other": 18}  # the old verdicts stay
    with pytest.raises(UserError, match="must hold responses of b to be scored again; got a"):
        evaluate(**options, systems={"b": None}, judge=LLMJudge(other), rescore=True)


def test_judgements_that_wait_for_the_batch_api_or_for_money_come_with_a_later_run(mined, tmp_path):
    ears, options = spoken_scripts(mined, tmp_path, 2)
    options |= {"systems": {"a": ToplineSystem(BeepSynthesizer(ears))}, "label_swap": False}
    requests, results, cache = tmp_path / "requests.jsonl", tmp_path / "results.jsonl", str(tmp_path / "cache")
    asking = OpenAIChat("gpt-4.1", cache_dir=cache, batch_requests=str(requests))
    first = evaluate(**options, judge=LLMJudge(asking))
    assert first["verdict_statuses"] == {"a": {"pending": 4}} and first["systems"]["a"]["overall"]["mean"] is None
    back = [json.loads(line)["custom_id"] for line in requests.read_text().splitlines()][:3]
    body = json.loads(completion("The score is 4"))
    rows = [{"custom_id": name, "response": {"status_code": 200, "body": body}} for name in back]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    poor = OpenAIChat("gpt-4.1", cache_dir=cache, batch_results=[str(results)], max_usd=1e-9)
    second = evaluate(**options, judge=LLMJudge(poor))
    assert second["verdict_statuses"] == {"a": {"ok": 3, "max_usd": 1}}
    assert second["judge_usd"] == pytest.approx(3 * USD / 2)  # the Batch API costs half
    with Loopback(lambda *_: Sent(200, completion("The score is 2"))) as server:
        rich = OpenAIChat("gpt-4.1", server.url, cache_dir=cache, max_usd=1.0)
        third = evaluate(**options, judge=LLMJudge(rich))
        assert len(server.requests) == 1  # a new address: only the missing one is asked there
    assert third["verdict_statuses"] == {"a": {"ok": 4}}
    assert sorted(v.score for v in read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)) == [2, 4, 4, 4]


def test_more_samples_are_drawn_when_a_resume_wants_more(mined, tmp_path):
    ears, options = spoken_scripts(mined, tmp_path, 2)
    options |= {"systems": {"a": ToplineSystem(BeepSynthesizer(ears))}, "label_swap": False}
    evaluate(**options, judge=LLMJudge(Says("The score is 2")))
    result = evaluate(**options, judge=LLMJudge(Says("The score is 5"), samples=3))
    rows = read_jsonl(tmp_path / "run/verdicts.jsonl", Verdict)
    assert sorted(Counter((v.sample, v.score) for v in rows).items()) == [((0, 2), 4), ((1, 5), 4), ((2, 5), 4)]
    assert result["systems"]["a"]["overall"]["mean"] == 4  # (2 + 5 + 5) / 3
    assert evaluate(**options, judge=LLMJudge(Says("")))["systems"]["a"]["overall"]["mean"] == 2  # one sample again


def test_a_file_cut_in_a_line_is_mended_with_one_clear_line(tmp_path, capsys):
    rows = [Verdict(f"s/q{i}/0", "j", 3.0, reason="é") for i in range(3)]
    append_jsonl(tmp_path / "verdicts.jsonl", rows)
    append_jsonl(tmp_path / "verdicts-0of2.jsonl", [replace(rows[0], response_id="s/q9/0")] * 2)
    for name in ("verdicts", "verdicts-0of2"):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"\xa9")])  # in the middle of a letter
    before = (tmp_path / "verdicts-0of2.jsonl").read_bytes()
    found = Log(tmp_path).read("verdicts", Verdict)
    assert [v.response_id for v in found] == ["s/q9/0", "s/q0/0", "s/q1/0"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "verdicts.jsonl ended in the middle of a line" in said
    assert not half_line(tmp_path / "verdicts.jsonl")
    assert (tmp_path / "verdicts-0of2.jsonl").read_bytes() == before  # another process may be writing it
    assert Log(tmp_path).read("verdicts", Verdict) == found and capsys.readouterr().err == ""
    (tmp_path / "verdicts.jsonl").write_bytes(b'{"response_id"\n' + to_bytes(rows[:1]))
    with pytest.raises(UserError, match=r"verdicts.jsonl:1: each line must be one JSON object"):
        Log(tmp_path).read("verdicts", Verdict)  # damage elsewhere is not guessed away


def to_bytes(rows: list[Verdict]) -> bytes:
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("status", "asked"),
    [("timeout", True), ("http_429", True), ("max_usd", True), ("pending", True), ("exit_1", True)]
    + [("ok", False), ("no_score", False), ("truncated", False), ("refused", False), ("silent", False)],
)
def test_what_never_got_an_answer_is_asked_again(status, asked):
    assert unanswered(status) is asked
