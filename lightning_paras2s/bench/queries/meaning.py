"""Duplicates by meaning: texts whose sentence embeddings point nearly the same way, for `mine` beside those by words.

How far an embedding can be trusted to find them was measured on the open text set (docs/open_text.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_paras2s.errors import InputPath, UserError


class TextEmbedder(ABC):
    """Says where texts lie in a space of meanings."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D], a row of length 1 a text."""


class SentenceBERT(TextEmbedder):
    """Mean of the last hidden states over a text's tokens (Reimers and Gurevych, arXiv 1908.10084, section 3).

    Args:
        folder: a sentence-transformers model with mean pooling, such as all-MiniLM-L6-v2, as downloaded.
        batch_size: texts embedded at a time.
        device: where it computes: cuda, cuda:1, cpu.
    """

    def __init__(self, folder: InputPath, batch_size: int = 64, device: str = "cpu") -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from lightning_paras2s.models.checkpoint import read_json
        from lightning_paras2s.models.pretrained import load_pretrained, one_line

        pooling = read_json(Path(folder) / "1_Pooling/config.json")
        if not pooling.get("pooling_mode_mean_tokens") and pooling.get("pooling_mode") != "mean":
            raise UserError(f"{folder} must take the mean over tokens; got {pooling}; take another model")
        self.batch_size, self.device = batch_size, device
        self.model = load_pretrained(AutoModel, folder, torch.float32).to(device).eval()
        with one_line(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        rows = []
        limit = min(self.model.config.max_position_embeddings, self.tokenizer.model_max_length)
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            inputs = self.tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            inputs = inputs.to(self.device)
            with torch.inference_mode():
                hidden = self.model(**inputs).last_hidden_state  # [B, T, D]
            counts = inputs["attention_mask"][..., None].float()
            rows.append(torch.nn.functional.normalize((hidden * counts).sum(1), dim=-1).cpu().numpy())
        return np.concatenate(rows)
