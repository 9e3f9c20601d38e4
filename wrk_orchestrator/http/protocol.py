"""uvicorn's HTTP connection with two things added: refusals like all others, and a bound on heads.

The parser collects a request line and headers of any length, and a connection that never says anything
is kept for ever. Whoever can reach the port could so fill the memory, or take the descriptors that the
links to racks need. At the bounds the caller gets 431, or is hung up on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from wrk_base import errors

from .errors import HeadTooLarge, status_of

if TYPE_CHECKING:
    from .app import App

HEAD_BYTES = 65_536  # servers in front of it allow 8 to 64 KiB; one read of the socket may come on top
HEAD_S = 30.0  # from the connection, or a head's first bytes, until the head is complete
LINGER_S = 2.0  # to read on after a refusal: a connection closed under its caller is reset, answer and all


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads = 0
        self._head_open = False
        self._head_bytes = 0
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_S, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        going_on = self._heads if self._head_open else -1
        super().data_received(data)
        if not self._head_open or self._refused:
            return
        if going_on == self._heads:
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self._refuse(HeadTooLarge(f"request line and headers are longer than {HEAD_BYTES} bytes"))
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._hang_up)

    def on_message_begin(self) -> None:
        self._heads += 1
        self._head_open, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(errors.BadRequest("these bytes are no HTTP request"))

    def _refuse(self, error: errors.WrkError) -> None:
        self._refused = True
        body, request_id = cast("App", self.config.app).refusal(error)
        self.transport.write(
            STATUS_LINE[status_of(error)]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n".encode()
            + body
        )
        self.transport.write_eof()
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_S, self._hang_up)

    def _hang_up(self) -> None:
        self._timer = None
        if not self._refused and self.cycle is not None and not self.cycle.response_complete:
            self._timer = self.loop.call_later(HEAD_S, self._hang_up)  # an answer is still owed
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
