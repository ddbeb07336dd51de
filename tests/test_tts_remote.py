"""Synthesizers behind servers, against loopback."""

from __future__ import annotations

import io
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from loopback import Loopback, Sent

from lightning_paras2s.bench.queries.synthesize import synthesize, synthesizer_sha
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat, Reply
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.speaking.altered import AlteredSynthesizer
from lightning_paras2s.speaking.prompted import CosyVoice, YourTTS, read_pcm
from lightning_paras2s.speaking.remote import OPENAI_VOICES, OpenAITTS
from lightning_paras2s.types import Query, Style, read_jsonl

QUICK = Patience(retries=3, timeout_seconds=2.0, first_wait_seconds=0.01, longest_wait_seconds=1.0)
TONE = (0.3 * np.sin(np.arange(12_000) * 0.2)).astype(np.float32)  # half a second at 24 kHz


def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, TONE, 24_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Director(ChatLLM):
    name = "director"

    def complete(self, conversations):
        return [Reply("Low and slow.") if "sad" in c[0]["content"] else Reply(None, "timeout") for c in conversations]


def test_openai_tts_sends_the_description_and_survives_failures_when_it_speaks():
    def answer(path, body, times):
        if times == 3:
            return Sent(200, wav()[:-1000])  # all that was announced, and yet not all of the speech
        return Sent(500, b"") if times == 1 else Sent(200, wav(), cut=60 if times == 2 else None)

    with Loopback(answer) as server:
        tts = OpenAITTS(base_url=server.url, describer=Director(), patience=QUICK)
        audio = tts.synthesize("It rains.", Style(emotion="sad"), "sage")
        assert audio.sample_rate == 24_000 and np.abs(audio.samples - TONE).max() < 1e-4  # 16 bits: 3e-5
        path, body, _ = server.requests[-1]
        sent = json.loads(body)
        assert path == "/v1/audio/speech" and len(server.requests) == 4
        assert (sent["voice"], sent["input"], sent["instructions"]) == ("sage", "It rains.", "Low and slow.")
        assert tts.try_synthesize("It rains.", Style(emotion="happy"), "sage") == (None, "description_timeout")


def test_openai_voices_are_disjoint_when_splits_are_compared():
    names = [name for voices in OPENAI_VOICES.values() for name in voices]
    assert len(set(names)) == len(names)
    assert all(set(voices.values()) == {"male", "female"} for voices in OPENAI_VOICES.values())


@pytest.fixture
def speakers(tmp_path):
    soundfile.write(tmp_path / "kid.wav", TONE, 24_000)
    rows = [
        {
            "name": f"{split}-{gender}-{age}",
            "split": split,
            "gender": gender,
            "age": age,
            "audio": "kid.wav",
            "text": "Hi.",
        }
        for split in ("train", "test")
        for gender, age in (("male", "adult"), ("female", "adult"), ("female", "child"))
    ]
    path = tmp_path / "voices.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_cosyvoice_sends_the_speakers_recording_when_synthesize_uses_it(speakers, tmp_path):
    pcm = (TONE * 32767).astype("<i2").tobytes()
    with Loopback(lambda path, body, times: Sent(200, pcm)) as server:
        tts = CosyVoice(str(speakers), server.url.removesuffix("/v1"), 24_000, patience=QUICK)
        table = synthesize(str(tmp_path / "out"), factors=["age", "gender"], limit=2, synthesizer=tts)
    assert table["statuses"] == {"ok": 8}
    assert {path for path, _, _ in server.requests} == {"/inference_zero_shot"}
    assert all(b"RIFF" in body and b"Hi." in body for _, body, _ in server.requests)
    queries = read_jsonl(tmp_path / "out/queries.jsonl", Query)
    assert all(q.voice.startswith("test-") for q in queries)
    assert all(q.styles["age"] == ("child" if "child" in q.voice else "adult") for q in queries)


