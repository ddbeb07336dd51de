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


def bytes_needed(config, dtype: str) -> float:
    """Weights, and what lies beside them; what training adds is `plan`'s to say."""
    width = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    return BESIDE + width * sum(weights(config, part) for part in ("thinker", "talker"))


def check_card(config, dtype: str, device: str) -> None:
    """Refuse a GPU that can't hold what is needed, before weights are read; the CPU is not judged.

    Raises:
        UserError: with the figures.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        refuse_small(torch.cuda.get_device_properties(device).total_memory, bytes_needed(config, dtype))


def refuse_small(has: float, needs: float) -> None:
    if needs > has:
        raise UserError(
            f"the card must hold {needs / GB:.1f} GB before activations; got {has / GB:.1f} GB; take a smaller model, "
            "dtype: bfloat16 or a larger card"
        )
