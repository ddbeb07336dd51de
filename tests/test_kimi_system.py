"""`evaluate` of Kimi-Audio on tiny random instances of every part, read from folders laid out as the releases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from beeps import BeepRecognizer, BeepTranscriber
from tiny_models import write_models

from lightning_paras2s.audio import read_audio, write_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.systems.policy import PolicySystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.models.kimi.processor import KimiProcessor
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.running.origins import weights_sha
from lightning_paras2s.types import Audio, Query, Response, read_jsonl

ACTS = str(Path(__file__).parents[1] / "checkpoints/embedded/acts.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab")
    write_models(path)
    return path


def system(folder, **more) -> PolicySystem:
    settings = {"sampling": Sampling(24, 0.0, 0.8), "device": "cpu", "dtype": "float32"} | more
    kimi = str(folder / "Kimi-Audio-7B-Instruct")
    voice = {"dtype": settings["dtype"], **settings.pop("voice", {})}
    processor = KimiProcessor(kimi, str(folder / "glm-4-voice-tokenizer"), **voice)
    return PolicySystem(settings.pop("policy", kimi), processor, **settings)


def query(i: int) -> Query:
    styles = {"sarcasm": ("sincere", "sarcastic")[i % 2]}
    return Query(f"q{i}", f"p{i // 2}", "sarcasm", "test", "so nice", styles, "rain", f"q{i}.wav")


def hiss(seconds: float, seed: int = 0) -> Audio:
    return Audio((np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32), 16_000)


def bench(folder: Path, *seconds: float) -> dict:
    """Two queries and what else `evaluate` needs."""
    for i, length in enumerate(seconds):
        write_audio(folder / f"q{i}.wav", hiss(length, i))
    lines = [json.dumps(query(i).__dict__) + "\n" for i in range(len(seconds))]
    (folder / "queries.jsonl").write_text("".join(lines))
    given = {"manifest": str(folder / "queries.jsonl"), "judge": EmbeddedJudge(ACTS), "output": str(folder / "out")}
    return given | {"transcriber": BeepTranscriber(["yes", "no"]), "recognizer": BeepRecognizer()}


def test_evaluate_hears_speaks_and_judges_from_released_folders(folder, tmp_path):
    given = bench(tmp_path, 0.4, 0.9)
    result = evaluate(systems={"kimi": system(folder)}, **given)
    responses = read_jsonl(tmp_path / "out" / "responses.jsonl", Response)
    assert [r.query_id for r in responses] == ["q0", "q1"] and result["systems"]["kimi"]["overall"]["n"] >= 0
    for response in responses:
        spoken = read_audio(tmp_path / "out" / response.audio, 24_000)
        assert response.status in ("ok", "truncated") and response.latency["total_seconds"] > 0
        assert len(spoken.samples) % 1920 == 0 and 0 < len(spoken.samples) <= 1920 * (24 - 6)  # at most 18 codes
        assert spoken.samples.std() > 0
    again = evaluate(systems={"kimi": system(folder)}, **given)
    assert again["systems"] == result["systems"]


def test_an_answer_depends_on_its_query_and_sample_alone(folder):
    kimi, queries, audios = system(folder), [query(0), query(1)], [hiss(0.4), hiss(1.1, 1)]
    together = kimi.respond(queries, audios, 0)
    for q, audio, answer in zip(queries, audios, together):
        (alone,) = kimi.respond([q], [audio], 0)
        assert alone.text == answer.text and alone.status == answer.status
        assert np.abs(alone.audio.samples - answer.audio.samples).max() < 1e-4  # vocoder of another batch size
    (other,) = kimi.respond(queries[:1], audios[:1], 1)
    assert len(other.audio.samples) != len(together[0].audio.samples) or not np.allclose(
        other.audio.samples, together[0].audio.samples, atol=1e-3
    )


@torch.no_grad()
def test_speech_over_30_seconds_is_heard_in_chunks(folder):
    """31 s: 375 codes of the first 30 s, ceil(12.5) = 13 of the last, as each chunk gives alone; so the features."""
    tokenizer, wav = system(folder).processor.ears, hiss(31).samples
    whole, *parts = (Audio(w, 16_000) for w in (wav, wav[: 30 * 16_000], wav[30 * 16_000 :]))
    (codes, features), *heard = tokenizer.listen([whole, *parts], "cpu")
    assert len(codes) == len(features) == 375 + 13
    assert torch.equal(codes, torch.cat([c for c, _ in heard]))
    assert (features - torch.cat([f for _, f in heard])).abs().max() < 1e-5


def test_a_query_too_long_is_refused_before_weights_are_read(folder):
    """256 positions here: 6 marks + ceil(12.5 * 20) = 250 codes + 24 steps = 280."""
    kimi = system(folder)
    with pytest.raises(UserError, match="must fit in 256 positions .*; got 280 for 'q0'"):
        kimi.respond([query(0)], [hiss(20)], 0)
    assert "policy" not in vars(kimi)


def test_evaluate_asks_nothing_when_one_query_is_too_long(folder, tmp_path):
    kimi = system(folder)
    with pytest.raises(UserError, match="got 280 for 'q1'"):
        evaluate(systems={"kimi": kimi}, batch_size=1, **bench(tmp_path, 0.4, 20))
    assert "policy" not in vars(kimi) and not (tmp_path / "out" / "responses.jsonl").exists()


def test_half_a_tokenizer_is_read_when_half_is_asked_for(folder):
    folders = (str(folder / "Kimi-Audio-7B-Instruct"), str(folder / "glm-4-voice-tokenizer"))
    voice = KimiProcessor(*folders, ode_points=2, chunk_codes=60).voice
    assert (voice.glm4, voice.whisper) == (None, None)
    assert (voice.detokenizer.flow.config.ode_points, voice.detokenizer.flow.config.chunk_codes) == (2, 60)
    assert next(voice.detokenizer.flow.parameters()).dtype == torch.bfloat16
    wav, counts = voice.decode(torch.full((1, 50), 256), torch.tensor([50]))
    assert wav.dtype == torch.float32 and counts.tolist() == [50 * 1920]
    ears = KimiProcessor(*folders).ears
    ((codes, features),) = ears.listen([hiss(0.4)], "cpu")
    assert ears.detokenizer is None and len(codes) == 5 and features.dtype == torch.bfloat16


def test_what_answers_depend_on_is_in_the_fingerprint(folder, tmp_path):
    plain = system(folder)
    assert system(folder).config_sha == plain.config_sha
    assert system(folder, seed=1).config_sha != plain.config_sha
    assert system(folder, sampling=Sampling(24, 0.0, 0.7)).config_sha != plain.config_sha
    voices = [{"dtype": "bfloat16"}, {"seed": 1}, {"ode_points": 2}, {"chunk_codes": 60}]
    assert len({plain.config_sha, *(system(folder, voice=voice).config_sha for voice in voices)}) == 5
    (tmp_path / "w.safetensors").write_bytes(b"a" * 300_000)
    before = weights_sha(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"a" * 299_999 + b"b")
    assert weights_sha(tmp_path) != before


def test_errors_are_one_clear_line(folder, tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="got 'cuda' without CUDA"):
            system(folder, device="cuda")
    with pytest.raises(UserError, match="config.json; it is missing"):
        system(folder, policy=str(tmp_path))
