"""Chat language models behind one call, with usage and cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reply:
    """A chat model's answer; `text` is None unless `status` is "ok"."""

    text: str | None
    status: str = "ok"
    usage: dict[str, float] = field(default_factory=dict)
    cost_usd: float = 0.0


class ChatLLM(ABC):
    """A chat model."""

    name: str

    @abstractmethod
    def complete(self, conversations: list[list[dict[str, str]]]) -> list[Reply]:
        """Answer each conversation (lists of {"role", "content"}); replies keep the order."""
