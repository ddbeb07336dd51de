"""The paper's cascade, topline and bad voice from parts, on speech of beeps."""

from __future__ import annotations

import base64

import pytest
from beeps import BeepRecognizer, BeepSynthesizer, BeepTranscriber
from loopback import Loopback, Sent, completion
from starlette.testclient import TestClient
from test_tts_remote import QUICK, wav

from lightning_paras2s.bench.queries.styles import RESPONSE_PROMPT
from lightning_paras2s.bench.systems.caption_cascade import CaptionCascadeSystem, ThinkingCascadeSystem
from lightning_paras2s.bench.systems.chat_speech import ChatCascadeSystem, ChatToplineSystem, MisfitVoiceSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rubric import BEST_TONES, CLASHING_TONES
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat, Reply
from lightning_paras2s.servers.spoken import wav_bytes
from lightning_paras2s.speaking.remote import OpenAITTS
from lightning_paras2s.turns import HeardTurn, Turn
from lightning_paras2s.types import STYLES, Audio, Query, Style

WORDS = "hello the dog ran away oh no what a good day silence one two".split()


class Says(ChatLLM):
    """Answers by a rule, at a cent each; counts what it was asked."""

    name = "says"

    def __init__(self, rule) -> None:
        self.rule, self.asked, self.samples = rule, [], []

    def complete(self, conversations, samples=None):
        self.asked += conversations
        self.samples += samples or []
        return [reply if isinstance(reply := self.rule(c), Reply) else Reply(reply, cost_usd=0.01)
                for c in conversations]  # fmt: skip


def judge_tone(style: str, tone: str) -> int:
    return 2 if tone in CLASHING_TONES[style] else 3 if tone not in (*BEST_TONES[style], "neutral") else 5


def query(style: str, text: str = "the dog ran away") -> Query:
    return Query(f"q-{style}", "p", "emotion", "test", text, {"emotion": style}, "", "")


def heard(answers) -> tuple[list[str], list[str]]:
    audios = [a.audio for a in answers]
    return BeepTranscriber(WORDS).transcribe(audios), [s.tone for s in BeepRecognizer().recognize(audios, "response")]


def test_a_cascade_answers_the_words_it_heard_in_one_tone():
    llm = Says(lambda c: "what a good day" if "hello" in c[1]["content"] else "oh no")
    system = ChatCascadeSystem(BeepTranscriber(WORDS), llm, BeepSynthesizer(WORDS))
    voice = BeepSynthesizer(WORDS)
    audios = [voice.synthesize(text, Style(emotion="sad"), "user") for text in ("hello", "the dog ran away")]
    answers = system.respond([query("sad"), query("happy")], audios, 0)
    assert heard(answers) == (["what a good day", "oh no"], ["neutral", "neutral"])
    assert [a.cost_usd for a in answers] == [0.01, 0.01] and llm.asked[1][1]["content"] == "the dog ran away"


class Writes(BeepTranscriber):
    """Writes what it hears as people do."""

    def write_down(self, audios):
        return ["That's $5.99 (or 20%)?" for _ in audios]


def test_a_cascade_is_told_what_its_ear_wrote():
    """Of "$5.99" the chat model got "5 99"."""
    llm, audio = Says(lambda c: "oh no"), BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="sad"), "user")
    ChatCascadeSystem(Writes(WORDS), llm, BeepSynthesizer(WORDS)).respond([query("sad")], [audio], 0)
    CaptionCascadeSystem(Writes(WORDS), BeepRecognizer(), llm, BeepSynthesizer(WORDS)).respond(
        [query("sad")], [audio], 0
    )
    assert all("That's $5.99 (or 20%)?" in asked[1]["content"] for asked in llm.asked) and len(llm.asked) == 2


def test_a_topline_is_told_the_label_and_a_misfit_speaks_its_words_in_a_wrong_tone():
    llm = Says(lambda c: f"Response: oh no\nTone: {'empathetic' if 'sad' in c[0]['content'] else 'cheerful'}")
    queries = [query("sad"), query("happy")]
    good = ChatToplineSystem(llm, BeepSynthesizer(WORDS)).respond(queries, [None] * 2, 0)
    assert heard(good) == (["oh no", "oh no"], ["empathetic", "cheerful"])
    bad = MisfitVoiceSystem(llm, BeepSynthesizer(WORDS))
    words, tones = heard(bad.respond(queries, [None] * 2, 0))
    assert words == ["oh no", "oh no"]
    assert all(tone in CLASHING_TONES[q.styles["emotion"]] for tone, q in zip(tones, queries, strict=True))
    for factor, styles in STYLES.items():
        for style in styles:
            asked = Query("q", "p", factor, "test", "x", {factor: style}, "", "")
            tone = bad.tone_of(asked, "calm", 0)
            assert judge_tone(style, tone) <= 3, (style, tone)  # the guideline's 4 and 5 are for a fitting tone
    assert bad.config_sha != ChatToplineSystem(llm, BeepSynthesizer(WORDS)).config_sha
    with pytest.raises(UserError, match="needs each query's emotion label"):
        bad.respond([Query("q", "p", "emotion", "test", "x", {}, "", "")], [None], 0)


