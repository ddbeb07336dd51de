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
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import save_tensors
from lightning_paras2s.models.kimi.checkpoint import finish, merged_adapters, refuse_other, start
from lightning_paras2s.models.lora import DOWN, LINEAR, UP, adapters_of, load_adapters
from lightning_paras2s.models.pretrained import INDEX, one_line, shard_tensors
from lightning_paras2s.models.qwen_omni.released import ADAPTER, HEAD, TALKER, WORDS, shard_files

if TYPE_CHECKING:
    from lightning_paras2s.models.qwen_omni.lm import QwenOmni

WEIGHTS = "adapter_model.safetensors"
PEFT = "base_model.model."
# the language model within the thinker: up to transformers 5.21 its `model`, then in its `model`
STOCK_WORDS = re.compile(r"^thinker\.model\.(language_model\.)?")
PARTS = {"thinker": r"thinker\.model(\.language_model)?", "talker": r"talker\.model"}
PLAIN = {"peft_type": "LORA", "use_dora": False, "use_rslora": False, "bias": "none"}
PLAIN |= {"rank_pattern": {}, "alpha_pattern": {}}
# None, or absent in the files of an older peft: each adds to, or gates, what a pair of matrices does
UNSET = ("lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "arrow_config",
         "kasa_config", "monteclora_config")  # fmt: skip
# Starts that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change them when peft loads
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")


def save_merged(policy: QwenOmni, folder: Path) -> None:
    """Write `folder`: the base's files, with the policy's tensors (adapters merged, in the policy's type) in place of
    its own. It appears whole or not at all. Sharded: all ranks call, one writes.
    """
    refuse_other(folder, "config.json")
    base, part = Path(policy.base), folder.with_name(f".{folder.name}.part")
    merged, writes = merged_adapters(policy, adapters_of(policy)), not dist.is_initialized() or dist.get_rank() == 0
    dtype = policy.lm_head.weight.dtype
    if writes:
        start(part)
        for file in sorted(p for p in base.iterdir() if p.is_file() and p.suffix not in (".safetensors", ".bin")):
            if file.name != INDEX:
                shutil.copy2(file, part / file.name)
        config = json.loads((base / "config.json").read_text()) | {"torch_dtype": str(dtype).removeprefix("torch.")}
        (part / "config.json").write_text(json.dumps(config, indent=2))
    weight_map, total = {}, 0
    for file in shard_files(base):
        names = sorted(shard_tensors(file))
        trained = {name: merged(ours) for name in names if (ours := own_name(name))}  # every rank gathers
        if writes:
            tensors = read_file(file) | {name: t.to("cpu", dtype).contiguous() for name, t in trained.items()}
            save_tensors(tensors, part / file.name, {"format": "pt"})
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
    adapters = adapters_of(policy)
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    part = folder.with_name(f".{folder.name}.part")
    start(part)
    prefix, rank = stock_words(policy.config), max(len(down) for down, _ in adapters.values())
    tensors = {}
    for name, (down, up) in adapters.items():  # peft's files have one rank for all
        stock, more = PEFT + re.sub(r"^thinker\.", prefix, name), rank - len(down)
        tensors[stock + DOWN], tensors[stock + UP] = F.pad(down, (0, 0, 0, more)), F.pad(up, (0, more))
    parts = [PARTS[name] for name in PARTS if any(layer.startswith(f"{name}.") for layer in adapters)]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # a scale of 1: theirs is in lora_B
        target_modules=rf"({'|'.join(parts)})\.{LINEAR}",
        base_model_name_or_path=str(Path(policy.base).resolve()),
        inference_mode=True,
    )
    config.save_pretrained(part)
    save_tensors({n: t.cpu().contiguous() for n, t in tensors.items()}, part / WEIGHTS, {"format": "pt"})
    finish(part, folder)


def load_peft(policy: QwenOmni, folder: Path) -> None:
    """Put the adapters of a folder on the policy's layers, in place.

    Raises:
        UserError: a file is missing or damaged, a setting changes what adapters mean, or one has no place here.
    """
    config = json.loads((folder / ADAPTER).read_text())
    for name, plain in PLAIN.items():
        if (got := config.get(name) or plain) != plain:
            raise UserError(f"{name} in {folder / ADAPTER} must be {plain!r}; got {got!r}; no other is supported")
    for name in UNSET:
        if got := config.get(name):
            raise UserError(f"{name} in {folder / ADAPTER} must be unset; got {got!r}; no adapter with it is supported")
    if (got := config.get("init_lora_weights", True)) not in STARTS:
        kinds = ", ".join(map(str, STARTS))
        more = "other starts change the base, which stays as it is here; convert the adapters when you save them"
        raise UserError(f"init_lora_weights in {folder / ADAPTER} must be one of {kinds}; got {got!r}; {more}")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} must hold {WEIGHTS}; it does not; train or fetch it again")
    own = lambda name: STOCK_WORDS.sub("thinker.", name.removeprefix(PEFT))  # noqa: E731
    load_adapters(policy, folder / WEIGHTS, config["lora_alpha"] / config["r"], own)


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
