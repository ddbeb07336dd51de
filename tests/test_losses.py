"""The GRPO arithmetic against hand-worked examples and exact enumeration."""

import itertools
import math

import pytest
import torch

from lightning_paras2s.errors import UserError
from lightning_paras2s.losses import (
    EVEN,
    PerStream,
    group_advantages,
    grpo_loss,
    kl_estimate,
    loss_denominator,
    masked_mean,
    sft_loss,
)
from lightning_paras2s.models.speech_lm import TEXT

NAN = math.nan


def make_batch(rows: int = 6, steps: int = 5):
    """Random log-probabilities of policy, sampler, reference; advantages; actions with delay, text EOS and padding."""
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(rows, 2, steps, generator=generator)
    policy = (old + 0.4 * torch.randn(old.shape, generator=generator)).requires_grad_()
    reference = old + 0.4 * torch.randn(old.shape, generator=generator)
    advantages = torch.randn(rows, generator=generator)
    actions = torch.ones(rows, 2, steps, dtype=torch.bool)
    actions[:, 1, :1] = False
    for row in range(rows):
        actions[row, 0, 1 + row % 3 :] = False
        actions[row, :, 5 - row % 4 :] = False
    return policy, old, reference, advantages, actions


# ---- advantages


def test_group_advantages_match_hand_worked_example():
    # mean 3, deviations -2 0 2, sample variance (4 + 0 + 4) / 2 = 4; then mean 2, deviations -1 -1 2, variance 3
    rewards = torch.tensor([1.0, 3.0, 5.0, 1.0, 1.0, 4.0])
    expected = [-2 / 2.5, 0, 2 / 2.5, *(d / (math.sqrt(3) + 0.5) for d in (-1, -1, 2))]
    torch.testing.assert_close(group_advantages(rewards, 3, eps=0.5), torch.tensor(expected))
    centred = torch.tensor([-2.0, 0, 2, -1, -1, 2])
    torch.testing.assert_close(group_advantages(rewards, 3, scale="none"), centred)


def test_group_advantages_leave_unscored_responses_out():
    # NaN takes no part: the scored 1 and 3 have mean 2, sample standard deviation sqrt(2)
    actual = group_advantages(torch.tensor([1.0, NAN, 3.0, NAN]), 4, eps=0.0)
    torch.testing.assert_close(actual, torch.tensor([-1, 0, 1, 0]) / math.sqrt(2))


@pytest.mark.parametrize("rewards", [[NAN, NAN, NAN], [4.2, NAN, NAN], [3.1, 3.1, 3.1], [3.1, NAN, 3.1]])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_group_advantages_are_zero_when_nothing_can_be_compared(rewards, scale):
    assert group_advantages(torch.tensor(rewards), 3, scale).tolist() == [0, 0, 0]


def test_group_advantages_are_permuted_when_the_group_is():
    rewards = torch.tensor([1.0, 4.0, NAN, 2.0, 5.0, 3.0, 3.0, 1.0])
    order = torch.tensor([2, 0, 3, 1])
    both = torch.cat([order, 4 + order])
    torch.testing.assert_close(group_advantages(rewards[both], 4), group_advantages(rewards, 4)[both])


def test_group_advantages_refuse_a_group_size_that_does_not_divide():
    with pytest.raises(ValueError, match="got 4 and 6"):
        group_advantages(torch.zeros(6), 4)


# ---- the objective