def test_a_folder_is_refused_when_its_recorded_speakers_are_others(speakers, tmp_path):
    """The list is the same file; its recordings may move, and the server, but must hold the same speech."""
    pcm = (TONE * 32767).astype("<i2").tobytes()

    def speak(url: str, place=speakers, concurrency: int = 2):
        tts = CosyVoice(str(place), url.removesuffix("/v1"), 24_000, concurrency, patience=QUICK)
        return synthesize(str(tmp_path / "out"), factors=["gender"], limit=1, synthesizer=tts)

    with Loopback(lambda path, body, times: Sent(200, pcm)) as server:
        speak(server.url)
    with Loopback(lambda path, body, times: Sent(200, pcm)) as server:
        (tmp_path / "moved").mkdir()
        moved = [shutil.copy(speakers.parent / name, tmp_path / "moved") for name in ("kid.wav", speakers.name)]
        assert speak(server.url, moved[1], concurrency=1)["resumed"] == 2 and not server.requests
        soundfile.write(moved[0], TONE[::-1], 24_000)
        with pytest.raises(UserError, match="one setting of synthesizer_sha;"):
            speak(server.url, moved[1])
        told = speakers.read_text()
        speakers.write_text(told.replace("Hi.", "Bye."))
        with pytest.raises(UserError, match="one setting of synthesizer_sha;"):
            speak(server.url)
        speakers.write_text(told)
        assert speak(server.url)["resumed"] == 2 and not server.requests


def test_a_synthesizer_is_another_with_another_describer_and_the_same_at_another_address(tmp_path):
    one = OpenAITTS()
    elsewhere = OpenAITTS(base_url="http://127.0.0.1:1/v1", api_key_env="MINE", concurrency=1, patience=QUICK)
    assert synthesizer_sha(elsewhere) == synthesizer_sha(one)
    models = [OpenAIChat(model, cache_dir=str(tmp_path)) for model in ("gpt-4.1", "gpt-4.1-mini")]
    others = [OpenAITTS(describer=describer) for describer in (Director(), *models)]
    assert len({synthesizer_sha(tts) for tts in (one, *others, *map(AlteredSynthesizer, (one, *others)))}) == 8


def test_samples_are_refused_when_they_are_an_error_or_cut():
    for body in (b'{"detail": "out of memory"}' + b" " * 5000, b"\x00" * 9999, b"\x00\x01"):
        with pytest.raises(ValueError):
            read_pcm(body, 24_000)


def test_prompt_voices_are_one_clear_line_when_a_recording_is_missing(speakers):
    (speakers.parent / "kid.wav").unlink()
    with pytest.raises(UserError, match="must have a split of train, val, test and a recording"):
        CosyVoice(str(speakers))


def test_a_recorded_voice_is_known_by_its_speakers_and_settings_not_by_its_server(speakers):
    """Its rate, its speakers' words and recordings decide how it sounds; where the server is does not."""
    before = part_sha(CosyVoice(str(speakers)))
    assert before == part_sha(CosyVoice(str(speakers), "http://127.0.0.1:1", concurrency=9))
    shas = {before, part_sha(CosyVoice(str(speakers), sample_rate=24_000))}
    speakers.write_text(speakers.read_text().replace("Hi.", "Bye."))
    shas.add(part_sha(CosyVoice(str(speakers))))
    soundfile.write(speakers.parent / "kid.wav", TONE / 2, 24_000)
    shas.add(part_sha(CosyVoice(str(speakers))))
    assert len(shas) == 4
    elsewhere = speakers.parent / "copy"
    elsewhere.mkdir()
    for file in (speakers, speakers.parent / "kid.wav"):
        (elsewhere / file.name).write_bytes(file.read_bytes())
    assert part_sha(CosyVoice(str(elsewhere / speakers.name))) in shas


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_a_model_of_the_package_tts_speaks_at_its_own_rate(tmp_path, monkeypatch, rate):
    """XTTS speaks at 24 kHz: taken for YourTTS's 16, it was slower and deeper. The package is as its writer made it:
    `TTS.api.TTS` holds a `Synthesizer` with `output_sample_rate`."""

    class TTS:
        def __init__(self, model: str) -> None:
            self.synthesizer = SimpleNamespace(output_sample_rate=rate)

        def tts(self, text: str, speaker_wav: str, language: str) -> list[float]:
            return [0.0] * rate

    monkeypatch.setitem(sys.modules, "TTS", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "TTS.api", SimpleNamespace(TTS=TTS))
    (tmp_path / "a.wav").write_bytes(wav())
    row = {"name": "ann", "split": "test", "gender": "female", "age": "adult", "audio": "a.wav", "text": "hi"}
    (tmp_path / "voices.jsonl").write_text(json.dumps(row))
    assert YourTTS(str(tmp_path / "voices.jsonl"), "some/model").synthesize("hi", Style(), "ann").seconds == 1
