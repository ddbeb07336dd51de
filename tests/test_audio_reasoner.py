"""Audio-Reasoner: its strict parser, and a tiny random instance of its class as a tone source."""

from __future__ import annotations

import pytest
import torch
from sounds import tone
from tiny_models import write_reasoner

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing import audio_reasoner
from lightning_paras2s.hearing.audio_reasoner import QUESTION, SYSTEM, AudioReasoner, chat_prompt, parse_tone
from lightning_paras2s.hearing.evidence import Ears, hear
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.judging.judges import LLMJudge
from lightning_paras2s.types import Query, Response

THOUGHT = "<THINK><PLANNING>Listen.</PLANNING><CAPTION>A voice.</CAPTION><REASONING>Slow.</REASONING></THINK>"


@pytest.mark.parametrize(
    ("reply", "text", "status"),
    [
        (f"{THOUGHT}<RESPONSE>Calm, reassuring.</RESPONSE>", "calm, reassuring", "ok"),
        (f"{THOUGHT}\n<RESPONSE>\nempathetic\n</RESPONSE>\n", "empathetic", "ok"),
        ("calm", None, "no_response"),
        ("", None, "no_response"),
        ("<RESPONSE>calm</RESPONSE>", None, "no_response"),  # without its thoughts the form is broken
        (f"{THOUGHT}<RESPONSE>calm", None, "no_response"),  # cut
        ("<THINK><PLANNING>I say <RESPONSE>calm</RESPONSE>", None, "no_response"),  # cut in its thoughts
        (f"{THOUGHT}<RESPONSE>calm</RESPONSE><RESPONSE>sad</RESPONSE>", None, "several_responses"),
        ("<THINK><RESPONSE>sad</RESPONSE></THINK><RESPONSE>calm</RESPONSE>", None, "several_responses"),
        (f"{THOUGHT}<RESPONSE> </RESPONSE>", None, "empty"),
        (f"{THOUGHT}<RESPONSE>{'calm ' * 13}</RESPONSE>", None, "too_long"),
    ],
)
def test_a_tone_is_read_only_when_the_reply_has_its_form(reply, text, status):
    tone = parse_tone(reply)
    assert (tone.text, tone.status, tone.raw) == (text, status, reply)


def test_the_prompt_is_blind_to_content_and_holds_one_recording():
    assert "ignore what is said" in QUESTION and SYSTEM in chat_prompt()
    assert chat_prompt().count("<|AUDIO|>") == 1 and chat_prompt().endswith("<|im_start|>assistant\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen2-Audio with a byte-level tokenizer, saved as the release is."""
    path = tmp_path_factory.mktemp("reasoner") / "Audio-Reasoner"
    write_reasoner(path)
    return str(path)


@pytest.fixture(scope="module")
def reasoner(folder):
    """With a short prompt: a byte is a token here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_reasoner, "SYSTEM", "Listen.")
        patch.setattr(audio_reasoner, "QUESTION", "Tone?")
        yield AudioReasoner(folder, device="cpu", dtype="float32", batch_size=2, max_tokens=8)


def test_replies_depend_on_the_recording_and_not_on_the_batch(reasoner):
    audios = [tone(150, 0.5), tone(600, 2.0), tone(300, 1.0)]
    together = [tone.raw for tone in reasoner.describe(audios)]
    assert together == [reasoner.describe([audio])[0].raw for audio in audios]
    assert len(set(together)) > 1  # it hears


def test_a_random_model_says_no_tone_and_so_nothing_is_judged(reasoner, tmp_path):
    assert [style.tone for style in reasoner.recognize([tone(150, 0.5)], "response")] == [None]
    write_audio(tmp_path / "a.flac", tone(150, 0.5))
    (evidence,) = hear([Response("q", "s", audio="a.flac")], tmp_path, Ears(Words(), reasoner))
    assert (evidence.status, evidence.tone) == ("no_tone", "")
    assert evidence.providers["recognizer"].startswith("audio-reasoner-1-")
    query = Query("q", "p", "age", "test", "Hi.", {"age": "child"}, "T", "q.flac")
    verdict = LLMJudge(ScriptedLLM()).judge(query, query.style, evidence)  # it is not asked
    assert (verdict.score, verdict.status) == (None, "no_tone")


def test_its_description_reaches_the_evidence_when_the_reply_can_be_read(reasoner, tmp_path, monkeypatch):
    def generate(input_ids, **options):
        reply = reasoner.processor.tokenizer(f"{THOUGHT}<RESPONSE>Soft, calm</RESPONSE>", return_tensors="pt").input_ids
        return torch.cat([input_ids, reply.expand(len(input_ids), -1)], 1)

    monkeypatch.setattr(reasoner.model, "generate", generate)
    write_audio(tmp_path / "a.flac", tone(150, 0.5))
    (evidence,) = hear([Response("q", "s", audio="a.flac")], tmp_path, Ears(Words(), reasoner))
    assert (evidence.status, evidence.tone) == ("ok", "soft, calm")


class Words(Transcriber):
    name = "words"

    def write_down(self, audios):
        return ["hello there"] * len(audios)


def test_a_query_is_refused_and_a_missing_folder_is_one_line(reasoner):
    with pytest.raises(UserError, match="describes responses; got role 'query'"):
        reasoner.recognize([tone(150, 0.5)], "query")
    with pytest.raises(UserError, match="must be the folder of its weights; got /nowhere"):
        AudioReasoner("/nowhere")
