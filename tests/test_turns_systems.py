"""Earlier turns reach each system by its own protocol, are paid for, and are never dropped without a word."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beeps import BeepSynthesizer, BeepTranscriber
from loopback import Loopback, Sent
from test_chat_speech import WORDS, Says
from test_command import asked as asked_of_program
from test_live import Websocket, gemini_turn, number_of, openai_turn
from test_openai_audio import PRICES, QUICK, SENT, completion, system
from test_openai_audio import number_of as sound_of
from test_recipes import LFM2
from test_turns import AGENT, USER, asked, dialogue

from lightning_paras2s.bench.systems.base import SAMPLE_RATE, CascadeSystem, RecordedSystem
from lightning_paras2s.bench.systems.chat_speech import ChatCascadeSystem, ChatToplineSystem
from lightning_paras2s.bench.systems.command import CommandSystem
from lightning_paras2s.bench.systems.gemini import GeminiSystem
from lightning_paras2s.bench.systems.openai_audio import OpenAIAudioSystem
from lightning_paras2s.bench.systems.openai_realtime import OpenAIRealtimeSystem
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.turns import HeardTurn
from lightning_paras2s.types import Audio, Query, Response, Style, append_jsonl, read_jsonl

BROKE = "My piano broke."
SORRY = "Oh no, I am sorry."


def flat(number: int, seconds: float = 0.1) -> Audio:
    """A level in hundredths tells which recording it is."""
    return Audio(np.full(int(seconds * SAMPLE_RATE), (number + 1) / 100, np.float32), SAMPLE_RATE)


def heard_user(number: int) -> HeardTurn:
    return HeardTurn("user", BROKE, "u.wav", {"emotion": "sad"}, flat(number), 0.1)


def test_chat_completions_get_messages_a_users_as_sound_and_an_assistants_as_words():
    with Loopback(lambda path, sent, times: Sent(200, completion(sound_of(sent)))) as server:
        asks = system(server, instructions="Be kind.")
        queries = [asked(), asked(heard_user(6), AGENT), asked(replace(USER, audio=""), AGENT)]
        answers = asks.respond([replace(q, id=f"q{i}") for i, q in enumerate(queries)], [flat(i) for i in range(3)], 0)
        sent = {sound_of(raw): json.loads(raw)["messages"] for _, raw, _ in server.requests}
    assert [a.text for a in answers] == ["answer 0", "answer 1", "answer 2"]  # of the last turn each
    assert [len(sent[i]) for i in range(3)] == [2, 4, 4] and sent[0][0]["role"] == "system"
    user, agent = sent[1][1:3]
    assert sound_of(json.dumps({"messages": [user]}).encode()) == 6 and user["role"] == "user"
    assert agent == {"role": "assistant", "content": SORRY} and sent[2][1] == {"role": "user", "content": BROKE}


def test_earlier_turns_are_in_the_price_that_is_told_before_and_in_the_cap(tmp_path):
    """15 and 18 bytes of text, each at most a token; 0.1 s and 0.1 s of speech are 6.6 tokens, so 7."""
    asks = OpenAIAudioSystem("m", max_usd=1.0, prices=PRICES, max_tokens=10)
    assert (len(BROKE), len(SORRY)) == (15, 18)
    frame = 200 + len(SENT) - 2  # "10" for "1000"
    alone = (frame * 10 + 4 * 40 + 10 * 100) / 1e6
    assert asks.at_most_usd([0.1]) == pytest.approx(alone)
    both = asks.at_most_usd([0.1, 0.1], [(), (heard_user(6), AGENT)])
    assert both == pytest.approx(alone + ((frame + 33) * 10 + 7 * 40 + 10 * 100) / 1e6)
    asks.max_usd = alone
    assert asks.respond([asked(heard_user(6), AGENT)], [flat(0)], 0)[0].status == "max_usd"
    from test_turns import run

    path = dialogue(tmp_path)
    one = OpenAIAudioSystem("m", prices=PRICES, max_tokens=1000)
    told = run(tmp_path, path, one, dry_run=True)["systems_usd"]["parrot"]
    lengths = [q.turns for q in (heard_turns(q, tmp_path) for q in read_jsonl(path, Query))]
    assert told == round(one.at_most_usd([1.0] * 4, lengths), 2)


def test_realtime_gets_the_turns_as_items_before_the_query():
    told = []

    async def talk(server: Websocket, socket) -> None:
        events = []

        class Last:
            """Hands the earlier items to the test, the last one to the server of the other tests."""

            send_json, close = socket.send_json, socket.close

            async def receive_json(self):
                event = await socket.receive_json()
                while event["type"] == "conversation.item.create" and len(events) < 2:
                    events.append(event["item"])
                    event = await socket.receive_json()
                return event

        await openai_turn(server, Last())
        told.extend(events)

    with Websocket(talk) as server:
        asks = OpenAIRealtimeSystem("m", server.url, patience=QUICK)
        (answer,) = asks.respond([asked(heard_user(6), AGENT)], [flat(0)], 0)
    assert (answer.status, answer.text) == ("ok", "answer 0")
    user, agent = told
    assert (user["role"], user["content"][0]["type"]) == ("user", "input_audio")
    assert number_of(user["content"][0]["audio"]) == 6
    assert agent == {
        "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": SORRY}]
    }  # fmt: skip


def test_gemini_gets_the_words_as_the_sessions_history_and_no_turn_without_words():
    told = []

    async def talk(server: Websocket, socket) -> None:
        class Rest:
            send_bytes, close = socket.send_bytes, socket.close

            async def receive_json(self):
                event = await socket.receive_json()
                if "clientContent" in event:
                    told.append(event["clientContent"])
                    event = await socket.receive_json()
                return event

        await gemini_turn(server, Rest())

    with Websocket(talk) as server:
        asks = GeminiSystem("m", server.url, patience=QUICK)
        answers = asks.respond([asked(heard_user(6), AGENT), asked()], [flat(0), flat(5)], 0)
    assert [a.text for a in answers] == ["answer 0", "answer 5"]
    turns = [{"role": "user", "parts": [{"text": BROKE}]}, {"role": "model", "parts": [{"text": SORRY}]}]
    assert told == [{"turns": turns, "turnComplete": False}]
    assert asks.carries((USER, AGENT)) and not asks.carries((replace(USER, text=""), AGENT))


def test_a_cascade_hears_the_users_turns_and_a_topline_is_told_them():
    voice = BeepSynthesizer(WORDS)
    spoken = [voice.synthesize(text, Style(emotion="sad"), "user") for text in ("hello", "what day")]
    llm = Says(lambda c: "oh no")
    system = ChatCascadeSystem(BeepTranscriber(WORDS), llm, voice)
    wrong = HeardTurn("user", "not what was said", "u.wav", {}, spoken[0], 0.1)
    system.respond([asked(wrong, AGENT), asked(USER, AGENT)], [spoken[1]] * 2, 0)
    first, second = ([(m["role"], m["content"]) for m in c[1:]] for c in llm.asked)
    assert first == [("user", "hello"), ("assistant", SORRY), ("user", "what day")]  # as it heard it
    assert second == [("user", BROKE), ("assistant", SORRY), ("user", "what day")]
    llm = Says(lambda c: "Response: oh no\nTone: empathetic")
    system = ChatToplineSystem(llm, voice)
    system.respond([asked(USER, AGENT), asked()], [None] * 2, 0)
    behind, alone = (c[0]["content"] for c in llm.asked)
    said = f"Earlier in the same dialogue:\nuser (sad): {BROKE}\nagent (soft, calm): {SORRY}\n\n"
    assert behind == said + alone and system.carries((USER, AGENT))


ECHO = """
import json, sys, soundfile
print(json.dumps({"ready": "echo", **json.loads(sys.argv[1])}), flush=True)
for line in sys.stdin:
    row = json.loads(line)
    samples, rate = soundfile.read(row["audio"], dtype="float32")
    soundfile.write(row["out"], samples, rate, format="WAV")
    turns = [{**t, "audio": float(soundfile.read(t["audio"])[0].max())} if "audio" in t else t
             for t in row.get("turns", [])]
    print(json.dumps({"id": row["id"], "audio": row["out"], "text": json.dumps(turns)}), flush=True)
