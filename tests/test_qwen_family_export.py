"""What a trained `QwenOmni` is written as, stock transformers and peft read: by equal greedy answers."""

from __future__ import annotations

import json

import pytest
import torch
from omni_release import write_release
from safetensors.torch import load_file, save_file
from test_qwen_family import DRAWN, GREEDY, ears, queries, released_answer  # noqa: F401

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.qwen_omni.export import own_name
from lightning_paras2s.models.qwen_omni.lm import QwenOmni
from lightning_paras2s.models.speech_lm import AUDIO, TEXT, sampling_noise

LENGTHS = (9, 4, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "omni"
    write_release(path)
    return path


def moved(folder, **options) -> QwenOmni:
    """A policy whose weights that train are no longer the release's."""
    policy = QwenOmni(str(folder), **options)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return policy


def stock(path):
    from transformers import Qwen2_5OmniForConditionalGeneration

    found = Qwen2_5OmniForConditionalGeneration.from_pretrained(path, dtype=torch.float32).eval()
    found.load_speakers(path / "spk_dict.pt")
    return found


def assert_same_answers(policy: QwenOmni, released, ears, monkeypatch) -> None:  # noqa: F811
    prompt, _ = queries(LENGTHS)
    mine = policy.generate(prompt, GREEDY)
    text, codes = released_answer(released, monkeypatch, ears, prompt, 14)
    for row in range(len(LENGTHS)):
        words = mine.tokens[row, TEXT][mine.actions[row, TEXT]].tolist()
        assert words == text[row][: len(words)].tolist()
        said = [c for c in mine.tokens[row, AUDIO][mine.actions[row, AUDIO]].tolist() if c not in (42, 44)]
        assert codes[row] is None or said[:13] == codes[row][:13]


@pytest.fixture
def release(request):
    """Of `ears`; set by the test."""
    return request.getfixturevalue("loaded")


@pytest.mark.parametrize("rank", [0, 4])
class TestMerged:
    @pytest.fixture
    def policy(self, folder, rank):
        return moved(folder, lora_rank=rank)

    @pytest.fixture
    def loaded(self, policy, tmp_path):
        policy.save(tmp_path / "policy.safetensors")
        return stock(tmp_path / "policy")

    def test_stock_transformers_says_the_same(self, folder, policy, loaded, ears, monkeypatch, tmp_path):  # noqa: F811
        assert_same_answers(policy, loaded, ears, monkeypatch)
        prompt, _ = queries(LENGTHS)
        before = QwenOmni(str(folder)).generate(prompt, GREEDY)
        assert not torch.equal(before.tokens, policy.generate(prompt, GREEDY).tokens)
        again = QwenOmni(str(tmp_path / "policy"))
        assert torch.equal(again.generate(prompt, GREEDY).tokens, policy.generate(prompt, GREEDY).tokens)
        # ears, eyes, voice, words and speakers came along
        names = {p.name for p in (tmp_path / "policy").iterdir()}
        assert names == {p.name for p in folder.iterdir()}
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("trains", ["thinker", "talker", "both"])
class TestAdapters:
    @pytest.fixture
    def policy(self, folder, trains):
        return moved(folder, lora_rank=4, trains=trains, export="adapter")

    @pytest.fixture
    def loaded(self, folder, policy, tmp_path):
        policy.save(tmp_path / "policy.safetensors")
        from peft import PeftModel

        return PeftModel.from_pretrained(stock(folder), tmp_path / "policy").base_model.model

    def test_peft_puts_them_on_the_stock_model(self, folder, policy, loaded, ears, monkeypatch, tmp_path):  # noqa: F811
        assert_same_answers(policy, loaded, ears, monkeypatch)
        assert {p.name for p in (tmp_path / "policy").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
        prompt, _ = queries(LENGTHS)
        again = QwenOmni(str(tmp_path / "policy"), lora_rank=2)
        found = again.generate(prompt, GREEDY)
        assert torch.equal(found.tokens, policy.generate(prompt, GREEDY).tokens)
        # of what is trained on top, the reference is the base with the first adapters
        drawn = policy.generate(prompt, DRAWN, sampling_noise(0, 0, 3, 14))
        logps = [model.logps(prompt, drawn, DRAWN).values for model in (policy, again.reference())]
        assert torch.allclose(*logps, atol=1e-4)  # W + BA is rounded to float32 once


def test_adapters_are_read_again_as_they_were_trained(folder, tmp_path):
    """In bfloat16, where weights of .02 have steps of 1e-4, an update of some 1e-6: evaluated, and as the reference
    beneath new adapters, it gives the trained policy's log-probabilities bit for bit. Adapters on adapters are written
    together, also where they are on another half; what is merged has the policy's type, as the config says.
    """
    prompt, _ = queries(LENGTHS)
    drawn = QwenOmni(str(folder)).generate(prompt, DRAWN, sampling_noise(0, 0, 3, 14))

    def logps(policy) -> torch.Tensor:
        with torch.no_grad():
            return policy.logps(prompt, drawn, DRAWN).values

    def trained(path, trains, size) -> QwenOmni:
        policy = QwenOmni(str(path), lora_rank=2, trains=trains, export="adapter", dtype="bfloat16")
        torch.manual_seed(1)
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=size)
        return policy

    first = trained(folder, "thinker", 1e-5)
    first.save(tmp_path / "sft")
    second = trained(tmp_path / "sft", "both", 1e-2)
    second.save(tmp_path / "grpo")
    assert torch.equal(logps(QwenOmni(str(tmp_path / "sft"), dtype="bfloat16")), logps(first))
    assert torch.equal(logps(second.reference()), logps(first))
    assert not torch.equal(logps(second), logps(first)) and not torch.equal(logps(first), logps(first.reference()))
    found, wide = QwenOmni(str(tmp_path / "grpo")), QwenOmni(str(tmp_path / "sft"), lora_rank=2)
    # in float32, where rounding hides nothing
    wide.load_state_dict({n: p for n, p in second.state_dict().items() if ".lora_" in n}, strict=False)
    assert (logps(found) - logps(wide)).abs().max() < 1e-5 < (logps(found) - logps(wide.reference())).abs().max()
    second.export = "merged"
    second.save(tmp_path / "merged")
    kinds = {n: t.dtype for file in (tmp_path / "merged").glob("*.safetensors") for n, t in load_file(file).items()}
    assert {dtype for name, dtype in kinds.items() if own_name(name)} == {torch.bfloat16}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_adapters_that_do_not_fit_are_one_line(folder, tmp_path):
    policy = moved(folder, lora_rank=4, export="adapter")
    policy.save(tmp_path / "policy.safetensors")
    weights, config = (tmp_path / "policy" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    tensors, values = load_file(weights), json.loads(config.read_text())
    name = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    with pytest.raises(UserError, match="must hold pairs of lora_A and lora_B; got base_model"):
        QwenOmni(str(tmp_path / "policy"))
    save_file(tensors | {name: torch.ones(4, 3)}, weights)
    with pytest.raises(UserError, match=r"must fit .*; is it another base's"):
        QwenOmni(str(tmp_path / "policy"))
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match="must be a whole safetensors file"):
        QwenOmni(str(tmp_path / "policy"))
    config.write_text(json.dumps(values | {"use_dora": True}))
    with pytest.raises(UserError, match="use_dora .* must be False; got True"):
        QwenOmni(str(tmp_path / "policy"))
    config.write_text(json.dumps(values | {"alora_invocation_tokens": [5]}))
    with pytest.raises(UserError, match=r"alora_invocation_tokens .* must be unset; got \[5\]"):
        QwenOmni(str(tmp_path / "policy"))
    config.write_text(json.dumps(values | {"init_lora_weights": "pissa_niter_16"}))
    with pytest.raises(UserError, match="init_lora_weights .* must be one of True, .*; got 'pissa_niter_16'; other"):
        QwenOmni(str(tmp_path / "policy"))
    weights.unlink()
    config.write_text(json.dumps(values))
    with pytest.raises(UserError, match="must hold adapter_model.safetensors"):
        QwenOmni(str(tmp_path / "policy"))
    with pytest.raises(UserError, match="export: adapter needs lora_rank above 0"):
        QwenOmni(str(folder), export="adapter")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="holds other things"):
        policy.save(tmp_path / "mine.safetensors")
