"""Sharded checkpoints (DCP: a folder to which every rank wrote), looked at before they are read: what torch finds wrong
with one it tells as a traceback of every rank, by an exception that is no `Exception`.
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.checkpoint import FileSystemReader

from lightning_paras2s.errors import UserError

METADATA, REST = ".metadata", "meta.pt"  # DCP's own, and what Lightning writes beside


class ShardsFit(Callback):
    """Refuses a sharded checkpoint of another model on all ranks alike, when the model is built and nothing is read.

    Args:
        folder: the sharded checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in pl_module.state_dict().items()}
        check_model(self.folder, shapes)


def check_whole(folder: Path) -> None:
    """
    Raises:
        UserError: a file is missing or cut short.
    """
    for name in (METADATA, REST):
        if not (folder / name).is_file():
            raise damaged(folder, f"without {name}")
    needed: dict[str, int] = {}
    for part in FileSystemReader(folder).read_metadata().storage_data.values():
        needed[part.relative_path] = max(needed.get(part.relative_path, 0), part.offset + part.length)
    for name, size in needed.items():
        path = folder / name
        if not path.is_file():
            raise damaged(folder, f"without {name}")
        if path.stat().st_size < size:
            raise damaged(folder, f"with {path.stat().st_size} of {size} bytes of {name}")


def check_model(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """
    Args:
        shapes: of the model's tensors by name.

    Raises:
        UserError: the checkpoint's are others.
    """
    prefix, saved = "state_dict.", FileSystemReader(folder).read_metadata().state_dict_metadata
    found = {name.removeprefix(prefix): tuple(t.size) for name, t in saved.items() if name.startswith(prefix)}
    for name in sorted(found.keys() | shapes.keys()):
        if found.get(name) != shapes.get(name):
            raise another_models(folder, f"{name} {found.get(name, 'missing')} for {shapes.get(name, 'none')}")


def another_models(path: Path | str, misfit: str) -> UserError:
    return UserError(
        f"{path} must be a checkpoint of this model; got another's ({misfit}); "
        "set the model's options as they were, or name another version"
    )


def damaged(path: Path | str, how: str) -> UserError:
    return UserError(
        f"a checkpoint must be one that `fit` wrote, whole; got {path} {how}".rstrip() + "; remove it or name another"
    )
