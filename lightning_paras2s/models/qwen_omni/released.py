"""The released Qwen2.5-Omni, a part at a time: the thinker's language model and head, its ears, the talker, the voice.

A part is transformers' own class, filled with the tensors whose names begin with the part's; nothing else is read, so
that a stage that only hears keeps no voice. What a folder lacks, cuts or misshapes is one line.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import open_tensors
from lightning_paras2s.models.pretrained import INDEX, WHOLE, check_files, one_line

KIND, ADAPTER = "qwen2_5_omni", "adapter_config.json"
WORDS, EARS, TALKER, VOICE = "thinker.model.", "thinker.audio_tower.", "talker.", "token2wav."
HEAD = "thinker.lm_head.weight"
SPEAKERS = "spk_dict.pt"


def base_of(path: str | Path) -> str:
    """The released folder under `path`: itself, or what its adapters were trained on.

    Raises:
        UserError: there is neither.
    """
    folder = Path(path)
    if (folder / "config.json").is_file():
        return str(path)
    if not (folder / ADAPTER).is_file():
        raise UserError(
            f"the policy must be a folder of Qwen2.5-Omni or of adapters for it; got {path}; fetch it or mend the path"
        )
    return json.loads((folder / ADAPTER).read_text())["base_model_name_or_path"]


def read_omni_config(path: str | Path):
    """transformers' `Qwen2_5OmniConfig` of a folder.

    Raises:
        UserError: no folder, not JSON, of another model, or one that does not speak.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} must hold Qwen2.5-Omni; got no config.json in it; fetch it or mend the path")
    try:
        values = json.loads((folder / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'config.json'} must be JSON; got {error.msg}; fetch it again") from None
    if values.get("model_type") != KIND:
        raise UserError(f"{folder} must hold Qwen2.5-Omni ({KIND}); got {values.get('model_type')}; choose another")
    if not values.get("talker_config") or not values.get("token2wav_config"):
        raise UserError(f"{folder} must hold an Omni that speaks; its config has no talker or voice; choose another")
    with quiet(), one_line(folder):
        from transformers import Qwen2_5OmniConfig

        return Qwen2_5OmniConfig.from_pretrained(folder, local_files_only=True)


def load_part(cls: type, config, folder: str | Path, prefix: str, dtype: torch.dtype) -> nn.Module:
    """A model of transformers' class `cls`, filled with the folder's tensors under `prefix`; in eval mode.

    Raises:
        UserError: naming the first file that is missing or cut, or tensor that is missing, unknown or misshaped.
    """
    tensors = {name.removeprefix(prefix): tensor for name, tensor in read_tensors(folder, prefix).items()}
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in cls(config).state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [n for n in wanted.keys() | got.keys() if wanted.get(n) != got.get(n)]
    if wrong:
        name = min(wrong)
        raise UserError(
            f"{folder} must hold {prefix}{name} {wanted.get(name)}; got {got.get(name)} ({len(wrong)} such in all); "
            "fetch it again, or is it another model?"
        )
    with quiet(), one_line(folder):
        return cls.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype).eval()


def read_tensors(folder: str | Path, prefix: str) -> dict[str, Tensor]:
    """The folder's tensors whose names begin with `prefix`, by name."""
    folder = Path(folder)
    check_files(folder)
    found: dict[str, Tensor] = {}
    for file in shard_files(folder):
        with open_tensors(file) as shard:
            found |= {name: shard.get_tensor(name) for name in shard.keys() if name.startswith(prefix)}  # noqa: SIM118
    return found


def shard_files(folder: Path) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    return sorted({folder / file for file in json.loads((folder / INDEX).read_text())["weight_map"].values()})


def load_speaker(folder: str | Path, name: str) -> tuple[int, Tensor, Tensor]:
    """A voice of the folder: the text token that stands for it, its embedding [1, E] and its mel [1, T, bands]."""
    path = Path(folder) / SPEAKERS
    if not path.is_file():
        raise UserError(f"{folder} must hold {SPEAKERS}, the release's voices; it does not; fetch it")
    with one_line(path):
        speakers = torch.load(path, weights_only=True)
    if name not in speakers:
        raise UserError(f"the speaker must be one of {', '.join(sorted(speakers))}; got {name!r}; change it")
    found = speakers[name]
    return int(found["bos_token"]), found["cond"].float(), found["ref_mel"].float()


@contextmanager
def quiet():
    """Without transformers' warnings about text ids in the talker's config, which are as released, and its bars."""
    from transformers.utils import logging as told

    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity(logging.ERROR)
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()
