"""A sharded checkpoint is looked at before it is read: whole, and this model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.shards import check_model, check_whole

SHAPES = {"policy.a": (4, 2), "policy.b": (3,)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """As Lightning writes it: weights and moments by DCP, the rest beside."""
    folder = tmp_path / "step-00000001.ckpt"
    weights = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    dcp.save({"state_dict": weights, "optimizer_0": {"policy.a": torch.ones(9)}}, checkpoint_id=folder, no_dist=True)
    torch.save({}, folder / "meta.pt")
    return folder


def test_a_whole_checkpoint_of_this_model_is_taken(folder):
    check_whole(folder)
    check_model(folder, SHAPES)


def test_a_damaged_checkpoint_names_the_file(folder):
    (data,) = folder.glob("*.distcp")
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"whole; got .* with .* bytes of {data.name}; remove it or name another"):
        check_whole(folder)
    data.unlink()
    with pytest.raises(UserError, match=f"whole; got .* without {data.name}"):
        check_whole(folder)
    for name in ("meta.pt", ".metadata"):
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"got .*step-00000001.ckpt without {name}; remove"):
            check_whole(folder)


@pytest.mark.parametrize(
    "shapes, misfit",
    [
        (SHAPES | {"policy.b": (4,)}, r"policy.b \(3,\) for \(4,\)"),
        (SHAPES | {"policy.lora": (1,)}, r"policy.lora missing for \(1,\)"),
        ({"policy.a": (4, 2)}, r"policy.b \(3,\) for none"),
    ],
)
def test_another_models_checkpoint_names_the_tensor(folder, shapes, misfit):
    with pytest.raises(UserError, match=f"of this model; got another's .{misfit}.; set the model's options"):
        check_model(folder, shapes)
