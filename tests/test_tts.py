"""eSpeak NG: the same words twice, styles that can be measured, words on the codec's frames, voices apart."""

from __future__ import annotations

import re
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
import torch
from scipy.signal import butter, freqz

from lightning_paras2s.audio import rms
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.tiny.features import pitch
from lightning_paras2s.speaking.espeak import Espeak, word_starts
from lightning_paras2s.speaking.synthesizers import (
    AGENT_PROSODY,
    QUERY_PROSODY,
    QUERY_VOICES,
    EspeakSynthesizer,
    Prosody,
    add_noise,
    align_words,
    shape,
    vary,
)
from lightning_paras2s.types import SPLITS, STYLES, TONES, Audio, Style

TEXT = "We sold the house I grew up in, and I packed the old garden chairs."
CENTRES = EspeakSynthesizer(variation=0, noise=False)
ADULTS = ("en-US+m3", "en-US+f5")


def manner(name: str) -> Style:
    return Style(sarcasm=name) if name in STYLES["sarcasm"] else Style(emotion=name)


def hertz(audio: Audio) -> float:
    """Median pitch."""
    f0, voiced = pitch(torch.from_numpy(audio.samples)[None])
    return float(100 * 2 ** f0[voiced > 0].median())


@pytest.fixture(scope="module")
def spoken() -> dict[tuple[str, str], Audio]:
    """Every query style at its centre, by a man and a woman."""
    return {(n, v): CENTRES.synthesize(TEXT, manner(n), v) for n in QUERY_PROSODY for v in ADULTS}


def twice(speak) -> bool:
    """Whether the same words sound the same after others were spoken between."""
    first = speak().samples
    CENTRES.synthesize("Something else entirely.", Style(emotion="angry"), "en-GB-x-rp+m4", 9)
    return np.array_equal(first, speak().samples)


SPEAKERS = {
    "agent": lambda: CENTRES.speak_as_agent(TEXT, "calm").audio,
    "user": lambda: EspeakSynthesizer().synthesize(TEXT, Style(emotion="sad"), "en-US+f5", 3),
}


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_samples_are_equal_whatever_was_spoken_before(speaker):
    assert twice(SPEAKERS[speaker])


def test_samples_differ_when_the_seed_does():
    audios = [EspeakSynthesizer().synthesize(TEXT, Style(emotion="sad"), "en-US+f5", seed) for seed in (1, 2)]
    assert len(audios[0].samples) != len(audios[1].samples)


@pytest.mark.parametrize("name", QUERY_PROSODY)
@pytest.mark.parametrize("voice", ADULTS)
def test_level_is_the_documented_one(spoken, name, voice):
    """`shape` levels speech to an RMS of 0.06, then adds the style's gain; clipping may take a little."""
    level = 20 * np.log10(rms(spoken[name, voice].samples) / 0.06)
    assert level == pytest.approx(QUERY_PROSODY[name].gain_db, abs=0.05)


@pytest.mark.parametrize("voice", ADULTS)
def test_styles_that_are_faster_take_less_time(spoken, voice):
    """eSpeak's rate counts words, not silence between clauses, so durations follow it within a quarter."""
    for slow, slow_prosody in QUERY_PROSODY.items():
        for fast, fast_prosody in QUERY_PROSODY.items():
            ratio = fast_prosody.rate / slow_prosody.rate
            if ratio > 1.1:
                measured = spoken[slow, voice].seconds / spoken[fast, voice].seconds
                assert 0.75 * ratio < measured < 1.25 * ratio, (slow, fast)


@pytest.mark.parametrize("voice", ADULTS)
def test_styles_that_are_higher_have_a_higher_pitch(spoken, voice):
    """Ranges move the median too; 20 points outweigh that. The roughness of disgust misleads a tracker."""
    names = [name for name in QUERY_PROSODY if name != "disgust"]
    pairs = [(a, b) for a in names for b in names if QUERY_PROSODY[b].pitch - QUERY_PROSODY[a].pitch >= 20]
    assert len(pairs) > 15
    for low, high in pairs:
        assert hertz(spoken[low, voice]) * 1.05 < hertz(spoken[high, voice]), (low, high)


