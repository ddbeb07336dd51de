"""A server's `/v1/chat/completions` with several messages: earlier ones reach a system that carries them, and are 400
in one line where they can't be carried."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import pytest
from test_serve import Halver, Running, body, level, post
from test_turns import AGENT, asked
from test_turns_systems import SORRY, heard_user

from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.types import Audio


class Tells(Halver):
    """Halves the sound, and writes down what was said before."""

    def carries(self, turns):
        return True

    def respond(self, queries, audios, sample):
        answers = super().respond(queries, audios, sample)
        loud = lambda t: t.sound and round(float(t.sound.samples.max()), 4)  # noqa: E731
        told = [[(t.role, t.text, loud(t)) for t in q.turns] for q in queries]
        return [replace(a, text=json.dumps(said)) for a, said in zip(answers, told, strict=True)]


def part(sound: Audio) -> dict:
    return body(sound)["messages"][0]["content"][0]


@pytest.fixture(scope="module")
def served():
    with Running({"half": Halver(), "tells": Tells()}) as running:
        yield running


def conversation(*earlier, model: str = "tells", **fields) -> dict:
    sent = body(level(100), model=model, **fields)
    return {**sent, "messages": [*earlier, *sent["messages"]]}


def test_a_served_system_gets_the_earlier_messages(served):
    from openai import OpenAI

    client = OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    words = {"type": "text", "text": "Play it."}
    said = [[part(level(9))], "Which one?", [part(level(19)), words], [words]]
    earlier = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]
    found = client.chat.completions.create(**conversation(*earlier)).choices[0].message.audio.transcript
    assert json.loads(found) == [["user", "", round(160 / 32768, 4)],
                                 ["assistant", "Which one?", None], ["user", "Play it.", round(320 / 32768, 4)],
                                 ["assistant", "Play it.", None]]  # fmt: skip
    alone = post(served.url, conversation()).json()["choices"][0]["message"]["audio"]["transcript"]
    assert alone == "[]"


def test_our_own_client_carries_turns_to_a_server(served):
    asks = OpenAIAudioSystem("tells", f"{served.url}/v1")
    (answer,) = asks.respond([asked(heard_user(6), AGENT)], [level(100)], 0)
    assert json.loads(answer.text) == [["user", "", 0.07], ["assistant", SORRY, None]]


USED = {"role": "assistant", "content": "Which one?"}
SPOKEN = {"role": "user", "content": "Play."}
REFUSED = {
    "a system that can't": ("half", [SPOKEN, USED], "half hears one utterance; got 2 earlier messages, which it can't"),
    "instructions": ("tells", [{"role": "system", "content": "Be kind."}], "no text or instructions; got system: "),
    "an answer's id": ("tells", [SPOKEN, {"role": "assistant", "audio": {"id": "audio_1"}}], "audio id tells nothing"),
    "two users in a row": ("tells", [SPOKEN], "the last earlier turn must be the assistant's"),
    "no words": ("tells", [SPOKEN, {"role": "assistant", "content": " "}], "the assistant's turn must have its text"),
    "an assistant's recording": ("tells", [SPOKEN, {"role": "assistant", "content": [part(level(1))]}], "its words"),
    "a long recording": ("tells", [{"role": "user", "content": [part(level(1, 5.1))]}, USED], "must last up to 5 s"),
    "no sound": ("tells", [{"role": "user", "content": [{"type": "input_audio", "input_audio": {
        "data": base64.b64encode(b"noise").decode()}}]}, USED], "must be readable wav"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_messages_that_cannot_be_carried_are_400_in_one_line(served, case):
    model, earlier, wanted = REFUSED[case]
    answer = post(served.url, conversation(*earlier, model=model))
    said = answer.json()["error"]["message"]
    assert answer.status_code == (413 if case == "a long recording" else 400) and "\n" not in said
    assert re.search(re.escape(wanted), said), said
