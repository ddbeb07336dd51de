"""Flow matching and BigVGAN against the originals' outputs (golden files); batches against single utterances."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lightning_paras2s.models.kimi.bigvgan import BigVGAN, BigVGANConfig
from lightning_paras2s.models.kimi.detokenizer import Detokenizer
from lightning_paras2s.models.kimi.flow_matching import (
    FlowConfig,
    FlowMatching,
    FlowStream,
    euler_times,
    expand,
    seeded_noise,
)

GOLDEN = Path(__file__).parent / "golden"
FLOW = torch.load(GOLDEN / "detokenizer_tiny.pt", weights_only=True)
GAN = torch.load(GOLDEN / "bigvgan_tiny.pt", weights_only=True)
STREAMS = ("streaming", "streaming_kv_cap", "streaming_position_reset")


def tiny_flow(**changes) -> FlowMatching:
    known = FLOW["config"] | FLOW["mel_norm"]
    names = {f.name for f in dataclasses.fields(FlowConfig)}
    model = FlowMatching(FlowConfig(**{k: v for k, v in known.items() if k in names} | changes))
    model.load_state_dict(FLOW["state_dict"])
    return model.eval().requires_grad_(False)


def tiny_gan(**changes) -> BigVGAN:
    names = {f.name for f in dataclasses.fields(BigVGANConfig)}
    model = BigVGAN(BigVGANConfig(**{k: v for k, v in GAN["config"].items() if k in names} | changes))
    model.load_state_dict(GAN["state_dict"], strict=not changes)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def one_shot(model: FlowMatching, codes: list[torch.Tensor], noise) -> list[torch.Tensor]:
    """Codes [n_i] a row -> mel [4 n_i, mels] a row, in one call: what a stream is compared with."""
    frames, keys = model.repeat(codes)
    x = model.integrate(expand(noise(0, frames.shape[1]), frames, model.input_linear.weight), frames, 0, None, keys)
    return [row[: len(c) * model.config.upsample_factor] for row, c in zip(model.mel(x), codes)]


def recorded(chunks: list[dict]):
    return lambda call, frames: chunks[call]["noise"]


def test_velocity_equals_the_original():
    case = FLOW["velocity"]
    assert int(1000 * case["t"]) == case["t_int"]
    velocity, _ = tiny_flow()(case["x"], case["t_int"], case["codes_50hz"])
    assert (velocity - case["velocity"]).abs().max() <= 1e-5


@pytest.mark.parametrize(("name", "points"), [("one_shot", 30), ("one_shot_11_points", 11)])
def test_one_shot_mel_equals_the_original(name, points):
    case = FLOW[name]
    assert euler_times(points) == case["t_ints"]
    (mel,) = one_shot(tiny_flow(ode_points=points), [case["codes"][0]], lambda call, frames: case["noise"])
    assert (mel - case["mel"]).abs().max() <= 1e-4


@pytest.mark.parametrize("name", STREAMS)
def test_streamed_mel_equals_the_original(name):
    case = FLOW[name]
    changes = {k: case[k] for k in ("max_kv_frames", "max_positions") if k in case}
    stream, codes = FlowStream(tiny_flow(**changes), recorded(case["chunks"])), FLOW["codes"][0]
    for i, (chunk, kept) in enumerate(zip(case["chunks"], case["kv_frames"])):
        assert stream.start == chunk["start_position"]
        (mel,) = stream([codes[30 * i : 30 * i + 30]], final=i == 2)
        assert mel.shape[0] == chunk["returned_frames"]
        assert (mel - chunk["mel"]).abs().max() <= 1e-4
        reset = name == "streaming_position_reset" and i == 1  # the original empties its cache at the next call
        assert i == 2 or reset or stream.past[0][0].shape[2] == kept


def test_streamed_waveform_equals_the_original():
    case = FLOW["streaming"]
    pieces = list(Detokenizer(tiny_flow(), tiny_gan()).stream([FLOW["codes"][0]], recorded(case["chunks"])))
    assert len(pieces) == 3
    for (row, wav), chunk in zip(pieces, case["chunks"]):
        assert row == 0 and wav.shape == chunk["waveform"][0].shape
        assert (wav - chunk["waveform"][0]).abs().max() <= 1e-5


def test_an_utterance_sounds_the_same_alone_or_in_a_batch():
    """Rows of 5, 30, 0, 47 and 75 codes: one to three calls, ends of every kind."""
    model, codes = Detokenizer(tiny_flow(ode_points=4), tiny_gan()), FLOW["codes"][0]
    rows = [codes[:n] for n in (5, 30, 0, 47, 75)]
    together = model.decode(rows, seeded_noise(3))
    assert [len(w) for w in together] == [1920 * len(c) for c in rows]
    for row, wav in zip(rows, together):
        (alone,) = model.decode([row], seeded_noise(3))
        assert len(row) == 0 or (alone - wav).abs().max() < 1e-5


def test_one_shot_batch_equals_single_rows_and_noise_follows_the_seed():
    model, codes = tiny_flow(ode_points=4), FLOW["codes"][0]
    together = one_shot(model, [codes[:9], codes[:17]], seeded_noise(1))
    for row, mel in zip((codes[:9], codes[:17]), together):
        assert (one_shot(model, [row], seeded_noise(1))[0] - mel).abs().max() < 1e-5
    assert not torch.allclose(one_shot(model, [codes[:9]], seeded_noise(2))[0], together[0], atol=0.1)


def test_a_stream_is_the_one_shot_where_nothing_was_cut():
    """Chunks as long as the utterance: 75 codes in one call. Of chunks of 30 codes, the first call returns 30 - 12
    codes x 4 = 72 frames, those of the one-shot of the 30 codes that it has seen. Later calls differ by design: their
    noise is fresh, and earlier frames are seen as they came out.
    """
    codes, noise = FLOW["codes"][0], seeded_noise(4)
    (whole,) = one_shot(tiny_flow(ode_points=4), [codes], noise)
    (streamed,) = FlowStream(tiny_flow(ode_points=4, chunk_codes=75), noise)([codes], final=True)
    assert whole.shape == (300, 80) and (streamed - whole).abs().max() < 1e-5
    (seen,) = one_shot(tiny_flow(ode_points=4), [codes[:30]], noise)
    (first,) = FlowStream(tiny_flow(ode_points=4), noise)([codes[:30]], final=False)
    assert first.shape == (72, 80) and (first - seen[:72]).abs().max() < 1e-5


def test_half_precision_stays_near_the_original():
    """The release runs flow matching in bfloat16, 0.3 at most from float32 on this config (the golden file's note)."""
    case, model = FLOW["one_shot"], tiny_flow().to(torch.bfloat16)
    (mel,) = one_shot(model, [case["codes"][0]], lambda call, frames: case["noise"])
    assert mel.dtype == torch.bfloat16 and (mel.float() - case["mel"]).abs().max() < 0.6
    wav = Detokenizer(model, tiny_gan()).decode([case["codes"][0]], seeded_noise(0))[0]
    assert wav.dtype == torch.float32 and len(wav) == 1920 * len(case["codes"][0])


def test_vocoder_equals_the_original():
    assert (tiny_gan()(GAN["mel"]) - GAN["waveform"]).abs().max() <= 1e-5


def test_vocoder_with_bias_and_tanh_equals_the_original():
    case = GAN["variant_tanh_bias"]
    model = tiny_gan(use_tanh_at_final=True, use_bias_at_final=True)
    with torch.no_grad():
        model.conv_post.bias.fill_(case["bias"])
    assert (model(GAN["mel"]) - case["waveform"]).abs().max() <= 1e-5


def test_production_sizes_are_those_of_the_released_files():
    """DiT: 1,584,023,120 parameters (x 12 bytes of weights and Adam moments). Vocoder: 964,918,850 bytes less a
    container's keys.
    """
    with torch.device("meta"):
        flow, gan = FlowMatching(), BigVGAN()
    assert sum(p.numel() for p in flow.parameters()) == 1_584_023_120
    size = 4 * sum(t.numel() for t in gan.state_dict().values())
    assert 0 < 964_918_850 - size < 1_000_000  # with three block kernels the file would be 168 MB smaller
