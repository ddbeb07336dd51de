"""`QwenOmni` says what transformers' own Qwen2.5-Omni says: the same log-probabilities, the same greedy answers, and a
rollout that training can trust.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from omni_release import write_release

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.qwen_omni.scorer import parts
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, Prompt, Sampling, sampling_noise

GREEDY, DRAWN = Sampling(14, 0.0, 0.0), Sampling(14)
SPEAKER = 267  # `<tts_start_2>`, of Chelsie
HEARD, LENGTHS = 259, (9, 4, 7, 12, 5, 6, 9)  # the id of <|AUDIO|>; of seven queries


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("release") / "omni"


@pytest.fixture(scope="module")
def release(folder):
    return write_release(folder)


@pytest.fixture(scope="module")
def policy(folder, release):
    return QwenOmni(str(folder))


def queries(lengths: tuple[int, ...], seed: int = 0) -> tuple[Prompt, torch.Tensor]:
    """Left-padded prompts, whose third and fourth tokens are speech, and that speech's features [B, P, 16]."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 1  # see `released_answer`
    ids = torch.randint(0, 255, (len(lengths), width), generator=generator)
    features = torch.randn(len(lengths), width, 16, generator=generator)
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    where = torch.zeros_like(mask)
    for row, length in enumerate(lengths):
        where[row, width - length + 1 : width - length + 3] = True
    ids[where] = HEARD
    tokens = torch.stack([ids.where(mask, 256), torch.full_like(ids, 46)], 1)
    tokens[:, AUDIO, -1] = SPEAKER
    return Prompt(tokens, mask, features * where[..., None], where), features


@pytest.fixture
def ears(release, monkeypatch):
    """The release hears the features that a prompt holds: its own ears are `QwenOmniProcessor`'s test."""

    def listen(prompt: Prompt) -> dict:
        class Heard:
            last_hidden_state = prompt.features[prompt.features_mask]

        monkeypatch.setattr(parts(release.thinker)[0], "get_audio_features", lambda *_, **__: Heard())
        ids = prompt.tokens[:, TEXT]
        return {"input_ids": ids, "attention_mask": prompt.mask.long(), "input_features": torch.zeros(1)}

    return listen


def released_answer(release, monkeypatch, ears, prompt: Prompt, steps: int) -> tuple[list, list]:
    """The release's `generate` with its processors off: each row's text, and the codes that its voice is given.

    Where it knows batches, at least one position must be padding: of an attention mask without any, transformers 5.24's
    `generate` makes None, and then the talker is not told that its codes begin (its `forward` adds those marks under a
    mask alone). Where it does not, no position must be: it counts padding among the talker's positions.
    """
    codes, texts = [], []
    monkeypatch.setattr(release.token2wav, "forward", lambda found, **_: codes.append(found[0]) or torch.zeros(8))
    options = {"do_sample": False, "top_k": None, "top_p": None, "temperature": None}
    options |= {"repetition_penalty": 1.0, "max_new_tokens": steps}
    options = {f"{part}_{name}": value for part in ("thinker", "talker") for name, value in options.items()}
    options |= {"talker_eos_token_id": [42, 44], "thinker_eos_token_id": 258}
    alone = "does not support batched" in inspect.getsource(type(release).generate)
    for batch in [one_row(prompt, row) for row in range(len(prompt))] if alone else [prompt]:
        try:
            text, _ = release.generate(**ears(batch), speaker="Chelsie", **options)
        except (RuntimeError, ValueError):  # it has no answer without words to a single query
            assert len(batch) == 1
            text = torch.cat([batch.tokens[:, TEXT], torch.tensor([[258]])], 1)
            codes.append(None)
        texts += list(text[:, batch.mask.shape[1] :])
    return texts, [None if found is None else before_end(found.tolist()) for found in codes]


def before_end(codes: list[int]) -> list[int]:
    """Of one row, older releases of transformers give the voice the end's code, too."""
    return codes[: next((i for i, code in enumerate(codes) if code in (42, 44)), None)]


def one_row(prompt: Prompt, row: int) -> Prompt:
    """A row without its padding."""
    one, length = prompt.rows(slice(row, row + 1)), int(prompt.mask[row].sum())
    rest = (t[:, -length:] for t in (one.mask, one.features, one.features_mask))
    return Prompt(one.tokens[..., -length:], *rest)