def test_another_sample_is_another_reply():
    llm = Says(lambda c: "Response: one\nTone: neutral")
    system = ChatToplineSystem(llm, BeepSynthesizer(WORDS))
    for sample in (0, 2, -1):
        system.respond([query("sad"), query("happy")], [None] * 2, sample)
    assert len(llm.asked) == len(set(llm.samples)) == 6  # one request an answer


def replying(server, folder: str, temperature: float = 1.0) -> ChatCascadeSystem:
    llm = OpenAIChat("m", server.url, temperature=temperature, cache_dir=folder, concurrency=1)
    return ChatCascadeSystem(BeepTranscriber(WORDS), llm, BeepSynthesizer(WORDS))


def test_what_a_deaf_cascade_answers_to_a_half_of_a_pair_depends_on_that_half_alone(tmp_path):
    """Both halves are the same words, so the same conversation; the server never says the same twice."""
    pair = [query("sad"), query("happy")]
    audios = [BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="sad"), "user")] * 2
    said = iter(WORDS)
    with Loopback(lambda path, body, times: Sent(200, completion(next(said)))) as server:
        found = [[a.text for a in replying(server, str(tmp_path)).respond(pair, audios, k)] for k in range(3)]
        assert len({text for row in found for text in row}) == len(server.requests) == 6
        alone = [replying(server, str(tmp_path)).respond(pair[1:], audios[1:], k)[0].text for k in (2, 0, 1)]
        assert alone == [found[2][1], found[0][1], found[1][1]] and len(server.requests) == 6


def test_a_served_seed_is_a_name_and_no_number_of_requests():
    from lightning_paras2s.serving.app import Limits, Server

    audio = BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="sad"), "user")
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav_bytes(audio)).decode()}}
    sent = {"model": "c", "modalities": ["text", "audio"], "messages": [{"role": "user", "content": [part]}]}
    with Loopback(lambda path, body, times: Sent(200, completion("oh no"))) as server:
        app = Server({"c": replying(server, "")}, Limits(16, 0.01, 16, 30, 10**7, 30, 60), "").app()
        with TestClient(app) as client:
            codes = [client.post("/v1/chat/completions", json=sent | {"seed": s}).status_code for s in (None, 300, -1)]
        assert codes == [200] * 3 and len(server.requests) == 3


def test_a_dry_run_counts_a_chat_models_reply_and_its_speech(capsys):
    """gpt-4.1: 2 and 8 USD a million tokens; 4,096 characters at 10 a second are 6.83 minutes, 0.015 USD each."""
    say_once.cache_clear()
    llm, tts = OpenAIChat("gpt-4.1", cache_dir="", max_tokens=1000), OpenAITTS()
    speech = 4096 / 10 / 60 * 0.015
    cascade = ChatCascadeSystem(BeepTranscriber(WORDS), llm, tts, instructions="x" * 300)
    # 3 s of speech are at most 90 characters; 390 / 3 + 50 tokens
    each = (180 * 2 + 1000 * 8) / 1e6 + speech
    assert cascade.at_most_usd([3.0] * 10) == pytest.approx(10 * each)
    before = (Turn("user", "y" * 30), HeardTurn("user", "", sound=Audio([0], 1), seconds=2.0))  # 30 and 60 characters
    assert cascade.at_most_usd([3.0], [before]) == pytest.approx(each + 30 * 2 / 1e6)
    silent = ChatCascadeSystem(BeepTranscriber(WORDS), llm, BeepSynthesizer(WORDS), instructions="x" * 300)
    assert silent.at_most_usd([3.0]) == pytest.approx(each - speech)
    topline = ChatToplineSystem(llm, tts)
    assert topline.at_most_usd([3.0]) >= llm.at_most([{"role": "user", "content": RESPONSE_PROMPT}]) + speech
    assert topline.at_most_usd([3.0], [before]) > topline.at_most_usd([3.0])
    assert "price" not in capsys.readouterr().err
    unknown = ChatToplineSystem(OpenAIChat("mystery", cache_dir=""), BeepSynthesizer(WORDS))
    assert unknown.at_most_usd([3.0]) == 0
    assert "'mystery-t0'" in (told := capsys.readouterr().err) and "usd_per_million" in told
    free = OpenAIChat("mystery", cache_dir="", usd_per_million=(0.0, 0.0))
    assert ChatToplineSystem(free, BeepSynthesizer(WORDS)).at_most_usd([3.0]) == 0 and not capsys.readouterr().err


def test_a_described_voice_costs_its_description_too():
    llm = OpenAIChat("gpt-4.1", cache_dir="", max_tokens=100)
    assert OpenAITTS(describer=llm).at_most_usd(60.0) > OpenAITTS().at_most_usd(60.0) + 100 * 8 / 1e6


