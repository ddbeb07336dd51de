"""Waveforms: what comes in at the edge is mended or refused in one line, and what goes out is whole."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.signal import resample_poly
from sounds import loudest_hertz

from lightning_paras2s.audio import (
    at_rate,
    in_range,
    is_silent,
    mono,
    read_audio,
    resample,
    rms,
    silence_fraction,
    to_int16,
    write_audio,
)
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Audio


def tone(rate: int, hertz: float = 220.0, seconds: float = 0.5, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_read_gives_16_khz_at_the_same_pitch_and_level_when_the_rate_differs(tmp_path, rate):
    audio = read_audio(write(tmp_path / "a.wav", tone(rate), rate), 16_000)
    assert audio.sample_rate == 16_000 and audio.samples.dtype == np.float32
    assert abs(len(audio.samples) - 8_000) <= 1
    assert loudest_hertz(audio) == pytest.approx(220, abs=2)  # bins of 2 Hz
    middle = audio.samples[1_000:7_000]
    assert rms(middle) == pytest.approx(0.5 / 2**0.5, rel=0.01)  # a sine's RMS; the filter's ripple is under 1 %


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_read_folds_nothing_back_when_the_tone_lies_above_the_new_band(tmp_path, rate):
    audio = read_audio(write(tmp_path / "a.wav", tone(rate, 11_000), rate), 16_000)
    assert rms(audio.samples[500:-500]) < 0.01 * 0.35  # 40 dB down; unfiltered it would fold to 5 kHz at full level


def test_read_averages_when_stereo(tmp_path):
    left = tone(16_000)
    both = read_audio(write(tmp_path / "a.wav", np.stack([left, 0 * left], 1), 16_000), 16_000)
    assert np.abs(both.samples - left / 2).max() < 2 / 32768  # one step of 16 bits


def test_read_keeps_the_loudest_channel_when_the_mean_would_lose_it(tmp_path):
    """Channels of opposite sign cancelled, and a quiet centre of 5.1 (RMS .0035, a sixth of it below -60 dBFS) was
    silent."""
    left = tone(16_000)
    opposite = read_audio(write(tmp_path / "b.wav", np.stack([left, -left], 1), 16_000), 16_000)
    assert np.abs(opposite.samples - left).max() < 2 / 32768
    surround = np.zeros((8_000, 6), np.float32)
    surround[:, 2] = tone(16_000, level=0.005)
    centre = read_audio(write(tmp_path / "c.wav", surround, 16_000), 16_000)
    assert not is_silent(centre) and np.abs(centre.samples - surround[:, 2]).max() < 2 / 32768
    hall = 0.3 * np.random.default_rng(0).standard_normal((8_000, 2)).astype(np.float32)  # the mean is .7 as loud
    assert np.array_equal(mono(hall), hall.mean(1))


@pytest.mark.parametrize("scale", [2**15, 2**23, 2**31])
def test_read_scales_a_float_file_on_an_integer_scale_with_one_line_a_folder(tmp_path, capsys, scale):
    """A peak of 18,944 was cut to a square wave at 1."""
    for name in "ab":
        write(tmp_path / f"{name}.wav", tone(16_000) * scale, 16_000, "FLOAT")
        assert np.abs(read_audio(tmp_path / f"{name}.wav", 16_000).samples - tone(16_000)).max() < 1e-6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and str(tmp_path / "a.wav") in said[0] and f"divided by {scale:g}" in said[0]


@pytest.mark.parametrize("peak", [1.02, 3.0])
def test_read_scales_a_loud_float_file_by_its_peak(tmp_path, capsys, peak):
    loud = tone(16_000, level=peak)
    heard = read_audio(write(tmp_path / "a.wav", loud, 16_000, "FLOAT"), 16_000).samples
    assert np.abs(heard - loud / np.abs(loud).max()).max() < 1e-6 and "a.wav" in capsys.readouterr().err


def test_read_says_nothing_when_the_file_is_in_range(tmp_path, capsys):
    read_audio(write(tmp_path / "a.wav", tone(16_000, level=1.0), 16_000), 16_000)
    assert capsys.readouterr().err == ""


def test_a_square_wave_at_full_scale_does_not_overshoot_when_resampled():
    """The filter's ripple took 48 kHz at full scale to 1.1 and more, which wrapped around as 16-bit integers."""
    square = np.sign(tone(48_000))
    assert np.abs(resample_poly(square, 1, 3)).max() > 1.02
    heard = resample(Audio(square, 48_000), 16_000).samples
    assert np.abs(heard).max() <= 1
    strong = np.abs(heard) > 0.5
    assert (np.sign(to_int16(heard)) == np.sign(heard))[strong].all()


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([1.0, 1.3, 20.0, 18_944.0, 2.0**15, 2.0**23, 2.0**31, 3e38]),
    st.sampled_from([8_000, 16_000, 22_050, 48_000]),
)
def test_any_float_audio_ends_in_range_without_sign_flips(samples, level, rate):
    loud = samples * np.float32(level)
    scaled, scale = in_range(loud)
    assert scaled.dtype == np.float32 and np.abs(scaled).max() <= 1 and scale >= 1
    assert (scaled * loud >= 0).all()  # no sign turns
    assert np.abs(scaled - loud.astype(np.float64) / scale).max() < 1e-6  # and nothing but the level changes
    assert (to_int16(loud).astype(np.float64) * loud >= 0).all()
    assert np.abs(resample(Audio(scaled, rate), 16_000).samples).max(initial=0) <= 1


