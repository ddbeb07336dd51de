"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, and the base model under them as a reference that costs no
memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import load_tensors
from lightning_paras2s.models.sharding import whole
from lightning_paras2s.models.speech_lm import Completion, Logps, Prompt, Sampling, SpeechLM

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
LINEAR = r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"  # regex, linear layers of Qwen2 blocks


class AdapterOff(SpeechLM):
    """The base model under a LoRA policy: the same weights, adapters switched off, no gradients. Holds no modules of
    its own.

    Args:
        policy: the LoRA policy whose base this is.
    """

    def __init__(self, policy: SpeechLM) -> None:
        super().__init__()
        self.__dict__["policy"] = policy
        self.streams = policy.streams

    def forward(self, prompt: Prompt, completion: Completion) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), adapters_off(self.policy):
            return self.policy(prompt, completion)

    def logps(self, prompt: Prompt, completion: Completion, sampling: Sampling) -> Logps:
        with torch.no_grad(), adapters_off(self.policy):
            return self.policy.logps(prompt, completion, sampling)

    def generate(
        self, prompt: Prompt, sampling: Sampling, noise: Tensor | None = None, group_size: int = 1
    ) -> Completion:
        with adapters_off(self.policy):
            return self.policy.generate(prompt, sampling, noise, group_size)

    def reference(self) -> SpeechLM:
        return self

    def shard(self, mesh: DeviceMesh) -> None:
        """Nothing: the policy's own shards serve."""


class Shifted(nn.Linear):
    """A linear layer and the adapters of an earlier training, `up @ down`, which no longer train: what the policy is,
    with a reference beneath new adapters. They stay float32 as in training: most of a small update of a bfloat16
    weight would be lost in rounding.
    """

    def __init__(self, linear: nn.Linear, down: Tensor, up: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("down", down, persistent=False)  # a run that goes on reads them again
        self.register_buffer("up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return (out + F.linear(F.linear(x.to(self.down.dtype), self.down), self.up)).to(out.dtype)


def load_adapters(
    model: nn.Module, file: Path, scale: float = 1.0, own_name: Callable[[str], str] = lambda name: name
) -> None:
    """Put a file's adapters on the layers that they were trained on (in place), see `Shifted`.

    Args:
        scale: of their output.
        own_name: a layer's name in the file -> in `model`.

    Raises:
        UserError: it is missing or damaged, or an adapter has no place here.
    """
    tensors = load_tensors(file)[1]
    downs = sorted(name for name in tensors if name.endswith(DOWN))
    ups = [name.removesuffix(DOWN) + UP for name in downs]
    if not downs or {*downs, *ups} != tensors.keys():
        odd = min({*downs, *ups} ^ tensors.keys(), default="nothing")
        raise UserError(f"{file} must hold pairs of lora_A and lora_B; got {odd}; train or fetch it again")
    modules = dict(model.named_modules())
    for a, b in zip(downs, ups, strict=True):
        name, down, up = own_name(a.removesuffix(DOWN)), tensors[a].float(), tensors[b].float()
        linear = modules.get(name)
        shape = tuple(linear.weight.shape) if isinstance(linear, nn.Linear) else None
        if shape != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            raise UserError(
                f"{file} must fit its base; got {name} {tuple(up.shape)} x {tuple(down.shape)} for {shape}; is it "
                "another base's?"
            )
        parent, _, leaf = name.rpartition(".")
        setattr(modules[parent], leaf, Shifted(linear, down, scale * up))


@torch.no_grad()
def adapters_of(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The name of each layer that has adapters -> all of them together, whole and in float32: [r, in] and [out, r], of
    scale 1. Sharded: all ranks call.
    """
    found = {}
    for name, module in model.named_modules():
        base, pairs = getattr(module, "base_layer", module), []
        if isinstance(base, Shifted):
            pairs.append((base.down, base.up))
        if "default" in getattr(module, "lora_A", {}):
            down, up = (whole(side["default"].weight).float() for side in (module.lora_A, module.lora_B))
            pairs.append((down, module.scaling["default"] * up))
        if pairs and not name.endswith(".base_layer"):
            found[name] = torch.cat([d for d, _ in pairs]), torch.cat([u for _, u in pairs], 1)
    return found


def add_lora(model: nn.Module, blocks: nn.Module, targets: str, rank: int, alpha: float) -> None:
    """Freeze `model` and add adapters to every linear layer of `blocks` whose whole name matches the regex `targets`
    (in place).

    Adapters are float32 whatever the base is: a step of 1e-6 on a bfloat16 weight of 0.01 is lost in rounding.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), blocks)
    for name, module in blocks.named_modules():
        if name.endswith((".lora_A", ".lora_B")):
            module.float()


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Run the base model. Sets peft's switch alone: its own context also freezes the adapters, and FSDP2 fixes at its
    first forward pass which parameters train.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