def test_an_answer_is_not_asked_for_when_words_and_speech_could_take_the_spending_above_its_cap():
    """An answer may cost up to 4,096 / 10 / 60 minutes of speech at 0.015 USD, 10 cents; it does cost a cent for words
    and half a second of speech. Each is asked about only while the worst still fits below the cap.
    """
    llm, heard = Says(lambda c: "hello"), BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="sad"), "user")
    with Loopback(lambda path, body, times: Sent(200, wav())) as server:
        tts = OpenAITTS(base_url=server.url, patience=QUICK)
        llm.max_tokens = 1000
        system = ChatCascadeSystem(BeepTranscriber(WORDS), llm, tts, "sage", max_usd=0.25)
        queries = [query(style) for style in ("sad", "angry", "happy")]
        answers = system.respond(queries, [heard] * 3, 0)
        assert [a.status for a in answers] == ["ok", "ok", "max_usd"] and len(llm.asked) == len(server.requests) == 2
        spent = 2 * (0.01 + 0.5 / 60 * 0.015)
        assert system.spent_usd == pytest.approx(spent) == pytest.approx(sum(a.cost_usd for a in answers if a.audio))
        statuses = [system.respond(queries[:1], [heard], sample)[0].status for sample in range(1, 15)]
        assert statuses.index("max_usd") == 13 and system.spent_usd + 0.1 < 0.25 + 0.01
    with pytest.raises(UserError, match="max_usd needs the chat model's price; got 'mystery"):
        ChatToplineSystem(OpenAIChat("mystery", cache_dir=""), tts, max_usd=1.0)


def test_a_voices_description_is_in_what_an_answer_costs_and_counts_for_its_cap():
    with Loopback(
        lambda path, body, times: Sent(200, wav()) if "speech" in path else Sent(200, completion("Softly."))
    ) as server:
        patience, llm = QUICK, Says(lambda c: "hello")
        describer = OpenAIChat("gpt-4.1", base_url=server.url, cache_dir="", patience=patience)
        tts = OpenAITTS(base_url=server.url, patience=patience, describer=describer)
        heard = BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="sad"), "user")
        (answer,) = ChatCascadeSystem(BeepTranscriber(WORDS), llm, tts, "sage").respond([query("sad")], [heard], 0)
    assert describer.spent_usd > 0
    assert answer.cost_usd == pytest.approx(0.01 + 0.5 / 60 * 0.015 + describer.spent_usd)


def test_what_chat_model_or_voice_fail_at_is_a_status(monkeypatch):
    replies = {"sad": Reply(None, "timeout"), "angry": "I would rather not", "happy": "Response: hello\nTone: cheerful"}
    llm = Says(lambda c: next(reply for style, reply in replies.items() if style in c[0]["content"]))
    queries = [query(style) for style in replies]
    with Loopback(lambda path, body, times: Sent(200, wav())) as server:
        tts = OpenAITTS(base_url=server.url, patience=QUICK)
        answers = ChatToplineSystem(llm, tts, "sage").respond(queries, [None] * 3, 0)
        assert [a.status for a in answers] == ["timeout", "unparsed", "ok"] and len(server.requests) == 1
    assert answers[2].cost_usd == pytest.approx(0.01 + 0.5 / 60 * 0.015)  # half a second of speech
    with Loopback(lambda path, body, times: Sent(500, b"")) as server:
        tts = OpenAITTS(base_url=server.url, patience=QUICK)
        answers = ChatToplineSystem(llm, tts, "sage").respond(queries[2:], [None], 0)
    assert (answers[0].audio, answers[0].status, answers[0].text) == (None, "http_500", "hello")


class Sad(BeepRecognizer):
    def recognize(self, audios, role):
        return [Style(emotion="sad", gender="female") for _ in audios]


def test_a_cascade_with_captions_reads_how_it_was_said():
    llm = Says(lambda c: "oh no" if "Emotion: sad" in c[1]["content"] else "what a good day")
    system = CaptionCascadeSystem(BeepTranscriber(WORDS), Sad(), llm, BeepSynthesizer(WORDS))
    audio = BeepSynthesizer(WORDS).synthesize("the dog ran away", Style(emotion="happy"), "user")  # .32 s
    answers = system.respond([query("sad")], [audio], 0)
    assert llm.asked[0][1]["content"] == "[00:00-00:01] the dog ran away (Gender: female, Emotion: sad)"
    assert heard(answers) == (["oh no"], ["neutral"]) and answers[0].cost_usd == 0.01
    deaf = ChatCascadeSystem(BeepTranscriber(WORDS), llm, BeepSynthesizer(WORDS))
    assert len({system.config_sha, deaf.config_sha}) == 2


def test_a_thought_is_never_spoken():
    replies = iter(["<think>the dog ran away</think>oh no", "<think>the dog", "hello"])
    llm = Says(lambda c: next(replies))
    system = ThinkingCascadeSystem(BeepTranscriber(WORDS), Sad(), llm, BeepSynthesizer(WORDS))
    audio = BeepSynthesizer(WORDS).synthesize("hello", Style(emotion="happy"), "user")
    answers = system.respond([query("sad")] * 3, [audio] * 3, 0)
    assert heard([answers[0], answers[2]])[0] == ["oh no", "hello"]
    assert (answers[1].audio, answers[1].status, answers[1].cost_usd) == (None, "unparsed", 0.01)
    assert "First think" in llm.asked[0][0]["content"]