def test_grpo_loss_matches_hand_worked_equation_3_and_4():
    """Two responses; entries are policy / sampler and reference / policy.

    Response 1, A = +1: step 0, text 2, audio 0.8: pair 1.6, clipped to 1.2; reference / policy 2 * 0.25 = 0.5, so
    k3 = 0.5 - ln 0.5 - 1 = 0.193147. Step 1, text forced, audio 0.9: pair 0.9; reference = policy, k3 = 0.
    Mean of 1.2 - 0.2 * 0.193147 and 0.9: 1.0306853.
    Response 2, A = -1, one step: 0.5 * 1.2 = 0.6: min(-0.6, -0.8) = -0.8; reference / policy e, k3 = e - 2 =
    0.718282: -0.8 - 0.2 * 0.718282 = -0.9436564. Mean of the responses: 0.0435145.
    """
    nonsense = 7.0
    ratio = torch.tensor([[[2.0, nonsense], [0.8, 0.9]], [[0.5, nonsense], [1.2, nonsense]]])
    reference = torch.tensor([[[2.0, nonsense], [0.25, 1.0]], [[math.e, nonsense], [1.0, nonsense]]])
    actions = torch.tensor([[[True, False], [True, True]], [[True, False], [True, False]]])
    logps = torch.full((2, 2, 2), -1.5)
    old, ref = logps - ratio.log(), logps + reference.log()
    advantages = torch.tensor([1.0, -1.0])
    out = grpo_loss(logps, old, ref, advantages, actions, denominator=2)
    assert out.loss.item() == pytest.approx(-0.0435145, abs=1e-6)
    assert out.clip_high.item() == pytest.approx(1 / 3) and out.clip_low.item() == pytest.approx(1 / 3)
    assert out.ratio.item() == pytest.approx((1.6 + 0.9 + 0.6) / 3)
    # text: r = 2, then e: 2 - ln 2 - 1 = 0.306853 and 0.718282; audio: 0.25 + ln 4 - 1 = 0.636294, then 0 and 0
    assert out.kl_text.item() == pytest.approx((0.306853 + 0.718282) / 2, abs=1e-5)
    assert out.kl_audio.item() == pytest.approx(0.636294 / 3, abs=1e-5)
    # token normaliser: (1.2 - .0386294 + .9 - .8 - .1436564) / 3; constant: the same sum / (2 responses * 4 steps)
    total = 1.2 - 0.0386294 + 0.9 - 0.8 - 0.1436564
    for normalizer, count in (("token", 3), ("constant", 8)):
        denominator = loss_denominator(actions, normalizer, max_steps=4)
        assert denominator.item() == count
        out = grpo_loss(logps, old, ref, advantages, actions, denominator=denominator, normalizer=normalizer)
        assert out.loss.item() == pytest.approx(-total / count, abs=1e-6)


def test_stream_and_sequence_ratios_match_hand_worked_values():
    """One response, A = 1, two steps. Stream: text 2 is clipped to 1.2, audio is not: (1.2 + 0.8 + 0.9) / 2 steps.

    Sequence: sqrt(1.6 * 0.9) = 1.2, which a clip of 0.15 cuts to 1.15.
    """
    ratio = torch.tensor([[[2.0, 5.0], [0.8, 0.9]]])
    actions = torch.tensor([[[True, False], [True, True]]])
    logps, advantages = torch.zeros(1, 2, 2), torch.ones(1)
    args = (logps, -ratio.log(), logps, advantages, actions)
    assert grpo_loss(*args, denominator=1, beta=0.0, ratio="stream").loss.item() == pytest.approx(-1.45)
    out = grpo_loss(*args, denominator=1, beta=0.0, ratio="sequence")
    assert out.ratio.item() == pytest.approx(1.2) and out.loss.item() == pytest.approx(-1.2)
    assert grpo_loss(*args, denominator=1, beta=0.0, ratio="sequence", clip_high=0.15).loss.item() == pytest.approx(
        -1.15
    )


@pytest.mark.parametrize("ratio", ["joint", "stream", "sequence"])
def test_ratio_is_one_and_nothing_is_clipped_when_policy_equals_sampler(ratio):
    policy, _, reference, advantages, actions = make_batch()
    denominator = loss_denominator(actions)
    out = grpo_loss(
        policy, policy.detach(), reference, advantages, actions, denominator=denominator, beta=0.0, ratio=ratio
    )
    assert (out.ratio.item(), out.clip_low.item(), out.clip_high.item()) == (1, 0, 0)
    # On-policy the gradient is REINFORCE's: -A / |response| / responses at each action, whatever the ratio.
    (gradient,) = torch.autograd.grad(out.loss, policy)
    lengths = actions.any(1).sum(1)
    expected = torch.where(actions, (-advantages / lengths / 6)[:, None, None], 0)
    torch.testing.assert_close(gradient, expected)


