"""Weights as safetensors that know what they are: class, format version and constructor arguments in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import written_whole
from lightning_paras2s.running.shipped import weights_file

FORMAT = 1
SCALE = ".row_scale"  # of a matrix kept as int8
Network = TypeVar("Network", bound=nn.Module)


def save_module(module: nn.Module, path: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `module` (which has a dict `settings`, its constructor arguments), whole or not at all.

    With dtype int8, matrices are kept as int8 with one float32 scale a row, and everything else as float16.

    Raises:
        UserError: a weight is not finite, or is beyond what `dtype` can hold.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu()
        if dtype == torch.int8 and tensor.is_floating_point() and tensor.ndim == 2:
            scale = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            tensors[name], tensors[name + SCALE] = (tensor.float() / scale).round().to(torch.int8), scale
        else:
            kept = torch.float16 if dtype == torch.int8 else dtype
            tensors[name] = tensor.to(kept if tensor.is_floating_point() else tensor.dtype).contiguous()
    if sick := not_finite(tensors):
        raise UserError(f"weights must be finite as {dtype} to be written; got {sick}; {path} is left as it was")
    header = {"class": type(module).__name__, "format": str(FORMAT), "settings": json.dumps(module.settings)}
    write_tensors(path, tensors, header)


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with written_whole(Path(path)) as part:
        save_tensors(tensors, part, header)


def save_tensors(tensors: dict[str, Tensor], file: Path, header: dict[str, str]) -> None:
    """As `save_file`, whose error of a full disk is none of the system's.

    Raises:
        UserError: the file could not be written.
    """
    try:
        save_file(tensors, file, metadata=header)
    except SafetensorError as error:
        raise UserError(f"the run must be able to write its files; got: {error}; free or change the place") from None


def open_tensors(file: Path):
    """A safetensors file, opened without reading its tensors.

    Raises:
        UserError: it is missing, or cut.
    """
    if not file.is_file():
        raise UserError(f"the model must have the shard {file}; it is missing; fetch it")
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise UserError(f"{file} must be a whole safetensors file; got {error}; fetch or train it again") from None


def load_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's header and tensors."""
    with open_tensors(file) as opened:
        return opened.metadata() or {}, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def load_module(cls: type[Network], path: str | Path) -> Network:
    """Build `cls` from the settings of a file, here or among the package's, and load its weights in float32.

    Raises:
        UserError: no such file, not safetensors, another class or format, or tensors that do not fit or are not finite.
    """
    path = weights_file(path)
    header, tensors = load_tensors(path)
    if (header.get("class"), header.get("format")) != (cls.__name__, str(FORMAT)):
        got = f"{header.get('class', 'no class')} format {header.get('format', 'none')}"
        raise UserError(f"{path} must hold a {cls.__name__} of format {FORMAT}; got {got}; choose another file")
    for name in [n for n in tensors if n.endswith(SCALE)]:
        whole = name.removesuffix(SCALE)
        tensors[whole] = tensors[whole].float() * tensors.pop(name)
    module = cls(**json.loads(header["settings"]))
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != got:
        name = min(n for n in expected.keys() | got.keys() if expected.get(n) != got.get(n))
        raise UserError(
            f"{path} must hold {name} {expected.get(name)}; got {got.get(name)}; it was made by another version"
        )
    if sick := not_finite(tensors):
        raise UserError(f"{path} must hold finite weights; got NaN or infinity in {sick}; train or fetch it again")
    module.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    return module


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The first tensor that holds NaN or infinity; "" if none does."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())), "")


def read_json(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"the checkpoint must have {path}; it is missing; check the folder")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} must be JSON; got {error.msg} at line {error.lineno}; fetch it again") from None
