"""Shapes and special ids of Kimi-Audio."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.checkpoint import read_json
from lightning_paras2s.models.selective import Ranges

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rope_theta")
REQUIRED += ("num_key_value_heads", "kimia_mimo_layers", "kimia_mimo_transformer_from_layer_index")
# name -> (what we compute, the value of a config that does not say)
FIXED = {
    "hidden_act": ("silu", "silu"),
    "tie_word_embeddings": (False, False),
    "use_sliding_window": (False, False),
    "use_whisper_feature": (True, True),
    "rope_scaling": (None, None),
}


@dataclass(frozen=True)
class KimiConfig:
    """Names as in the released config.json, values of Kimi-Audio-7B; `rope_theta` and `pad_token_id` are inferred
    from Qwen2.5-7B.

    The ids of special tokens (`blank` ... `speech_ctd`) are fixed by the released text tokenizer.

    Args:
        vocab_size: rows of the tables of ids: text and audio.
        hidden_size: width of every layer.
        intermediate_size: width of a layer's MLP.
        num_hidden_layers: layers of the trunk and the text branch.
        num_attention_heads: heads of the queries a layer.
        num_key_value_heads: heads of keys and values a layer.
        max_position_embeddings: tokens that have a rotary position.
        rms_norm_eps: added to the mean square in every norm.
        rope_theta: base of the rotary positions.
        pad_token_id: id of padding.
        kimia_token_offset: first audio id.
        kimia_text_output_vocab: number of ids that the text stream may write.
        kimia_mimo_layers: layers of the audio branch.
        kimia_mimo_transformer_from_layer_index: layer after which the audio branch leaves the trunk.
        kimia_mimo_audiodelaytokens: steps by which audio trails text.
        kimia_adaptor_input_dim: numbers of Whisper's features a code.
        msg_end: id that ends a message.
        media_begin: id before a message's audio.
        media_end: id after a message's audio.
        blank: id of a stream that says nothing.
        text_eos: id that ends the text stream.
        user_start: id before the user's message.
        assistant_start: id before the answer.
        speech_ct: id that asks for a spoken answer.
        speech_ctd: id that asks for a spoken answer with text.
    """

    vocab_size: int = 168448
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    pad_token_id: int = 152063
    kimia_token_offset: int = 152064
    kimia_text_output_vocab: int = 152064
    kimia_mimo_layers: int = 6
    kimia_mimo_transformer_from_layer_index: int = 21
    kimia_mimo_audiodelaytokens: int = 6
    kimia_adaptor_input_dim: int = 5120
    msg_end: int = 151645
    media_begin: int = 151661
    media_end: int = 151663
    blank: int = 151666
    text_eos: int = 151667
    user_start: int = 151670
    assistant_start: int = 151671
    speech_ct: int = 151675
    speech_ctd: int = 151676

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def text_ids(self) -> Ranges:
        return ((0, self.kimia_text_output_vocab),)

    @property
    def audio_ids(self) -> Ranges:
        """The codes and the two tokens that end a turn."""
        ends = ((i, i + 1) for i in sorted((self.msg_end, self.media_end)))
        return (*ends, (self.kimia_token_offset, self.vocab_size))


def read_config(folder: str | Path) -> KimiConfig:
    """Shapes from the folder's config.json; keys that it lacks keep the released model's values.

    Raises:
        UserError: no config.json, not JSON, or of another architecture.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    architectures = values.get("architectures", [])
    if architectures != ["MoonshotKimiaForCausalLM"]:
        raise UserError(
            f"{path} must be of architecture MoonshotKimiaForCausalLM; got {architectures}; choose another folder"
        )
    rope = values.get("rope_parameters") or {"rope_theta": values.get("rope_theta")}  # transformers 5 nests it
    require_values(path, rope, {"rope_type": ("default", "default")})
    values |= {"rope_theta": rope.get("rope_theta")}
    require(path, values, REQUIRED)
    require_values(path, values, FIXED)
    names = {f.name for f in dataclasses.fields(KimiConfig)}
    config = KimiConfig(**{name: value for name, value in values.items() if name in names and value is not None})
    marks = {"kimia_media_begin": config.media_begin, "kimia_media_end": config.media_end}
    require_values(path, values, {name: (mark, mark) for name, mark in marks.items()})
    return config


def require(path: Path, values: dict, names: tuple[str, ...]) -> None:
    """A config must give each of `names`.

    Raises:
        UserError: naming the first that it lacks.
    """
    for name in names:
        if values.get(name) is None:
            raise UserError(f"{path} must give {name}; it does not; is it another model's?")


def require_values(path: Path, values: dict, fixed: dict[str, tuple]) -> None:
    """A config must ask for what we compute: name -> (that, the value of a config that does not say).

    Raises:
        UserError: naming the first that is another.
    """
    for name, (wanted, default) in fixed.items():
        if (got := values.get(name, default)) != wanted:
            raise UserError(f"{name} in {path} must be {wanted!r}; got {got!r}; no other is supported")
