"""Answers in JSON, and refusals as OpenAI's clients read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import Response

RETRY_SECONDS = "1"  # what a full server asks for


def as_json(value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status, headers)


def refused(message: str, status: int) -> Response:
    """An error as OpenAI's clients read it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"Retry-After": RETRY_SECONDS} if status in (429, 503) else None
    return as_json({"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers)