"""


def program(folder: Path, ready: str) -> CommandSystem:
    (folder / "echo.py").write_text(ECHO)
    return CommandSystem(f"{sys.executable} {folder}/echo.py '{ready}'", stderr=str(folder / "errors.txt"))


def test_a_program_that_says_so_is_given_the_turns_with_wav_files(tmp_path):
    echo = program(tmp_path, '{"turns": true}')
    (plain,), sounds = asked_of_program(1)
    answers = echo.respond([plain, asked(heard_user(6), AGENT)], sounds * 2, 0)
    echo.program.stop()
    assert [a.status for a in answers] == ["ok", "ok"] and answers[0].text == "[]"
    user, agent = json.loads(answers[1].text)
    assert user.pop("audio") == pytest.approx(0.07, abs=1e-4)
    assert user == {"role": "user", "text": BROKE, "styles": {"emotion": "sad"}}
    assert agent == {"role": "assistant", "text": SORRY, "styles": {"tone": "soft, calm"}}


def test_a_program_that_does_not_say_so_is_not_asked(tmp_path, capsys):
    say_once.cache_clear()
    echo = program(tmp_path, "{}")
    (plain,), sounds = asked_of_program(1)
    answers = echo.respond([asked(heard_user(6), AGENT), plain], sounds * 2, 0)
    echo.program.stop()
    assert [a.status for a in answers] == ["no_turns", "ok"] and not echo.carries((USER, AGENT))
    assert 'did not say "turns": true when ready' in capsys.readouterr().err
    files = CommandSystem("cat {requests} {responses}")  # it has no place to say so
    assert not files.carries((USER, AGENT))


def test_what_carries_no_turns_says_so_and_recorded_answers_are_taken_as_they_are(tmp_path, capsys):
    say_once.cache_clear()
    voice = BeepSynthesizer(WORDS)
    assert not CascadeSystem(BeepTranscriber(WORDS), voice).carries((USER, AGENT))
    append_jsonl(tmp_path / "r.jsonl", [Response("q", "x", status="refused")])
    assert RecordedSystem(str(tmp_path / "r.jsonl")).carries((USER, AGENT))
    assert "recorded answers are taken as answers to the whole dialogue" in capsys.readouterr().err


def test_an_example_of_the_docs_is_short_and_runs(tmp_path, monkeypatch):
    """docs/systems.md: a manifest with a dialogue, and a system that reads it."""
    page = (Path(__file__).parents[1] / "docs/systems.md").read_text(encoding="utf-8")
    name, text = re.search(r"```python\n# (my_dialogue\.py)\n(.*?)```", page, re.S).groups()
    assert len([line for line in text.splitlines() if line.strip()]) <= 15
    (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in re.findall(r'"(\w+\.wav)"', text):
        from test_identity import sine

        sine(tmp_path / place, 400)
    import my_dialogue
    from test_turns import run

    result = run(tmp_path, str(tmp_path / "dialogue.jsonl"), my_dialogue.Remembers())
    assert result["response_statuses"]["parrot"] == {"ok": 1}
    (row,) = [json.loads(line) for line in (tmp_path / "run/responses.jsonl").read_text().splitlines()]
    assert row["text"] == "after 2 turns"


def test_a_recipe_that_carries_turns_puts_them_into_its_chat(tmp_path, monkeypatch):
    """LFM2.5-Audio's stand-in notes what is added to whose turn: a text, or the level of a recording in hundredths."""
    note = 'open(__file__ + ".log", "a").write'
    heard_too = f'{note}(f"{{self.turns[-1]}} {{round(100 * float(wave.max()))}}\\n"); assert wave.shape[0] == 1'
    for path, text in LFM2.items():
        text = text.replace('assert self.turns == ["system"]', f'{note}(f"{{self.turns[-1]}} {{text}}\\n")')
        text = text.replace('assert self.turns == ["system", "user"] and wave.shape[0] == 1', heard_too)
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    recipe = CommandSystem(
        f"{sys.executable} {{recipes}}/run_lfm2_audio.py --system Speak.", stderr=str(tmp_path / "errors.txt")
    )
    (answer,) = recipe.respond([asked(heard_user(6), AGENT)], [flat(9)], 0)
    recipe.program.stop()
    assert (answer.status, answer.text) == ("ok", "said it")
    said = (tmp_path / "liquid_audio/__init__.py.log").read_text().splitlines()
    assert said == ["system Speak.", "user 7", f"assistant {SORRY}", "user 10"]
