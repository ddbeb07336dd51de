"""What chat servers answer: completions, errors, and replies that are kept on disk."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.servers.remote import Answer

MOST_REJECTED = 3  # requests that a server rejects before it has accepted one
KEPT = ("ok", "truncated", "refused", "empty")  # answers that were paid for; asking again would bring the same


@dataclass(frozen=True)
class Reply:
    """A chat model's answer; `text` is None unless `status` is "ok", `message` is what the server said instead."""

    text: str | None
    status: str = "ok"
    usage: dict[str, float] = field(default_factory=dict)
    cost_usd: float = 0.0
    message: str = ""


def read_completion(body: bytes) -> dict[str, Any]:
    """A chat completion's JSON.

    Raises:
        ValueError: if it is cut, or is something else.
    """
    completion = json.loads(body)
    match completion:
        case {"choices": [{"message": {"content": str() | None}}, *_]}:
            return completion
    raise ValueError("a completion must hold choices[0].message.content")


def stated_usage(body: bytes) -> tuple[float, float]:
    """(prompt, completion) tokens that a body states, whatever else it holds; (0, 0) if it states none."""
    try:
        match json.loads(body):
            case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}}:
                return prompt, completion
    except ValueError:
        pass
    return 0, 0


def server_message(body: bytes) -> str:
    """What a server says of a failure, in one line: its error's message, or the start of its body."""
    return stated_error(body) or one_line(body.decode("utf-8", "replace"))


def stated_error(body: bytes) -> str:
    """The message of a body that is an error's JSON, in one line; "" of any other body."""
    try:
        match json.loads(body):
            case {"error": {"message": str(message)}} | {"message": str(message)} | {"error": str(message)}:
                return one_line(message)
    except ValueError:
        pass
    return ""


def one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def said_of(answer: Answer) -> str:
    """What the server said, where it answered with an error; some do so with HTTP 200 (a proxy in front of others)."""
    if answer.status == "malformed":
        return stated_error(answer.body)
    return server_message(answer.body) if answer.status.startswith("http_") else ""


class Account:
    """A server and the key to it; what it answers tells whether it takes requests at all."""

    def __init__(self, url: str, api_key_env: str) -> None:
        self.url, self.api_key_env = url, api_key_env
        self.rejected, self.accepted = 0, False

    @property
    def key(self) -> str:
        return os.environ.get(self.api_key_env, "")

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def hopeless(self, answer: Answer) -> str:
        """Why every further request would fail as well: a wrong key, model or address, an empty account, or a server
        that rejects the first requests and has accepted none; "" if it need not. To a key that it has taken, 403 says
        what it thinks of one request (moderation)."""
        said = ": ".join(filter(None, (answer.status, said_of(answer))))
        self.accepted |= answer.status == "ok"
        self.rejected += answer.status == "http_400"
        if answer.status == "http_401" or (answer.status == "http_403" and not self.accepted):
            return f"{self.url} must accept the key in ${self.api_key_env}; got {said}; check the variable"
        if answer.status == "http_402" or (answer.status == "http_429" and b"insufficient_quota" in answer.body):
            return f"the account at {self.url} must have credit; got {said}; add some and run again"
        if answer.status == "http_404":
            return f"{self.url} must exist and know the model; got {said}; check base_url and model"
        if self.rejected >= MOST_REJECTED and not self.accepted:
            return f"{self.url} must take the requests; it rejected the first {self.rejected}; got {said}"
        return ""


class ReplyCache:
    """Replies on disk, a file each, whole or not at all; several processes may share one."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) if folder else None

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Reply | None:
        if self.folder is None or not self.path(key).is_file():
            return None
        try:
            reply = Reply(**json.loads(self.path(key).read_text(encoding="utf-8")))
        except (ValueError, TypeError):  # a full disk, or another version's: asked for again
            return None
        return replace(reply, usage={**reply.usage, "cached": 1})

    def put(self, key: str, reply: Reply) -> bool:
        """Keep a reply that was paid for; -> whether it is new."""
        if self.folder is None or reply.status not in KEPT or self.get(key) is not None:
            return False
        replace_file(self.path(key), json.dumps(asdict(reply), ensure_ascii=False))
        return True