def test_read_keeps_the_samples_when_clipped(tmp_path):
    square = np.clip(8 * tone(16_000), -1, 1)
    audio = read_audio(write(tmp_path / "a.wav", square, 16_000), 16_000)
    assert np.abs(audio.samples - square).max() < 2 / 32768
    clipped = 1 - 2 * np.arcsin(1 / 4) / np.pi  # of a sine with amplitude 4
    assert np.isclose(np.abs(audio.samples), 1, atol=1e-4).mean() == pytest.approx(clipped, abs=0.01)


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / "bad.wav"
    good = write(folder / "good.wav", tone(8_000), 8_000).read_bytes()
    if kind == "a folder":
        path.mkdir()
    elif kind == "no bytes":
        path.touch()
    elif kind == "no samples":
        write(path, np.zeros(0, np.float32), 8_000)
    elif kind == "text":
        path.write_text("this is no audio\n" * 100)
    elif kind == "a cut header":
        path.write_bytes(good[:20])
    elif kind == "not a number":
        write(path, np.array([0.0, np.nan, 0.0], np.float32), 8_000, "FLOAT")
    elif kind == "over-long":
        write(path, np.zeros(8_000 * 61, np.float32), 8_000)
    return path


@pytest.mark.parametrize(
    "kind, must",
    [
        ("missing", "must be an existing file"),
        ("a folder", "must be an existing file"),
        ("no bytes", "must be readable"),
        ("no samples", "at least one sample"),
        ("text", "must be readable"),
        ("a cut header", "must be readable"),
        ("not a number", "must be finite"),
        ("over-long", "at most 60 s; got 61.0 s"),
    ],
)
def test_read_fails_with_one_line_when_the_file_is_bad(tmp_path, kind, must):
    path = bad_file(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        read_audio(path, 16_000)
    message = str(caught.value)
    assert must in message and "got" in message and str(path) in message and "\n" not in message


def wav(samples: np.ndarray, stated: int, behind: bytes = b"") -> bytes:
    """A 16-bit file at 16 kHz whose header states so many bytes of sound."""
    sound = (samples * 32767).astype("<i2").tobytes()
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    inner = b"WAVE" + form + b"data" + struct.pack("<I", stated) + sound + behind
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


SECOND = tone(16_000, seconds=1.0)  # 32,000 bytes
LIST = b"LIST" + struct.pack("<I", 10) + b"INFOIART\0\0"


@pytest.mark.parametrize(
    ("stated", "behind", "seconds", "told"),
    [
        (32_000, b"", 1.0, ""),
        (32_000, LIST, 1.0, ""),  # what else a WAV may hold
        (32_000, bytes(512), 1.0, ""),  # padding
        (0x7FFFF000, b"", 1.0, ""),  # from a pipe
        (8_000, b"", 0.25, "states 0.75 s less than the file holds"),
        (48_000, b"", 1.0, "states 0.50 s more than the file holds"),
    ],
)
def test_read_tells_when_a_wav_holds_other_than_its_header_states(tmp_path, capsys, stated, behind, seconds, told):
    (tmp_path / "a.wav").write_bytes(wav(SECOND, stated, behind))
    for _ in range(2):
        assert read_audio(tmp_path / "a.wav", 16_000).seconds == pytest.approx(seconds, abs=1e-3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == bool(told)
    assert not told or (str(tmp_path / "a.wav") in said[0] and told in said[0])


@pytest.mark.parametrize(
    ("held", "must"),
    [
        (wav(SECOND, 0), "at least one sample; got none in"),  # never closed: its header states no sound at all
        (wav(SECOND, 32_000, wav(SECOND, 32_000)), "must be readable"),  # two files in one
    ],
)
def test_read_refuses_a_wav_of_which_no_more_can_be_said(tmp_path, held, must):
    (tmp_path / "a.wav").write_bytes(held)
    with pytest.raises(UserError, match=f"{must}.*a.wav"):
        read_audio(tmp_path / "a.wav", 16_000)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".wav"])
