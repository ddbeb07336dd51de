"""transformers' `from_pretrained`, strict: what a folder lacks, cuts or has too much is one line and never a random
weight.

transformers fills a missing tensor with noise and says so in a warning that scrolls by.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import open_tensors, read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_pretrained(
    cls: type, folder: str | Path, dtype: torch.dtype, unused: tuple[str, ...] = (), spare: tuple[str, ...] = ()
) -> nn.Module:
    """A model of transformers' class `cls` (or what an auto class makes of the folder).

    Args:
        unused: beginnings of the names of tensors that may lie beside the model's own.
        spare: ends of the names of tensors that may be missing, since what we do does not read them.

    Raises:
        UserError: naming the first file that is missing or cut, or tensor that is missing, unknown or misshaped.
    """
    check_files(Path(folder))
    return load_strictly(cls, folder, dtype, unused, spare)


def load_strictly(
    cls: type,
    folder: str | Path,
    dtype: torch.dtype | Literal["auto"],
    unused: tuple[str, ...] = (),
    spare: tuple[str, ...] = (),
    here: bool = True,
) -> nn.Module:
    """As `load_pretrained`, of a folder whose files have names of their own, or of a name on the hub (not `here`)."""
    with one_line(folder):
        model, found = cls.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=here
        )
    problems = [(name, "it is missing") for name in found["missing_keys"] if not name.endswith(spare or "\0")]
    problems += [(entry[0], f"its shape is {tuple(entry[1])}") for entry in found["mismatched_keys"]]
    problems += [(n, "it is not this model's") for n in found["unexpected_keys"] if not n.startswith(unused or "\0")]
    if problems:
        name, what = min(problems)
        raise UserError(
            f"{folder} must hold {type(model).__name__}'s tensors; got none that fits for {name}: {what} "
            f"({len(problems)} in all); fetch it again, or is it another model?"
        )
    return model


def check_files(folder: Path) -> None:
    """Config and weights are there and whole, as the headers tell, and hold what the index says."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} must hold a model; got no config.json in it; fetch it or mend the path")
    read_json(folder / "config.json")
    if (folder / WHOLE).is_file():
        shard_tensors(folder / WHOLE)
        return
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} must hold {WHOLE} or {INDEX}; it holds neither; fetch it")
    files: dict[str, str] = read_json(folder / INDEX).get("weight_map", {})
    held = {file: shard_tensors(folder / file) for file in sorted(set(files.values()))}
    for name, file in files.items():
        if name not in held[file]:
            raise UserError(f"{folder / file} must hold {name}, as {INDEX} says; it does not; fetch it again")


def shard_tensors(file: Path) -> set[str]:
    """Names in a safetensors file, whose length the header gives away."""
    with open_tensors(file) as shard:
        return set(shard.keys())


@contextmanager
def one_line(folder: str | Path) -> Iterator[None]:
    """What transformers raises about a folder (config, tokenizer or processor missing or damaged) becomes one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} must load with transformers; got {said}; fetch it again") from None


def token_ids(tokenizer, tokens: list[str]) -> list[int]:
    """The ids of single tokens.

    Raises:
        UserError: the tokenizer has no such token.
    """
    ids = tokenizer.convert_tokens_to_ids(tokens)
    for token, i in zip(tokens, ids):
        if i is None or i == tokenizer.unk_token_id:
            raise UserError(f"the tokenizer must have the token {token!r}; it does not; is it another model's?")
    return ids
