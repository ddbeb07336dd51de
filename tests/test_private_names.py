"""What of other packages we use without their promise: names with an underscore. Each entry says what stops if the name
goes, so that a red test here is a diagnosis; a new one in the code fails until it is listed.
"""

import ast
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_paras2s"

# (file, name) -> where it comes from, and what stops without it
ATTRIBUTES = {
    ("models/kimi/decoding.py", "_attn_implementation"): (
        "transformers.configuration_utils:PreTrainedConfig",
        "decoding of Kimi-Audio: its blocks take the attention function of one query by this name",
    ),
    ("models/lora.py", "_disable_adapters"): (
        "peft.tuners.tuners_utils:BaseTunerLayer",
        "the reference of a LoRA policy: `adapters_off` would leave the adapters on, and KL would be 0",
    ),
    ("running/fit.py", "_run_subcommand"): ("lightning.pytorch.cli:LightningCLI", "one line for a user's mistake"),
}
ATTRIBUTES |= {
    ("speaking/espeak.py", "_handle"): ("ctypes:CDLL", "eSpeak's library is loaded anew for another voice"),
}
MODULES = {
    ("speaking/espeak.py", "_ctypes"): ("dlclose", "eSpeak's library is loaded anew for another voice"),
    ("models/sharding.py", "torch.utils._pytree"): ("register_dataclass", "FSDP2 finds what backward begins with"),
    ("models/kimi/checkpoint.py", "torch.distributed.tensor._utils"): (
        "compute_local_shape_and_global_offset",
        "each rank reads its own rows of a shard of the release",
    ),
}
OURS = {"_exit", "_fields", "_replace", "_asdict"}  # of os and NamedTuple: documented


def private_names() -> tuple[set, set]:
    """(file, attribute) of `other._name`, and (file, module) of imports, in the whole package; our own names are those
    that some file of it defines.
    """
    trees = {p.relative_to(PACKAGE).as_posix(): ast.parse(p.read_text()) for p in PACKAGE.rglob("*.py")}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    own = {n.name for _, n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    stored = [n for _, n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    own |= {n.attr for n in stored if getattr(n.value, "id", "") in ("self", "cls")}
    used, imported = set(), set()
    for file, node in nodes:
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            inherited = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            if inherited or node.attr not in own:
                used.add((file, node.attr))
        if isinstance(node, ast.ImportFrom) and any(part.startswith("_") for part in (node.module or "").split(".")):
            if node.module != "__future__":
                imported.add((file, node.module))
        if isinstance(node, ast.Import):
            imported |= {(file, name.name) for name in node.names if name.name.startswith("_")}
    return {(file, name) for file, name in used if name not in OURS}, imported


def test_every_private_name_that_we_use_is_listed_here():
    used, imported = private_names()
    assert used == set(ATTRIBUTES), "list a new name with what stops without it, or do without it"
    assert imported == set(MODULES)


@pytest.mark.parametrize("use", sorted(MODULES))
def test_a_private_module_still_has_what_we_import(use):
    name, stops = MODULES[use]
    assert hasattr(importlib.import_module(use[1]), name), f"{use[1]}.{name} is gone; what stops: {stops}"


def made(owner: str):
    """An object of the class, as small as it can be."""
    module, name = owner.split(":")
    cls = getattr(importlib.import_module(module), name)
    if name == "CDLL":
        return cls(None)
    return cls() if name in ("PreTrainedConfig", "BaseTunerLayer") else cls


@pytest.mark.parametrize("use", sorted(ATTRIBUTES))
def test_a_private_attribute_is_still_there(use):
    owner, stops = ATTRIBUTES[use]
    assert hasattr(made(owner), use[1]), f"{owner} has no {use[1]} any more; what stops: {stops}"


def test_the_switch_of_attention_still_reaches_the_blocks():
    """Set on the config that a block holds, the name must be what the block calls: else decoding is slow, or wrong."""
    import torch
    from test_kimi_audio import tiny_kimi
    from transformers import AttentionInterface

    calls = []

    def spy(module, query, key, value, mask, scaling, **_):
        calls.append(query.shape)
        return query.transpose(1, 2), None

    AttentionInterface.register("spy", spy)
    model = tiny_kimi()
    model.model.layers[0].self_attn.config._attn_implementation = "spy"
    model.logits(torch.full((1, 2, 3), 260))
    assert len(calls) == 6  # 4 + 2 blocks share one config


def test_the_switch_of_adapters_still_switches():
    import torch
    from test_kimi_audio import fill_adapters, mixed_prompt, tiny_kimi

    from lightning_paras2s.models.lora import adapters_off

    model, tokens = tiny_kimi(lora_rank=2), mixed_prompt().tokens
    plain = tiny_kimi().logits(tokens)[0]
    fill_adapters(model)
    with torch.no_grad():
        moved = model.logits(tokens)[0]
        with adapters_off(model):
            off = model.logits(tokens)[0]
    assert torch.allclose(off, plain, atol=1e-5) and not torch.allclose(moved, plain, atol=1e-3)
