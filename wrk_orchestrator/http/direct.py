"""One answer, written straight to its connection: for requests that need no task of their own.

ASGI costs a task and a pair of awaited messages for each answer, as much again as routing does. What
answers here is called back instead: by the router with what a worker said, by the connection when its
caller has left or takes more again. It knows the server's cycle, which it leaves as an answer by ASGI
would: what is pipelined behind it, the stop and the timers see no difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from .exchange import PIECE, Scope

if TYPE_CHECKING:
    from .protocol import Protocol as Connection

_NO_CHUNKS = "1.0"


class Listener(Protocol):
    """Who answers, and hears of the caller."""

    def gone(self) -> None:
        """The caller has left: there is nobody to answer."""

    def room(self) -> None:
        """The caller takes more again, after `blocked` was true."""


class NoEvent:
    """What nobody waits for."""

    def set(self) -> None: ...


NO_EVENT = NoEvent()


class Cycle:
    """What the server looks at of a request that is answered directly: these fields of its own cycle.

    They cost a third of it to make.
    """

    __slots__ = (
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(self, scope: Scope, keep_alive: bool, on_response: Callable[[], None]) -> None:
        self.scope, self.keep_alive, self.on_response = scope, keep_alive, on_response
        self.body = b""
        self.more_body = True
        self.message_event = NO_EVENT
        self.disconnected = self.response_started = self.response_complete = False


class Direct:
    """The answer to one request. Headers are given as lines, each with its line end."""

    __slots__ = ("_chunked", "_connection", "_cycle", "_over", "_transport", "listener")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle | Cycle) -> None:
        self._connection, self._cycle = connection, cycle
        self._transport = connection.transport
        self._chunked = cycle.scope["http_version"] != _NO_CHUNKS
        self._over: asyncio.Future[None] | None = None
        self.listener: Listener | None = None

    def await_body(self, cycle: RequestResponseCycle) -> None:
        """The body did not come at once: from here on it is a request like others, until it is whole."""
        self._cycle = cycle

    @property
    def scope(self) -> Scope:
        return self._cycle.scope  # type: ignore[return-value]

    @property
    def body(self) -> bytes:
        """What has arrived of it, when it was read by nobody else."""
        return bytes(self._cycle.body)

    @property
    def blocked(self) -> bool:
        """Whether the caller has not taken yet what was written."""
        return self._connection.flow.write_paused

    def close_after(self) -> None:
        """Let this answer be the last on its connection."""
        self._cycle.keep_alive = False

    def answer(self, status: int, headers: bytes, body: bytes | bytearray) -> None:
        """All of it."""
        cycle = self._cycle
        cycle.response_started = True
        head = b"%bcontent-length: %d\r\n%b%b\r\n" % (STATUS_LINE[status], len(body), headers, self._common())
        if len(body) <= PIECE:
            self._put(head + body)
            self._complete()
            return
        self._put(head)
        if self._transport.get_extra_info("ssl_object") is None:
            self._put(body)
            self._complete()
        else:
            self._connection.loop.create_task(self._put_in_pieces(body), name="large answer")

    async def _put_in_pieces(self, body: bytes | bytearray) -> None:
        """TLS encrypts all that it is given at once, to where nobody sees whether the caller takes it."""
        flow = self._connection.flow
        for start in range(0, len(body), PIECE):
            if flow.write_paused:
                await flow.drain()
            self._put(body[start : start + PIECE])
        self._complete()

    def begin(self, status: int, headers: bytes) -> None:
        """The head of an answer that comes bit by bit."""
        cycle = self._cycle
        cycle.response_started = True
        if not self._chunked:
            cycle.keep_alive = False
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._put(b"%b%b%b%b\r\n" % (STATUS_LINE[status], headers, coding, self._common()))

    def write(self, data: bytes) -> None:
        """A bit of it, not empty."""
        self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        if self._chunked:
            self._put(b"0\r\n\r\n")
        self._complete()

    def lost(self) -> None:
        """The connection is gone."""
        if self.listener is not None:
            self.listener.gone()
        self._tell_over()

    async def over(self) -> None:
        """Returns when it was answered, or nobody is there to be answered."""
        if not self._cycle.response_complete and not self._cycle.disconnected:
            self._over = self._connection.loop.create_future()
            await self._over

    def _common(self) -> bytes:
        """The lines of every answer: the server's own (the date), and whether it is the last."""
        lines = b"".join([b"%b: %b\r\n" % line for line in self._connection.server_state.default_headers])
        return lines if self._cycle.keep_alive else lines + b"connection: close\r\n"

    def _put(self, data: bytes | bytearray) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _complete(self) -> None:
        cycle = self._cycle
        self._connection.directed = None
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()
        self._tell_over()

    def _tell_over(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


class AtOnce(Protocol):
    """What answers directly."""

    @property
    def paths(self) -> Collection[bytes]:
        """Where a POST is one for it, spelt as usual; `takes` knows other spellings."""

    def takes(self, scope: Scope) -> bool:
        """Whether a request with this head is one for it."""

    def serve(self, direct: Direct) -> None:
        """Begin to answer a request whose body is here. Raises nothing."""