def test_clipped_steps_get_no_policy_gradient():
    policy = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]).repeat(1, 2, 1).requires_grad_()
    old = torch.tensor([[[-1.0, 1.0]], [[-1.0, 1.0]]]).repeat(1, 2, 1)  # ratios e^2 and e^-2
    out = grpo_loss(
        policy, old, old, torch.tensor([1.0, -1.0]), torch.ones(2, 2, 2, dtype=torch.bool), denominator=2, beta=0.0
    )
    (gradient,) = torch.autograd.grad(out.loss, policy)
    assert gradient.ne(0).tolist() == [[[False, True]] * 2, [[True, False]] * 2]
    assert (out.clip_low.item(), out.clip_high.item()) == (0.25, 0.25)


@pytest.mark.parametrize("normalizer", ["response", "token", "constant"])
@pytest.mark.parametrize("ratio", ["joint", "stream", "sequence"])
@pytest.mark.parametrize("beta", [0.2, PerStream(0.1, 0.5)])
def test_loss_and_gradient_are_equal_under_any_micro_batching(normalizer, ratio, beta):
    policy, old, reference, advantages, actions = make_batch()
    settings = {
        "denominator": loss_denominator(actions, normalizer, max_steps=5),
        "normalizer": normalizer,
        "ratio": ratio,
        "beta": beta,
    }
    whole = grpo_loss(policy, old, reference, advantages, actions, **settings).loss
    (expected,) = torch.autograd.grad(whole, policy)
    for sizes in ([1] * 6, [2, 4], [5, 1]):
        parts = [t.split(sizes) for t in (policy, old, reference, advantages, actions)]
        total = sum(grpo_loss(*part, **settings).loss for part in zip(*parts, strict=True))
        torch.testing.assert_close(total, whole)
        torch.testing.assert_close(torch.autograd.grad(total, policy)[0], expected)


@pytest.mark.parametrize("ratio", ["joint", "stream", "sequence"])
@pytest.mark.parametrize("beta", [0.2, PerStream(0.1, 0.5)])
@pytest.mark.parametrize("unbiased", [False, True])
def test_forced_tokens_get_zero_gradient_whatever_they_hold(ratio, beta, unbiased):
    policy, old, reference, advantages, actions = make_batch()
    settings = {"denominator": 6, "ratio": ratio, "beta": beta, "unbiased_kl": unbiased}
    clean = grpo_loss(policy, old, reference, advantages, actions, **settings)
    spoiled = torch.where(actions, policy, NAN).detach().requires_grad_()
    old, reference = (torch.where(actions, t, -math.inf) for t in (old, reference))
    out = grpo_loss(spoiled, old, reference, advantages, actions, **settings)
    torch.testing.assert_close(out, clean)
    (gradient,) = torch.autograd.grad(out.loss, spoiled)
    assert not gradient[~actions].any() and gradient[actions].isfinite().all() and gradient[actions].any()


def test_unscored_responses_never_move_the_policy():
    policy, old, reference, _, actions = make_batch()
    rewards = torch.tensor([1.0, 4.0, NAN, NAN, NAN, 5.0])  # two groups of three; the second has one score
    advantages = group_advantages(rewards, 3)
    out = grpo_loss(policy, old, reference, advantages, actions, denominator=6, beta=0.0)
    (gradient,) = torch.autograd.grad(out.loss, policy)
    assert out.loss.isfinite() and gradient[:2].any() and not gradient[2:].any()
    # nor does it matter what an unscored response said
    louder = policy.detach().clone()
    louder[2:] += 0.5
    again = grpo_loss(louder.requires_grad_(), old, reference, advantages, actions, denominator=6, beta=0.0)
    torch.testing.assert_close(torch.autograd.grad(again.loss, louder)[0], gradient)


