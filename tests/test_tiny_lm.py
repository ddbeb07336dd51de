"""TinySpeechLM: decoding equals training, whatever the padding, the order, the grouping."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_policy import CODES, FEATURES, LEVELS, SAMPLING, WORDS, make_prompt, rollout, small_policy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import Largest, inverse_cdf

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.models.sampling import draw
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling, sampling_noise
from lightning_paras2s.models.tiny.lm import HEAD_CHUNK, TinySpeechLM, level_rows
from lightning_paras2s.models.tiny.streams import AudioIds
from lightning_paras2s.models.tiny.transformer import RMSNorm, _GatedUnit, _Turn, turns


@pytest.fixture
def model() -> TinySpeechLM:
    return small_policy()


def wider(prompt: Prompt, extra: int) -> Prompt:
    """`extra` more columns of padding on the left, filled with anything but zeros."""

    def pad(t: torch.Tensor) -> torch.Tensor:
        columns = t.shape[-1] if t.dim() == 2 or t.shape[1] == 2 else t.shape[1]
        size = (*t.shape[:-1], extra) if columns == t.shape[-1] else (len(t), extra, t.shape[-1])
        fill = torch.zeros(size, dtype=t.dtype) if t.dtype == torch.bool else torch.full(size, 3).to(t.dtype)
        return torch.cat([fill, t], -1 if columns == t.shape[-1] else 1)

    return prompt.map(pad)


def test_decode_logps_equal_teacher_forced_logps_when_float32(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    assert completion.finished.any() and not completion.finished.all()  # rows leave the cache on the way, some never
    scored = model.logps(prompt, completion, SAMPLING)
    torch.testing.assert_close(scored.values, completion.logps, atol=1e-4, rtol=0)
    assert completion.logps[completion.actions].lt(0).all()


def test_logps_equal_log_softmax_of_forward_at_the_temperature(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    scored = model.logps(prompt, completion, SAMPLING)
    logits = model(prompt, completion)
    for stream, temperature in ((TEXT, 0.8), (AUDIO, 1.3)):
        probs = (logits[stream] / temperature).softmax(-1)
        chosen = probs.gather(-1, completion.tokens[:, stream, :, None])[..., 0].log()
        actions = completion.actions[:, stream]
        torch.testing.assert_close(scored.values[:, stream], torch.where(actions, chosen, 0.0), atol=1e-4, rtol=0)
        entropy = -(probs * probs.log()).sum(-1)
        torch.testing.assert_close(scored.entropy[:, stream], torch.where(actions, entropy, 0.0), atol=1e-4, rtol=0)


def test_forward_predicts_step_t_from_earlier_steps_only(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    changed = completion.tokens.clone()
    changed[:, TEXT, 5:], changed[:, AUDIO, 5:] = 7, 2
    before = model(prompt, completion)
    after = model(prompt, Completion(changed, completion.actions, completion.finished))
    for stream in (TEXT, AUDIO):
        torch.testing.assert_close(before[stream][:, :6], after[stream][:, :6], atol=1e-5, rtol=0)
        assert (before[stream][:, 6] - after[stream][:, 6]).abs().max() > 1e-2


def test_logps_do_not_change_when_prompts_get_more_padding(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    padded = wider(prompt, 4)
    assert padded.tokens.shape[-1] == 11 and padded.mask.sum() == prompt.mask.sum()
    expected = model.logps(prompt, completion, SAMPLING).values
    torch.testing.assert_close(model.logps(padded, completion, SAMPLING).values, expected, atol=1e-5, rtol=0)
    again = rollout(model, padded)
    assert torch.equal(again.tokens, completion.tokens)


def test_logps_do_not_change_when_completions_get_more_padding(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    pad = (0, 5)
    longer = Completion(F.pad(completion.tokens, pad, value=1), F.pad(completion.actions, pad), completion.finished)
    expected = F.pad(model.logps(prompt, completion, SAMPLING).values, pad)
    torch.testing.assert_close(model.logps(prompt, longer, SAMPLING).values, expected, atol=1e-5, rtol=0)


def test_logps_follow_their_rows_when_the_batch_is_permuted(model):
    prompt = make_prompt()
    completion = rollout(model, prompt, 1)
    order = torch.tensor([2, 0, 1])
    expected = model.logps(prompt, completion, SAMPLING).values[order]
    actual = model.logps(prompt.rows(order), completion.rows(order), SAMPLING).values
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_gradients_are_equal_when_the_prefill_is_shared_or_repeated(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    gradients = []
    for given in (prompt, prompt.repeat(4)):
        model.zero_grad()
        model.logps(given, completion, SAMPLING).values.mul(torch.linspace(-1, 1, 12)[:, None, None]).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(g.abs().sum() > 0 and g.isfinite().all() for g in gradients[0].values())
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4 * scale, rtol=0)


def test_samples_are_equal_when_the_prefill_is_shared_or_repeated(model):
    prompt = make_prompt()
    shared = rollout(model, prompt, 4)
    repeated = model.generate(prompt.repeat(4), SAMPLING, sampling_noise(0, 0, 12, SAMPLING.max_steps))
    assert torch.equal(shared.tokens, repeated.tokens) and torch.equal(shared.actions, repeated.actions)


def test_samples_depend_only_on_their_rows_noise(model):
    prompt = make_prompt()
    noise = sampling_noise(3, 1, 12, SAMPLING.max_steps)
    whole = model.generate(prompt, SAMPLING, noise, 4)
    for row in range(12):
        alone = model.generate(prompt.rows(slice(row // 4, row // 4 + 1)), SAMPLING, noise[row : row + 1])
        length = alone.tokens.shape[-1]
        assert torch.equal(alone.tokens[0], whole.tokens[row, :, :length])
        assert not whole.actions[row, :, length:].any()
    assert len({tuple(row.flatten().tolist()) for row in whole.tokens}) > 6


def test_forced_tokens_are_blank_and_no_actions(model):
    completion = rollout(model, make_prompt(), 8)
    tokens, actions, streams = completion.tokens, completion.actions, model.streams
    assert (tokens[:, AUDIO, : streams.delay] == streams.audio_blank).all() and not actions[:, AUDIO, :2].any()
    assert actions[:, AUDIO, 2].all() and actions[:, TEXT, 0].all()
    for row in range(len(tokens)):
        ends = (tokens[row, AUDIO] == streams.audio_eos).nonzero().flatten().tolist()
        end = ends[0] + 1 if ends else tokens.shape[-1]
        assert bool(completion.finished[row]) == bool(ends)
        eos = (tokens[row, TEXT] == streams.text_eos).nonzero().flatten().tolist()
        text_end = min(eos[0] + 1 if eos else end, end)
        assert actions[row, TEXT, :text_end].all() and not actions[row, TEXT, text_end:].any()
        assert actions[row, AUDIO, 2:end].all() and not actions[row, AUDIO, end:].any()
        assert (tokens[row, TEXT, text_end:] == streams.text_blank).all()
        assert (tokens[row, AUDIO, end:] == streams.audio_blank).all()


def test_forced_tokens_get_zero_gradient(model):
    """No action, no gradient at all; a text action alone moves the trunk and the text branch, not the audio branch."""
    prompt = make_prompt(1)
    completion = rollout(model, prompt, 1)
    actions = torch.zeros_like(completion.actions)
    forced = model.logps(prompt, Completion(completion.tokens, actions, completion.finished), SAMPLING)
    forced.values.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    actions[0, TEXT, 1] = True
    model.logps(prompt, Completion(completion.tokens, actions, completion.finished), SAMPLING).values.sum().backward()
    assert not any(p.grad.any() for p in model.layers[3:].parameters())  # the audio branch
    assert model.layers[2].mlp_out.weight.grad.any()


def test_greedy_rollout_needs_no_noise_and_takes_the_most_likely(model):
    prompt = make_prompt()
    greedy = Sampling(max_steps=9, text_temperature=0, audio_temperature=0)
    first, second = model.generate(prompt, greedy), model.generate(prompt, greedy)
    assert torch.equal(first.tokens, second.tokens)
    for stream, logits in enumerate(model(prompt, first)):
        where = first.actions[:, stream]
        assert torch.equal(logits.argmax(-1)[where], first.tokens[:, stream][where])
    torch.testing.assert_close(model.logps(prompt, first, greedy).values, first.logps, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="noise"):
        model.generate(prompt, SAMPLING)


def test_audio_head_has_no_logit_for_prompt_marks(model):
    _, audio = model(make_prompt(), rollout(model, make_prompt()))
    assert audio.shape[-1] == CODES + 2
    ids = AudioIds(CODES)  # as prompts are written
    assert (model.streams.audio_blank, model.streams.audio_eos) == (ids.blank, ids.eos) == (CODES, CODES + 1)
    assert len(model.audio_table) == ids.assistant_start + 1


def test_level_rows_factorise_codes_first_dimension_fastest():
    rows = level_rows(LEVELS)
    for code in range(CODES):  # levels 3, 2, 4: code = a + 3 b + 6 c; tables one after another: a, 3 + b, 5 + c
        a, b, c = rows[code, 0], rows[code, 1] - 3, rows[code, 2] - 5
        assert 0 <= a < 3 and 0 <= b < 2 and 0 <= c < 4
        assert a + 3 * b + 6 * c == code


def test_level_terms_move_exactly_the_codes_of_their_level(model):
    before = model._tables()
    with torch.no_grad():
        model.output_levels[3 + 1] += 1.0  # second dimension at level 1
    after = model._tables()
    moved = (after.audio_output - before.audio_output).abs().sum(-1) > 1e-6
    assert [i for i in range(CODES + 2) if moved[i]] == [i for i in range(CODES) if i // 3 % 2 == 1]
    assert torch.equal(after.audio_input, before.audio_input)


def test_streams_enter_on_the_same_scale_when_their_tables_do_not(model):
    with torch.no_grad():
        model.audio_table.mul_(10)
        model.text_scale.weight.fill_(1), model.audio_scale.weight.fill_(1)
    tables = model._tables()
    ratio = tables.audio_input.pow(2).mean().sqrt() / tables.text_input.pow(2).mean().sqrt()
    assert 0.99 < ratio < 1.01


def test_features_count_only_where_their_mask_says(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    before = model.logps(prompt, completion, SAMPLING).values
    noisy = torch.where(prompt.features_mask[..., None], prompt.features, 9.0)
    same = model.logps(Prompt(prompt.tokens, prompt.mask, noisy, prompt.features_mask), completion, SAMPLING).values
    torch.testing.assert_close(same, before, atol=1e-6, rtol=0)
    none = model.logps(Prompt(prompt.tokens, prompt.mask), completion, SAMPLING).values
    assert (none - before).abs().max() > 1e-2


def test_reference_stays_frozen_when_the_policy_moves(model):
    prompt = make_prompt()
    completion = rollout(model, prompt)
    reference = model.reference()
    before = reference.logps(prompt, completion, SAMPLING).values
    torch.testing.assert_close(before, completion.logps, atol=1e-4, rtol=0)
    assert not reference.training and not before.requires_grad
    assert reference not in list(model.modules())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.logps(prompt, completion, SAMPLING).values.sum().backward()
    optimizer.step()
    assert torch.equal(reference.logps(prompt, completion, SAMPLING).values, before)
    assert not torch.allclose(model.logps(prompt, completion, SAMPLING).values, before)


def test_training_step_works_when_autocast_to_bfloat16(model):
    prompt = make_prompt()
    with torch.autocast("cpu", torch.bfloat16):
        completion = rollout(model, prompt)
        scored = model.logps(prompt, completion, SAMPLING)
    scored.values.sum().backward()
    assert scored.values.dtype == scored.entropy.dtype == completion.logps.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # bfloat16 keeps 8 bits: logits of a few units are off by some hundredths
    torch.testing.assert_close(scored.values, completion.logps, atol=0.3, rtol=0)


def test_file_gives_the_same_model_when_loaded(model, tmp_path):
    path = tmp_path / "policy.safetensors"
    model.save(path, torch.float32)
    loaded = TinySpeechLM.load(path)
    assert loaded.settings == model.settings
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    model.save(path)
    half = TinySpeechLM.load(path)
    assert half.text_table.dtype == torch.float32
    torch.testing.assert_close(half.text_table, model.text_table, atol=1e-3, rtol=1e-3)


class OtherModel(nn.Module):
    settings = {"size": 3}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


def test_file_is_refused_when_it_holds_another_model(tmp_path):
    path = tmp_path / "other.safetensors"
    save_module(OtherModel(), path)
    with pytest.raises(UserError, match="TinySpeechLM.*OtherModel"):
        TinySpeechLM.load(path)


def test_default_size_is_about_four_million():
    assert 3.5e6 < sum(p.numel() for p in TinySpeechLM(3000, 64).parameters()) < 4.1e6


def test_draw_gives_the_log_probability_of_a_hand_computed_distribution():
    """Logits 0 and log 3 at temperature 1 are probabilities 1/4 and 3/4; temperature 1/2 squares the odds to 1 : 9."""
    logits = torch.tensor([[0.0, math.log(3)]])
    for temperature, uniform, expected in ((1.0, 0.26, 0.75), (0.5, 0.11, 0.9), (0, 0.0, 0.75)):
        token, logp = draw(logits, torch.tensor([uniform]), temperature)
        assert token.item() == 1 and logp.exp().item() == pytest.approx(expected, abs=1e-6)
    assert draw(logits, torch.tensor([0.24]), 1.0)[0].item() == 0


@pytest.mark.parametrize("size", [5, 64, 150, 192])
@pytest.mark.parametrize("temperature", [0, 0.6, 1.0])
def test_draw_equals_inverse_cdf_and_log_softmax_for_any_vocabulary(size, temperature):
    """Blocks of 64 ids: fewer than one, whole ones, and with a rest; the uniforms include both ends."""
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(400, size, generator=generator)
    uniform = torch.rand(400, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])
    tokens, logps = draw(logits, uniform, temperature)
    assert torch.equal(tokens, inverse_cdf(logits, uniform, temperature))
    expected = (logits / (temperature or 1)).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=0)


def test_logps_make_no_tensor_of_rows_by_steps_by_vocabulary():
    """16 rows x 40 steps x 2,050 ids would be 1.3 M numbers; the largest is a chunk of 256 tokens x 2,050 = 0.5 M."""
    model = TinySpeechLM(2048, FEATURES, (8, 16, 16), width=24, heads=2, shared_layers=1, audio_layers=1)
    prompt = make_prompt(2)
    tokens = torch.randint(2, 2048, (16, 2, 40))
    completion = Completion(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros(16, dtype=torch.bool))
    with Largest() as seen:
        model.logps(prompt, completion, SAMPLING).values.sum().backward()
    assert seen.size == HEAD_CHUNK * 2050 < 16 * 40 * 2048


def test_audio_does_not_change_when_the_text_branch_stops_after_the_last_word(model):
    """The text branch is not run on steps behind the last text action; all other log-probabilities stay."""
    prompt = make_prompt()
    completion = rollout(model, prompt)
    expected = model.logps(prompt, completion, SAMPLING).values
    for last in (0, 1, 4):
        actions = completion.actions.clone()
        actions[:, TEXT, last:] = False
        short = Completion(completion.tokens, actions, completion.finished)
        torch.testing.assert_close(model.logps(prompt, short, SAMPLING).values, expected * actions, atol=1e-5, rtol=0)


class Casts(TorchDispatchMode):
    """Counts how often a matrix of `size` numbers is converted."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and args[0].numel() == self.size and args[0].ndim == 2
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cache", [False, True])
def test_weights_are_cast_once_a_rollout_and_the_update_keeps_its_gradient(model, cache):
    """Lightning's autocast has no cache; the rollout's own must be gone when the update reads the same weights."""
    prompt, weight = make_prompt(), model.layers[0].mlp_in.weight
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
        with Casts(weight.numel()) as casts:
            completion = rollout(model, prompt)
        assert casts.count == len(model.layers)
        model.logps(prompt, completion, SAMPLING).values.sum().backward()
    assert all(layer.mlp_in.weight.grad is not None for layer in model.layers)


