"""`TinyTokenizer`: codes are values and back, whatever the batch; lengths add up; the shipped codec keeps its tone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_paras2s.models.tiny.features import MELS, acoustics, acoustics_of, vocode
from lightning_paras2s.models.tiny.tokenizer import FSQ, TinyTokenizer
from lightning_paras2s.speaking.codec import decode_codes, through_codec
from lightning_paras2s.speaking.synthesizers import EspeakSynthesizer
from lightning_paras2s.types import Audio

SHIPPED = Path(__file__).parents[1] / "checkpoints/embedded/tokenizer.safetensors"
FRAME = 640


@pytest.fixture(scope="module")
def tokenizer() -> TinyTokenizer:
    torch.manual_seed(0)
    return TinyTokenizer(levels=(4, 3, 3), width=16).eval()


@pytest.fixture(scope="module")
def shipped() -> TinyTokenizer:
    return TinyTokenizer.load(SHIPPED)


def noise(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(size, generator=generator) for size in sizes]


def batch(waves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(w) for w in waves])


@pytest.mark.parametrize("levels", [(8, 8, 8, 8), (4, 3, 3), (2, 5)])
def test_every_code_is_its_values_and_back(levels):
    quantizer = FSQ(levels)
    codes = torch.arange(math.prod(levels))
    values = quantizer.values(codes)
    assert values.min() == -1 and values.max() == 1
    assert len(values.unique(dim=0)) == len(codes)
    # tanh reaches the outermost levels only in the limit; anything nearer to them than to the next rounds to them.
    quantised, found = quantizer(torch.atanh(values.clamp(-0.999, 0.999)))
    assert torch.equal(found, codes) and torch.allclose(quantised, values, atol=1e-5)


def test_code_is_mixed_radix_with_the_first_dimension_fastest():
    """Levels (4, 3): code 6 = 2 + 4 * 1, so level 2 of 4 and level 1 of 3: (2 - 1.5) / 1.5 and (1 - 1) / 1."""
    values = FSQ((4, 3)).values(torch.tensor([6]))
    assert torch.allclose(values, torch.tensor([[1 / 3, 0.0]]), atol=1e-6)


def test_rounding_passes_the_gradient_of_tanh():
    z = torch.tensor([[0.3, -0.7]], requires_grad=True)
    FSQ((8, 8))(z)[0].sum().backward()
    assert torch.allclose(z.grad, 1 - torch.tanh(z.detach()).square(), atol=1e-6)


def test_codes_do_not_depend_on_the_batch(tokenizer):
    waves = noise(FRAME * 7, FRAME * 12 + 100, FRAME * 40)
    together, counts = tokenizer.encode(*batch(waves))
    assert counts.tolist() == [7, 13, 40]
    for wave, row, count in zip(waves, together, counts.tolist(), strict=True):
        alone, one = tokenizer.encode(*batch([wave]))
        assert one.tolist() == [count] and torch.equal(alone[0], row[:count])


def test_features_are_one_vector_a_code(tokenizer):
    wav, lengths = batch(noise(FRAME * 5 + 1))
    codes, counts = tokenizer.encode(wav, lengths)
    features = tokenizer.features(wav, lengths)
    assert features.shape == (1, 6, tokenizer.feature_size) == (*codes.shape, 264) and counts.tolist() == [6]
    padded = acoustics(torch.nn.functional.pad(wav, (0, FRAME - 1)))
    assert torch.allclose(features[0, 2, 66:132], padded[0, 9])  # the second of the four frames of the third code


def test_decoded_length_is_640_samples_a_code(tokenizer):
    codes = torch.randint(tokenizer.vocab_size, (3, 5), generator=torch.Generator().manual_seed(2))
    wav, lengths = tokenizer.decode(codes, torch.tensor([0, 3, 5]))
    assert lengths.tolist() == [0, 3 * FRAME, 5 * FRAME] and wav.shape == (3, 5 * FRAME)
    assert not wav[0].any() and not wav[1, 3 * FRAME :].any()
    assert wav.abs().max() <= 1


def test_speech_does_not_depend_on_the_batch(tokenizer, shipped):
    """Two of three rows end before the last, with anything behind them."""
    for codec in (tokenizer, shipped):
        codes = torch.randint(codec.vocab_size, (3, 60), generator=torch.Generator().manual_seed(3))
        lengths = torch.tensor([44, 7, 60])
        together = codec.reconstruct(codes, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = codec.reconstruct(codes[row : row + 1, :length])
            torch.testing.assert_close(together[row, : 4 * length], alone[0], atol=1e-4, rtol=0)
            # The vocoder's pulses make much of a rounding, so both ways get the same frames here.
            frames = together.clone()
            frames[row, 4 * length :] = 7.0
            spoken = vocode(frames, 4 * lengths)[row, : FRAME * length]
            same = vocode(together[row : row + 1, : 4 * length])[0]
            torch.testing.assert_close(spoken, same, atol=1e-3, rtol=0)


def test_many_answers_are_decoded_in_their_order(shipped):
    codes = [torch.full((length,), 100 + length) for length in (9, 2, 30, 0, *range(1, 40))]
    for audio, one in zip(decode_codes(shipped, codes), codes, strict=True):
        assert len(audio.samples) == FRAME * len(one)


def test_rates_fit_together(tokenizer):
    assert tokenizer.sample_rate / tokenizer.frame_rate == FRAME and tokenizer.vocab_size == 36


def test_saved_tokenizer_gives_the_same_codes(tokenizer, tmp_path):
    """Weights are stored in half precision, so that is what must come back."""
    half = TinyTokenizer(**tokenizer.settings)
    half.load_state_dict(
        {n: t.half().float() if t.is_floating_point() else t for n, t in tokenizer.state_dict().items()}
    )
    tokenizer.save(tmp_path / "t.safetensors")
    wav, lengths = batch(noise(FRAME * 20))
    loaded = TinyTokenizer.load(tmp_path / "t.safetensors")
    assert torch.equal(loaded.encode(wav, lengths)[0], half.eval().encode(wav, lengths)[0])


@pytest.mark.parametrize("tone", ["neutral", "excited", "apologetic"])
def test_shipped_codec_keeps_level_pitch_and_duration(shipped, tone):
    """Within 3 dB and a semitone: four numbers of eight levels a frame; the vocoder alone takes up to 2.3 dB."""
    speech = EspeakSynthesizer().speak_as_agent("I am happy to hear about the garden.", tone).audio
    wav = torch.from_numpy(speech.samples)[None]
    codes, counts = shipped.encode(wav, torch.tensor([wav.shape[1]]))
    again, lengths = shipped.decode(codes, counts)
    assert int(lengths) == -(-wav.shape[1] // FRAME) * FRAME
    level = 20 * math.log10(float(again.square().mean().sqrt()) / float(np.sqrt(np.mean(speech.samples**2))))
    before, after = (acoustics(torch.nn.functional.pad(w, (0, -w.shape[1] % FRAME)))[0] for w in (wav, again))
    pitches = [float(f[f[:, MELS + 1] > 0.5, MELS].median()) for f in (before, after)]
    assert abs(level) < 3 and abs(pitches[1] - pitches[0]) < 1 / 12


def test_shipped_codec_has_4096_codes_and_uses_many(shipped):
    assert shipped.vocab_size == 4096 and shipped.frame_rate == 25
    speech = EspeakSynthesizer().speak_as_agent("The quick brown fox jumps over the lazy dog.", "cheerful").audio
    codes, _ = shipped.encode(torch.from_numpy(speech.samples)[None], torch.tensor([len(speech.samples)]))
    assert len(codes.unique()) > 0.3 * codes.numel()


@pytest.mark.parametrize("rate", [22_050, 24_000, 48_000])
def test_the_codec_hears_recordings_of_any_rate_at_its_own(tokenizer, rate):
    """Two seconds at 24 kHz (a server's voice) came out as three, a fifth deeper."""
    time = np.arange(2 * rate) / rate
    audio = Audio((0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32), rate)
    assert through_codec([audio], tokenizer)[0].seconds == pytest.approx(2.0, abs=FRAME / 16_000)


@pytest.mark.parametrize("kind", [torch.float64, torch.int16])
def test_a_recording_is_heard_by_its_numbers_and_not_by_their_bytes(kind):
    wav = (noise(FRAME * 4)[0] * 100).round()
    assert torch.equal(acoustics_of(wav.to(kind)), acoustics_of(wav))
