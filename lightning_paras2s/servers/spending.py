"""What chat models are expected to cost, and may."""

from __future__ import annotations

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import say_once
from lightning_paras2s.servers.chat import ChatLLM, OpenAIChat

VERDICT_TOKENS = 60  # of what a judge writes; an estimate


def expected_usd(llm: ChatLLM | None, prompt: float, completion: float, audio: float = 0.0) -> float:
    """What replies will cost, in USD, before they are asked for; those of a model on this machine nothing.

    Args:
        prompt, completion, audio: tokens, as of `OpenAIChat.cost`.
    """
    if not isinstance(llm, OpenAIChat):
        return 0.0
    tell_unpriced(llm)
    return llm.cost(prompt, completion, audio)


def tell_unpriced(llm: ChatLLM) -> None:
    """Say once that a model whose price is not known counts as free."""
    if not llm.priced:
        say_once(f"the price of {llm.name!r} is not known, its replies count as free; give llm.usd_per_million")


def cap(llm: OpenAIChat, max_usd: float | None, before: float = 0.0) -> None:
    """Set the most that a model may spend; None leaves it as it is.

    Args:
        before: USD of it that earlier starts have spent.

    Raises:
        UserError: if its price is not known.
    """
    if max_usd is None:
        return
    if not llm.priced:
        raise UserError(f"max_usd needs the model's price; got {llm.model!r}; give llm.usd_per_million")
    llm.max_usd = max(0.0, max_usd - before)
