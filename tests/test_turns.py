"""A query with earlier turns: its record, what it is known by, what judges read of it, corpora that have some, and the
pages that show them. A query without any is what it was, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import AVAILABLE, Browser
from test_corpora import heard, imported, lines, on_hub, outside, sound
from test_identity import Parrot, Reader, run, sine
from test_report import page_data

from lightning_paras2s.audio import read_audio
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.people.annotate import load_items
from lightning_paras2s.bench.queries.demonstrate_words import prompt_of
from lightning_paras2s.bench.queries.manifest import moved, read_queries, write_manifest
from lightning_paras2s.bench.report import report
from lightning_paras2s.bench.systems.base import Answer
from lightning_paras2s.data.dialogue import heard_turns
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.audio_judges import AudioLLMJudge, Pair, audio_prompt
from lightning_paras2s.judging.judges import EmbeddedJudge, LLMJudge
from lightning_paras2s.judging.pair_judges import Heard, pair_prompt
from lightning_paras2s.judging.rubric import PROMPT, build_prompt
from lightning_paras2s.judging.turns import BEFORE, LAST
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.running.origins import inputs_of
from lightning_paras2s.servers.parts import audio_part, text_part
from lightning_paras2s.servers.spoken import wav_bytes
from lightning_paras2s.serving.chats import BadRequestError, read_request
from lightning_paras2s.turns import HeardTurn, Turn, check_turns
from lightning_paras2s.types import Audio, Evidence, Query, Style, read_jsonl, to_json

USER = Turn("user", "My piano broke.", "u.wav", {"emotion": "sad"})
AGENT = Turn("assistant", "Oh no, I am sorry.", "", {"tone": "soft, calm"})
OLD = (  # a line as it was written before there were turns
    '{"id": "q", "pair_id": "p", "factor": "emotion", "split": "test", "text": "So what now?", '
    '"styles": {"emotion": "sad"}, "topic": "Home", "audio": "q.wav", "voice": "", "level": "", "source": "", '
    '"license": ""}'
)
QUERY = Query("q", "p", "emotion", "test", "So what now?", {"emotion": "sad"}, "Home", "q.wav")


def asked(*turns: Turn) -> Query:
    return replace(QUERY, turns=turns)


class Dialogues(Parrot):
    """Carries all that was said before; tells which turns it was given, and the level of their recordings."""

    def carries(self, turns):
        return True

    def respond(self, queries, audios, sample):
        self.given = {q.id: [(t.role, t.text, t.sound) for t in q.turns] for q in queries}
        return super().respond(queries, audios, sample)


def dialogue(folder: Path, turns: dict[int, tuple[Turn, ...]] | None = None) -> str:
    """Four queries; the second's dialogue has two earlier turns."""
    folder.mkdir(parents=True, exist_ok=True)
    queries = []
    for i in range(4):
        style = ("happy", "sad")[i % 2]
        sine(folder / f"q{i}.wav", 800)
        queries.append(Query(f"q{i}", f"p{i // 2}", "emotion", "test", "words", {"emotion": style}, "T", f"q{i}.wav"))
    sine(folder / "u.wav", 300)
    before = {1: (USER, AGENT)} if turns is None else turns
    queries = [replace(q, turns=before.get(i, ())) for i, q in enumerate(queries)]
    write_manifest(folder / "queries.jsonl", queries)
    return str(folder / "queries.jsonl")


def test_a_query_without_turns_has_the_line_that_it_had(tmp_path):
    assert to_json(QUERY) == OLD
    (tmp_path / "old.jsonl").write_text(OLD + "\n")
    assert read_jsonl(tmp_path / "old.jsonl", Query) == [QUERY]
    write_manifest(tmp_path / "new.jsonl", [QUERY])
    assert (tmp_path / "new.jsonl").read_text() == OLD + "\n"
    (tmp_path / "none.jsonl").write_text(OLD[:-1] + ', "turns": []}\n')
    assert read_jsonl(tmp_path / "none.jsonl", Query) == [QUERY]
    assert set(inputs_of(QUERY, tmp_path)) == {"audio", "text", "labels"}  # what its answers were known by


