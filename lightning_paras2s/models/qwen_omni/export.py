"""Trained Qwen2.5-Omni back to the ecosystem: a folder laid out as the release, which stock transformers loads, or
peft's adapters, which `PeftModel.from_pretrained` puts on the stock model.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.checkpoint import finish, merged_adapters, refuse_other, start
from lightning_paras2s.models.lora import LINEAR
from lightning_paras2s.models.pretrained import INDEX, one_line, shard_tensors
from lightning_paras2s.models.qwen_omni.released import ADAPTER, HEAD, TALKER, WORDS, shard_files
from lightning_paras2s.models.sharding import whole

if TYPE_CHECKING:
    from lightning_paras2s.models.qwen_omni.lm import QwenOmni

WEIGHTS = "adapter_model.safetensors"
PEFT = "base_model.model."
# the language model within the thinker: up to transformers 5.21 its `model`, then in its `model`
STOCK_WORDS = re.compile(r"^thinker\.model\.(language_model\.)?")
PARTS = {"thinker": r"thinker\.model(\.language_model)?", "talker": r"talker\.model"}
PLAIN = {"use_dora": False, "use_rslora": False, "bias": "none", "rank_pattern": {}, "alpha_pattern": {}}


def save_merged(policy: QwenOmni, folder: Path) -> None:
    """Write `folder`: the base's files, with the policy's tensors (adapters merged, in the policy's type) in place of
    its own. It appears whole or not at all. Sharded: all ranks call, one writes.
    """
    refuse_other(folder, "config.json")
    base, part = Path(policy.base), folder.with_name(f".{folder.name}.part")
    merged, writes = merged_adapters(policy), not dist.is_initialized() or dist.get_rank() == 0
    kind = str(policy.lm_head.weight.dtype).removeprefix("torch.")
    if writes:
        start(part)
        for file in sorted(p for p in base.iterdir() if p.is_file() and p.suffix not in (".safetensors", ".bin")):
            if file.name != INDEX:
                shutil.copy2(file, part / file.name)
        config = json.loads((base / "config.json").read_text()) | {"torch_dtype": kind}
        (part / "config.json").write_text(json.dumps(config, indent=2))
    weight_map, total = {}, 0
    for file in shard_files(base):
        names = sorted(shard_tensors(file))
        trained = {name: merged(ours) for name in names if (ours := own_name(name))}  # every rank gathers
        if writes:
            tensors = read_file(file) | {name: t.detach().cpu().contiguous() for name, t in trained.items()}
            save_file(tensors, part / file.name, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file.name)
            total += sum(t.nbytes for t in tensors.values())
    if writes:
        if len(set(weight_map.values())) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (part / INDEX).write_text(json.dumps(index, indent=2))
        finish(part, folder)


def save_adapters(policy: QwenOmni, folder: Path) -> None:
    """Write `folder` with peft's two files. It appears whole or not at all. Sharded: all ranks call, one writes."""
    from peft import LoraConfig

    refuse_other(folder, ADAPTER)
    prefix = stock_words(policy.config)
    tensors = {}
    for name, parameter in policy.named_parameters():
        if ".lora_" in name:
            stock = re.sub(r"^thinker\.", prefix, name).replace(".default", "")
            tensors[PEFT + stock] = whole(parameter).detach().cpu().contiguous()
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    part = folder.with_name(f".{folder.name}.part")
    start(part)
    parts = [PARTS[name] for name in PARTS if policy.trains in (name, "both")]
    config = LoraConfig(
        r=policy.lora_rank,
        lora_alpha=policy.lora_alpha,
        target_modules=rf"({'|'.join(parts)})\.{LINEAR}",
        base_model_name_or_path=str(Path(policy.base).resolve()),
        inference_mode=True,
    )
    config.save_pretrained(part)
    save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
    finish(part, folder)


@torch.no_grad()
def merge_adapters(policy: QwenOmni, path: str) -> None:
    """Add the adapters of a folder to the weights, in place.

    Raises:
        UserError: a file is missing or damaged, a setting changes what adapters mean, or one has no place here.
    """
    folder = Path(path)
    config = json.loads((folder / ADAPTER).read_text())
    for name, plain in PLAIN.items():
        if (got := config.get(name) or plain) != plain:
            raise UserError(f"{name} in {folder / ADAPTER} must be {plain!r}; got {got!r}; no other is supported")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} must hold {WEIGHTS}; it does not; train or fetch it again")
    tensors = read_file(folder / WEIGHTS)
    downs = sorted(name for name in tensors if name.endswith(".lora_A.weight"))
    ups = [name.replace(".lora_A.", ".lora_B.") for name in downs]
    if not downs or {*downs, *ups} != tensors.keys():
        odd = min({*downs, *ups} ^ tensors.keys(), default="nothing")
        raise UserError(f"{folder / WEIGHTS} must hold pairs of lora_A and lora_B; got {odd}; train or fetch it again")
    parameters, scale = dict(policy.named_parameters()), config["lora_alpha"] / config["r"]
    for a, b in zip(downs, ups, strict=True):
        stock = a.removeprefix(PEFT).removesuffix(".lora_A.weight")
        weight = parameters.get(f"{STOCK_WORDS.sub('thinker.', stock)}.weight")
        down, up = tensors[a].float(), tensors[b].float()
        if weight is None or weight.shape != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            raise UserError(
                f"{folder / WEIGHTS} must fit {policy.base}; got {stock} {tuple(up.shape)} x {tuple(down.shape)} for "
                f"{None if weight is None else tuple(weight.shape)}; is it another base's?"
            )
        weight.copy_((weight.float() + scale * up @ down).to(weight.dtype))


def own_name(name: str) -> str | None:
    """A released tensor's name in `QwenOmni`; None of what it has not: ears, eyes and voice."""
    if name == HEAD:
        return "lm_head.weight"
    if name.startswith(WORDS):
        return f"thinker.{name.removeprefix(WORDS)}"
    return name if name.startswith(TALKER) else None


def stock_words(config) -> str:
    """Where the language model lies in transformers' whole Omni, with a dot at its end."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

    with torch.device("meta"):
        thinker = stock.Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
    kind = stock.Qwen2_5OmniThinkerTextModel
    (found,) = [name for name, module in thinker.named_modules() if type(module) is kind]
    return f"thinker.{found}."


def read_file(file: Path) -> dict[str, Tensor]:
    shard_tensors(file)
    with one_line(file):
        return load_file(file)
