"""The files beside Kimi-Audio's language model, read as their writers write them: GLM-4's tokenizer, Whisper, flow
matching, BigVGAN.

What a config says and we do not compute is refused by name, with the value that upstream takes where the config is
silent: a vocoder with another activation would load and hiss.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import read_json
from lightning_paras2s.models.kimi.bigvgan import BigVGAN, BigVGANConfig
from lightning_paras2s.models.kimi.config import require, require_values
from lightning_paras2s.models.kimi.detokenizer import Detokenizer
from lightning_paras2s.models.kimi.flow_matching import FlowConfig, FlowMatching
from lightning_paras2s.models.kimi.glm4_tokenizer import Glm4Config, Glm4Tokenizer
from lightning_paras2s.models.kimi.whisper_features import WhisperFeatures
from lightning_paras2s.models.pretrained import shard_tensors

# name -> (what we compute, upstream's default); None = upstream has none
GLM4_FIXED = {
    "pooling_type": ("avg", "max"),
    "pooling_kernel_size": (4, None),
    "encoder_causal_convolution": (True, False),
    "quantize_encoder_only": (True, False),
    "activation_function": ("gelu", "gelu"),
    "num_mel_bins": (128, 80),
}
GLM4_SHAPES = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "max_source_positions")
GLM4_SHAPES += ("quantize_vocab_size", "quantize_position", "quantize_causal_block_size")
WHISPER_FIXED = {
    "activation_function": ("gelu", "gelu"),
    "num_mel_bins": (128, 80),
    "max_source_positions": (1500, 1500),
}
WHISPER_SHAPES = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
FLOW_FIXED = {
    "ffn_type": ("vanilla_mlp", "conv1d_conv1d"),
    "use_rope": (True, False),
    "position_embedding_type": ("skip", None),
}
FLOW_SHAPES = ("input_size", "semantic_vocab_size", "hidden_size", "depth", "num_heads", "mlp_ratio")
VOCODER_FIXED = {
    "activation": ("snakebeta", None),
    "snake_logscale": (True, None),
    "resblock": ("1", None),
    "sampling_rate": (24000, 24000),
}
VOCODER_SHAPES = ("num_mels", "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel")
VOCODER_SHAPES += ("resblock_kernel_sizes", "resblock_dilation_sizes")
FRAME_SAMPLES = 480  # of speech a frame of mel


def load_codes(folder: Path) -> Glm4Tokenizer:
    path = folder / "config.json"
    values = read_json(path)
    require_values(path, values, GLM4_FIXED)
    require(path, values, GLM4_SHAPES)
    require_values(path, values, {"pooling_position": (values["quantize_position"], 0)})
    glm4 = Glm4Tokenizer(known_fields(Glm4Config, values))
    load_strictly(glm4, folder / "model.safetensors", ignored=("ema_count", "ema_weight"))
    return glm4


def load_features(folder: Path) -> WhisperFeatures:
    """The encoder of a whole Whisper, with or without its language-model head."""
    path = folder / "config.json"
    values = read_json(path)
    require_values(path, values, WHISPER_FIXED)
    require(path, values, WHISPER_SHAPES)
    whisper = WhisperFeatures(**{name: values[name] for name in WHISPER_SHAPES})
    # `WhisperModel` writes `encoder.`, `WhisperForConditionalGeneration` the same within `model.`
    file = folder / "model.safetensors"
    outer = "model." if any(name.startswith("model.") for name in tensor_names(file)) else ""
    load_strictly(whisper.encoder, file, f"{outer}encoder.", (f"{outer}decoder.", "proj_out."))
    return whisper


def load_detokenizer(folder: Path, dtype: torch.dtype, changes: dict[str, int | None]) -> Detokenizer:
    """`changes` of its config that are not None win over the release's."""
    shapes = flow_config(folder / "audio_detokenizer" / "config.yaml")
    flow = FlowMatching(dataclasses.replace(shapes, **{k: v for k, v in changes.items() if v is not None}))
    path = folder / "vocoder" / "config.json"
    vocoder = BigVGAN(vocoder_config(path))
    if (got := vocoder.config.num_mels) != shapes.mels:
        raise UserError(f"num_mels in {path} must be flow matching's {shapes.mels}; got {got}; is it another model's?")
    load_strictly(flow, folder / "audio_detokenizer" / "model.pt", "speech_model.", others=True)
    load_strictly(vocoder, folder / "vocoder" / "model.pt")
    return Detokenizer(flow.to(dtype), vocoder)