def test_turns_are_read_as_they_were_written_and_their_recordings_move_with_the_manifest(tmp_path):
    there = Turn("user", "", str(tmp_path / "far/u.wav"))
    write_manifest(tmp_path / "here/m.jsonl", [asked(there, AGENT)])
    (read,) = read_jsonl(tmp_path / "here/m.jsonl", Query)
    assert read == asked(replace(there, audio="../far/u.wav"), AGENT)
    assert moved(read, tmp_path / "here", tmp_path / "far").turns[0].audio == "u.wav"
    assert json.loads(to_json(read))["turns"][1] == {
        "role": "assistant", "text": "Oh no, I am sorry.", "audio": "", "styles": {"tone": "soft, calm"}
    }  # fmt: skip
    heard_one = replace(read, turns=(HeardTurn("user", "", "../far/u.wav", sound=Audio(np.zeros(9), 9)), AGENT))
    assert to_json(heard_one) == to_json(read)  # what was heard of it is no part of the record


def turn(**fields) -> dict:
    return {"role": "user", "text": "Hi.", **fields}


SAID = {"role": "assistant", "text": "Hello."}
BAD = {
    "no text": ([turn(text=" ")], "turn 1: the user's turn must have its text or a recording; got none"),
    "an assistant without text": ([turn(), turn(role="assistant", text="", audio="a.wav")],
                                  "turn 2: the assistant's turn must have its text; got none"),
    "unknown speaker": ([turn(role="system")], "a turn's role must be one of user, assistant; got 'system'"),
    "two users in a row": ([turn(), turn(), SAID], "must alternate .*; got the user's twice, turns 1 and 2"),
    "the user last": ([turn(), SAID, turn()], "last earlier turn must be the assistant's, .* got the user's, turn 3"),
    "no style of ours": ([turn(styles={"emotion": "bored"}), SAID], "emotion must be one of .*; got 'bored'"),
    "an agent's emotion": ([turn(), {**SAID, "styles": {"emotion": "sad"}}], "may have the styles tone; got emotion"),
    "no list": ("Hi.", "turns must be a list, the oldest first; got str"),
    "no object": (["Hi."], "turn 1 must be an object; got 'Hi.'"),
    "no speaker": ([{"text": "Hi."}], "turn 1 must have its role; got text"),
    "unknown field": ([turn(speaker="x")], "turn 1: unknown field speaker; a turn has role, text, audio, styles"),
    "no text but a number": ([turn(text=3)], "turn 1's text must be a text; got 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_turns_that_are_none_are_one_line_that_names_file_and_line(tmp_path, case):
    value, wanted = BAD[case]
    row = json.loads(OLD) | {"turns": value}
    (tmp_path / "m.jsonl").write_text(OLD.replace('"q"', '"q0"') + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"m\.jsonl:2: .*{wanted}") as told:
        read_jsonl(tmp_path / "m.jsonl", Query)
    assert "\n" not in str(told.value)


def test_a_turn_whose_recording_is_missing_is_one_line(tmp_path):
    path = dialogue(tmp_path)
    assert len(read_queries(path, None)) == 4
    (tmp_path / "u.wav").unlink()
    with pytest.raises(UserError, match=r"queries.jsonl:2: audio of turn 1 must be an existing file; got 'u.wav'"):
        read_queries(path, None)


def test_a_turn_that_cannot_be_heard_costs_its_query_alone(tmp_path, capsys):
    path = dialogue(tmp_path)
    (tmp_path / "u.wav").write_bytes(b"no sound")
    system = Dialogues()
    result = run(tmp_path, path, system)
    assert sorted(system.asked) == ["q0", "q2", "q3"]
    assert result["response_statuses"]["parrot"] == {"ok": 3, "bad_query": 1}


def test_a_system_hears_the_turns_and_answers_anew_when_one_changes(tmp_path, capsys):
    path = dialogue(tmp_path)
    system = Dialogues()
    run(tmp_path, path, system)
    (first, second) = system.given["q1"]
    assert first[:2] == ("user", "My piano broke.") and second == ("assistant", "Oh no, I am sorry.", None)
    assert np.array_equal(first[2].samples, read_audio(tmp_path / "u.wav", 16_000).samples)
    run(tmp_path, path, system := Dialogues())
    assert system.asked == []
    changes = [
        lambda: sine(tmp_path / "u.wav", 500),
        lambda: dialogue(tmp_path, {1: (USER, replace(AGENT, text="Oh."))}),
        lambda: dialogue(tmp_path, {1: (replace(USER, styles={"emotion": "angry"}), AGENT)}),
        lambda: dialogue(tmp_path, {}),
    ]
    for change in changes:
        change()
        run(tmp_path, path, system := Dialogues())
        assert system.asked == ["q1"]
    assert "made anew, their inputs changed: turns 1" in capsys.readouterr().err


def test_rescoring_refuses_answers_to_another_dialogue(tmp_path):
    run(tmp_path, dialogue(tmp_path), Dialogues())
    path = dialogue(tmp_path, {1: (USER, replace(AGENT, text="Oh."))})
    with pytest.raises(UserError, match="got 1 to others"):
        run(tmp_path, path, rescore=True)


def test_a_system_that_cannot_carry_turns_is_not_asked_and_that_is_said_before(tmp_path, capsys):
    path, system = dialogue(tmp_path), Parrot()
    dry = run(tmp_path, path, system, dry_run=True)
    said = "parrot: Parrot can't carry the earlier turns of 1 of 4 queries; it is not asked about them (status no_turns"
    assert dry["dry_run"] and said in capsys.readouterr().err
    result = run(tmp_path, path, system)
    assert system.asked == ["q0", "q2", "q3"] and said in capsys.readouterr().err
    assert result["response_statuses"]["parrot"] == {"ok": 3, "no_turns": 1}
    overall = result["systems"]["parrot"]["overall"]
    assert (overall["n"], overall["n_failed"], overall["mean"]) == (3, 1, 5)  # counted as failed, and not scored
    only = dialogue(tmp_path / "only", {i: (USER, AGENT) for i in range(4)})
    with pytest.raises(UserError, match="must end with a score; got none: 4 of 4 answers failed: no_turns 4"):
        run(tmp_path / "only", only)


def test_the_guideline_is_the_papers_and_earlier_turns_are_said_to_be_added():
    evidence = Evidence("r", "i am {user} sorry", tone="calm")
    alone = PROMPT.replace("{user}", "transcription: So what now?\nemotion: sad")
    alone = alone.replace("{agent}", "transcription: i am {user} sorry\ntone: calm")
    assert build_prompt(QUERY, QUERY.style, evidence) == alone
    before = "user (sad): My piano broke.\nagent (soft, calm): Oh no, I am sorry."
    told = build_prompt(asked(USER, AGENT), QUERY.style, evidence)
    assert told == alone.replace("transcription: So", f"{BEFORE}\n{before}\n{LAST}\ntranscription: So")
    assert "Added to the guideline" in BEFORE and "(nobody wrote down" in build_prompt(
        asked(replace(USER, text=""), AGENT), QUERY.style, evidence
    )


def test_the_rubrics_hash_and_the_verdicts_of_queries_without_turns_stay():
    """The hash is that of the parser's version and the paper's words, as before there were turns."""
    judge = LLMJudge(Reader())
    assert judge.rubric_sha == hashlib.sha256(f"2\n{PROMPT}".encode()).hexdigest()
    evidence = [Evidence("r", "said good"), Evidence("s", "said good")]
    alone, behind = judge.judge_all([QUERY, asked(USER, AGENT)], [QUERY.style] * 2, evidence)
    assert replace(alone[0], response_id="s") == behind[0] and behind[0].score == 5


def test_verdicts_are_made_anew_when_a_turn_changes(tmp_path):
    class Deaf(Dialogues):
        def respond(self, queries, audios, sample):
            return [Answer(audio, "said") for audio in audios]

    made = []
    for turns in ((USER, AGENT), (USER, replace(AGENT, text="Oh."))):
        run(tmp_path, dialogue(tmp_path, {1: turns}), Deaf())
        rows = [json.loads(line) for line in (tmp_path / "run/inputs.jsonl").read_text().splitlines()]
        made.append([row["inputs"] for row in rows if row["of"] == "verdicts"])
    assert len(made[0]) == 4 and len(made[1]) == 5
    assert [len(row) for row in made[0]] == [4, 5, 4, 4]  # of the one with turns, these too
    assert made[1][-1]["turns"] != made[0][1]["turns"] and made[1][-1]["query"] == made[0][1]["query"]


def test_the_rule_judge_says_in_one_line_that_it_judges_the_last_turn_alone(tmp_path, capsys):
    say_once.cache_clear()
    line = "embedded-rubric-2 judges the last turn alone: it does not read the queries' earlier turns"
    run(tmp_path / "a", dialogue(tmp_path / "a", {}), Dialogues(), judge=EmbeddedJudge())
    assert line not in capsys.readouterr().err
    run(tmp_path / "b", dialogue(tmp_path / "b"), Dialogues(), judge=EmbeddedJudge())
    assert capsys.readouterr().err.count(line) == 1


def test_a_judge_that_hears_hears_the_turns(tmp_path):
    hum = Audio(np.full(160, 0.1, np.float32), 16_000)
    said = (HeardTurn("user", "My piano broke.", sound=hum), AGENT)
    parts = audio_prompt(Pair(hum, hum, said))
    alone = audio_prompt(Pair(hum, hum))
    wanted = [text_part(BEFORE), text_part("user:"), audio_part(hum), text_part("agent: Oh no, I am sorry.")]
    assert parts == [alone[0], *wanted, text_part(LAST), *alone[1:]] and len(alone) == 5
    game = pair_prompt(Heard(hum, hum, hum).after(said))
    assert game == [*(one := pair_prompt(Heard(hum, hum, hum)))[:1], *wanted, text_part(LAST), *one[1:]]
    dialogue(tmp_path)
    judge = AudioLLMJudge(Reader())
    judge.locate(tmp_path, tmp_path / "run")
    judge.files = {"r": str(tmp_path / "q0.wav")}
    pair = judge.hear(replace(asked(USER, AGENT), audio="q1.wav"), Evidence("r"))
    assert [t.sound is not None for t in pair.turns] == [True, False]


def test_whoever_writes_answers_is_told_what_was_said_before():
    alone = prompt_of(QUERY)
    said = "Earlier in the same dialogue:\nuser (sad): My piano broke.\nagent (soft, calm): Oh no, I am sorry.\n\n"
    assert prompt_of(asked(USER, AGENT)) == said + alone


def test_televals_and_uro_benchs_dialogues_are_queries_with_turns(tmp_path):
    rounds = {"key": "m1", "nrounds": 2, "user_text1": "我叫李", "bot_text1": "你好", "user_text2": "我叫什么"}
    rounds |= {"user_audio1": heard(0.25), "user_audio2": heard(0.5), "bot_text2": "", "answer": "李"}
    gone = {**rounds, "key": "m2", "bot_text1": ""}
    on_hub(tmp_path / "tele/multiturn_memory-zh/a.parquet", [rounds, gone])
    table, (query,), (item,) = imported("televal", tmp_path / "tele", outside(tmp_path))
    assert table["counts"] == {"kept": 1, "unusable_turns": 1}
    assert [(t.role, t.text) for t in query.turns] == [("user", "我叫李"), ("assistant", "你好")]
    first = heard_turns(query, outside(tmp_path).parent).turns[0].sound  # the bytes of the first round
    assert first.samples.max() == pytest.approx(0.025, abs=1e-3) and item["turns"][0]["audio"] == query.turns[0].audio
    assert len(read_queries(table["manifest"], None)) == 1

    def row(name: str, text: str, **more) -> dict:
        return {"source_wav": f"wavs/{name}.wav", "source_text": text, **more}

    talk = {"id": 1, "num_round": 2}
    rows = [{**talk, "dialogue": [row("a", "Write.", target_text=["Roses.", "Violets."]), row("b", "Shorter.")]}]
    rows += [{**talk, "dialogue": [row("a", "Write."), row("b", "Shorter.")]}]  # nobody wrote what was answered
    rows += [{**talk, "dialogue": [row("gone", "Write.", target_text="Roses."), row("b", "Shorter.")]}]
    lines(tmp_path / "uro/pro/MtBenchEval-en/test.jsonl", rows)
    for name in "ab":
        sound(tmp_path / f"uro/pro/MtBenchEval-en/wavs/{name}.wav")
    (tmp_path / "out").mkdir()
    table, (query,), _ = imported("uro_bench", tmp_path / "uro", tmp_path / "out/m.jsonl")
    assert table["counts"] == {"kept": 1, "unusable_turns": 1, "turn_no_audio": 1}
    assert [(t.role, t.text) for t in query.turns] == [("user", "Write."), ("assistant", "Roses.")]
    assert not Path(query.turns[0].audio).is_absolute()
    assert (tmp_path / "out" / query.turns[0].audio).is_file()


def test_open_s2s_carries_recordings_that_nobody_wrote_down(tmp_path):
    def message(role: str, *parts: tuple[str, str]) -> dict:
        return {"role": role, "content": [{"text": text, "audio": audio} for text, audio in parts]}

    last = [message("assistant", ("Hm.", "")), message("user", ("", "b.wav")), message("assistant", ("Oh no.", ""))]
    rows = [[message("user", ("", "a.wav")), *last], [message("user", ("", "a.wav"), ("", "b.wav")), *last],
            [message("user", ("continue", ""), ("", "a.wav")), *last]]  # fmt: skip
    lines(tmp_path / "train.jsonl", [{"messages": row} for row in rows])
    for name in "ab":
        sound(tmp_path / f"{name}.wav")
    table, (query,), _ = imported("open_s2s", tmp_path, outside(tmp_path), "train")
    assert table["counts"] == {"kept": 1, "turn_of_several_parts": 2}
    assert [(t.role, t.text, bool(t.audio)) for t in query.turns] == [("user", "", True), ("assistant", "Hm.", False)]


def test_the_pages_show_what_was_said_before_with_a_player(tmp_path):
    path = dialogue(tmp_path, {1: (USER, replace(AGENT, text="Oh <no>."))})
    run(tmp_path, path, Dialogues())
    report(str(tmp_path / "run"), str(tmp_path / "report.html"), encoding="flac")
    text = (tmp_path / "report.html").read_text()
    halves = [half for pair in page_data(text)["pairs"] for half in pair["halves"]]
    (with_turns,) = [half for half in halves if half["turns"]]
    first, second = with_turns["turns"]
    assert with_turns["id"] == "q1" and (first["told"], first["text"]) == ("sad", "My piano broke.")
    assert first["seconds"] == 1 and first["audio"].startswith("data:audio/flac") and "audio" not in second
    leaderboard([str(tmp_path / "run")], html=str(tmp_path / "board.html"))
    board = (tmp_path / "board.html").read_text()
    assert board.count("<ol class=turns") == 1 and "<b>assistant (soft, calm)</b> “Oh &lt;no&gt;.”" in board
    assert 'aria-label="earlier turn" src="data:audio/mpeg' in board
    items = load_items(path, [str(tmp_path / "run")], False, None, 0)
    shown = {item.id: item.before for item in items}
    assert [name for name, html in shown.items() if html] == ["parrot/q1/0"]
    assert "My piano broke." in shown["parrot/q1/0"] and shown["parrot/q1/0"].count("<audio") == 1


def test_the_report_shows_the_turns_in_a_browser(tmp_path):
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    run(tmp_path, dialogue(tmp_path, {1: (USER, replace(AGENT, text="Oh <no>."))}), Dialogues())
    report(str(tmp_path / "run"), str(tmp_path / "report.html"))
    browser = Browser()
    browser.open(f"file://{tmp_path}/report.html")
    found = browser.run("return [...document.querySelectorAll('ol.turns li')].map((row) => row.textContent)")
    count = "map((row) => row.querySelectorAll('audio').length)"
    players = browser.run(f"return [...document.querySelectorAll('ol.turns li')].{count}")
    level = browser.run(
        "const heads = [...document.querySelectorAll('.pair .half h3')].slice(0, 2);"
        "return heads.map((head) => head.closest('.half').querySelector('.half > audio').getBoundingClientRect().top)"
    )
    browser.close()
    assert found == ["user (sad) “My piano broke.”", "assistant (soft, calm) “Oh <no>.”"] and players == [1, 0]
    assert level[0] == level[1]  # the two halves' queries side by side


def test_the_arenas_page_shows_the_turns(tmp_path):
    from lightning_paras2s.bench.listening import turns_html
    from lightning_paras2s.bench.pairs.arena_page import card

    before = turns_html((USER, AGENT), lambda place: f"[{place}]")
    made = card(asked(USER, AGENT), ("q", "a", "b"), ["a won"], ["[q]", "[a]", "[b]"], before)
    assert made.index("My piano broke.”[u.wav]") < made.index("[q]") < made.index("[a]")
    assert turns_html((), lambda place: place) == "" and "turns" not in card(
        QUERY, ("q", "a", "b"), ["a won"], ["[q]", "[a]", "[b]"]
    )


def test_the_arenas_page_shows_a_query_whose_style_nobody_told():
    """It was a traceback, after a judge had been paid for all games."""
    from lightning_paras2s.bench.pairs.arena_page import card

    made = card(replace(QUERY, styles={}), ("q", "a", "b"), ["a won"], ["[q]", "[a]", "[b]"])
    assert QUERY.factor in made


def test_turns_are_of_two_who_alternate():
    check_turns([])
    check_turns([AGENT])  # who greets
    check_turns([AGENT, USER, AGENT])
    with pytest.raises(UserError, match="got the assistant's twice"):
        Query(*["x"] * 5, {}, "", "", turns=(AGENT, AGENT))
    assert USER.told == "sad" and Style(**USER.styles).emotion == "sad"


def test_answers_that_nobody_was_asked_for_are_asked_for_once_their_system_carries_turns(tmp_path, capsys):
    path = dialogue(tmp_path)
    run(tmp_path, path, Parrot())
    result = run(tmp_path, path, system := Dialogues())
    assert system.asked == ["q1"] and "asked for again: 1 (no_turns 1)" in capsys.readouterr().err
    assert result["response_statuses"]["parrot"] == {"ok": 4} and result["systems"]["parrot"]["overall"]["n"] == 4
    run(tmp_path, path, system := Dialogues())
    assert system.asked == []


class NeedsSound(Dialogues):
    """Carries what it can hear."""

    def carries(self, turns):
        return all(turn.sound is not None for turn in turns if turn.role == "user")


def test_whether_turns_are_carried_is_asked_of_turns_with_their_sound(tmp_path, capsys):
    mute = (Turn("user", "My piano broke."), AGENT)
    path, system = dialogue(tmp_path, {1: (USER, AGENT), 2: mute}), NeedsSound()
    run(tmp_path, path, system, dry_run=True)
    assert "earlier turns of 1 of 4 queries" in capsys.readouterr().err
    result = run(tmp_path, path, system)
    assert system.asked == ["q0", "q1", "q3"] and "earlier turns of 1 of 4 queries" in capsys.readouterr().err
    assert result["response_statuses"]["parrot"] == {"ok": 3, "no_turns": 1}


@pytest.mark.parametrize(("content", "told"), [
    ([{"type": "input_audio", "input_audio": {"data": "UklGRg=="}}], "message 3: input_audio must be readable wav"),
    ("\ud800", "message 3: the user's turn must be text; got half of a surrogate pair"),
    (" ", "message 3: the user's turn must have its text or a recording"),
])  # fmt: skip
def test_a_served_message_that_is_no_turn_is_named_by_its_number(content, told):
    sound = base64.b64encode(wav_bytes(Audio(np.full(1600, 0.1, np.float32), 16_000))).decode()
    last = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": sound}}]}
    no = {"role": "assistant", "content": "No."}
    said = [{"role": "user", "content": "May I?"}, no, {"role": "user", "content": content}, no, last]
    with pytest.raises(BadRequestError, match=told) as refused:
        read_request(json.dumps({"model": "m", "messages": said}).encode(), 5.0)
    assert refused.value.status == 400
