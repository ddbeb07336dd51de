"""Top-k and top-p: which tokens are left, as often as they should be, in both policies; refused where samples are
scored."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_kimi_audio import mixed_prompt, tiny_kimi

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.sampling import OwnDraws, draw, likeliest
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Prompt, Sampling, sampling_noise
from lightning_paras2s.models.tiny.lm import TinySpeechLM

SHARES = torch.tensor([0.1, 0.4, 0.2, 0.3])  # of four tokens


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (1, 1.0, [1]),
        (2, 1.0, [1, 3]),
        (9, 1.0, [0, 1, 2, 3]),
        (0, 0.39, [1]),
        (0, 0.69, [1, 3]),  # 0.4 is too little, 0.4 + 0.3 enough
        (0, 0.71, [1, 2, 3]),
        (2, 0.5, [1]),  # of the two, 0.4 / 0.7 = 0.57
        (2, 0.6, [1, 3]),
        (0, 1e-9, [1]),
    ],
)
def test_the_likeliest_are_left(top_k, top_p, kept):
    left = likeliest(SHARES.log()[None], top_k, top_p)[0]
    assert left.isfinite().nonzero()[:, 0].tolist() == kept
    assert torch.equal(left[kept], SHARES.log()[kept])


def test_equal_tokens_do_not_make_more_than_k():
    assert likeliest(torch.zeros(3, 100), 10, 1.0).isfinite().sum(1).tolist() == [10] * 3


def test_draws_have_the_renormalised_shares_and_log_probabilities():
    """Top-2 of 0.1, 0.4, 0.2, 0.3 at temperature 0.5: squares 0.16 and 0.09, so 0.64 and 0.36."""
    uniform = torch.linspace(0, 1, 10_001)[:-1]
    tokens, logps = draw(SHARES.log().expand(len(uniform), -1), uniform, 0.5, top_k=2)
    assert set(tokens.tolist()) == {1, 3}
    assert (tokens == 1).float().mean().item() == pytest.approx(0.64, abs=2e-4)
    wanted = torch.where(tokens == 1, torch.tensor(0.64), torch.tensor(0.36)).log()
    torch.testing.assert_close(logps, wanted, atol=1e-5, rtol=0)


def test_temperature_0_takes_the_likeliest_whatever_the_cuts():
    tokens, logps = draw(SHARES.log()[None], torch.zeros(1), 0.0, top_k=3, top_p=0.5)
    assert tokens.tolist() == [1] and logps.exp().item() == pytest.approx(0.4)


def test_kimi_draws_among_the_ten_likeliest_legal_audio_tokens():
    """What the released demo does: text greedy, audio at 0.8 among 10. Each sampled token must be among the 10
    likeliest of its teacher-forced distribution.
    """
    model, prompt = tiny_kimi(), mixed_prompt()
    sampling = Sampling(16, 0.0, 0.8, text_top_k=5, audio_top_k=10)
    completion = model.generate(prompt, sampling, sampling_noise(2, 0, 28, 16), 4)
    with torch.no_grad():
        logits = model(prompt, completion)
    where = completion.actions[:, AUDIO]
    rank = (logits[AUDIO] > logits[AUDIO].gather(-1, completion.tokens[:, AUDIO, :, None])).sum(-1)[where]
    assert rank.max() in (8, 9) and len(rank) > 100
    where = completion.actions[:, TEXT]
    assert torch.equal(logits[TEXT].argmax(-1)[where], completion.tokens[:, TEXT][where])
    plain = model.generate(prompt, Sampling(16, 0.0, 0.8), sampling_noise(2, 0, 28, 16), 4)
    assert not torch.equal(plain.tokens, completion.tokens)
    same = Sampling(16, 0.0, 0.8, audio_top_k=10**6, audio_top_p=1.0)
    assert torch.equal(model.generate(prompt, same, sampling_noise(2, 0, 28, 16), 4).tokens, plain.tokens)


def test_samples_of_a_cut_distribution_are_not_scored():
    model, prompt, sampling = tiny_kimi(), mixed_prompt(), Sampling(4, audio_top_k=10)
    completion = model.generate(prompt, sampling, sampling_noise(2, 0, 7, 4))
    with pytest.raises(UserError, match="sampling.audio_top_k must be off where samples are scored .*; got 10"):
        model.logps(prompt, completion, sampling)
    with pytest.raises(UserError, match="sampling.text_top_p must be off where samples are scored .*; got 0.9"):
        Sampling(text_top_p=0.9).check_scorable()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audio_top_k": -1}, "audio_top_k must be 0 .* got -1"),
        ({"text_temperature": -0.8}, "text_temperature must be above 0, or 0 for the likeliest token; got -0.8"),
        ({"audio_temperature": float("nan")}, "audio_temperature must be above 0, .* got nan"),
        ({"audio_temperature": float("inf")}, "audio_temperature must be above 0, .* got inf"),
        ({"max_steps": 0}, "sampling.max_steps must be at least 1; got 0"),
        ({"text_top_p": 0.0}, "text_top_p must be above 0 and at most 1 .* got 0.0"),
        ({"audio_top_p": 1.1}, "audio_top_p must be above 0 and at most 1 .* got 1.1"),
        ({"audio_top_p": float("nan")}, "audio_top_p must be above 0 and at most 1 .* got nan"),
    ],
)
def test_options_that_mean_nothing_are_one_line(values, message):
    with pytest.raises(UserError, match=message):
        Sampling(**values)


@pytest.mark.parametrize("family", ["kimi", "tiny"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_policy_of_nan_answers_nothing(family, temperature):
    """It drew some token each time, and its answers were scored as any."""
    model, prompt = tiny_kimi(), mixed_prompt()
    if family == "tiny":
        model = TinySpeechLM(text_vocab_size=20, feature_size=4, levels=(2, 2), width=16, heads=2)
        tokens = torch.zeros(2, 2, 3, dtype=torch.long)
        prompt = Prompt(tokens, torch.ones(2, 3, dtype=torch.bool))
    noise = sampling_noise(0, 0, len(prompt), 4)
    sampling = Sampling(4, temperature, temperature)
    model.generate(prompt, sampling, noise)
    with torch.no_grad():
        (model.text_norm if family == "tiny" else model.model.norm).weight[0] = torch.nan
    with pytest.raises(UserError, match="log-probabilities must be numbers; got NaN"):
        model.generate(prompt, sampling, noise)


def test_answers_drawn_before_there_were_cuts_keep_their_name():
    """`config_sha` is a hash of this text: a run that is resumed must find its own answers."""
    assert repr(Sampling(24, 0.0, 0.8)) == "Sampling(max_steps=24, text_temperature=0.0, audio_temperature=0.8)"
    assert repr(Sampling(24, audio_top_k=10)) == (
        "Sampling(max_steps=24, text_temperature=1.0, audio_temperature=1.0, audio_top_k=10)"
    )


def test_own_draws_are_those_of_the_seed_and_leave_others_alone():
    """The numbers of `torch.manual_seed(7)`; another thread draws none of them, and torch's own generator stays."""
    torch.manual_seed(7)
    wanted = [torch.randn(3, dtype=torch.float64), torch.multinomial(SHARES.repeat(4, 1), 2), torch.randn([2, 2])]
    torch.manual_seed(8)
    unseeded, torch_state = torch.randn(3), torch.random.get_rng_state()
    torch.manual_seed(8)
    with ThreadPoolExecutor(1) as other, OwnDraws(7):
        found = [torch.randn(3, dtype=torch.float64)]
        assert torch.equal(other.submit(torch.randn, 3).result(), unseeded)
        found += [torch.multinomial(SHARES.repeat(4, 1), 2), torch.randn([2, 2], device="cpu")]
    assert all(map(torch.equal, found, wanted))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
