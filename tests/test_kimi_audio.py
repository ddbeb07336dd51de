"""Kimi-Audio against the released code's own outputs (golden/kimi_lm_tiny.pt), and what batching must not change."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.attention import positions_of
from lightning_paras2s.models.kimi.cache import KeyValueCache
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.lora import adapters_off
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Completion, Prompt, Sampling, sampling_noise

GOLDEN = torch.load(Path(__file__).parent / "golden/kimi_lm_tiny.pt", weights_only=True)
CASES = GOLDEN["cases"]
TOLERANCE = 1e-5  # of the golden file: float32 on CPU


def tiny_config() -> KimiConfig:
    names = {f.name for f in dataclasses.fields(KimiConfig)}
    ids = {
        name: GOLDEN["tok"][name]
        for name in ("msg_end", "media_begin", "media_end", "blank", "text_eos", "speech_ct", "speech_ctd")
    }
    ids |= {"user_start": GOLDEN["tok"]["user_start"], "assistant_start": GOLDEN["tok"]["asst_start"]}
    return KimiConfig(**{k: v for k, v in GOLDEN["config"].items() if k in names}, **ids)


def tiny_kimi(**settings) -> KimiAudio:
    torch.manual_seed(0)
    model = KimiAudio(config=tiny_config(), **settings)
    state = {name.replace(".base_layer", ""): name for name in model.state_dict()}
    model.load_state_dict({state[k]: v for k, v in GOLDEN["state_dict"].items()}, strict=not settings.get("lora_rank"))
    return model


def inputs(case: dict) -> dict:
    tokens = torch.stack([case["text_input_ids"], case["input_ids"]], 1)
    found = {"tokens": tokens, "mask": case.get("attention_mask", torch.ones_like(case["input_ids"])).bool()}
    if "is_continuous_mask" in case:
        where = case["is_continuous_mask"]
        features = torch.zeros(*where.shape, GOLDEN["config"]["kimia_adaptor_input_dim"])
        features[where] = torch.cat([f[0] for f in case["whisper_input_feature"]])
        found |= {"features": features, "where": where}
    return found


def mixed_prompt(rows: int = 7, longest: int = 12) -> Prompt:
    """Left-padded rows of different lengths; odd rows have features at two places, even rows at one or none."""
    g = torch.Generator().manual_seed(1)
    config = tiny_config()
    tokens = torch.full((rows, 2, longest), config.blank)
    mask, where = torch.zeros(2, rows, longest, dtype=torch.bool)
    for row in range(rows):
        length = longest - row
        mask[row, -length:] = True
        tokens[row, AUDIO, -length:] = torch.randint(
            config.kimia_token_offset, config.vocab_size, (length,), generator=g
        )
        tokens[row, TEXT, -length:] = torch.randint(0, 200, (length,), generator=g)
        where[row, -3:-1] = row % 4 != 2
        where[row, -length : -length + 1] = row % 2 == 1
    features = torch.randn(rows, longest, config.kimia_adaptor_input_dim, generator=g) * where[..., None]
    return Prompt(tokens, mask, features, where)


def only(prompt: Prompt, row: int) -> Prompt:
    """One row without its padding."""
    length = int(prompt.mask[row].sum())
    return prompt.rows(slice(row, row + 1)).map(
        lambda t: t[..., -length:] if t.dim() < 3 or t.shape[1] == 2 else t[:, -length:]
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [n for n in CASES if n != "B_cached_decode"])
def test_logits_equal_released_code_when_given_its_inputs(name, attention):
    case = CASES[name]
    given = inputs(case)
    with torch.no_grad():
        text, audio = tiny_kimi(attention=attention).logits(**given)
    keep = given["mask"]
    assert (text - case["text_logits"])[keep].abs().max() <= TOLERANCE
    assert (audio - case["audio_logits"])[keep].abs().max() <= TOLERANCE


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_cached_decode_equals_released_code_when_fed_one_position_at_a_time(attention):
    model, given, case = (
        tiny_kimi(attention=attention),
        inputs(CASES["A_prompt_plus_response"]),
        CASES["B_cached_decode"],
    )
    start, length = CASES["A_prompt_plus_response"]["prompt_len"], given["tokens"].shape[2]
    cache = KeyValueCache(6, length)
    states = []
    for a, b in [(0, start)] + [(i, i + 1) for i in range(start, length)]:
        x = model.model.embed(given["tokens"][..., a:b], given["features"][:, a:b], given["where"][:, a:b])
        states.append(model.model(x, given["mask"][:, :b], positions_of(given["mask"])[:, a:b], cache))
    text, audio = (torch.cat(s, 1) for s in zip(*states))
    assert (model.lm_head(text) - case["text_logits"]).abs().max() <= TOLERANCE
    assert (model.mimo_output(audio) - case["audio_logits"]).abs().max() <= TOLERANCE
    assert [list(k.shape) for k in (layer.keys for layer in cache.layers)] == case["cache_shapes"]


def test_positions_count_real_tokens_when_left_padded():
    case = CASES["D_left_padded_batch"]
    mask = case["attention_mask"].bool()
    assert torch.equal(positions_of(mask)[mask], case["position_ids"][mask])


@pytest.mark.parametrize("group_size", [1, 3])
def test_a_row_samples_the_same_when_alone_or_in_a_mixed_batch(group_size):
    model, prompt, sampling = tiny_kimi(), mixed_prompt(), Sampling(max_steps=14)
    noise = sampling_noise(3, 0, 7 * group_size, 14)
    together = model.generate(prompt, sampling, noise, group_size)
    assert together.actions.any(1).sum(1).unique().numel() > 1  # rows stop at different steps
    for row in range(7):
        rows = slice(row * group_size, (row + 1) * group_size)
        alone = model.generate(only(prompt, row), sampling, noise[rows], group_size)
        mine = together.rows(rows).trim()
        assert torch.equal(alone.tokens, mine.tokens) and torch.equal(alone.actions, mine.actions)
        assert (alone.logps - mine.logps).abs().max() < TOLERANCE
        assert torch.equal(alone.finished, mine.finished)


def test_answers_are_as_wide_as_their_longest():
    """What reads them (updates, the reference) runs no step behind it."""
    model, prompt, sampling = tiny_kimi(), mixed_prompt(4), Sampling(max_steps=160)
    seen = []
    model.model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    completion = model.generate(prompt, sampling, sampling_noise(3, 0, 4, 160))
    longest = int(completion.steps.sum(1).max())
    assert completion.finished.all() and completion.tokens.shape[2] == completion.logps.shape[2] == longest < 160
    model.logps(prompt, completion, sampling)
    assert seen[-1] == prompt.tokens.shape[2] + longest - 1


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.7, 1.3)])
def test_teacher_forcing_gives_the_samplers_log_probabilities(temperatures):
    model, prompt, sampling = tiny_kimi(), mixed_prompt(), Sampling(14, *temperatures)
    completion = model.generate(prompt, sampling, sampling_noise(5, 0, 14, 14), group_size=2)
    logps = model.logps(prompt, completion, sampling)
    assert (logps.values - completion.logps).abs().max() < TOLERANCE
    for row in range(14):
        alone = model.logps(only(prompt, row // 2), completion.rows(slice(row, row + 1)), sampling)
        assert (alone.values[0] - logps.values[row]).abs().max() < TOLERANCE
        assert (alone.entropy[0] - logps.entropy[row]).abs().max() < TOLERANCE


def test_forward_agrees_with_logps_and_forbids_illegal_ids():
    model, prompt, sampling = tiny_kimi(), mixed_prompt(), Sampling(max_steps=10)
    completion = model.generate(prompt, sampling, sampling_noise(5, 0, 7, 10))
    for stream, logits in enumerate(model(prompt, completion)):
        table = torch.log_softmax(logits, -1)
        where = completion.actions[:, stream]
        picked = table[where].gather(1, completion.tokens[:, stream][where][:, None])[:, 0]
        assert torch.allclose(picked, completion.logps[:, stream][where], atol=TOLERANCE)
    audio = model(prompt, completion)[AUDIO]
    config = model.config
    finite = torch.zeros(config.vocab_size, dtype=torch.bool)
    finite[[config.msg_end, config.media_end]] = True
    finite[config.kimia_token_offset :] = True
    assert torch.equal(audio.isfinite().all((0, 1)), finite)


def test_forced_tokens_are_exactly_those_not_sampled():
    """Blank audio for the first 6 steps, blank text after text EOS, blanks after the end; everything else is an
    action.
    """
    model, prompt = tiny_kimi(), mixed_prompt()
    config = model.config
    completion = model.generate(prompt, Sampling(max_steps=40), sampling_noise(1, 0, 56, 40), group_size=8)
    eos_seen = 0
    for tokens, actions, finished in zip(completion.tokens, completion.actions, completion.finished):
        text, audio = tokens.tolist()
        ends = [t for t in range(40) if audio[t] in (config.msg_end, config.media_end)]
        end = ends[0] if ends else 39
        eos = next((t for t in range(end + 1) if text[t] == config.text_eos), 40)
        eos_seen += eos < 40
        assert actions[TEXT].tolist() == [t <= min(eos, end) for t in range(40)]
        assert actions[AUDIO].tolist() == [config.kimia_mimo_audiodelaytokens <= t <= end for t in range(40)]
        assert bool(finished) == bool(ends) and len(ends) <= 1
        assert (tokens[~actions] == config.blank).all()
    assert eos_seen and completion.finished.any()


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_every_trainable_parameter_and_none_other(rank, recompute):
    model, prompt, sampling = (
        tiny_kimi(lora_rank=rank, gradient_checkpointing=recompute),
        mixed_prompt(),
        Sampling(max_steps=10),
    )
    fill_adapters(model)
    completion = model.generate(prompt, sampling, sampling_noise(5, 0, 7, 10))
    model.logps(prompt, completion, sampling).values.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (rank == 0 or ".lora_" in name)
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == parameter.requires_grad, name
    assert sum(p.requires_grad for p in model.parameters()) == (83 if rank == 0 else 6 * 7 * 2)


def test_gradients_are_the_same_when_blocks_are_recomputed():
    grads = []
    for recompute in (False, True):
        model, calls = tiny_kimi(gradient_checkpointing=recompute), []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        completion = model.generate(mixed_prompt(), Sampling(max_steps=8), sampling_noise(5, 0, 7, 8))
        calls.clear()
        model.logps(mixed_prompt(), completion, Sampling()).values.sum().backward()
        assert len(calls) == 1 + recompute
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads))


def test_gradients_of_a_mixed_batch_are_the_sum_of_its_rows():
    model, prompt, sampling = tiny_kimi(), mixed_prompt(), Sampling(max_steps=10)
    completion = model.generate(prompt, sampling, sampling_noise(5, 0, 7, 10))
    model.logps(prompt, completion, sampling).values.sum().backward()
    together = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for row in range(7):
        model.logps(only(prompt, row), completion.rows(slice(row, row + 1)), sampling).values.sum().backward()
    for name, grad, parameter in zip((n for n, _ in model.named_parameters()), together, model.parameters()):
        assert torch.allclose(grad, parameter.grad, rtol=1e-4, atol=1e-5), name


def test_inputs_of_another_models_tokenizer_are_refused():
    model, prompt = tiny_kimi(), mixed_prompt()
    with pytest.raises(UserError, match="features must have 40 numbers a position; got 41; use this model's tokenizer"):
        model.generate(dataclasses.replace(prompt, features=torch.zeros(7, 12, 41)), Sampling(4, 0, 0))
    with pytest.raises(UserError, match="must hold ids below 320; got 152064"):
        model.generate(dataclasses.replace(prompt, tokens=prompt.tokens.clone().fill_(152064)), Sampling(4, 0, 0))


def test_a_stream_without_actions_gives_zero_gradients_not_none():
    model, prompt = tiny_kimi(), mixed_prompt()
    completion = model.generate(prompt, Sampling(max_steps=8), sampling_noise(5, 0, 7, 8))
    silent = dataclasses.replace(completion, actions=torch.zeros_like(completion.actions))
    model.logps(prompt, silent, Sampling()).values.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_reference_is_the_base_exactly_when_adapters_are_off():
    model, base = tiny_kimi(lora_rank=4), tiny_kimi()
    fill_adapters(model)
    prompt, sampling, noise = mixed_prompt(), Sampling(max_steps=8), sampling_noise(5, 0, 7, 8)
    completion = base.generate(prompt, sampling, noise)
    reference = model.reference()
    expected = base.logps(prompt, completion, sampling).values
    assert torch.equal(reference.logps(prompt, completion, sampling).values, expected)
    assert torch.equal(reference.generate(prompt, sampling, noise).tokens, completion.tokens)
    assert not torch.allclose(model.logps(prompt, completion, sampling).values, expected, atol=1e-3)
    assert not list(reference.parameters())
    with adapters_off(model):
        assert all(p.requires_grad == (".lora_" in n) for n, p in model.named_parameters())


def test_reference_stays_when_a_full_policy_moves():
    model = tiny_kimi()
    prompt, sampling = mixed_prompt(), Sampling(max_steps=8)
    completion = model.generate(prompt, sampling, sampling_noise(5, 0, 7, 8))
    reference, before = model.reference(), model.logps(prompt, completion, sampling).values.detach()
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert torch.equal(reference.logps(prompt, completion, sampling).values, before)
    assert not any(p.requires_grad for p in reference.parameters())


def test_errors_are_one_clear_line():
    model, prompt = tiny_kimi(), mixed_prompt()
    with pytest.raises(UserError, match="must fit in 256 positions; got 312"):
        model.generate(prompt, Sampling(300, 0, 0))
    with pytest.raises(UserError, match="must have noise"):
        model.generate(prompt, Sampling())
    tokens = torch.full((7, 2, 3), model.config.blank)
    with pytest.raises(UserError, match="audio stream must be ids in"):
        model.logps(prompt, Completion(tokens, torch.ones(7, 2, 3, dtype=torch.bool), torch.ones(7)), Sampling())
    with pytest.raises(UserError, match="sdpa or eager; got 'flash'"):
        KimiAudio(config=tiny_config(), attention="flash")


def fill_adapters(model: KimiAudio) -> None:
    """peft starts B at zero, where the adapter does nothing and A gets no gradient."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.1)