def test_tones_of_the_agent_can_be_measured():
    audios = {tone: CENTRES.speak_as_agent(TEXT, tone).audio for tone in AGENT_PROSODY}
    assert tuple(AGENT_PROSODY) == TONES
    for tone, prosody in AGENT_PROSODY.items():
        assert 20 * np.log10(rms(audios[tone].samples) / 0.06) == pytest.approx(prosody.gain_db, abs=0.05)
    assert hertz(audios["empathetic"]) < hertz(audios["neutral"]) < hertz(audios["cheerful"]) < hertz(audios["excited"])
    assert audios["excited"].seconds < audios["neutral"].seconds < audios["empathetic"].seconds


def test_women_and_children_are_higher_than_men(spoken):
    man, woman = (spoken["neutral", voice] for voice in ADULTS)
    child = CENTRES.synthesize(TEXT, Style(age="child"), "en-US+f5/child")
    assert hertz(man) * 1.3 < hertz(woman) and hertz(woman) * 1.3 < hertz(child)


@pytest.mark.parametrize("tilt_db", [-6.0, 6.0])
def test_tilt_raises_what_lies_above_1_khz(tilt_db):
    """low + g (x - low), with low a first-order low-pass at 1 kHz: the gain at f is |H + g (1 - H)|."""
    time = np.arange(16_000) / 16_000
    mixed = Audio(
        (0.1 * np.sin(2 * np.pi * 100 * time) + 0.1 * np.sin(2 * np.pi * 5000 * time)).astype(np.float32), 16_000
    )
    spectrum = np.abs(np.fft.rfft(shape(mixed, Prosody(tilt_db=tilt_db)).samples))
    response = freqz(*butter(1, 1000, fs=16_000), worN=[100, 5000], fs=16_000)[1]
    gains = np.abs(response + 10 ** (tilt_db / 20) * (1 - response))
    assert spectrum[5000] / spectrum[100] == pytest.approx(gains[1] / gains[0], rel=0.01)  # the filter's first moments


def test_tremor_and_roughness_modulate_at_6_and_40_hz():
    flat = Audio(np.full(16_000, 0.1, np.float32), 16_000)
    for prosody, rate in ((Prosody(tremor=0.7), 6), (Prosody(roughness=0.7), 40)):
        samples = shape(flat, prosody).samples
        spectrum = np.abs(np.fft.rfft(samples - samples.mean()))
        assert spectrum.argmax() == rate
        assert samples.min() / samples.max() == pytest.approx(0.3, abs=0.001)  # 1 - depth


def test_variation_stays_in_the_styles_region():
    centre = QUERY_PROSODY["happy"]
    drawn = [vary(centre, np.random.default_rng(seed), 1.0) for seed in range(200)]
    assert vary(centre, np.random.default_rng(0), 0.0) == centre
    assert {p.tilt_db for p in drawn} == {centre.tilt_db}
    rates = np.array([p.rate for p in drawn]) / centre.rate
    assert rates.min() >= 0.84 - 1e-9 and rates.max() <= 1.16 + 1e-9 and rates.std() > 0.05  # 8 %, cut at 2 deviations
    assert all(0 <= p.pitch <= 99 and 0 <= p.range <= 99 for p in drawn)


@pytest.mark.parametrize("seed", range(5))
def test_noise_lies_15_to_40_db_below_and_level_moves_3_db(seed):
    speech = CENTRES.synthesize(TEXT, Style(), ADULTS[0])
    noisy = add_noise(speech, np.random.default_rng(seed)).samples.astype(np.float64)
    clean = speech.samples.astype(np.float64)
    gain = noisy @ clean / (clean @ clean)  # least squares: the noise is nearly orthogonal to the speech
    assert abs(20 * np.log10(gain)) < 3.2
    ratio = 20 * np.log10(gain * rms(clean) / rms(noisy - gain * clean))
    assert 14.8 < ratio < 40.2


def test_agent_words_start_on_codec_frames():
    for text in (TEXT, "I am so sorry about the end of the trip.", "Hooray!"):
        speech = EspeakSynthesizer().speak_as_agent(text, "excited")
        assert len(speech.onsets) == len(text.split()) and speech.onsets[0] == 0
        assert all(onset % 640 == 0 for onset in speech.onsets)
        assert all(after - before >= 640 for before, after in zip(speech.onsets, speech.onsets[1:], strict=False))
        assert speech.onsets[-1] < len(speech.audio.samples) and len(speech.audio.samples) % 640 == 0