class Computing(TorchDispatchMode):
    """Counts operations that read or write numbers; views cost next to nothing."""

    VIEWS = ("view", "transpose", "slice", "select", "expand", "unsqueeze", "split", "unbind", "permute", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not any(view in str(func) for view in self.VIEWS)
        return func(*args, **(kwargs or {}))


def test_a_layer_of_a_decoding_step_takes_25_operations():
    """4 products, 2 norms of 3, 1 turn, 1 write into the cache, 4 products of the attention with 5 copies that group or
    ungroup rows, 1 concatenation, 1 softmax, 2 of the gate. (The plain way makes 41.)
    """

    def operations(layers: int, steps: int) -> int:
        torch.manual_seed(0)
        model = TinySpeechLM(WORDS, FEATURES, LEVELS, width=24, heads=2, shared_layers=layers, audio_layers=1)
        model.streams = replace(model.streams, text_eos=-1, audio_eos=-1)  # no row ends
        with Computing() as computing:
            rollout(model, make_prompt(2, padding=(0, 0)), sampling=Sampling(steps))
        return computing.count

    one_step = [operations(layers, 6) - operations(layers, 5) for layers in (2, 3)]
    assert one_step[1] - one_step[0] == 4 + 2 * 3 + 1 + 1 + 4 + 5 + 1 + 1 + 2


def test_training_takes_the_gradient_of_the_plain_formulas():
    """The norm, the gate and the turns have gradients of their own; autograd of their definitions tells the same."""
    torch.manual_seed(0)
    norm, x = RMSNorm(12), (3 * torch.randn(5, 12)).requires_grad_()
    norm.weight.data.uniform_(0.5, 2)
    want = torch.randn(5, 12)
    plain = x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight
    expected = torch.autograd.grad((plain * want).sum(), (x, norm.weight))
    for found, right in zip(torch.autograd.grad((norm(x) * want).sum(), (x, norm.weight)), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-5, rtol=0)
    gate, value = x.chunk(2, -1)
    right = torch.autograd.grad((F.silu(gate) * value * want[:, :6]).sum(), x)[0]
    found = torch.autograd.grad((_GatedUnit.apply(x) * want[:, :6]).sum(), x)[0]
    torch.testing.assert_close(found, right, atol=1e-5, rtol=0)


def test_turns_rotate_by_the_position_times_the_frequency():
    """A query (1, 0) at position 3 becomes (cos 3, sin 3); its gradient (1, 0) turns back to (cos 3, -sin 3)."""
    mixed = torch.tensor([1.0, 0.0]).expand(1, 4, 3, 1, 2).clone().requires_grad_()
    turned = _Turn.apply(mixed * 1, turns(torch.arange(4)[None], 2).unsqueeze(2))
    for part, angle in ((0, 3.0), (1, 3.0), (2, 0.0)):  # values have no position
        expected = torch.tensor([math.cos(angle), math.sin(angle)])
        torch.testing.assert_close(turned[0, 3, part, 0], expected, atol=1e-6, rtol=0)
    turned[0, 3, 0, 0, 0].backward()
    expected = torch.tensor([math.cos(3), -math.sin(3)])
    torch.testing.assert_close(mixed.grad[0, 3, 0, 0], expected, atol=1e-6, rtol=0)