def test_stream_weights_scale_each_streams_policy_gradient():
    policy, _, reference, advantages, actions = make_batch()
    gradients = {}
    for weights in (EVEN, PerStream(2.0, 0.0)):
        out = grpo_loss(
            policy, policy.detach(), reference, advantages, actions, denominator=6, beta=0.0, weights=weights
        )
        gradients[weights] = torch.autograd.grad(out.loss, policy)[0]
    torch.testing.assert_close(gradients[PerStream(2.0, 0.0)][:, 0], 2 * gradients[EVEN][:, 0])
    assert not gradients[PerStream(2.0, 0.0)][:, 1].any()


# ---- KL against exact enumeration


def distributions():
    """Logits of policy, reference and sampler over 3 text and 4 audio tokens."""
    generator = torch.Generator().manual_seed(5)
    return [[torch.randn(size, generator=generator, dtype=torch.float64) for size in (3, 4)] for _ in range(3)]


def exact_kl(p, q):
    return sum((a.softmax(0) * (a.log_softmax(0) - b.log_softmax(0))).sum() for a, b in zip(p, q, strict=True))


def expected_loss(policy, reference, sampler, **settings):
    """The mean of `grpo_loss` (advantage 0) under the sampler, over all 12 pairs."""
    total = 0.0
    actions = torch.ones(1, 2, 1, dtype=torch.bool)
    for pair in itertools.product(range(3), range(4)):
        logps, ref, old = (
            torch.stack([x.log_softmax(0)[i] for x, i in zip(model, pair, strict=True)]).view(1, 2, 1)
            for model in (policy, reference, sampler)
        )
        out = grpo_loss(logps, old.detach(), ref, torch.zeros(1).double(), actions, denominator=1, **settings)
        total = total + old.sum().exp().detach() * out.loss
    return total


@pytest.mark.parametrize("beta", [1.0, PerStream(1.0, 1.0)])
@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_kl_gradients_match_enumeration_when_on_policy(kl, beta):
    policy, reference, _ = distributions()
    policy = [x.requires_grad_() for x in policy]
    reverse = torch.autograd.grad(exact_kl(policy, reference), policy)  # KL(policy || reference)
    forward = torch.autograd.grad(exact_kl(reference, policy), policy)  # KL(reference || policy)
    zero = tuple(torch.zeros_like(x) for x in policy)
    plain = torch.autograd.grad(expected_loss(policy, reference, policy, beta=beta, kl=kl), policy)
    torch.testing.assert_close(plain, {"k1": zero, "k2": reverse, "k3": forward}[kl])
    fixed = torch.autograd.grad(expected_loss(policy, reference, policy, beta=beta, kl=kl, unbiased_kl=True), policy)
    torch.testing.assert_close(fixed, reverse)


@pytest.mark.parametrize("kl", ["k1", "k3"])
def test_kl_values_match_enumeration(kl):
    policy, reference, _ = distributions()
    for beta in (1.0, PerStream(1.0, 1.0)):
        actual = expected_loss(policy, reference, policy, beta=beta, kl=kl)
        torch.testing.assert_close(actual, exact_kl(policy, reference))


def test_k2_value_is_half_the_squared_gap():
    gap = torch.tensor([0.3, -2.0])
    actual = kl_estimate(gap, torch.zeros(2), torch.zeros(2), torch.ones(2, dtype=torch.bool), "k2")
    torch.testing.assert_close(actual, torch.tensor([0.045, 2.0]))


@pytest.mark.parametrize("beta", [1.0, PerStream(1.0, 1.0)])
@pytest.mark.parametrize("kl", ["k1", "k3"])
def test_unbiased_kl_matches_enumeration_when_off_policy(kl, beta):
    policy, reference, sampler = distributions()
    policy = [x.requires_grad_() for x in policy]
    exact = exact_kl(policy, reference)
    actual = expected_loss(policy, reference, sampler, beta=beta, kl=kl, unbiased_kl=True)
    torch.testing.assert_close(actual, exact)
    gradients = torch.autograd.grad(actual, policy)
    torch.testing.assert_close(gradients, torch.autograd.grad(exact, policy))


