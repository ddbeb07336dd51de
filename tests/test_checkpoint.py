"""Weights that know what they are: another model, another version or half a file is one clear line."""

from __future__ import annotations

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import FORMAT, load_module, save_module


class Small(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.settings = {"width": width}
        self.linear = nn.Linear(width, 2)
        self.register_buffer("steps", torch.tensor([7]))


class Other(Small):
    pass


def test_load_gives_back_settings_integers_and_half_precision(tmp_path):
    module = Small(5)
    save_module(module, tmp_path / "deep" / "w.safetensors")
    loaded = load_module(Small, tmp_path / "deep" / "w.safetensors")
    assert loaded.settings == {"width": 5} and loaded.steps.tolist() == [7]
    assert loaded.linear.weight.dtype == torch.float32
    assert torch.equal(loaded.linear.weight, module.linear.weight.half().float())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_load_is_exact_when_saved_in_float32(tmp_path):
    module = Small()
    save_module(module, tmp_path / "w.safetensors", torch.float32)
    assert torch.equal(load_module(Small, tmp_path / "w.safetensors").linear.weight, module.linear.weight)


def test_int8_matrices_lie_within_a_127th_of_each_rows_maximum(tmp_path):
    """Steps of maximum / 127, so rounding moves no weight by more than half a step; vectors stay half precision."""
    module = Small(64)
    with torch.no_grad():
        module.linear.weight[0] *= 1000  # a loud row must not cost a quiet one its precision
    save_module(module, tmp_path / "w.safetensors", torch.int8)
    loaded = load_module(Small, tmp_path / "w.safetensors")
    error = (loaded.linear.weight - module.linear.weight).abs()
    assert (error <= module.linear.weight.abs().amax(1, keepdim=True) / 127 * 0.501).all() and error.max() > 0
    assert torch.equal(loaded.linear.bias, module.linear.bias.half().float()) and loaded.steps.tolist() == [7]
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.get_tensor("linear.weight").dtype == torch.int8


def test_int8_row_of_zeros_stays_zero(tmp_path):
    module = Small()
    torch.nn.init.zeros_(module.linear.weight)
    save_module(module, tmp_path / "w.safetensors", torch.int8)
    assert torch.equal(load_module(Small, tmp_path / "w.safetensors").linear.weight, torch.zeros(2, 3))


def test_old_file_stays_when_saving_fails(tmp_path):
    path = tmp_path / "w.safetensors"
    save_module(Small(), path)
    before = path.read_bytes()
    broken = Small()
    broken.settings = {"width": object()}
    with pytest.raises(TypeError):
        save_module(broken, path)
    assert path.read_bytes() == before


def test_a_disk_that_takes_no_weights_is_one_line(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UserError, match="must be able to write its files; got: .*; free or change the place"):
            save_module(Small(), tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [*tmp_path.iterdir()]


def damaged(folder, kind: str):
    path = folder / "w.safetensors"
    save_module(Small(), path)
    tensors = {n: t.contiguous() for n, t in Small().state_dict().items()}
    header = {"class": "Small", "format": str(FORMAT), "settings": json.dumps({"width": 3})}
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not weights")
    elif kind == "another class":
        save_module(Other(), path)
    elif kind == "another format":
        save_file(tensors, path, metadata={**header, "format": str(FORMAT + 1)})
    elif kind == "no header":
        save_file(tensors, path)
    elif kind == "another size":
        save_file(tensors, path, metadata={**header, "settings": json.dumps({"width": 4})})
    elif kind == "a tensor less":
        save_file({n: t for n, t in tensors.items() if n != "linear.bias"}, path, metadata=header)
    elif kind == "a tensor more":
        save_file({**tensors, "extra": torch.zeros(1)}, path, metadata=header)
    elif kind == "not a number":
        save_file({**tensors, "linear.bias": torch.tensor([0.0, torch.nan])}, path, metadata=header)
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_the_file_cannot_hold_are_not_written(tmp_path, dtype, value):
    """1e6 is infinite in half precision, and NaN in every answer."""
    path, module = tmp_path / "w.safetensors", Small()
    save_module(module, path)
    before = path.read_bytes()
    with torch.no_grad():
        module.linear.bias[1] = value
    with pytest.raises(UserError, match="must be finite as torch.* to be written; got linear.bias"):
        save_module(module, path, dtype)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "kind, must",
    [
        ("missing", "existing .safetensors file"),
        ("cut", "whole safetensors file"),
        ("empty", "whole safetensors file"),
        ("text", "whole safetensors file"),
        ("another class", "must hold a Small of format 1; got Other format 1"),
        ("another format", "must hold a Small of format 1; got Small format 2"),
        ("no header", "got no class format none"),
        ("another size", "must hold linear.weight (2, 4); got (2, 3)"),
        ("a tensor less", "must hold linear.bias (2,); got None"),
        ("a tensor more", "must hold extra None; got (1,)"),
        ("not a number", "must hold finite weights; got NaN or infinity in linear.bias"),
    ],
)
def test_load_fails_with_one_line_when_the_file_is_not_that_model(tmp_path, kind, must):
    path = damaged(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        load_module(Small, path)
    message = str(caught.value)
    assert must in message and str(path) in message and "\n" not in message
