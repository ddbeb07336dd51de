"""The released Kimi-Audio checkpoint layout, in and out: 36 safetensors shards, an index, config.json.

One shard a layer (trunk, then mimo branch), one for the adaptor, one for embedding, heads and final norms: 419
tensors of 9,766,334,464 numbers, plus 34 `rotary_emb.inv_freq` that the blocks recompute and the loader skips.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import open_tensors, read_json, save_tensors
from lightning_paras2s.models.lora import DOWN, UP, adapters_of
from lightning_paras2s.models.pretrained import INDEX
from lightning_paras2s.models.sharding import whole
from lightning_paras2s.models.speech_lm import SpeechLM

SKIPPED_SUFFIX = ".self_attn.rotary_emb.inv_freq"
SKIPPED_PREFIX = "whisper_model."  # fine-tuning checkpoints carry the feature encoder too; `KimiTokenizer` loads it
COMPANIONS = (".py", ".json", ".model", ".tiktoken")  # code and text tokenizer, which lie beside the weights
ADAPTERS = "adapters.safetensors"  # float32: bfloat16's eight bits lose most of a small update of a large weight
OWN_FILES = (INDEX, "config.json")
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under their names in the checkpoint: without peft's wrappers and without adapters."""
    named = model.named_parameters()
    return {name.replace(".base_layer", ""): p for name, p in named if ".lora_" not in name}


def base_of(folder: str | Path) -> str:
    """The folder whose weights a policy begins with: itself, or what its adapters were trained on, since the weights
    that they are merged into are rounded.

    Raises:
        UserError: that is not there.
    """
    file = Path(folder) / ADAPTERS
    if not file.is_file():
        return str(folder)
    with open_tensors(file) as opened:
        base = (opened.metadata() or {}).get("base", "")
    if not (Path(base) / INDEX).is_file():
        raise UserError(
            f"the adapters of {folder} need the folder that they were trained on; got none at {base!r}; put it there, "
            f"or delete {ADAPTERS} to take the merged weights, which are rounded to the folder's type"
        )
    return base


def check_kimi(model: SpeechLM, folder: str | Path) -> None:
    """See from index and shard headers alone that every tensor fits, before a minute is spent loading.

    Raises:
        UserError: naming the first missing, extra or misshaped tensor, wrong type, or missing, damaged or truncated
            file.
    """
    expected = {name: tuple(p.shape) for name, p in base_parameters(model).items()}
    kinds = set()
    for file, names in read_index(folder, set(expected)).items():
        with open_tensors(file) as shard:
            held = set(shard.keys())
            for name in names:
                if name not in held:
                    raise UserError(
                        f"{file} must hold {name}, as {INDEX} says; it does not; fetch the checkpoint again"
                    )
                piece = shard.get_slice(name)
                if tuple(piece.get_shape()) != expected[name]:
                    got = tuple(piece.get_shape())
                    raise UserError(
                        f"{name} must have shape {expected[name]}; got {got} in {file}; is it another model?"
                    )
                if piece.get_dtype() not in DTYPES:
                    raise UserError(
                        f"{name} must be one of {', '.join(DTYPES)}; got {piece.get_dtype()} in {file}; convert it"
                    )
                kinds.add(piece.get_dtype())
                if len(kinds) > 1:
                    raise UserError(
                        f"all tensors must share one type; got {' and '.join(sorted(kinds))} at {name} in {file}"
                    )


def read_index(folder: str | Path, expected: set[str]) -> dict[Path, list[str]]:
    """Tensor names by shard file, checked against the names that the model needs."""
    path = Path(folder) / INDEX
    files = read_json(path).get("weight_map", {})
    held = {name for name in files if not name.endswith(SKIPPED_SUFFIX) and not name.startswith(SKIPPED_PREFIX)}
    if missing := sorted(expected - held):
        raise UserError(f"{path} must list {missing[0]}; it does not ({len(missing)} missing); is it another model?")
    if extra := sorted(held - expected):
        raise UserError(
            f"{path} must list only Kimi-Audio's tensors; got {extra[0]} ({len(extra)} extra); is it another model?"
        )
    shards: dict[Path, list[str]] = {}
    for name in sorted(held):
        shards.setdefault(Path(folder) / files[name], []).append(name)
    return shards


@torch.no_grad()
def load_kimi(model: SpeechLM, folder: str | Path) -> None:
    """Fill `model` shard by shard, converting to its type. Of a sharded (FSDP2) parameter each rank reads its own
    rows only.
    """
    parameters = base_parameters(model)
    for file, names in read_index(folder, set(parameters)).items():
        with open_tensors(file) as shard:
            for name in names:
                read_into(parameters[name], shard.get_slice(name))
    # Whole on every rank, and of the seed alone: shards drawn by equal generators would be copies of each other.
    generator = torch.Generator().manual_seed(torch.initial_seed())
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # storage made by `to_empty` holds noise: peft's own start is A ~ uniform, B = 0
            begin = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(begin, a=5**0.5, generator=generator)
            read_into(parameter, begin)


