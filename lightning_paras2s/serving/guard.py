"""uvicorn's HTTP protocol with an end to every wait for a client: one that sends or reads too slowly loses its
connection, and only so many connections are open.

uvicorn itself waits forever for a request's first part, for the rest of one that was answered early, and for a client
that stops reading. None of the limits restarts with a further byte, so that dripping wins no time.
"""

from __future__ import annotations

import asyncio
import json
from types import ModuleType
from typing import TYPE_CHECKING

from lightning_paras2s.running.logs import say
from lightning_paras2s.serving.replies import RETRY_SECONDS

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from lightning_paras2s.serving.app import Limits
    from lightning_paras2s.serving.metrics import Metrics

GRACE_SECONDS = 5.0  # beyond `body_seconds`, by which the server itself answers 408

SPARE = 64  # connections beyond the limit that get to read why they are refused


def guarded(limits: Limits, metrics: Metrics) -> type[H11Protocol]:
    """The protocol with a server's limits; each connection that it ends is counted, and told of."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("Guarded", (Guard, H11Protocol), {"limits": limits, "metrics": metrics, "h11": h11})


class Guard:
    """What is put before uvicorn's protocol: its connection's limits."""

    limits: Limits
    metrics: Metrics
    h11: ModuleType  # comes with uvicorn
    crowded = False
    waits_for: object = None  # the state of the client that `due` gives an end to
    due: asyncio.TimerHandle | None = None
    stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.crowded = len(self.connections) > self.limits.connections
        if len(self.connections) > self.limits.connections + SPARE:
            self._drop("too_many")
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.crowded:  # refused once it speaks: a client may not read what comes before
            self._refuse(503, f"{self.limits.connections} connections are open already; come again", "too_many")
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.due, self.stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stuck = self.loop.call_later(self.limits.read_seconds, self._drop, "unread")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stuck is not None:
            self.stuck.cancel()
            self.stuck = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "a request must be HTTP/1.1, its head of up to 64 kB", "malformed")

    def _watch(self) -> None:
        """An end to the wait for what the client is to send: counted from when that wait began."""
        state = self.conn.their_state
        if state is self.waits_for:
            return
        if self.due is not None:
            self.due.cancel()
        self.waits_for, self.due = state, None
        if state is self.h11.IDLE:
            self.due = self.loop.call_later(self.limits.head_seconds, self._late)
        elif state is self.h11.SEND_BODY:
            self.due = self.loop.call_later(self.limits.body_seconds + GRACE_SECONDS, self._drop, "slow_body")

    def _late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(408, f"a request's head must come within {self.limits.head_seconds:g} s", "slow_head")
        else:  # browsers open connections that they may never use
            self._drop("unused", told=False)

    def _refuse(self, status: int, message: str, why: str) -> None:
        """Answer what has not become a request, where that is still possible, and close."""
        self.metrics.statuses[status] += 1
        if self.conn.our_state in (self.h11.IDLE, self.h11.SEND_RESPONSE):
            body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": status}})
            headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
            headers += [("connection", "close")] + [("retry-after", RETRY_SECONDS)] * (status == 503)
            for event in (self.h11.Response(status_code=status, headers=headers), self.h11.Data(data=body.encode())):
                self.transport.write(self.conn.send(event))
        self._told(why, f"{status}: {message}")
        self.transport.close()

    def _drop(self, why: str, told: bool = True) -> None:
        self._told(why, "the connection is ended", told)
        self.transport.abort()

    def _told(self, why: str, what: str, told: bool = True) -> None:
        self.metrics.dropped[why] += 1
        if told:
            say(f"{self.client[0] if self.client else 'a client'} ({why.replace('_', ' ')}) {what}")