def flow_config(path: Path) -> FlowConfig:
    """The release's config.yaml: shapes under model.dit, the mel's mean and deviation at its top."""
    if not path.is_file():
        raise UserError(f"the detokenizer must have {path}; it is missing; fetch it")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be YAML; got {' '.join(str(error).split())}; fetch it again") from None
    shapes = values
    for key in ("model", "dit"):
        shapes = shapes.get(key) if isinstance(shapes, dict) else None
    if not isinstance(shapes, dict):
        raise UserError(f"{path} must hold a map model.dit; it does not; is it another model's?")
    require_values(path, shapes, FLOW_FIXED)
    require(path, shapes, FLOW_SHAPES)
    rope = shapes.get("rope_params") or {"rope_base": 10000.0, "rope_interpolation_factor": 1.0}
    require_values(path, rope, {"rope_interpolation_factor": (1, None)})
    require(path, rope, ("rope_base",))
    require(path, values, ("normalize_mel", "mel_mean", "mel_std"))
    return FlowConfig(
        semantic_vocab_size=shapes["semantic_vocab_size"] + 1,
        hidden_size=shapes["hidden_size"],
        depth=shapes["depth"],
        num_heads=shapes["num_heads"],
        mlp_ratio=shapes["mlp_ratio"],
        rope_base=rope["rope_base"],
        mel_mean=values["mel_mean"] if values["normalize_mel"] else 0.0,
        mel_std=values["mel_std"] if values["normalize_mel"] else 1.0,
        mels=shapes["input_size"],
    )


def vocoder_config(path: Path) -> BigVGANConfig:
    values = read_json(path)
    require_values(path, values, VOCODER_FIXED)
    require(path, values, VOCODER_SHAPES)
    config = known_fields(BigVGANConfig, values)
    if (got := config.hop) != FRAME_SAMPLES:
        raise UserError(
            f"upsample_rates in {path} must multiply to {FRAME_SAMPLES} samples a frame; got {got}; "
            "is it another model's?"
        )
    return config


def known_fields(cls: type, values: dict):
    """`cls` from the entries of `values` that it has; lists become tuples."""
    names = {f.name for f in dataclasses.fields(cls)}
    return cls(**{k: json_tuple(v) for k, v in values.items() if k in names})


def json_tuple(value):
    return tuple(json_tuple(v) for v in value) if isinstance(value, list) else value


def load_strictly(
    module: nn.Module, path: Path, prefix: str = "", ignored: tuple[str, ...] = (), others: bool = False
) -> None:
    """Load the tensors under `prefix`; any that lacks, is too many or has another shape is an error that names it.

    Args:
        ignored: beginnings of names that may lie beside; `others`: any name outside the prefix may.
    """
    found = {k: v for k, v in read_tensors(path).items() if not k.startswith(ignored)}
    inside = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    outside = [k for k in found if not k.startswith(prefix)]
    state = module.state_dict()
    wanted = {k: tuple(v.shape) for k, v in state.items()}
    for name in sorted(wanted.keys() | inside.keys()):
        if name not in inside:
            raise UserError(f"{path} must hold {prefix}{name}; it does not; is it another model's?")
        if name not in wanted or tuple(inside[name].shape) != wanted[name]:
            got = tuple(inside[name].shape)
            raise UserError(
                f"{prefix}{name} must have shape {wanted.get(name, 'none')}; got {got} in {path}; "
                "is it another model's?"
            )
        if inside[name].is_floating_point() != state[name].is_floating_point():
            raise UserError(f"{prefix}{name} must hold real numbers; got {inside[name].dtype} in {path}; convert it")
    if outside and not others:
        raise UserError(f"{path} must hold only {prefix} tensors; got {outside[0]}; is it another model's?")
    module.load_state_dict(inside)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file (or of the shards that an index beside it lists), or of a pickled state dict,
    which may lie under `state_dict` or `generator`.

    Raises:
        UserError: a file is missing, cut or damaged.
    """
    if path.suffix == ".safetensors":
        return {name: tensor for file in shards(path) for name, tensor in read_safetensors(file).items()}
    if not path.is_file():
        raise UserError(f"the tokenizer must have {path}; it is missing; fetch it")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} must be a whole file; got {str(error).splitlines()[0]}; fetch it again") from None
    return found.get("state_dict", found.get("generator", found))


def shards(path: Path) -> list[Path]:
    """A file of weights, or those that the index in its place lists (5 GB each, as transformers writes)."""
    index = path.with_name(f"{path.name}.index.json")
    if path.is_file() or not index.is_file():
        return [path]
    return [path.with_name(name) for name in sorted(set(read_json(index).get("weight_map", {}).values()))]


def read_safetensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"the tokenizer must have {file}; it is missing; fetch it")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} must be a whole file; got {str(error).splitlines()[0]}; fetch it again") from None


def tensor_names(path: Path) -> set[str]:
    return set().union(*(shard_tensors(file) for file in shards(path)))
