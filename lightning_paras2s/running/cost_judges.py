"""The cost model of who scores an answer: ears for its words, and a judge on the card or elsewhere (docs/onegpu.md).

Arithmetic from sizes, as `cost.py`: a local chat model reads its weights once a token and batch; a server is paid by
its price list; Whisper hears an answer at a time, in float32, and its decoder waits for launches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.cost import Efficiency
from lightning_paras2s.running.gpus import GPU
from lightning_paras2s.running.logs import say_once

BLOCK_SECONDS = 2.5e-4  # a usual time of Python and launches a block, where no CUDA graph replays them
SCORERS = ("ScorerReward", "LikeliestScorerReward")  # rewards whose model is on the card
ASKED, REPLIED = 1300, 80  # tokens of a judge's question and of its verdict
# openai-whisper: weights, and blocks of its decoder
WHISPERS = {"tiny": (39e6, 4), "base": (74e6, 6), "small": (244e6, 12), "medium": (769e6, 24), "large": (1550e6, 32)}
WINDOW = 1500  # positions that its encoder hears, however short the speech is
WORD_RATE = 5.0  # tokens a second of speech
BLOCKS, KV_BYTES = 28, 57_344.0  # of a chat model of 7 G weights; keys and values of a token


@dataclass(frozen=True)
class Listener:
    """What makes a score of an answer: bytes on the card, and of one answer the FLOPs, the bytes read and the launches'
    seconds there, and the US dollars elsewhere.
    """

    bytes: float = 0.0
    flops: float = 0.0
    read: float = 0.0
    wait: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Listener) -> Listener:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Listener(*(a + b for a, b in pairs))

    def seconds(self, gpu: GPU, efficiency: Efficiency) -> float:
        read = self.read / (gpu.bandwidth * efficiency.decode)
        return self.flops / (gpu.flops * efficiency.matmul) + read + self.wait


def whisper(ear: str | dict[str, Any], seconds: float) -> Listener:
    """openai-whisper in float32, an answer at a time; other ears for words are small."""
    if short(ear) != "Whisper" or str(arguments(ear).get("device", "cuda")) == "cpu":
        return Listener()
    name = str(arguments(ear).get("model", "large-v3")).split(".")[0].split("-")[0]
    weights, blocks = WHISPERS.get(name, WHISPERS["large"])
    return Listener(4 * weights, weights * WINDOW, 0.0, WORD_RATE * seconds * blocks * 2 * BLOCK_SECONDS)


def chat(judge: str | dict[str, Any]) -> Listener:
    """`LLMJudge` by a local model, whose batch shares what is read, or by a server, which is paid."""
    if short(judge) != "LLMJudge":
        if short(judge) == "AudioLLMJudge":
            say_once("plan does not know what AudioLLMJudge, which hears, costs: it counts as free here")
        return Listener()
    llm, samples = arguments(judge).get("llm", ""), arguments(judge).get("samples", 1)
    given = arguments(llm)
    if short(llm) != "TransformersChat":
        from lightning_paras2s.servers.chat import PRICES

        model = given.get("model", "gpt-4.1")
        price = given.get("usd_per_million") or PRICES.get(model)
        if price is None:
            say_once(f"the price of {model!r} is not known, its replies count as free; give llm.usd_per_million")
        asked, replied = price or (0.0, 0.0)
        return Listener(usd=samples * (ASKED * asked + REPLIED * replied) / 1e6)
    billions = re.findall(r"(\d+(?:\.\d+)?)[Bb]\b", str(given.get("path", "")))
    weights = 1.09e9 * (float(billions[-1]) if billions else 7.0)  # names leave embeddings out: Qwen2.5's 7B is 7.6 G
    batch, tokens = given.get("batch_size", 8), ASKED + REPLIED
    return Listener(
        2 * weights + batch * tokens * KV_BYTES,
        samples * 2 * weights * tokens,
        samples * 2 * weights * REPLIED / batch,
        samples * REPLIED * BLOCKS * BLOCK_SECONDS / batch,
    )


def as_part(value: str | dict[str, Any]) -> dict[str, Any]:
    """A part of a config, which may stand as its class's name alone.

    Raises:
        UserError: neither a name nor a mapping of options.
    """
    if not isinstance(value, str | dict):
        raise UserError(f"a part of a config must be a class's name or a mapping of options; got {value!r}; mend it")
    return {"class_path": value} if isinstance(value, str) else value


def short(value: str | dict[str, Any]) -> str:
    """The class that a config names, without its module; "" where it names none."""
    return (as_part(value).get("class_path") or "").rpartition(".")[2]


def arguments(value: str | dict[str, Any]) -> dict[str, Any]:
    return as_part(value).get("init_args") or {}
