"""Files of OpenAI's Batch API: requests to upload, results that came back; half the price of asking at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file, say


def write_batch(path: Path, bodies: dict[str, dict[str, Any]]) -> None:
    """Add requests to a file in the Batch API's format; those that it holds already are not repeated."""
    held = {row["custom_id"] for row in batch_rows(str(path))} if path.is_file() else set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for key, body in bodies.items():
            if key not in held:
                file.write(line_of({"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}))


def line_of(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def drop_answered(path: Path, answered: Callable[[str], bool]) -> None:
    """Take requests out of a file whose replies are there: uploaded again, they would be paid again."""
    rows = batch_rows(str(path)) if path.is_file() else []
    left = [row for row in rows if not answered(row["custom_id"])]
    if len(left) < len(rows):
        replace_file(path, "".join(map(line_of, left)))
        say(f"{path}: {len(rows) - len(left)} requests are answered and taken out; {len(left)} are left to upload")


def batch_failure(row: dict[str, Any]) -> str:
    """Why a result holds no completion: the error that the API names, else the HTTP status, else "malformed"."""
    response, error = row.get("response") or {}, row.get("error") or {}
    status = response.get("status_code", 200)
    return error.get("code") or (f"http_{status}" if status != 200 else "malformed")


def batch_rows(path: str) -> list[dict[str, Any]]:
    """A Batch API file's lines.

    Raises:
        UserError: no such file, or a line that is no object with a custom_id.
    """
    if not Path(path).is_file():
        raise UserError(f"a batch file must exist; got {path}; download it from the Batch API")
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):  # bytes: at CR and LF alone
        try:
            rows.append(json.loads(line))
            rows[-1]["custom_id"]
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number}: a line must be a JSON object with a custom_id; got "
                f"{line[:60].decode(errors='replace')!r}"
            ) from None
    return rows
