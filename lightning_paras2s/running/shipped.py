"""Files that come with the package: weights are found from any folder, as configs are.

Importing this module must stay cheap: no torch.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

import lightning_paras2s
from lightning_paras2s.errors import UserError

PACKAGE = Path(lightning_paras2s.__file__).parent
WEIGHTS = Path("checkpoints/embedded")
SUMS = "SHA256SUMS"


def shipped(path: str | Path) -> Path:
    """The path as given where that is a file, else the package's file of this name, else the path as given."""
    path = Path(path)
    inside = PACKAGE / path
    return inside if not path.is_file() and not path.is_absolute() and inside.is_file() else path


def weights_file(path: str | Path, what: str = "weights must be an existing .safetensors file") -> Path:
    """A file of weights (or of coefficients) that is there.

    Args:
        path: as given, from the current folder; else among the package's files.
        what: must hold, for the error.

    Raises:
        UserError: no such file; tells how to make it, or which there are.
    """
    found = shipped(path)
    if not found.is_file():
        raise UserError(f"{what}; got {path}; {remedy(Path(path))}")
    return found


def remedy(path: Path) -> str:
    """What to do about a file or folder that is not there."""
    parts = path.parts
    if parts[:2] == ("runs", "bench") and parts[2:] in [(split, "queries.jsonl") for split in ("train", "val", "test")]:
        return f"`python -m lightning_paras2s synthesize --out {path.parent} --split {parts[2]}` makes it"
    if path.parent != WEIGHTS and path.suffix != ".safetensors":
        return "make it, put it there, or check the path"
    of_a_run = len(parts) == 4 and parts[0] == "runs" and path.suffix == ".safetensors"
    if of_a_run and (PACKAGE / "configs" / f"{parts[1]}.yaml").is_file():
        command = f"python -m lightning_paras2s fit --config {parts[1]}.yaml --trainer.logger.version {parts[2]}"
        return f"`{command}` makes it"
    if path.parent != WEIGHTS:
        return "train them or check the path"
    there = sorted(p.name for p in (PACKAGE / WEIGHTS).glob("*.*") if p.suffix in (".safetensors", ".json"))
    if not there:
        return "this installation lacks its weights; install the package again"
    near = difflib.get_close_matches(path.name, there, 1)
    return (f"did you mean {near[0]}? " if near else "") + f"The package has {', '.join(there)}"


def damaged() -> dict[str, str]:
    """Name -> what is wrong, of the shipped files that are not as `SHA256SUMS` says; nothing wrong: empty."""
    folder = PACKAGE / WEIGHTS
    if not (folder / SUMS).is_file():
        return {SUMS: "missing"}
    wrong = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        expected, name = line.split()
        file = folder / name
        if not file.is_file():
            wrong[name] = "missing"
        elif hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            wrong[name] = "damaged"
    return wrong
