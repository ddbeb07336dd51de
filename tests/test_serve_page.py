"""What the page of `serve` asks the server for, and what it is told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time

import numpy as np
import pytest
from sounds import loudest_hertz, tone

from lightning_paras2s.bench.systems.base import SAMPLE_RATE, Answer, S2SSystem
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.servers.spoken import wav_bytes
from lightning_paras2s.serving.talk import PageEars
from lightning_paras2s.serving.votes import Votes
from lightning_paras2s.types import Audio, Battle, Style, read_jsonl

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from test_serve import CLIENT, Running  # noqa: E402  it needs what may be missing

NASTY = "<img src=x onerror=\"document.title='broken'\">&amp;"


class Toner(S2SSystem):
    """Answers anything with half a second of its own tone; one below 300 Hz is too much for it."""

    def __init__(self, pitch: float, seconds: float = 0.5) -> None:
        self.pitch, self.seconds, self.config_sha = pitch, seconds, f"f{pitch:g}"

    def respond(self, queries, audios, sample):
        if any(loudest_hertz(audio) < 300 for audio in audios):
            raise RuntimeError("too low")
        return [Answer(tone(self.pitch, self.seconds), f"{NASTY} {self.pitch:g}") for _ in audios]


class Ear(Transcriber):
    """Hears a tone's pitch; one above 1 kHz is strange to it."""

    name = "ear"

    def write_down(self, audios):
        return [f"{loudest_hertz(audio):.0f} hertz {NASTY}" for audio in audios]

    def strange(self, audios):
        return [loudest_hertz(audio) > 1000 for audio in audios]


class Manner(StyleRecognizer):
    name = "manner"

    def recognize(self, audios, role):
        return [Style(tone="calm") if role == "response" else Style(emotion="happy", age="adult") for _ in audios]


def recording(audio: Audio) -> str:
    return base64.b64encode(wav_bytes(audio)).decode()


@contextlib.contextmanager
def served(folder):
    """Two systems with ears and votes."""
    systems = {"low": Toner(400), "high": Toner(800)}
    ears, votes = PageEars(Ear(), Manner()), Votes(folder / "votes/battles.jsonl")
    with Running(systems, ears=ears, votes=votes) as running:
        running.votes, running.battles = votes, folder / "votes/battles.jsonl"
        yield running


@pytest.fixture
def page(tmp_path):
    with served(tmp_path) as running:
        yield running


def ask(page: Running, path: str, **sent) -> httpx.Response:
    return CLIENT.post(f"{page.url}/talk/{path}", json=sent)


def test_two_answers_come_with_what_was_heard_in_them(page):
    assert CLIENT.get(f"{page.url}/talk/settings").json() == {
        "models": ["low", "high"],
        "votes": True,
        "query_seconds": 5.0,
    }
    sent = wav_bytes(tone(600))
    found = ask(page, "ask", data=base64.b64encode(sent).decode(), models=["low", "high"]).json()
    query = {"id": hashlib.sha256(sent).hexdigest()[:16], "seconds": 0.5, "transcript": f"600 hertz {NASTY}"}
    assert found["turn"] is None
    assert found["query"] == {**query, "style": {"emotion": "happy", "age": "adult"}, "unsure": False}
    for answer, name, pitch in zip(found["answers"], ("low", "high"), (400, 800), strict=True):
        assert base64.b64decode(answer.pop("audio")) == wav_bytes(tone(pitch))
        words = {"text": f"{NASTY} {pitch}", "transcript": f"{pitch} hertz {NASTY}", "style": {"tone": "calm"}}
        assert answer == {"seconds": 0.5, "model": f"{name}@f{pitch}", **words, "unsure": False}
    assert ask(page, "ask", data=recording(tone(1200)), models=["low"]).json()["query"]["unsure"] is True