def test_beta_per_stream_weighs_each_streams_kl():
    policy, reference, _ = distributions()
    for stream in (0, 1):
        beta = PerStream(*(3.0 if s == stream else 0.0 for s in (0, 1)))
        actual = expected_loss(policy, reference, policy, beta=beta)
        torch.testing.assert_close(actual, 3 * exact_kl(policy[stream : stream + 1], reference[stream : stream + 1]))


# ---- the rest


def test_sft_loss_averages_each_stream_over_its_actions():
    """Uniform over 4 words and 8 codes costs ln 4 and ln 8; row 2's padding would cost much more."""
    logps = torch.stack([torch.full((2, 3), -math.log(4)), torch.full((2, 3), -math.log(8))], 1)
    logps[1, :, 2] = -50.0
    logps[0, TEXT, 0] = -math.log(2)
    actions = torch.ones(2, 2, 3, dtype=torch.bool)
    actions[1, :, 2] = False
    out = sft_loss(logps, actions, PerStream(2.0, 0.5))
    assert out.text.item() == pytest.approx((math.log(2) + 4 * math.log(4)) / 5, abs=1e-6)
    assert out.audio.item() == pytest.approx(math.log(8), abs=1e-6)
    assert out.loss.item() == pytest.approx(2 * out.text.item() + 0.5 * out.audio.item())


def test_sft_loss_is_the_mean_over_ranks_whatever_each_holds():
    """Two ranks with one row each of 3 and 2 actions: each divides by the mean count, 2.5, and the mean is the whole's.

    Without `counts` the short row's actions would weigh 3/2 of the long one's.
    """
    logps, actions = -torch.rand(2, 2, 3), torch.ones(2, 2, 3, dtype=torch.bool)
    actions[1, :, 2] = False
    ranks = [sft_loss(logps[i : i + 1], actions[i : i + 1], counts=torch.tensor([2.5, 2.5])) for i in (0, 1)]
    assert (ranks[0].loss + ranks[1].loss).item() / 2 == pytest.approx(sft_loss(logps, actions).loss.item())


def test_sft_loss_is_the_mean_over_ranks_that_are_more_than_a_streams_actions():
    """One action of the text stream on two ranks, half a one a rank: divided by 1, its loss was half the whole's."""
    logps, actions = -torch.rand(2, 2, 3), torch.ones(2, 2, 3, dtype=torch.bool)
    actions[0, TEXT, 1:] = actions[1, TEXT] = False
    ranks = [sft_loss(logps[i : i + 1], actions[i : i + 1], counts=torch.tensor([0.5, 3.0])) for i in (0, 1)]
    whole = sft_loss(logps, actions)
    assert (ranks[0].text + ranks[1].text).item() / 2 == pytest.approx(-logps[0, TEXT, 0].item(), abs=1e-6)
    assert (ranks[0].loss + ranks[1].loss).item() / 2 == pytest.approx(whole.loss.item(), abs=1e-6)
    actions[0, TEXT] = False
    assert sft_loss(logps, actions).text == 0  # nothing anywhere


def test_masked_mean_ignores_what_is_masked_and_is_zero_when_all_is():
    values = torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, NAN]])
    assert masked_mean(values, values.isfinite()).item() == 2
    assert masked_mean(values, values.isfinite(), 1).tolist() == [2, 0]


@pytest.mark.parametrize("option", [{"ratio": "token"}, {"kl": "k4"}, {"normalizer": "mean"}])
def test_unknown_options_are_refused(option):
    policy, old, reference, advantages, actions = make_batch()
    with pytest.raises(UserError, match="must be one of"):
        grpo_loss(policy, old, reference, advantages, actions, denominator=1, **option)