def test_no_cut_file_is_read_in_silence(tmp_path, capsys, suffix):
    """Half of the bytes, as of a copy that was stopped: refused, or told with what is missing."""
    whole = tmp_path / f"whole{suffix}"
    soundfile.write(whole, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    assert read_audio(whole, 16_000).seconds == 1 and not capsys.readouterr().err
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    try:
        read_audio(cut, 16_000)
        assert f"{cut}: its header states" in capsys.readouterr().err
    except UserError as error:
        assert str(cut) in str(error)


@pytest.mark.parametrize("kind", ["OPUS", "VORBIS"])
def test_an_ogg_that_lacks_its_last_pages_is_told(tmp_path, capsys, kind):
    """Cut between two pages, or within one: eight seconds passed for less, in silence."""
    whole, cut = tmp_path / "whole.ogg", tmp_path / "cut.ogg"
    soundfile.write(whole, np.random.default_rng(0).uniform(-0.4, 0.4, 8 * 48_000), 48_000, format="OGG", subtype=kind)
    assert read_audio(whole, 16_000).seconds == pytest.approx(8) and not capsys.readouterr().err
    body = whole.read_bytes()
    starts = [place for place in range(len(body)) if body.startswith(b"OggS\0", place)]
    assert len(starts) > 8
    for number, end in enumerate((starts[-1], starts[len(starts) // 2], starts[-1] + 20, starts[-1] + 400)):
        place = cut.with_stem(f"cut{number}")
        place.write_bytes(body[:end])
        assert read_audio(place, 16_000).seconds < 7.9
        assert capsys.readouterr().err.count(f"{place}: its last Ogg page is not marked as the end") == 1


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_write_gives_the_samples_back_and_leaves_no_part(tmp_path, suffix):
    samples = tone(16_000) * 3  # beyond full scale: scaled, neither wrapped nor cut
    path = tmp_path / "new" / f"a{suffix}"
    write_audio(path, Audio(samples, 16_000))
    assert np.abs(read_audio(path, 16_000).samples - samples / np.abs(samples).max()).max() < 2 / 32768
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_write_refuses_what_is_not_finite(tmp_path, suffix, bad):
    """One NaN made all of a recording -1, at exit code 0."""
    samples = np.where(np.arange(8_000) == 100, bad, tone(16_000)).astype(np.float32)
    with pytest.raises(UserError, match="must be finite to be written"):
        write_audio(tmp_path / f"a{suffix}", Audio(samples, 16_000))
    with pytest.raises(UserError, match="must be finite to be written"):
        to_int16(samples)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_no_part_of_a_recording_is_written_to_a_disk_that_takes_no_more(tmp_path, suffix):
    """Wherever the disk is full: FLAC's last frames and its header are written when it is closed."""
    audio = Audio(tone(16_000), 16_000)
    write_audio(tmp_path / f"whole{suffix}", audio)
    size = (tmp_path / f"whole{suffix}").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in [*range(0, size, size // 16), size - 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_audio(tmp_path / f"a{suffix}", audio)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == [f"whole{suffix}"]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("old", "new"), [(22_050, 16_000), (24_000, 16_000), (16_000, 24_000), (48_000, 16_000), (8_000, 8_000)]
)
def test_the_remembered_filter_is_the_one_that_scipy_designs(old, new, kind):
    samples = np.random.default_rng(0).standard_normal(4_000).astype(kind)
    common = np.gcd(old, new)
    peer = resample_poly(samples, new // common, old // common).astype(np.float32)
    np.testing.assert_array_equal(at_rate(samples, old, new), peer)


def test_resample_returns_the_same_object_when_there_is_nothing_to_do():
    audio = Audio(tone(16_000), 16_000)
    assert resample(audio, 16_000) is audio


def test_silence_is_told_by_level_and_by_length():
    assert is_silent(Audio(np.zeros(16_000, np.float32), 16_000))
    assert is_silent(Audio(np.zeros(0, np.float32), 16_000))
    assert is_silent(Audio(tone(16_000, level=0.001), 16_000))  # -63 dBFS
    assert not is_silent(Audio(tone(16_000, level=0.002), 16_000))  # -57 dBFS
    assert is_silent(Audio(tone(16_000, seconds=0.09), 16_000))


def test_silence_fraction_counts_quiet_windows():
    audio = Audio(np.concatenate([tone(16_000), 0.001 * tone(16_000), tone(16_000), tone(16_000)]), 16_000)
    assert silence_fraction(audio) == pytest.approx(0.25)
    assert silence_fraction(Audio(np.zeros(100, np.float32), 16_000)) == 1.0
