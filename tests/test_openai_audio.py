"""A speech model behind a server that fails on purpose: no answer lost, none made up, all that was spent counted."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from loopback import Loopback, Sent
from sounds import loudest_hertz

from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.bench.systems.remote_system import Prices
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.servers.spoken import read_sound, read_streamed, wav_bytes
from lightning_paras2s.types import Audio, Query

QUICK = Patience(retries=3, timeout_seconds=1.0, first_wait_seconds=0.01, longest_wait_seconds=1.0)
# A request costs 1e-5 x 100 tokens of text, the answer 1e-4 x 50 of speech and 2e-5 x 10 of text: 0.0062 USD.
PRICES = Prices(text_in=10.0, audio_in=40.0, text_out=20.0, audio_out=100.0)
USAGE = {"prompt_tokens": 100, "completion_tokens": 60, "completion_tokens_details": {"audio_tokens": 50}}
COST = (100 * 10 + 50 * 100 + 10 * 20) / 1e6


# What a request holds beside its messages: no byte of it is more than a token.
SENT = (
    '{"model": "m", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}, '
    '"max_completion_tokens": 1000, "messages": []}'
)


def asked(count: int) -> tuple[list[Query], list[Audio]]:
    """Queries of a level each: 1, 2, ... hundredths."""
    queries = [Query(f"q{i}", "p", "age", "test", "hello", {}, "", "") for i in range(count)]
    return queries, [Audio(np.full(1600, (i + 1) / 100, np.float32), SAMPLE_RATE) for i in range(count)]


def number_of(body: bytes) -> int:
    """Which query a request is about, by its sound."""
    part = json.loads(body)["messages"][-1]["content"][0]["input_audio"]
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(part["data"])))
    return round(100 * float(samples.max())) - 1


def tone(number: int, rate: int = 24_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * (300 + 50 * number) / rate * np.arange(rate // 4))).astype(np.float32)


def pitch(audio: Audio) -> int:
    return round((loudest_hertz(audio) - 300) / 50)


def completion(number: int, **message) -> bytes:
    """As OpenAI writes it: no content, the speech and its words under `audio`."""
    data = base64.b64encode(wav_bytes(Audio(tone(number), 24_000))).decode()
    sound = {"id": "audio_1", "data": data, "expires_at": 1, "transcript": f"answer {number}"}
    found = {"role": "assistant", "content": None, "refusal": None, "audio": sound, **message}
    choice = {"index": 0, "message": found, "finish_reason": message.pop("finish", "stop")}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def streamed(number: int, whole: bool = True) -> bytes:
    """As OpenAI streams it: an id, pieces of the transcript, pieces of 16-bit samples, a reason, usage."""
    pcm = (tone(number) * 32767).astype("<i2").tobytes()
    deltas = [{"role": "assistant", "content": None}, {"audio": {"id": "a", "transcript": "answer "}}]
    deltas += [{"audio": {"data": base64.b64encode(pcm[i : i + 4001]).decode()}} for i in range(0, len(pcm), 4001)]
    deltas += [{"audio": {"transcript": str(number), "expires_at": 1}}]
    chunks = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (chunks if whole else chunks[:4]))
    return (text + ("data: [DONE]\n\n" if whole else "")).encode()


def system(server: Loopback, **options) -> OpenAIAudioSystem:
    return OpenAIAudioSystem("m", server.url, patience=QUICK, prices=PRICES, **options)


FAULTS = {
    1: lambda n, times: Sent(429, b"{}", {"Retry-After": "0.05"}),
    2: lambda n, times: Sent(500, b"out of memory"),
    3: lambda n, times: Sent(200, completion(n), cut=900),
    4: lambda n, times: Sent(200, completion(n), after=1.5),
    5: lambda n, times: Sent(200, completion(n)[:-40]),  # a whole body of half a JSON
}
FOR_GOOD = {
    6: ("text_only", lambda n: completion(n, audio=None, content="only words")),
    7: ("bad_audio", lambda n: completion(n, audio={"id": "a", "data": "bm8gc291bmQ=", "transcript": "no sound"})),
    8: ("bad_audio", lambda n: completion(n, audio={"id": "a", "data": "***", "transcript": "no base64"})),
    9: ("refused", lambda n: completion(n, audio=None, refusal="I will not")),
    10: ("empty", lambda n: completion(n, audio=None)),
    11: ("truncated", lambda n: completion(n, finish="length")),
}


def test_answers_of_a_failing_server_are_each_querys_own_and_each_dollar_is_counted():
    def answer(path, body, times):
        number = number_of(body)
        if number in FAULTS and times == 1:
            return FAULTS[number](number, times)
        return Sent(200, FOR_GOOD[number][1](number) if number in FOR_GOOD else completion(number))

    with Loopback(answer) as server:
        asks = system(server, concurrency=6)
        answers = asks.respond(*asked(13), 0)
        assert server.busiest <= 6
    wanted = {n: FOR_GOOD[n][0] if n in FOR_GOOD else "ok" for n in range(13)}
    assert {n: a.status for n, a in enumerate(answers)} == wanted
    for number, found in enumerate(answers):
        if wanted[number] in ("ok", "truncated"):
            assert pitch(found.audio) == number and found.text == f"answer {number}"
            assert found.audio.sample_rate == SAMPLE_RATE and found.latency["total_seconds"] < 1.0
        else:
            assert found.audio is None
    # 3 and 5 came back cut: each may have cost all that it can
    assert answers[0].cost_usd == pytest.approx(COST)
    for number in (3, 5):
        assert answers[number].cost_usd == pytest.approx(COST + asks.at_most_usd([0.1]))
    assert asks.spent_usd == pytest.approx(sum(a.cost_usd for a in answers)) and asks.reserved_usd == pytest.approx(0)


def test_what_never_comes_is_a_status_and_costs_nothing():
    with Loopback(lambda path, body, times: Sent(503, b"busy")) as server:
        asks = system(server)
        answers = asks.respond(*asked(3), 0)
    assert [(a.audio, a.status, a.cost_usd) for a in answers] == [(None, "http_503", 0.0)] * 3
    answers = OpenAIAudioSystem("m", server.url, patience=QUICK).respond(*asked(1), 0)  # closed now
    assert (answers[0].status, answers[0].cost_usd) == ("connection", None)


def test_answers_that_only_come_back_cut_may_each_have_cost_all_they_can():
    with Loopback(lambda path, body, times: Sent(200, completion(0), cut=900)) as server:
        asks = system(server)
        found = asks.respond(*asked(1), 0)[0]
        assert (found.audio, found.status) == (None, "connection") and len(server.requests) == 1 + QUICK.retries
    assert found.cost_usd == pytest.approx(4 * asks.at_most_usd([0.1])) == pytest.approx(asks.spent_usd)


def test_a_stream_is_put_together_and_tells_when_its_first_sound_came():
    def answer(path, body, times):
        sent = json.loads(body)
        assert sent["stream"] and sent["stream_options"] == {"include_usage": True}
        return Sent(200, streamed(number_of(body), whole=number_of(body) != 1 or times > 1))

    with Loopback(answer) as server:
        answers = system(server, stream=True, audio_format="pcm16").respond(*asked(3), 0)
        assert len(server.requests) == 4
    for number, found in enumerate(answers):
        assert (found.status, found.text) == ("ok", f"answer {number}") and pitch(found.audio) == number
        assert len(found.audio.samples) == SAMPLE_RATE // 4
        assert 0 < found.latency["first_audio_seconds"] <= found.latency["total_seconds"]
    assert answers[0].cost_usd == pytest.approx(COST) and answers[1].cost_usd > COST


def test_speech_in_a_second_choice_is_found():
    """vLLM-Omni answers with one choice of text and one of speech."""
    first, second = json.loads(completion(4))["choices"] * 2
    first = {**first, "message": {"role": "assistant", "content": "answer 4", "audio": None}}
    second = {**second, "message": {**second["message"], "audio": {**second["message"]["audio"], "transcript": ""}}}
    body = json.dumps({"choices": [first, second]}).encode()
    with Loopback(lambda path, _, times: Sent(200, body)) as server:
        found = system(server, voice=None).respond(*asked(1), 0)[0]
        assert "audio" not in json.loads(server.requests[0][1])
    assert (found.status, found.text, pitch(found.audio)) == ("ok", "answer 4", 4)
    assert found.cost_usd == pytest.approx(system(server, voice=None).at_most_usd([0.1]))  # it states no usage


def test_a_run_is_priced_before_and_stopped_at_its_cap():
    with Loopback(lambda path, body, times: Sent(200, completion(number_of(body)))) as server:
        # 0.1 s: 33 x 0.1 -> 4 tokens of speech, 200 of text and `SENT`; 1000 tokens back at most, all of them speech
        each = ((200 + len(SENT)) * 10 + 4 * 40 + 1000 * 100) / 1e6
        asks = system(server, max_usd=each + 1.5 * COST, max_tokens=1000, concurrency=1)
        assert asks.at_most_usd([0.1] * 10) == pytest.approx(10 * each)
        answers = asks.respond(*asked(5), 0)
        assert [a.status for a in answers] == ["ok", "ok", "max_usd", "max_usd", "max_usd"]
        assert asks.spent_usd == pytest.approx(2 * COST) and len(server.requests) == 2
    with pytest.raises(UserError, match="max_usd needs the model's price"):
        OpenAIAudioSystem("unheard-of", max_usd=1.0)
    assert OpenAIAudioSystem("gpt-audio", max_usd=1.0).prices.audio_out == 64


@pytest.mark.parametrize("more", [{"instructions": "word " * 10_000}, {"extra": {"metadata": "word " * 10_000}}])
def test_instructions_and_further_fields_are_in_the_price_and_in_the_cap(more):
    """10,000 words are 50,000 bytes: at 10 USD a million tokens and a byte a token, 0.5 USD."""
    with Loopback(lambda path, body, times: Sent(200, completion(number_of(body)))) as server:
        asks = system(server, max_usd=0.5, max_tokens=64, **more)
        plain = system(server, max_tokens=64).at_most_usd([0.1])
        assert plain + 0.5 < asks.at_most_usd([0.1]) < plain + 0.501
        assert [a.status for a in asks.respond(*asked(2), 0)] == ["max_usd"] * 2 and not server.requests


def test_a_price_that_is_not_known_is_told(capsys):
    say_once.cache_clear()
    assert OpenAIAudioSystem("m", "http://127.0.0.1:1/v1").at_most_usd([1.0]) == 0
    told = capsys.readouterr().err
    assert "127.0.0.1:1" in told and "give prices" in told and told.count("\n") == 1


@pytest.mark.parametrize("status, what", [(401, "must accept the key"), (404, "know the model"), (402, "have credit")])
def test_a_server_that_refuses_all_is_one_line(status, what):
    with Loopback(lambda path, body, times: Sent(status, b'{"error": {"message": "no"}}')) as server:
        with pytest.raises(UserError, match=f"{what}.*got http_{status}: no"):
            system(server, concurrency=1).respond(*asked(20), 0)
        assert len(server.requests) == 1


def test_an_account_that_runs_dry_keeps_what_was_answered():
    def answer(path, body, times):
        return Sent(200, completion(number_of(body))) if number_of(body) < 2 else Sent(402, b"{}")

    with Loopback(answer) as server:
        asks = system(server, concurrency=1)
        answers = asks.respond(*asked(5), 0)
        assert [a.status for a in answers] == ["ok", "ok", "http_402", "not_asked", "not_asked"]
        queries, audios = asked(5)
        with pytest.raises(UserError, match="must have credit"):
            asks.respond(queries[2:], audios[2:], 0)
        assert len(server.requests) == 4
        assert asks.respond(*asked(1), 0)[0].status == "ok"  # and it is asked again, once there is credit


def test_a_request_that_is_not_allowed_is_its_own_where_the_key_was_taken_before():
    """403 is a wrong key to the first request, and moderation to a later one."""

    def answer(path, body, times):
        return Sent(403, b'{"error": {"message": "flagged"}}') if number_of(body) == 1 else Sent(200, completion(0))

    with Loopback(answer) as server:
        found = system(server, concurrency=1).respond(*asked(3), 0)
        assert [a.status for a in found] == ["ok", "http_403", "ok"]
        queries, audios = asked(2)
        with pytest.raises(UserError, match="must accept the key"):
            system(server).respond(queries[1:], audios[1:], 0)


def test_a_request_holds_what_was_asked_for(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with Loopback(lambda path, body, times: Sent(200, completion(0))) as server:
        options = {"voice": "Cherry", "instructions": "Be kind.", "temperature": 0.7, "seed": 10, "extra": {"n": 1}}
        asks = system(server, api_key_env="SOME_KEY", **options)
        asks.respond(*asked(1), 3)
        path, body, headers = server.requests[0]
    sent = json.loads(body)
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert sent["audio"] == {"voice": "Cherry", "format": "wav"} and sent["modalities"] == ["text", "audio"]
    assert (sent["seed"], sent["temperature"], sent["n"], sent["max_completion_tokens"]) == (13, 0.7, 1, 1024)
    assert sent["messages"][0] == {"role": "system", "content": "Be kind."} and "stream" not in sent


def test_a_system_is_known_by_what_its_answers_depend_on():
    one = OpenAIAudioSystem("m")
    same = [OpenAIAudioSystem("m", base_url="http://127.0.0.1:1/v1"), OpenAIAudioSystem("m", concurrency=1)]
    others = [{"voice": "ash"}, {"temperature": 0.5}, {"instructions": "x"}, {"seed": 1}, {"extra": {"top_k": 5}}]
    assert {s.config_sha for s in same} == {one.config_sha}
    found = {OpenAIAudioSystem("m", **options).config_sha for options in others}
    assert len(found) == len(others) and one.config_sha not in found


def test_a_recording_of_16_bits_arrives_bit_by_bit():
    samples = (np.arange(-32768, 32768, 7) / 32768).astype(np.float32)
    assert np.array_equal(read_sound(wav_bytes(Audio(samples, SAMPLE_RATE)), "wav", 0).samples, samples)


def test_speech_that_is_cut_is_refused_and_a_header_without_a_length_is_not():
    whole = wav_bytes(Audio(tone(0), 24_000))
    with pytest.raises(ValueError, match="cut"):
        read_sound(whole[:-100], "wav", 0)
    place = whole.index(b"data") + 4
    endless = whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :]
    assert len(read_sound(endless, "wav", 0).samples) == 6000
    with pytest.raises(ValueError, match="cut"):
        read_sound(b"\0" * 7, "pcm16", 24_000)


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
def test_ogg_that_is_cut_is_refused(kind):
    """Half of an answer passed for a shorter one."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.4, 0.4, 144_000), 24_000, format="OGG", subtype=kind)
    body = file.getvalue()
    assert read_sound(body, "opus", 0).seconds == pytest.approx(6)
    for end in (len(body) // 2, len(body) - 1):
        with pytest.raises(ValueError, match="speech is cut"):
            read_sound(body[:end], "opus", 0)


@pytest.mark.parametrize("stated", [0, 4000, 12_000])
def test_a_header_that_states_less_than_a_stream_brings_cuts_nothing(stated):
    """A WAV whose header was written for its first piece, or before any."""
    whole = wav_bytes(Audio(tone(0), 24_000))
    place = whole.index(b"data") + 4
    head, sound = whole[:place] + stated.to_bytes(4, "little"), whole[place + 4 :]
    expected = np.frombuffer(sound, "<i2") / 32768
    assert np.array_equal(read_sound(head + sound, "wav", 0).samples, expected)
    chunk = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    assert np.array_equal(read_sound(whole + chunk, "wav", 0).samples, expected)
    if stated == 4000:
        with pytest.raises(ValueError, match="cut in two"):
            read_sound(head + sound[:4000] + chunk + sound[4000:], "wav", 0)
        with pytest.raises(ValueError, match="no sound"):  # two files in a row
            read_sound(whole + whole, "wav", 0)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_a_stream_ends_its_lines_as_server_sent_events_do_and_nowhere_else(newline, separator):
    """JSON may hold what Python takes for ends of lines."""
    audio = {"data": base64.b64encode(wav_bytes(Audio(tone(0), 24_000))).decode(), "transcript": f"a{separator}b"}
    choices = [{"delta": {"audio": audio}}, {"delta": {}, "finish_reason": "stop"}]
    events = [json.dumps({"choices": [choice]}, ensure_ascii=False) for choice in choices]
    body = "".join(f"data: {event}{newline}{newline}" for event in (*events, "[DONE]"))
    found = read_streamed(body.encode(), "wav", 0)
    assert (found.status, found.text, len(found.audio.samples)) == ("ok", f"a{separator}b", 6000)


def test_a_dry_run_of_evaluate_tells_what_the_systems_cost_at_most(tmp_path):
    from test_identity import PitchEar, StyleByPitch, manifest

    from lightning_paras2s.bench.evaluate import evaluate
    from lightning_paras2s.judging.judges import EmbeddedJudge
    from lightning_paras2s.shown.show import SHOWN
    from lightning_paras2s.types import read_jsonl

    path = Path(manifest(tmp_path, 4))
    with Loopback(lambda path, body, times: Sent(500, b"")) as server:
        asks = system(server)
        parts = {"judge": EmbeddedJudge(), "transcriber": PitchEar([]), "recognizer": StyleByPitch()}
        told = evaluate(str(path), {"voice": asks}, **parts, output=str(tmp_path / "run"), samples=2, dry_run=True)
        assert not server.requests and not (tmp_path / "run").exists()
    lengths = [soundfile.info(path.parent / q.audio).duration for q in read_jsonl(path, Query)]
    assert told["systems_usd"] == {"voice": round(2 * asks.at_most_usd(lengths), 2)} and told["systems_usd"]["voice"]
    assert "voice, US dollars at most" in str(SHOWN["evaluate"](told, {}).parts[0].columns[0]._cells)
