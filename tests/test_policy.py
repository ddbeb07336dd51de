"""What the stages share: the optimizer over what trains, adapters that can take small steps, losses without logits."""

import lightning as L
import pytest
import torch
from test_kimi_audio import fill_adapters, mixed_prompt, tiny_config, tiny_kimi
from torch import nn
from toys import Largest, ToyData, ToyLM, ToyPreferences, ToyScorer, quiet_trainer

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import ScorerReward, TokenCountReward
from lightning_paras2s.models.kimi.config import KimiConfig
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.lora import add_lora
from lightning_paras2s.models.speech_lm import Completion, Prompt, Sampling
from lightning_paras2s.modules import optimizer
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.optimizer import adamw, set_learning_rate
from lightning_paras2s.modules.reward import RewardModule
from lightning_paras2s.modules.sft import SFTModule
from lightning_paras2s.modules.training import place
from lightning_paras2s.running.runs import StepSeed


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))


def test_matrices_decay_and_vectors_do_not():
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = adamw(model.parameters(), 0.1, 0.01, (0.9, 0.95))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(model[2].weight): 0.01, id(model[0].bias): 0.0, id(model[2].bias): 0.0}
    assert not optimizer.defaults["fused"]  # on the CPU


def test_optimizer_errors_are_one_clear_line(monkeypatch):
    with pytest.raises(UserError, match="at least one weight must train; got none"):
        adamw(net().requires_grad_(False).parameters(), 0.1, 0.0, (0.9, 0.95))
    with pytest.raises(UserError, match="must be 32 or 8; got 16"):
        adamw(net().parameters(), 0.1, 0.0, (0.9, 0.95), 16)
    monkeypatch.setattr(optimizer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torchao, which is missing; pip install 'lightning_paras2s\[eightbit\]'"):
        adamw(net().parameters(), 0.1, 0.0, (0.9, 0.95), 8)


@pytest.mark.slow
def test_8_bit_moments_learn_as_well():
    """60 steps of regression end within a tenth of what 32 bits reach."""
    pytest.importorskip("torchao")
    losses = []
    for bits in (32, 8):
        model = net()
        optimizer = adamw(model.parameters(), 3e-3, 0.01, (0.9, 0.95), bits)
        x, y = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(1))
        for _ in range(60):
            loss = (model(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_bfloat16_weights_move_by_a_small_rate_when_rounded_at_random(monkeypatch):
    """20 steps of 1e-5 on 8,192 weights of 0.1, where bfloat16 numbers lie 4.9e-4 apart: a weight jumps in 2 % of its
    steps, so that the mean moves by 2e-4 with a standard error of 3.4e-6. To the nearest, nothing would move.
    """
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    weight = nn.Parameter(torch.full((128, 64), 0.1, dtype=torch.bfloat16))
    before, optimizer = weight.detach().float().mean(), adamw([weight], 1e-5, 0.0, (0.9, 0.95), 8)
    torch.manual_seed(0)
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert (before - weight.detach().float().mean()).item() == pytest.approx(2e-4, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_no_step_would_move_are_refused(dtype):
    """32-bit moments round a step to the nearest: at 1e-6 a bfloat16 weight of .02 stays as it is for ever."""
    weights = [nn.Parameter(torch.ones(4, 4, dtype=dtype)), nn.Parameter(torch.ones(4))]
    with pytest.raises(UserError, match=f"got {str(dtype)[6:]} with 32-bit moments, where small steps are lost"):
        adamw(weights, 1e-6, 0.0, (0.9, 0.95))
    adamw([weights[0].requires_grad_(False), weights[1]], 1e-6, 0.0, (0.9, 0.95))  # frozen, it may be


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_learning_rate_is_set_in_place_when_it_is_a_tensor(lr):
    """torchao refuses to step when its tensor was replaced."""
    optimizer = torch.optim.AdamW(net().parameters(), lr=lr, foreach=False)
    before = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.5)
    after = optimizer.param_groups[0]["lr"]
    assert after == 0.5 and (after is before) == isinstance(lr, torch.Tensor)


@pytest.mark.parametrize("stage", ["sft", "reward", "grpo"])
def test_every_stage_asks_for_its_moments(stage):
    module = toy_stage(stage, 16)
    module.configure_model()
    with pytest.raises(UserError, match="state_bits must be 32 or 8; got 16"):
        module.configure_optimizers()


@pytest.mark.parametrize("stage", ["sft", "reward", "grpo"])
def test_every_stage_trains_and_resumes_with_8_bit_moments(stage, tmp_path, monkeypatch):
    """Two steps in one run, and one after the other from a checkpoint, end with the same weights. Uncompiled: the
    arithmetic is the same.
    """
    torchao = pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    weights = []
    for steps, start in ((2, None), (1, None), (2, tmp_path / "half.ckpt")):
        module, trainer = toy_stage(stage, 8), quiet_trainer(steps, tmp_path)
        trainer.callbacks += [StepSeed(0)]
        data = ToyPreferences() if stage == "reward" else ToyData(labelled=stage == "sft")
        trainer.fit(module, data, ckpt_path=start)
        if steps == 1:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, torchao.AdamW8bit)
    assert any(type(s["exp_avg"]).__name__ == "OptimState8bit" for s in optimizer.state.values())
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])