def test_greedy_answers_equal_the_releases_for_rows_of_many_lengths(policy, release, ears, monkeypatch):
    ended = 0
    for lengths, seed in ((LENGTHS, 0), (LENGTHS, 1), *(((n,), s) for s, n in enumerate(LENGTHS))):
        prompt, _ = queries(lengths, seed)
        mine = policy.generate(prompt, GREEDY)
        text, codes = released_answer(release, monkeypatch, ears, prompt, 14)
        assert len(lengths) in (1, 7) and not prompt.mask.all()
        for row in range(len(lengths)):
            words = mine.tokens[row, TEXT][mine.actions[row, TEXT]]
            assert words.tolist() == text[row][: len(words)].tolist()
            assert len(words) == 14 or words[-1] == 258
            said = mine.tokens[row, AUDIO][mine.actions[row, AUDIO]]
            spoken = said[: -1 if said[-1] in (42, 44) else None]
            # Of a text that was cut, the release takes the last token for the end's mark, so the last code may differ;
            # and older ones drop the last code of speech that was cut.
            if codes[row] is None:
                continue
            assert spoken[:13].tolist() == codes[row][:13]
            ended += int(words[-1] == 258 and len(said) > len(words))
    assert ended > 4  # texts that ended before their speech


@pytest.mark.parametrize("made", [False, True])
def test_logps_equal_the_releases_own_forward(made, policy, release, ears):
    prompt, _ = queries(LENGTHS)
    mine = policy.generate(prompt, DRAWN, sampling_noise(0, 0, 7, 14))
    if made:  # texts of 1, 2, ... tokens, and speech that goes on behind them
        for row in range(7):
            mine.tokens[row, TEXT, row] = 258
        mine.actions[:, TEXT] = torch.arange(14) <= torch.arange(7)[:, None]
        mine.tokens[:, AUDIO] = torch.randint(0, 40, (7, 14), generator=torch.Generator().manual_seed(1))
        mine.actions[:, AUDIO] = True
    logps = policy.logps(prompt, mine, DRAWN).values
    for row, length in enumerate(LENGTHS):
        alone = one_row(prompt, row)
        inputs = ears(alone)
        words = mine.tokens[row, TEXT][mine.actions[row, TEXT]][None]
        ids = torch.cat([inputs["input_ids"], words], 1)
        out = release.thinker(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=inputs["input_features"],
            output_hidden_states=True,
        )
        wanted = out.logits[0, length - 1 : -1].log_softmax(-1).gather(1, words[0][:, None])[:, 0]
        assert torch.allclose(logps[row, TEXT][mine.actions[row, TEXT]], wanted, atol=1e-5)
        codes = mine.tokens[row, AUDIO][mine.actions[row, AUDIO]]
        said = talker_logits(release, out, ids, alone, words[0], codes)
        said[:, 43] = -torch.inf  # `suppress_tokens`
        wanted = said.log_softmax(-1).gather(1, codes[:, None])[:, 0]
        assert torch.allclose(logps[row, AUDIO][mine.actions[row, AUDIO]], wanted, atol=1e-5)


def talker_logits(release, out, ids, alone, words, codes):
    """Teacher forcing of the release's talker by its own `forward`, whose caller gives embeddings: [T, V]."""
    length, talker, embed = len(alone.mask[0]), release.talker, release.thinker.get_input_embeddings()
    known = embed(ids)
    known[:, :length][alone.features_mask] = 0
    both = (out.hidden_states[-1] + known)[0]
    speaker, stop, padding = (embed(torch.tensor([i])) for i in (SPEAKER, 266, 264))
    assert (talker.text_eos_token, talker.text_pad_token) == (266, 264)
    reply = both[length:] if words[-1] != 258 or len(words) == 1 else both[length:-1]
    after = torch.cat([reply, stop, padding.expand(len(codes), -1)])[: len(codes)]
    spoken = torch.cat([torch.tensor([talker.codec_bos_token]), codes[:-1]])
    after = after + talker.get_input_embeddings()(spoken)
    mark = speaker + talker.get_input_embeddings()(torch.tensor([talker.codec_pad_token]))
    x = torch.cat([both[:length], mark, after])[None]
    found = talker(inputs_embeds=x, input_ids=None, position_ids=torch.arange(x.shape[1])[None], attention_mask=None)
    return found.logits[0, -len(codes) :].clone()


def test_decoding_equals_teacher_forcing_for_groups(policy):
    prompt, _ = queries((9, 4, 12))
    for seed in range(3):
        mine = policy.generate(prompt, DRAWN, sampling_noise(seed, 0, 12, 14), group_size=4)
        again = policy.logps(prompt, mine, DRAWN).values
        assert torch.allclose(mine.logps, again, atol=1e-5) and mine.actions.any(2).all()
        assert not mine.logps[~mine.actions].any() and not again[~mine.actions].any()


