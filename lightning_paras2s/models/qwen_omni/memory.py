"""What `QwenOmni` needs of a card, from its config alone: known before any weight is read."""

from __future__ import annotations

import torch

from lightning_paras2s.errors import UserError

GB = 1e9
BESIDE = 3.0 * GB  # ears and voice (1.0 G weights, the voice's in float32), CUDA's context, workspaces


def weights(config, part: str) -> int:
    """Number of weights of the `thinker` (without ears and eyes) or the `talker`."""
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

    with torch.device("meta"):
        if part == "talker":
            model = stock.Qwen2_5OmniTalkerForConditionalGeneration(config.talker_config)
            return sum(p.numel() for p in model.parameters())
        text = config.thinker_config.text_config
        model = stock.Qwen2_5OmniThinkerTextModel(text)
        return sum(p.numel() for p in model.parameters()) + text.vocab_size * text.hidden_size


def bytes_needed(config, dtype: str, lora_rank: int = 0, trains: str = "", state_bits: int = 32) -> float:
    """Weights with, where they train, gradients and two moments (of float32 adapters: rank (in + out) a matrix, about
    rank / 128 of the weights), and ears and voice; activations come on top.

    Args:
        trains: thinker, talker, both, or "" = nothing.
    """
    width, moments = torch.empty(0, dtype=getattr(torch, dtype)).element_size(), 2 * state_bits / 8
    total = BESIDE
    for part in ("thinker", "talker"):
        count = weights(config, part)
        total += count * width
        if trains in (part, "both"):
            total += count * (width + moments) if not lora_rank else count * lora_rank / 1000 * (8 + moments)
    return total


def check_card(config, dtype: str, device: str, lora_rank: int = 0, trains: str = "") -> None:
    """Refuse a GPU that can't hold what is needed, before weights are read; the CPU is not judged.

    Raises:
        UserError: with the figures.
    """
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return
    has, needs = torch.cuda.get_device_properties(device).total_memory, bytes_needed(config, dtype, lora_rank, trains)
    refuse_small(has, needs)


def refuse_small(has: float, needs: float) -> None:
    if needs > has:
        raise UserError(
            f"the card must hold {needs / GB:.1f} GB before activations; got {has / GB:.1f} GB; take a smaller model, "
            "dtype: bfloat16, a lower lora_rank or a larger card"
        )
