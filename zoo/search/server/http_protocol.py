"""uvicorn's HTTP protocol with limits of time: uvicorn waits for ever for a request's head, its body and its reader.

A connection that sends nothing, or a byte now and then, costs its sender nothing. Each has some seconds for a whole
head, and some more until the request is received and answered. Where there are too many connections, one that waits for
a head goes first, the longest waiting one: whoever sends a request is served, however many say nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from zoo.search.server.host_check import SECURITY_HEADERS

HEAD_SECONDS = 10.0  # for the first or the next whole head
REQUEST_SECONDS = 120.0  # for receiving the rest, answering, and reading the answer
MAX_CONNECTIONS = 256


class BoundedProtocol(H11Protocol):
    """One connection. ``transport.abort`` drops it without a word: its sender is not reading."""

    head_seconds = HEAD_SECONDS
    request_seconds = REQUEST_SECONDS
    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stage: tuple[bool, RequestResponseCycle | None] | None = None
        self._waiting_since = self.loop.time()

    @property
    def is_waiting(self) -> bool:
        """Whether there is no request that is being received or answered."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and self.conn.their_state is not h11.SEND_BODY

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, in place of a waiting one if there are too many."""
        super().connection_made(transport)
        # A dropped connection stays in the set until the loop comes round, which is after the next ones.
        others = [c for c in self.connections if isinstance(c, BoundedProtocol) and not c.transport.is_closing()]
        if len(others) > self.max_connections:
            waiting = [c for c in others if c is not self and c.is_waiting]
            min(waiting, key=lambda other: other._waiting_since, default=self).transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the deadline moves only where they complete a head or a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget_deadline()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End at the end of the server: what is still being sent will not be answered, what was sent will be."""
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, with the headers of every answer."""
        headers = [(name.encode(), value.encode()) for name, value in answer_headers().items()]
        event = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for part in (event, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Set a new deadline where a new stage begins."""
        stage = (self.is_waiting, self.cycle)
        if stage == self._stage or self.transport.is_closing():
            return
        self._forget_deadline()
        self._stage, self._waiting_since = stage, self.loop.time()
        seconds = self.head_seconds if self.is_waiting else self.request_seconds
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def answer_headers() -> Mapping[str, str]:
    """Return the headers of an answer that no application gave."""
    return {
        **SECURITY_HEADERS,
        "cache-control": "no-store",
        "content-type": "text/plain; charset=utf-8",
        "connection": "close",
    }