def toy_stage(stage: str, state_bits: int, **options) -> L.LightningModule:
    """Wide enough that torchao's blocks of 4,096 numbers are full."""
    options = {"lr": 0.01, "state_bits": state_bits} | options
    if stage == "sft":
        return SFTModule(lambda: ToyLM(64), **options)
    if stage == "reward":
        return RewardModule(lambda: ToyScorer(2048), **options)
    reward = lambda: TokenCountReward(2)  # noqa: E731
    options |= {"group_size": 4, "sampling": Sampling(6)}
    return GRPOModule(lambda: ToyLM(64), reward, **options)


def test_adapters_move_by_the_rewards_models_rate():
    """lr 1e-6 on weights of 0.1: bfloat16 numbers there lie 4.9e-4 apart, so that no step would ever be taken."""
    base = nn.Sequential(nn.Linear(16, 16)).to(torch.bfloat16)
    add_lora(base, base, "0", 4, 8.0)
    adapters = {n: p for n, p in base.named_parameters() if p.requires_grad}
    assert len(adapters) == 2 and all(p.dtype == torch.float32 for p in adapters.values())
    before = {n: p.detach().clone() for n, p in adapters.items()}
    optimizer = adamw(base.parameters(), 1e-6, 0.0, (0.9, 0.95))
    with torch.no_grad():
        for p in adapters.values():
            p.grad = torch.ones_like(p)
    optimizer.step()
    for name, parameter in adapters.items():
        assert (before[name] - parameter).mean().item() == pytest.approx(1e-6, rel=0.05)
    out = base(torch.randn(2, 16, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16


def test_adapters_of_a_bfloat16_policy_are_float32_and_merge():
    model = tiny_kimi(lora_rank=4, dtype="bfloat16")
    fill_adapters(model)
    kinds = {n: p.dtype for n, p in model.named_parameters()}
    assert all(t == (torch.float32 if ".lora_" in n else torch.bfloat16) for n, t in kinds.items())
    completion = model.generate(mixed_prompt(), Sampling(8, 0.0, 0.0))
    logps = model.logps(mixed_prompt(), completion, Sampling())
    logps.values.sum().backward()
    assert all(p.grad.dtype == torch.float32 for n, p in model.named_parameters() if ".lora_" in n)


def wide_config() -> KimiConfig:
    """40,000 ids over 16 numbers: logits would dwarf everything else."""
    ids = {"msg_end": 1, "media_begin": 2, "media_end": 3, "blank": 4, "text_eos": 5, "user_start": 6}
    ids |= {"assistant_start": 7, "speech_ct": 8, "speech_ctd": 9, "pad_token_id": 0}
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "kimia_mimo_layers": 1, "kimia_mimo_transformer_from_layer_index": 0}
    vocab = {"vocab_size": 40_000, "kimia_token_offset": 20_000, "kimia_text_output_vocab": 20_000}
    return KimiConfig(**shape, **vocab, **ids, kimia_adaptor_input_dim=8)


def test_a_training_step_makes_no_logits_of_all_positions():
    """4 rows of 100 steps x 20,000 ids would be 8 M numbers; the largest made is a block of 400 x 8192, at most."""
    config = wide_config()
    tokens = torch.randint(20_000, 40_000, (4, 2, 100))
    tokens[:, 0] -= 20_000
    completion = Completion(tokens, torch.ones(4, 2, 100, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    prompt = Prompt(tokens[..., :3], torch.ones(4, 3, dtype=torch.bool))
    module = SFTModule(lambda: KimiAudio(config=config))
    module.configure_model()
    module.trainer, module.log_dict = L.Trainer(accelerator="cpu", logger=False), lambda *args, **more: None
    with Largest() as seen:
        module.training_step(DualStreamBatch(prompt, completion), 0).backward()
    assert seen.size <= 400 * 8192 < 4 * 100 * 20_000
    assert all(p.grad is not None for n, p in module.policy.named_parameters() if "vq_adaptor" not in n)


def test_the_reward_models_weights_follow_the_policy():
    reward = ScorerReward(ToyScorer)
    reward.to(torch.device("meta"))
    assert all(p.is_meta for p in reward.scorer.parameters())


def test_a_policy_left_for_its_ranks_is_read_where_nothing_shards():
    """Under DDP a process group is there when the policy is built, but no mesh ever comes."""
    model = KimiAudio(config=tiny_config())
    asked = []
    model.materialize = lambda: asked.append(1)
    place(SFTModule(lambda: model), model, 0)
    assert asked == [1]