def test_a_blind_turn_tells_nothing_before_its_vote_and_takes_one_for_what_was_heard(page):
    data = recording(tone(600))
    found = ask(page, "ask", data=data, blind=True, rater=" ann ").json()
    assert all(set(answer) == {"audio", "seconds"} for answer in found["answers"])
    assert all(secret not in json.dumps(found) for secret in ("low", "high", "f400", "f800", "400 hertz", "calm"))
    turn = found["turn"]
    early = ask(page, "heard", turn=turn, side=0)
    assert early.status_code == 409 and "must be heard to its end" in early.json()["error"]["message"]
    for side in (1, 0):
        time.sleep(0.26)  # half a second at twice the speed
        unheard = ask(page, "vote", turn=turn, verdict="a")
        assert unheard.status_code == 409 and not page.battles.exists()
        assert ask(page, "heard", turn=turn, side=side).json() == {"heard": 2 - side}
    told = ask(page, "vote", turn=turn, verdict="b").json()
    sounds = [base64.b64decode(answer["audio"]) for answer in found["answers"]]
    names = ["low@f400" if sound == wav_bytes(tone(400)) else "high@f800" for sound in sounds]
    assert [answer["model"] for answer in told["answers"]] == names and sorted(names) == ["high@f800", "low@f400"]
    assert read_jsonl(page.battles, Battle) == [Battle(found["query"]["id"], *names, "ba", "b", "ann")]
    again = ask(page, "ask", data=data, blind=True, rater="ann")
    assert again.status_code == 409 and "the first vote stays" in again.json()["error"]["message"]
    assert ask(page, "ask", data=data, blind=True, rater="bob").status_code == 200
    assert page.server.metrics.summary()["votes"] == 1


WRONG = {
    "nothing": ({}, 400, "data must be a recording in base64"),
    "no base64": ({"data": "***"}, 400, "data must be base64"),
    "no sound": ({"data": "bm8gc291bmQ="}, 400, "must be readable wav"),
    "silence": ({"data": recording(Audio(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE))}, 422, "got silence"),
    "too short": ({"data": recording(tone(600, 0.05))}, 422, "got silence"),
    "too long": ({"data": recording(tone(600, 6.0))}, 413, "must last up to 5 s; got 6.0 s"),
    "another model": ({"models": ["gpt"]}, 404, "one or two of low, high"),
    "three models": ({"models": ["low"] * 3}, 404, "one or two of low, high"),
    "no name": ({"blind": True, "rater": " "}, 400, "a vote must have a name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_must_hold(page, name):
    sent, status, what = WRONG[name]
    whole = {"data": recording(tone(600)), "models": ["low"]} if sent else {}
    found = ask(page, "ask", **(whole | sent))
    assert found.status_code == status and what in found.json()["error"]["message"]


def test_a_system_that_fails_costs_the_other_nothing_and_spoils_a_vote(page):
    page.server.systems["high"].respond = lambda *_: [Answer(None, status="refused")]
    found = ask(page, "ask", data=recording(tone(600)), models=["low", "high"]).json()["answers"]
    assert "audio" in found[0] and found[1]["error"] == "the model gave no answer: refused"
    blind = ask(page, "ask", data=recording(tone(600)), blind=True, rater="ann")
    assert blind.status_code == 503 and "nothing to compare" in blind.json()["error"]["message"]
    assert "high" not in blind.text and not page.votes.turns
    page.server.systems["low"].respond = page.server.systems["high"].respond
    assert ask(page, "ask", data=recording(tone(600)), models=["low", "high"]).status_code == 422


def test_another_site_can_neither_send_nor_frame(page):
    sent = json.dumps({"data": recording(tone(600)), "models": ["low"]})
    plain = CLIENT.post(f"{page.url}/talk/ask", content=sent, headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415
    for path in ("/", "/page.js", "/page.css"):
        found = CLIENT.get(f"{page.url}{path}")
        assert "frame-ancestors 'none'" in found.headers["content-security-policy"]
        assert "://" not in found.text.replace("http://www.w3.org", "")  # nothing from elsewhere
    assert CLIENT.get(f"{page.url}/page.html").status_code == 404


def test_a_key_locks_all_but_the_page_itself(tmp_path):
    with Running({"low": Toner(400)}, key="secret") as locked:
        assert CLIENT.get(f"{locked.url}/").status_code == 200
        assert CLIENT.get(f"{locked.url}/talk/settings").status_code == 401
        for path in ("ask", "heard", "vote"):
            assert ask(locked, path).status_code == 401
        key = {"Authorization": "Bearer secret"}
        settings = CLIENT.get(f"{locked.url}/talk/settings", headers=key).json()
        assert settings["models"] == ["low"] and settings["votes"] is False
        untaken = CLIENT.post(f"{locked.url}/talk/vote", json={}, headers=key)
        assert untaken.status_code == 404 and "takes no votes" in untaken.json()["error"]["message"]