def read_into(parameter: nn.Parameter, piece) -> None:
    """Copy a tensor or a safetensors slice, or this rank's part of it, into `parameter`."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(piece[:])
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    local = parameter.to_local()
    if local.numel():
        local.copy_(piece[tuple(slice(o, o + n) for o, n in zip(offset, shape))])


def save_kimi(model: SpeechLM, folder: str | Path, dtype: str = "bfloat16") -> None:
    """Write `model` as the release is laid out, adapters merged into the weights, so that upstream code loads it; the
    adapters lie beside them, whole, and the base's name with them: from both the policy is read again as it trained.

    The config keeps what the folder that the model was read from says beside the shapes (`auto_map` and others), and
    that folder's own code and text tokenizer come along. The new folder appears whole or not at all, in place of an
    earlier checkpoint. Sharded: all ranks call, one writes.
    """
    folder = Path(folder)
    refuse_other(folder, INDEX)
    part = folder.with_name(f".{folder.name}.part")
    adapters = adapters_of(model)
    merged, writes = merged_adapters(model, adapters), not dist.is_initialized() or dist.get_rank() == 0
    weight_map, total = {}, 0
    if writes:
        start(part)
    for file, names in shard_names(model).items():
        # every rank gathers, one writes
        tensors = {name: merged(name) for name in names}
        if writes:
            tensors = {name: t.to("cpu", getattr(torch, dtype)).contiguous() for name, t in tensors.items()}
            save_tensors(tensors, part / file, {"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
            total += sum(t.numel() * t.element_size() for t in tensors.values())
    if not writes:
        return
    if model.lora_rank and model.base is not None:  # else the base's weights are gone
        tensors = {name + side: t for name, pair in adapters.items() for side, t in zip((DOWN, UP), pair)}
        tensors = {name: t.cpu().contiguous() for name, t in tensors.items()}
        save_tensors(tensors, part / ADAPTERS, {"base": model.base})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (part / INDEX).write_text(json.dumps(index, indent=2))
    save_beside(model, part, dtype)
    finish(part, folder)


def refuse_other(folder: Path, mark: str) -> None:
    if folder.exists() and not (folder / mark).is_file():
        raise UserError(f"a checkpoint must be saved to a new folder; {folder} holds other things; choose another")


def start(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def finish(part: Path, folder: Path) -> None:
    """In place of an earlier checkpoint."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_beside(model: SpeechLM, folder: Path, dtype: str) -> None:
    """The config, and code and tokenizer files of the folder that the model came from."""
    config = {"architectures": ["MoonshotKimiaForCausalLM"], "model_type": "kimi_audio", "hidden_act": "silu"}
    config |= {"tie_word_embeddings": False, "use_whisper_feature": True}
    if model.path is not None:
        source = Path(model.path)
        config |= read_json(source / "config.json")
        for file in sorted(p for p in source.iterdir() if p.suffix in COMPANIONS and p.name not in OWN_FILES):
            shutil.copy2(file, folder / file.name)
    config |= dataclasses.asdict(model.config) | {"torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def shard_names(model: SpeechLM) -> dict[str, list[str]]:
    """Tensor names by file name, as released: one file a layer, one for the adaptor, one for the rest (36 in all)."""
    names, config = list(base_parameters(model)), model.config
    trunk, mimo = config.num_hidden_layers, config.kimia_mimo_layers
    groups = [f"model.layers.{i}." for i in range(trunk)] + [f"model.mimo_layers.{i}." for i in range(mimo)]
    groups.append("model.vq_adaptor.")
    count = len(groups)
    shards = {
        f"model-{i}-of-{count}.safetensors": [n for n in names if n.startswith(g)] for i, g in enumerate(groups, 1)
    }
    rest = [n for n in names if not n.startswith(tuple(groups))]
    return shards | {f"model-{count + 1}-of-{count + 1}.safetensors": rest}


def merged_adapters(model: SpeechLM, adapters: dict[str, tuple[Tensor, Tensor]]):
    """A function from a checkpoint name to its whole tensor, with W + B A where there is an adapter."""
    parameters = base_parameters(model)

    @torch.no_grad()
    def tensor(name: str) -> Tensor:
        weight, layer = whole(parameters[name]), name.removesuffix(".weight")
        if layer not in adapters:
            return weight
        down, up = adapters[layer]
        return weight.float() + up @ down  # rounded once, when it is written

    return tensor
