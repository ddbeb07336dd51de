"""Dialogues of pre-training, whose answers know nothing of the style."""

from __future__ import annotations

import numpy as np

from lightning_paras2s.data.embedded import Line, reply, text_queries, user_line
from lightning_paras2s.data.fitting import about_another
from lightning_paras2s.speaking.synthesizers import AGENT_VOICE
from lightning_paras2s.types import TONES, Style


def style_blind(size: int, seed: int, voices: str) -> list[tuple[Line, Line]]:
    """Dialogue about the right topic whose answer knows nothing of the style: generic, or fit for a random style."""
    random = np.random.default_rng(seed)
    queries = [q for i, q in enumerate(text_queries("train")) if i % 2] if voices == "train" else text_queries("val")
    answers = "train" if voices == "train" else "val"
    lines = []
    for _ in range(size):
        query = queries[random.integers(len(queries))]
        if voices == "train" and random.random() < 0.5:
            query = about_another(query, queries, random)
        user = user_line(query, query.styles[random.integers(2)], voices, random)
        style = "generic" if random.random() < 0.6 else query.styles[random.integers(2)]
        tone = "neutral" if random.random() < 0.4 else TONES[random.integers(len(TONES))]
        lines.append((user, Line(reply(query, style, answers, random), Style(tone=tone), AGENT_VOICE, 0)))
    return lines