def test_align_words_on_a_hand_worked_example():
    """1,000 loud samples, words at 0 and 300: frames of 640 hold 300 and 700 samples."""
    samples = np.ones(1000, np.float32)
    aligned, onsets = align_words(samples, [0, 300], 640, fade=10)
    assert onsets == [0, 640] and len(aligned) == 640 + 2 * 640
    assert aligned[1:299].all() and not aligned[300:640].any()  # fades begin and end at 0
    assert aligned[641:1339].all() and not aligned[1340:].any()
    assert (aligned[10:290] == 1).all() and (aligned[650:1330] == 1).all()
    assert align_words(samples, [0, None, 300], 640)[1] == [0, 640, 1280]


def test_align_words_cuts_trailing_silence_to_a_frame():
    samples = np.concatenate([np.ones(640, np.float32), np.zeros(6400, np.float32)])
    assert len(align_words(samples, [0], 640)[0]) == 1280


def test_word_starts_on_a_hand_worked_example():
    """eSpeak counts characters from 1; "of the" is one event for two words."""
    assert word_starts("end of the trip", [(1, 0), (5, 4000), (12, 9000)]) == [0, 4000, None, 9000]


def test_voices_of_splits_are_disjoint_and_of_every_kind():
    bases = {split: {voice.espeak for voice in QUERY_VOICES[split].values()} for split in SPLITS}
    assert not bases["train"] & bases["val"] and not bases["train"] & bases["test"] and not bases["val"] & bases["test"]
    assert sum(map(len, QUERY_VOICES.values())) >= 20
    for split in SPLITS:
        kinds = {(voice.age, voice.gender) for voice in QUERY_VOICES[split].values()}
        assert {("adult", "male"), ("adult", "female")} <= kinds and any(age == "child" for age, _ in kinds)


def test_voice_variants_exist_in_the_wheel():
    """eSpeak silently speaks in the plain voice where a variant is missing."""
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    wanted = {v.espeak.split("+")[1] for voices in QUERY_VOICES.values() for v in voices.values()}
    assert wanted <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "speak",
    [
        lambda: CENTRES.synthesize(TEXT, Style(), "nobody"),
        lambda: CENTRES.speak_as_agent(TEXT, "shouting"),
        lambda: Espeak.fresh().speak(TEXT, "xx-nowhere", Prosody(), 0),
        lambda: Style(emotion="bored"),
        lambda: Style(age="old"),
    ],
)
def test_unknown_voice_tone_or_style_is_one_line(speak):
    with pytest.raises(UserError, match="must be one of|must be 'agent'") as caught:
        speak()
    assert "got" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_voice_is_told_with_voices_that_are_there():
    with pytest.raises(UserError) as caught:
        EspeakSynthesizer().synthesize("Hello.", Style(), "en")
    told = re.findall(r"'([^']+)'", str(caught.value).partition("; got")[0])
    assert len(told) == 4 and set(told) <= {"agent", *(v for voices in QUERY_VOICES.values() for v in voices)}


def test_documented_table_is_the_prosody():
    """docs/embedded.md shows each style's centre: name, rate, pitch, range, level, tilt, tremor, roughness."""
    page = (Path(__file__).parents[1] / "docs/embedded.md").read_text()
    for table in (QUERY_PROSODY, AGENT_PROSODY):
        for name, p in table.items():
            values = (p.rate, p.pitch, p.range, p.gain_db, p.tilt_db, p.tremor, p.roughness)
            assert f"| {name} | " + " | ".join(f"{value:g}" for value in values) + " |" in page, name


def test_a_text_is_not_spoken_up_to_a_nul():
    """eSpeak NG takes text as C has it: "hello" was all that was heard of "hello\\0world"."""
    assert EspeakSynthesizer().unspeakable("say hello\0world") == "hello\0world"
    with pytest.raises(UserError, match="must hold no NUL"):
        EspeakSynthesizer().synthesize("say hello\0world", Style(), "en-US+m1")
