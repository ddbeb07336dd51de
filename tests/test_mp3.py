"""MP3 as servers stream and join it: all of its sound is read, by files and by answers, and what is cut is told."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from lightning_paras2s.audio import read_audio, seconds_of
from lightning_paras2s.bench.queries.decode import Unheard, decode
from lightning_paras2s.errors import UserError
from lightning_paras2s.mp3 import all_stated, stream
from lightning_paras2s.servers.spoken import read_sound

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
DELAY = 1152 + 529  # samples by which encoder and decoder may make a stream longer or shorter


def speech(rate: int) -> np.ndarray:
    """A second of noise, one of silence, one of a tone: a variable bit rate begins high."""
    noise = np.random.default_rng(0).normal(0, 0.1, rate)
    return np.concatenate([noise, np.zeros(rate), 0.3 * np.sin(np.arange(rate) / 9)]).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, mode: str = "VARIABLE") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return file.getvalue()


def without_header(body: bytes) -> bytes:
    """As it comes from a pipe."""
    return body[stream(body).sound :]


def held(body: bytes) -> int:
    with soundfile.SoundFile(io.BytesIO(body)) as file:
        return len(file.read())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_all_of_a_stream_without_a_header_is_read(rate, channels):
    samples = np.repeat(speech(rate)[:, None], channels, 1)
    body = without_header(encoded(samples, rate))
    assert held(body) < 0.8 * len(samples)  # what libsndfile makes of it
    assert abs(held(all_stated(body)) - len(samples)) <= DELAY
    assert all_stated(all_stated(body)) == all_stated(body)


def test_what_states_its_length_or_has_one_bit_rate_is_read_as_ever():
    whole = encoded(speech(16_000), 16_000)
    constant = encoded(speech(16_000), 16_000, "CONSTANT")
    for body in (whole, constant, without_header(constant), whole[:-3000], b"RIFF....WAVE", b"", b"\xff", b"ID3"):
        assert all_stated(body) is body


def test_pieces_that_were_joined_are_all_read():
    """Each has a header, and the first states the first."""
    parts = [encoded(speech(24_000)[: n * 8000], 24_000) for n in (4, 7, 9)]
    assert held(b"".join(parts)) == 4 * 8000
    assert abs(held(all_stated(b"".join(parts))) - 20 * 8000) <= 3 * DELAY


def test_files_and_answers_hold_all_of_it_behind_a_tag(tmp_path):
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + b"\xff\xfb" * 64
    body = tag + without_header(encoded(speech(24_000), 24_000)) + b"TAG".ljust(128, b"\0")
    (tmp_path / "a.mp3").write_bytes(body)
    assert seconds_of(tmp_path / "a.mp3") == pytest.approx(3, abs=0.1)
    read = read_audio(tmp_path / "a.mp3", 24_000)
    for found in (read, read_sound(body, "mp3", 0)):
        assert found.seconds == pytest.approx(3, abs=0.1) and found.samples[-12_000:].std() > 0.15
    assert decode(lambda: (tmp_path / "a.mp3").open("rb")).seconds == pytest.approx(3, abs=0.1)


def test_an_answer_that_is_cut_is_told():
    body = encoded(speech(24_000), 24_000)
    with pytest.raises(ValueError, match=r"speech is cut: \d+ of 127 frames"):
        read_sound(body[: len(body) * 2 // 3], "mp3", 0)
    assert read_sound(body, "mp3", 0).seconds == 3


def test_what_stands_between_a_header_and_the_sound_is_left_out():
    """It is no frame, and the header that is made is one like the sound's."""
    body = encoded(speech(24_000), 24_000)
    sound = stream(body).sound
    odd = body[:sound] + b"\0" * 100 + body[sound:] + body[sound:]
    assert held(all_stated(odd)) == pytest.approx(2 * 3 * 24_000, abs=2 * DELAY)


@pytest.mark.parametrize("begins", [b"\xff", b"\xff\xfb", b"\xff\xf3\x18\xc4" + b"\0" * 9 + b"Xing\0\0\0\1\0\0"])
def test_a_file_that_only_begins_like_one_is_refused_as_any_other(begins, tmp_path):
    (tmp_path / "a.mp3").write_bytes(begins)
    with pytest.raises(UserError, match="audio must be"):
        read_audio(tmp_path / "a.mp3", 16_000)
    with pytest.raises(Unheard):
        decode(lambda: (tmp_path / "a.mp3").open("rb"))
    with pytest.raises(ValueError, match="no sound"):
        read_sound(begins, "mp3", 0)


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_nothing_breaks_it(noise, place):
    body = encoded(np.zeros(8000, np.float32), 16_000)
    for made in (noise, b"\xff\xfb" + noise, b"ID3" + noise, body[:place] + noise + body[place:]):
        assert isinstance(all_stated(made), bytes)
