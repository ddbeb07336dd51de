"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, and the base model under them as a reference that costs no
memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_paras2s.models.speech_lm import Completion, Logps, Prompt, Sampling, SpeechLM

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
