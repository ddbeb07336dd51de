"""Chat language models behind one call, with usage and cost."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning_paras2s.errors import InputPath, UserError
from lightning_paras2s.running.logs import say, say_once
from lightning_paras2s.servers.batch import batch_failure, batch_rows, drop_answered, write_batch
from lightning_paras2s.servers.parts import Conversation, audio_seconds, parts_of
from lightning_paras2s.servers.remote import Gate, Patience, ask, gather
from lightning_paras2s.servers.replies import (
    Account,
    Reply,
    ReplyCache,
    read_completion,
    said_of,
    server_message,
    stated_usage,
)

PRICES = {  # USD a million tokens (prompt, completion), platform.openai.com, 2025
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-audio": (2.5, 10.0),
    "gpt-audio-mini": (0.6, 2.4),
    "gpt-4o-audio-preview": (2.5, 10.0),
    "gpt-4o-mini-audio-preview": (0.15, 0.6),
}
AUDIO_PRICES = {  # of a million prompt tokens of audio
    "gpt-audio": 32.0,
    "gpt-audio-mini": 10.0,
    "gpt-4o-audio-preview": 40.0,
    "gpt-4o-mini-audio-preview": 10.0,
}
BATCH_DISCOUNT = 0.5
CHARACTERS_A_TOKEN = 3.0  # fewer than English has (about 4), so that estimates lie above
AUDIO_TOKENS_A_SECOND = 15.0  # more than servers count (about 10)
TOKENS = ("max_tokens", "max_completion_tokens")
NOT_TAKEN = re.compile(r"(?:not |un)support|unrecogni[sz]ed|unknown|unexpected|not permitted", re.I)


class ChatLLM(ABC):
    """A chat model."""

    name: str
    max_tokens: int = 4096  # of a reply, at most
    priced: bool = True  # whether it is known what replies cost

    @abstractmethod
    def complete(self, conversations: list[Conversation], samples: Sequence[str] | None = None) -> list[Reply]:
        """Answer each conversation; replies keep the order. A model that hears takes `servers.parts.audio_part`, too.

        Args:
            samples: a name for the sample that each reply is: the same conversation and name get the same reply as far
                as the model can repeat itself, another name another one, whatever is asked beside it. None: a
                conversation that comes again in this call is another sample.
        """

    def at_most(self, conversation: Conversation) -> float:
        """What a request can cost, in USD; on this machine nothing."""
        return 0.0


class OpenAIChat(ChatLLM):
    """Any server with OpenAI's chat completions (paper: gpt-4.1): bounded, patient, cached, with a cap on the cost.

    One bad answer never raises: it is a reply with a status (timeout, connection, malformed, http_500, truncated,
    refused, empty, max_usd, pending). A repeated conversation is an independent sample. With `batch_requests`, what the
    cache lacks is written there in the Batch API's format and answered "pending"; `batch_results` reads what came back.
    Models differ in what they take: where a server rejects `max_tokens` or `temperature` by name, it is asked again as
    it wants, once, and so is all that follows.

    Args:
        model: the server's name for it.
        base_url: up to and including the version.
        api_key_env: the environment variable that holds the key; a server without keys needs none.
        temperature: 0 repeats itself, as far as the server can; null sends none (reasoning models take none).
        max_tokens: of a completion.
        tokens_field: the name under which the server takes `max_tokens`.
        seed: part of the request; another one gives other samples.
        concurrency: requests at a time.
        patience: retries, timeout, waits.
        cache_dir: replies are kept here; "" keeps none.
        max_usd: no request is sent that could take this object's spending above it.
        usd_per_million: (prompt, completion) tokens, where `PRICES` lacks the model.
        audio_usd_per_million: prompt tokens of audio, where `AUDIO_PRICES` lacks the model.
        batch_requests: JSON lines to write for the Batch API, which costs half; those that are answered are taken out.
        batch_results: JSON lines that it gave back.
    """

    def __init__(
        self,
        model: str = "gpt-4.1",
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float | None = 0.0,
        max_tokens: int = 4096,
        tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        seed: int | None = None,
        concurrency: int = 16,
        patience: Patience = Patience(),
        cache_dir: str = "cache/llm",
        max_usd: float | None = None,
        usd_per_million: tuple[float, float] | None = None,
        audio_usd_per_million: float | None = None,
        batch_requests: str | None = None,
        batch_results: list[InputPath] | None = None,
    ) -> None:
        self.priced = usd_per_million is not None or model in PRICES
        if max_usd is not None and not self.priced:
            known = ", ".join(PRICES)
            raise UserError(f"max_usd needs the model's price; got {model!r} (known: {known}); give usd_per_million")
        self.model, self.url = model, base_url.rstrip("/") + "/chat/completions"
        self.name = model if temperature is None else f"{model}-t{temperature:g}"
        self.options = {"temperature": temperature, tokens_field: max_tokens, "seed": seed}
        self.options = {name: value for name, value in self.options.items() if value is not None}
        self.taken = dict(self.options)  # as the server turned out to take them
        self.account = Account(self.url, api_key_env)
        self.max_tokens, self.concurrency, self.patience = max_tokens, concurrency, patience
        self.prices = usd_per_million or PRICES.get(model, (0.0, 0.0))
        known = AUDIO_PRICES.get(model, self.prices[0])
        self.audio_price = known if audio_usd_per_million is None else audio_usd_per_million
        self.cache = ReplyCache(cache_dir)
        self.max_usd, self.spent_usd, self.reserved_usd = max_usd, 0.0, 0.0
        self.asked: Counter[str] = Counter()  # statuses of the answers that were not in the cache
        self.batch_requests = Path(batch_requests) if batch_requests else None
        for path in batch_results or []:
            self.read_batch(path)
        if self.batch_requests:
            drop_answered(self.batch_requests, lambda key: self.cache.get(key) is not None)

    def complete(self, conversations: list[Conversation], samples: Sequence[str] | None = None) -> list[Reply]:
        keys = self.keys(conversations, samples)
        replies = {key: reply for key in keys if (reply := self.cache.get(key)) is not None}
        missing = {key: c for key, c in zip(keys, conversations, strict=True) if key not in replies}
        self.account.accepted |= bool(replies)  # it has taken such requests before
        if missing and self.batch_requests:
            write_batch(self.batch_requests, {key: self.body(c) for key, c in missing.items()})
            replies |= {key: Reply(None, "pending") for key in missing}
        elif missing:
            gate = Gate()

            async def work(session: Any, item: tuple[str, Conversation]) -> Reply:
                return await self._ask(session, gate, *item)

            found = gather(list(missing.items()), work, self.concurrency, self.patience)
            self.asked.update(reply.status for reply in found)
            replies |= dict(zip(missing, found, strict=True))
        return [replies[key] for key in keys]

    @property
    def config_sha(self) -> str:
        """Of all that its replies depend on but the conversation; a model is the same at another address."""
        options = [self.options.get(name) for name in ("temperature", "seed")]
        return hashlib.sha256(json.dumps([self.model, self.max_tokens, *options]).encode()).hexdigest()

    def keys(self, conversations: list[Conversation], samples: Sequence[str] | None = None) -> list[str]:
        """A name for each reply: the request and the sample."""
        requests = [json.dumps([self.url, self.body(c)], sort_keys=True) for c in conversations]
        whole = zip(requests, sample_names(requests, samples), strict=True)
        return [hashlib.sha256(f"{request}/{sample}".encode()).hexdigest() for request, sample in whole]

    def body(self, conversation: Conversation) -> dict[str, Any]:
        return {"model": self.model, "messages": conversation, **self.options}

    def cost(self, prompt_tokens: float, completion_tokens: float, audio_tokens: float = 0.0) -> float:
        """USD; `audio_tokens` are those of the prompt tokens that are audio."""
        text = (prompt_tokens - audio_tokens) * self.prices[0]
        return (text + audio_tokens * self.audio_price + completion_tokens * self.prices[1]) / 1e6

    def at_most(self, conversation: Conversation) -> float:
        """What a request can cost, in USD."""
        parts = [part for message in conversation for part in parts_of(message)]
        text = sum(len(part.get("text", "")) for part in parts) / CHARACTERS_A_TOKEN + 50
        audio = sum(map(audio_seconds, parts)) * AUDIO_TOKENS_A_SECOND
        return self.cost(text + audio, self.max_tokens, audio)

    async def _ask(self, session: Any, gate: Gate, key: str, conversation: Conversation) -> Reply:
        reserved = self.at_most(conversation)
        if self.max_usd is not None and self.spent_usd + self.reserved_usd + reserved > self.max_usd:
            return Reply(None, "max_usd")
        self.reserved_usd += reserved

        def request() -> dict[str, Any]:
            body = {"model": self.model, "messages": conversation, **self.taken}
            return {"url": self.url, "json": body, "headers": self.account.headers}

        wasted: list[float] = []  # a malformed completion that states its usage is paid for all the same

        def read(body: bytes) -> dict[str, Any]:
            try:
                return read_completion(body)
            except ValueError:
                wasted.append(self.cost(*stated_usage(body)))
                raise

        sent = dict(self.taken)
        answer = await ask(session, request, read, self.patience, gate)
        while answer.status == "http_400" and (self.taken != sent or self.learn(server_message(answer.body))):
            sent = dict(self.taken)
            answer = await ask(session, request, read, self.patience, gate)
        self.reserved_usd -= reserved
        self.spent_usd += sum(wasted)
        if why := self.account.hopeless(answer):
            raise UserError(why)
        if answer.status != "ok":
            return Reply(None, answer.status, cost_usd=sum(wasted), message=said_of(answer))
        reply = self.reply(answer.value, reserved)
        self.spent_usd += reply.cost_usd
        reply = replace(reply, cost_usd=reply.cost_usd + sum(wasted))
        self.cache.put(key, reply)
        return reply

    def learn(self, message: str) -> bool:
        """Take from a rejection what the server wants instead of an option that it names -> whether it named one that
        was sent as the user has it."""
        if NOT_TAKEN.search(message) is None:  # "max_tokens is too large" is another complaint
            return False
        field = next((name for name in TOKENS if name in self.taken and name in self.options), "")
        if field and re.search(rf"\b{field}\b", message):
            other = TOKENS[1 - TOKENS.index(field)]
            self.taken = {other if name == field else name: value for name, value in self.taken.items()}
        elif "temperature" in self.taken and "temperature" in message:
            self.taken = {name: value for name, value in self.taken.items() if name != "temperature"}
        else:
            return False
        say_once(f"{self.model} at {self.url} rejects an option; what is sent from now on: {json.dumps(self.taken)}")
        return True

    def reply(self, completion: dict[str, Any], at_most: float, discount: float = 1.0) -> Reply:
        """A reply from a completion's JSON; one that states no usage is booked at the most it can have cost."""
        choice, stated = completion["choices"][0], completion.get("usage")
        text, reason = choice["message"].get("content"), choice.get("finish_reason")
        status = {"length": "truncated", "content_filter": "refused"}.get(reason, "ok" if text else "empty")
        if not stated:
            return Reply(text if status == "ok" else None, status, {"usage_unknown": 1}, at_most * discount)
        usage = {name: float(stated.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
        if audio := (stated.get("prompt_tokens_details") or {}).get("audio_tokens"):
            usage["audio_tokens"] = float(audio)
        cost = self.cost(**usage) * discount
        return Reply(text if status == "ok" else None, status, usage, cost)

    def read_batch(self, path: str) -> dict[str, int]:
        """Put the Batch API's results into the cache -> how many of each status; what failed there stays missing, which
        is told."""
        if not self.cache.folder:
            raise UserError('batch_results need a cache to go to; got cache_dir=""; name a folder')
        counts, failed = Counter(), Counter()
        for row in batch_rows(path):
            try:
                completion = read_completion(json.dumps((row.get("response") or {}).get("body")).encode())
            except ValueError:
                failed[batch_failure(row)] += 1
                continue
            reply = self.reply(completion, 0.0, BATCH_DISCOUNT)
            self.spent_usd += reply.cost_usd if self.cache.put(row["custom_id"], reply) else 0.0
            counts[reply.status] += 1
        if failed:
            whys = ", ".join(f"{why} {count}" for why, count in failed.most_common())
            total = counts.total() + failed.total()
            say(f"{path}: {failed.total()} of {total} results are no reply ({whys}); they are asked for again")
        return dict(counts + failed)


def sample_names(requests: Sequence[str], samples: Sequence[str] | None) -> list[str]:
    """Which sample of its request each reply is: as named, else how often the request came before."""
    if samples is not None:
        return [f"named {sample}" for sample in samples]  # never one of the numbers
    seen: dict[str, itertools.count] = defaultdict(itertools.count)
    return [str(next(seen[request])) for request in requests]