def test_a_row_depends_on_its_own_query_and_noise_alone(policy):
    prompt, _ = queries((9, 4, 12))
    noise = sampling_noise(3, 0, 6, 14)
    whole = policy.generate(prompt, DRAWN, noise, group_size=2)
    for row in range(3):
        cut = one_row(prompt, row)
        alone = policy.generate(cut, DRAWN, noise[2 * row : 2 * row + 2], group_size=2)
        assert torch.equal(alone.tokens, whole.tokens[2 * row : 2 * row + 2])


def test_forward_gives_what_logps_gives(policy):
    prompt, _ = queries((5, 8))
    mine = policy.generate(prompt, DRAWN, sampling_noise(0, 1, 2, 14))
    logps = policy.logps(prompt, mine, DRAWN)
    for stream, logits in enumerate(policy(prompt, mine)):
        found = logits.log_softmax(-1)
        chosen = found.gather(2, mine.tokens[:, stream, :, None])[..., 0]
        actions = mine.actions[:, stream]
        assert torch.allclose(chosen[actions], logps.values[:, stream][actions], atol=1e-5)
        entropy = -(found.exp() * found.clamp(min=-1e9)).sum(-1)
        assert torch.allclose(entropy[actions], logps.entropy[:, stream][actions], atol=1e-4)


@pytest.mark.parametrize("trains", ["thinker", "talker", "both"])
@pytest.mark.parametrize("rank", [0, 4])
def test_gradients_reach_every_weight_that_trains_and_no_other(folder, release, trains, rank):
    policy = QwenOmni(str(folder), lora_rank=rank, trains=trains)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    prompt, _ = queries((5, 8))
    mine = policy.generate(prompt, DRAWN, sampling_noise(0, 2, 2, 14))
    policy.logps(prompt, mine, DRAWN).values.sum().backward()
    for name, parameter in policy.named_parameters():
        part = "talker" if name.startswith("talker") else "thinker"
        learns = trains in (part, "both") and (not rank or ".lora_" in name)
        assert parameter.requires_grad == learns, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == learns, name


def test_the_codes_gradient_reaches_the_thinker_unless_it_is_cut(folder, release):
    prompt, _ = queries((5, 8))
    for gradient in ("through", "cut"):
        policy = QwenOmni(str(folder), talker_gradient=gradient)
        mine = policy.generate(prompt, DRAWN, sampling_noise(0, 2, 2, 14))
        policy.logps(prompt, mine, DRAWN).values[:, AUDIO].sum().backward()
        reached = [p.grad is not None and bool(p.grad.any()) for p in policy.thinker.layers.parameters()]
        assert all(reached) if gradient == "through" else not any(reached)


def test_recomputed_blocks_have_the_same_gradients(folder, release):
    prompt, _ = queries((5, 8))
    found = []
    for recompute in (False, True):
        policy = QwenOmni(str(folder), gradient_checkpointing=recompute)
        calls = []
        policy.talker.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        mine = policy.generate(prompt, DRAWN, sampling_noise(0, 2, 2, 14))
        calls.clear()
        policy.logps(prompt, mine, DRAWN).values.sum().backward()
        assert len(calls) == 1 + recompute and not policy.training
        found.append([p.grad for p in policy.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def test_the_reference_is_the_release_whatever_the_adapters_learn(folder, release, policy):
    trained = QwenOmni(str(folder), lora_rank=4)
    prompt, _ = queries((5, 8))
    mine = policy.generate(prompt, DRAWN, sampling_noise(0, 2, 2, 14))
    before = policy.logps(prompt, mine, DRAWN).values
    assert torch.equal(trained.logps(prompt, mine, DRAWN).values, before)  # B starts at 0
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    assert not torch.allclose(trained.logps(prompt, mine, DRAWN).values, before, atol=1e-2)
    assert torch.equal(trained.reference().logps(prompt, mine, DRAWN).values, before)


def test_bad_prompts_and_answers_are_one_line(policy):
    prompt, _ = queries((5, 8))
    with pytest.raises(UserError, match="must fit in 512 positions; got 610"):
        policy.generate(prompt, Sampling(600, 0.0, 0.0))
    mine = policy.generate(prompt, GREEDY)
    mine.tokens[0, AUDIO, 0] = 48
    with pytest.raises(UserError, match=r"actions of the audio stream must be ids in .*; got \[48\]"):
        policy.logps(prompt, mine, DRAWN)
    with pytest.raises(UserError, match="temperatures are 0; got None"):
        policy.generate(prompt, DRAWN)
